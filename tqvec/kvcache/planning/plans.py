"""Plans, and how they show themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tqvec._present import Presented, Sheet, brief, format_value
from tqvec.kvcache.byte_model import Nbytes
from tqvec.kvcache.planning.models import LayerKind, Model
from tqvec.kvcache.planning.units import format_bytes, format_columns
from tqvec.kvcache.planning.weights import StreamedWeights


class PlanPart(NamedTuple):
    """The bytes of a plan that layers of one kind and width take.

    Attributes
    ----------
    kind : LayerKind
    layers, tokens : int
        Number of layers, and of tokens per layer.
    nbytes : Nbytes
        Bytes of all these layers.
    widths : str
        Bits per coordinate of keys and values, as "K4 V2".
    """

    kind: LayerKind
    layers: int
    tokens: int
    nbytes: Nbytes
    widths: str

    def __repr__(self) -> str:
        return brief(self)

    @property
    def state(self) -> int:
        """Bytes of all these layers that don't depend on the number of tokens."""
        return self.layers * self.kind.state


@dataclass(frozen=True, repr=False)
class Plan(Presented):
    """The bytes of a model's cache, and the tokens that fit a memory; `print` shows a table.

    Attributes
    ----------
    model : Model
    policy : str
        Name of the policy or format.
    context : int
        Tokens of a sequence.
    parts : tuple of PlanPart
        The bytes of `context` tokens, by kind and width of layers.
    bytes_per_token : float
        Bytes of a further token of a long sequence, without bookkeeping.
    memory, weights : int or None, int
        Bytes of the memory, and the part that the model's weights take.
    streamed : StreamedWeights or None
        Weights that are read from a disk layer by layer. None: all are in memory.
    max_tokens : int or None
        The longest sequence that fits the memory, at every length up to it. None: no memory was given, or a sequence
        of any length fits.
    sequences : int or None
        Number of sequences of `context` tokens that fit while they grow. None: no memory was given.
    """

    model: Model
    policy: str
    context: int
    parts: tuple[PlanPart, ...]
    bytes_per_token: float
    memory: int | None
    weights: int
    streamed: StreamedWeights | None
    max_tokens: int | None
    sequences: int | None

    @property
    def nbytes(self) -> Nbytes:
        """Bytes of the keys and values of `context` tokens, without states of fixed size."""
        return Nbytes.total(part.nbytes for part in self.parts)

    @property
    def total(self) -> int:
        """Bytes of a sequence of `context` tokens, states of fixed size included."""
        return self.nbytes + sum(part.state for part in self.parts)

    @property
    def usable_tokens(self) -> int | None:
        """The smaller of `max_tokens` and the model's own context."""
        return None if self.max_tokens is None else min(self.max_tokens, self.model.context)

    _derived = ("nbytes", "total", "usable_tokens")

    def __str__(self) -> str:
        return "\n".join([*_format_table(self), *_summarise(self)])

    def to_dict(self) -> dict[str, Any]:
        """Return everything in plain Python types, the model by its name."""
        return super().to_dict() | {"model": self.model.name}

    def _sheet(self) -> Sheet:
        rows = [
            (part.layers, part.kind.name, part.widths, part.tokens, *part.nbytes.items().values(), part.state)
            for part in self.parts
        ]
        sizes = [name if name == "state" else f"{name} bytes" for name in (*Nbytes().items(), "state")]
        return Sheet(
            columns=("layers", "kind", "widths", "tokens", *sizes[:-1], "state bytes", "total bytes"),
            rows=[(*row, sum(row[4:])) for row in rows],
            title=_title(self),
            notes=tuple(_summarise(self)),
        )


class Plans(Presented, tuple[Plan, ...]):
    """Plans of one model under several policies; prints as a table with a row per policy."""

    __slots__ = ()

    def __repr__(self) -> str:
        policies = ", ".join(repr(plan.policy) for plan in self)
        return f"Plans(model={self[0].model.name!r}, policies=({policies}))"

    def __str__(self) -> str:
        sheet = self._sheet()
        rows = [
            [policy, f"{per_token:,.10g}", format_bytes(total), *map(format_value, fits)]
            for policy, per_token, total, *fits in sheet.rows
        ]
        return "\n".join([sheet.title, *format_columns([list(sheet.columns), *rows]), *sheet.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return the dictionaries of all plans, as ``plans``."""
        return {"plans": [plan.to_dict() for plan in self]}

    def _sheet(self) -> Sheet:
        first = self[0]
        columns, notes = ["policy", "bytes per token", "total bytes"], []
        if first.memory is not None:
            columns += ["max tokens", "sequences"]
            notes.append(f"max tokens: of one sequence in {_describe_memory(first)}; empty: any number")
            notes.append(f"sequences: of {first.context:,} tokens each in {_describe_memory(first)}")
        notes += _describe_streaming(first)
        rows = [(plan.policy, plan.bytes_per_token, plan.total, plan.max_tokens, plan.sequences) for plan in self]
        return Sheet(
            columns=tuple(columns),
            rows=[row[: len(columns)] for row in rows],
            title=f"{first.model.name}, {first.context:,} tokens",
            notes=tuple(notes),
        )


def _format_table(plan: Plan) -> list[str]:
    """Format the bytes of each kind of layer in columns."""
    names = list(Nbytes().items())
    rows = [["layers", "tokens", *names, "state", "total"]]
    for part in plan.parts:
        shape = f" {part.kind.kv_heads} × {part.kind.head_dim}" if part.kind.kv_heads else ""
        sizes = [*part.nbytes.items().values(), part.state, part.nbytes + part.state]
        label = f"{part.layers} {part.kind.name}{shape} {part.widths}".rstrip()
        rows.append([label, f"{part.tokens:,}", *map(format_bytes, sizes)])
    sizes = [*plan.nbytes.items().values(), plan.total - plan.nbytes, plan.total]
    rows.append(["all", f"{plan.context:,}", *map(format_bytes, sizes)])
    return [_title(plan), *format_columns(rows)]


def _title(plan: Plan) -> str:
    return f"{plan.model.name} under {plan.policy}: {plan.context:,} tokens take {plan.total:,} bytes"


def _summarise(plan: Plan) -> Iterator[str]:
    """Yield the sentences below the table: bytes per token, and the tokens that fit."""
    full = sum(4 * kind.kv_heads * kind.head_dim for kind in plan.model.layers if kind.window is None)
    times = f"; at 16 bits per value {full:,}, {full / plan.bytes_per_token:.2f} times" if plan.bytes_per_token else ""
    yield f"{plan.bytes_per_token:,.10g} bytes per further token{times}"
    if plan.context > plan.model.context:
        yield f"the model's own context ends at {plan.model.context:,} tokens"
    yield from _describe_streaming(plan)
    if plan.memory is None:
        return
    free = _describe_memory(plan)
    if plan.max_tokens is None:
        yield f"{free} hold a sequence of any length"
    else:
        end = f" (the model's own context: {plan.model.context:,})" if plan.max_tokens > plan.model.context else ""
        yield f"{free} hold {plan.max_tokens:,} tokens of one sequence{end}"
    yield f"{free} hold {plan.sequences:,} sequences of {plan.context:,} tokens"


def _describe_streaming(plan: Plan) -> Iterator[str]:
    """Yield the sentence about weights, if they are streamed."""
    if plan.streamed is not None:
        yield f"weights: {plan.streamed}"


def _describe_memory(plan: Plan) -> str:
    less = f" less weights of {format_bytes(plan.weights)}" if plan.weights else ""
    return f"{format_bytes(plan.memory or 0)}{less}"

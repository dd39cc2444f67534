"""Plans: the bytes of a model's cache under a policy or in another engine's format, and the tokens that fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path
from typing import Literal, NamedTuple

from tqvec import _validate
from tqvec.errors import InputError
from tqvec.kvcache.byte_model import SEGMENT, Nbytes, layer_nbytes, segment_sizes
from tqvec.kvcache.planning.formats import FORMATS, Format
from tqvec.kvcache.planning.models import LayerKind, Model, find_model
from tqvec.kvcache.planning.units import format_bytes, format_columns, parse_bytes, parse_tokens
from tqvec.kvcache.policy import PRESETS, LayerWidths, Policy, Width

_NO_LIMIT = 2**40  # tokens: a memory that fits so many fits any number
_LATE = 2**30  # tokens: by then windows are full, and each further token takes the same bytes
_MAX_PAGE = 65536  # tokens


class LayerGroup(NamedTuple):
    """Layers of a model that take the same bytes.

    Attributes
    ----------
    layers : int
        Number of layers.
    kind : LayerKind
    kept : int or None
        Newest tokens whose keys and values a layer holds; None: all.
    nbytes : callable
        From the tokens of the sequence to the `Nbytes` of one layer's keys and values.
    policy : Policy or None
        The policy, for caches of tqvec. None: another engine's format, whose bytes never fall as a sequence grows.
    widths : str
        Bits per coordinate of keys and values, as "K4 V2".
    """

    layers: int
    kind: LayerKind
    kept: int | None
    nbytes: Callable[[int], Nbytes]
    policy: Policy | None = None
    widths: str = ""


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

    @property
    def state(self) -> int:
        """Bytes of all these layers that don't depend on the number of tokens."""
        return self.layers * self.kind.state


@dataclass(frozen=True)
class Plan:
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

    def __str__(self) -> str:
        return "\n".join([*_format_table(self), *_summarise(self)])


def plan(
    model: str | Path | Model,
    *,
    memory: int | str | None = None,
    policy: str | Policy = "turbo3",
    context: int | str | None = None,
    weights: int | str = 0,
    windows: Literal["ring", "full"] = "ring",
    page: int = 1,
) -> Plan:
    """Compute the bytes of a model's cache, and the longest sequence that fits a memory.

    For a policy the bytes equal `KVCache.nbytes`. A layer with a sliding window counts as a cache without sinks whose
    ``max_tokens`` is the window, or the fewest tokens that the policy allows.

    Parameters
    ----------
    model : str, Path or Model
        A name of `list_models`, or the path of a Hugging Face config.json.
    memory : int or str, optional
        Bytes, or a size with its unit: ``"8GiB"`` is 8·2³⁰ bytes, ``"8GB"`` is 8·10⁹.
    policy : str or Policy
        A policy, the name of a preset, or the name of another engine's format in `FORMATS`.
    context : int or str, optional
        Tokens of a sequence; ``"128k"`` is 128·1,024. Default: the model's own context.
    weights : int or str
        Bytes of the memory that the model's weights take, or a size with its unit.
    windows : {"ring", "full"}
        Whether layers with a sliding window keep the tokens of the window, or all tokens.
    page : int
        Tokens that another engine's format reserves at a time. Caches of tqvec have their own rule.

    Returns
    -------
    Plan

    Raises
    ------
    InputError
        The name is unknown, a size has no unit, or the weights fill the memory.

    Examples
    --------
    >>> from tqvec.kvcache import plan
    >>> example = plan("llama-3.1-8b", memory="8GiB", policy="turbo3")
    >>> example.bytes_per_token, example.max_tokens > 2.5 * 131072
    (25600.0, True)
    """
    shape = model if isinstance(model, Model) else find_model(model)
    tokens = shape.context if context is None else parse_tokens(context, "context")
    total = None if memory is None else parse_bytes(memory, "memory")
    weight_bytes = parse_bytes(weights, "weights")
    if total is not None and weight_bytes >= total:
        raise InputError(f"memory of {format_bytes(total)} does not hold the weights of {format_bytes(weight_bytes)}")
    ring = _validate.choice(windows, "windows", ["ring", "full"]) == "ring"
    groups = group_layers(shape, policy, ring, _validate.integer(page, "page", 1, _MAX_PAGE))
    sizes = SequenceBytes(groups)
    return Plan(
        model=shape,
        policy=policy if isinstance(policy, str) else "policy",
        context=tokens,
        parts=tuple(_plan_part(group, tokens) for group in groups),
        bytes_per_token=sizes.per_token(),
        memory=total,
        weights=weight_bytes,
        max_tokens=None if total is None else sizes.max_tokens(total - weight_bytes),
        sequences=None if total is None else (total - weight_bytes) // max(1, sizes.peak(tokens)),
    )


def _plan_part(group: LayerGroup, n: int) -> PlanPart:
    """Return the bytes of a group of layers with `n` tokens."""
    return PlanPart(
        kind=group.kind,
        layers=group.layers,
        tokens=n if group.kept is None else min(n, group.kept),
        nbytes=Nbytes.total([group.nbytes(n)] * group.layers),
        widths=group.widths,
    )


def group_layers(model: Model, policy: str | Policy, ring: bool = True, page: int = 1) -> list[LayerGroup]:
    """Group a model's layers by the bytes that they take.

    Layers with keys and values are numbered without the others, as a policy's widths and protected layers count them.
    """
    kinds = [kind for kind in model.layers if kind.kv_heads]
    if isinstance(policy, str):
        _validate.choice(policy, "policy", [*PRESETS, *FORMATS])
    if isinstance(policy, str) and policy in FORMATS:
        groups = [
            _group_in_format(kind, layers, FORMATS[policy], ring, page) for kind, layers in Counter(kinds).items()
        ]
    else:
        rules = policy if isinstance(policy, Policy) else Policy.from_name(policy)
        alike = Counter((kind, rules.layers(len(kinds), kind.kv_heads)[i]) for i, kind in enumerate(kinds))
        groups = [_group_in_policy(kind, layers, rules, widths, ring) for (kind, widths), layers in alike.items()]
    others = Counter(kind for kind in model.layers if not kind.kv_heads)
    return groups + [LayerGroup(layers, kind, 0, lambda n: Nbytes()) for kind, layers in others.items()]


def _group_in_format(kind: LayerKind, layers: int, form: Format, ring: bool, page: int) -> LayerGroup:
    """Return layers of a kind in another engine's format."""
    kept = kind.window if ring else None

    def size(n: int) -> Nbytes:
        return form.nbytes(kind.kv_heads, kind.head_dim, n if kept is None else min(n, kept), page)

    return LayerGroup(layers, kind, kept, size)


def _group_in_policy(kind: LayerKind, layers: int, policy: Policy, widths: LayerWidths, ring: bool) -> LayerGroup:
    """Return layers of a kind whose heads have these widths."""

    def size(n: int) -> Nbytes:
        return layer_nbytes(own, widths, kind.head_dim, n if own.recent is not None or kept is None else min(n, kept))

    own, kept = policy, policy.max_tokens
    if ring and kind.window is not None:
        kept = kind.window if kept is None else min(kept, kind.window)
        if policy.recent is not None:  # otherwise no token is ever coded or dropped: as a cache of the window's tokens
            own = replace(policy, sinks=0, max_tokens=None)
            kept = max(kept, own.min_tokens)
            own = replace(own, max_tokens=kept)
    sides = (f"{name}{_common_width(side)}" for name, side in (("K", widths.keys), ("V", widths.values)))
    text = " ".join(sides) if policy.recent is not None else ""
    return LayerGroup(layers=layers, kind=kind, kept=kept, nbytes=size, policy=own, widths=text)


def _common_width(widths: Sequence[Width]) -> str:
    """Return the width that all heads share, or "*"."""
    return str(widths[0]) if set(widths) == {widths[0]} and not isinstance(widths[0], tuple) else "*"


class SequenceBytes:
    """The bytes of a sequence as a function of its tokens, over all layers and states.

    Parameters
    ----------
    groups : list of LayerGroup
    """

    def __init__(self, groups: list[LayerGroup]):
        self.groups = groups
        self.state = sum(group.layers * group.kind.state for group in groups)

    def __call__(self, n: int) -> int:
        """Return the bytes of a sequence of `n` tokens."""
        return self.state + sum(group.layers * group.nbytes(n) for group in self.groups)

    def peak(self, n: int) -> int:
        """Return the most bytes that a sequence takes while it grows to `n` tokens."""
        peaks = {n}.union(*(_local_peaks(group.policy, n) for group in self.groups if group.policy is not None))
        return max(map(self, peaks))

    def max_tokens(self, memory: int) -> int | None:
        """Return the most tokens whose `peak` fits the memory; None: any number fits."""
        if self.peak(_NO_LIMIT) <= memory:
            return None
        low, high = 0, 1
        while self.peak(high) <= memory:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak(middle) <= memory else (low, middle)
        return low

    def per_token(self) -> float:
        """Return the bytes of a further token of a long sequence, without bookkeeping."""
        chunks = [group.policy.chunk for group in self.groups if group.policy is not None]
        period = lcm(SEGMENT, *chunks)

        def live(group: LayerGroup, n: int) -> int:
            size = group.nbytes(n)
            return group.layers * (size - size.bookkeeping)

        return sum(live(group, _LATE + period) - live(group, _LATE) for group in self.groups) / period


def _local_peaks(policy: Policy, n: int) -> Iterator[int]:
    """Yield numbers of tokens up to `n`, among which is the one at which a layer takes the most bytes.

    Bytes fall only where tokens are coded, which frees 16-bit tokens, or where a segment's last token is dropped. The
    number of tokens just before is a local peak. If tokens are dropped or recoded, this repeats with the least common
    multiple of `SEGMENT` and `chunk`; otherwise bytes at local peaks never fall.
    """
    if policy.recent is None:
        return
    falls = policy.recode_after is not None or policy.max_tokens is not None
    period = lcm(policy.chunk, SEGMENT) if falls else policy.chunk
    first = policy.sinks + max(policy.recent + policy.chunk, policy.mean_tokens)
    series = [(policy.sinks + policy.recent, policy.chunk)]
    if policy.max_tokens is not None:
        series.append((policy.max_tokens, segment_sizes(policy, recodes=False).coded))
    if first <= n:
        yield first - 1
    for start, step in series:
        last = (n + 1 - start) // step
        for k in range(max(1, last - period // step), last + 1):
            yield start + k * step - 1


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
    title = f"{plan.model.name} under {plan.policy}: {plan.context:,} tokens take {plan.total:,} bytes"
    return [title, *format_columns(rows)]


def _summarise(plan: Plan) -> Iterator[str]:
    """Yield the sentences below the table: bytes per token, and the tokens that fit."""
    full = sum(4 * kind.kv_heads * kind.head_dim for kind in plan.model.layers if kind.window is None)
    times = f"; at 16 bits per value {full:,}, {full / plan.bytes_per_token:.2f} times" if plan.bytes_per_token else ""
    yield f"{plan.bytes_per_token:,.10g} bytes per further token{times}"
    if plan.context > plan.model.context:
        yield f"the model's own context ends at {plan.model.context:,} tokens"
    if plan.memory is None:
        return
    free = f"{format_bytes(plan.memory)}" + (f" less weights of {format_bytes(plan.weights)}" if plan.weights else "")
    if plan.max_tokens is None:
        yield f"{free} hold a sequence of any length"
    else:
        end = f" (the model's own context: {plan.model.context:,})" if plan.max_tokens > plan.model.context else ""
        yield f"{free} hold {plan.max_tokens:,} tokens of one sequence{end}"
    yield f"{free} hold {plan.sequences:,} sequences of {plan.context:,} tokens"

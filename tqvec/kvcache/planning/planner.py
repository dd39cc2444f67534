"""How many tokens fit: a model's cache under a policy, or in another engine's format, to the byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path
from typing import NamedTuple

from tqvec import _validate
from tqvec.errors import InputError
from tqvec.kvcache.byte_model import SEGMENT, Nbytes, layer_nbytes, segment_sizes
from tqvec.kvcache.planning.formats import FORMATS, Format
from tqvec.kvcache.planning.models import LayerKind, Model, find_model
from tqvec.kvcache.planning.units import parse_bytes, parse_tokens, show_bytes
from tqvec.kvcache.policy import PRESETS, LayerWidths, Policy, Width

_MOST = 2**40  # tokens: what fits so many has no limit
_LATE = 2**30  # tokens: by then windows are full, and every further token is as the one before
_PAGE = 65536  # tokens


class Group(NamedTuple):
    """Layers that take the same bytes.

    Attributes
    ----------
    layers : int
    kind : LayerKind
    kept : int or None
        Newest tokens whose keys and values each holds; None: all.
    nbytes : callable
        Bytes of keys and values of one layer, `Nbytes`, by the number of tokens of the sequence.
    policy : Policy or None
        Of a cache of tqvec; in other formats bytes never fall as a sequence grows.
    widths : str
        Bits a coordinate, as the policy has them.
    """

    layers: int
    kind: LayerKind
    kept: int | None
    nbytes: Callable[[int], Nbytes]
    policy: Policy | None = None
    widths: str = ""


class Part(NamedTuple):
    """What layers that are alike take of a plan.

    Attributes
    ----------
    kind : LayerKind
    layers, tokens : int
        How many layers, and the tokens that each holds.
    nbytes : Nbytes
        Of all of them.
    widths : str
        Bits a coordinate of keys and values, as the policy has them.
    """

    kind: LayerKind
    layers: int
    tokens: int
    nbytes: Nbytes
    widths: str

    @property
    def state(self) -> int:
        """Bytes of all of them that don't depend on the number of tokens."""
        return self.layers * self.kind.state


@dataclass(frozen=True)
class Plan:
    """What a cache takes, and how many tokens fit; `print` shows it as a table.

    Attributes
    ----------
    model : Model
    policy : str
        Name of the policy or format.
    context : int
        Tokens of a sequence.
    parts : tuple of Part
        What `context` tokens take.
    bytes_per_token : float
        What each further token takes in the long run, bookkeeping apart.
    memory, weights : int or None, int
        Bytes that there are, and what the model's weights take of them.
    max_tokens : int or None
        The longest sequence that fits the memory at every moment while it grows. None: no memory was given, or there
        is no limit.
    sequences : int or None
        How many sequences of `context` tokens fit, at every moment. None: no memory was given.
    """

    model: Model
    policy: str
    context: int
    parts: tuple[Part, ...]
    bytes_per_token: float
    memory: int | None
    weights: int
    max_tokens: int | None
    sequences: int | None

    @property
    def nbytes(self) -> Nbytes:
        """Keys and values of `context` tokens; states are not in it."""
        return Nbytes.total(part.nbytes for part in self.parts)

    @property
    def total(self) -> int:
        """Bytes of a sequence of `context` tokens, states included."""
        return self.nbytes + sum(part.state for part in self.parts)

    @property
    def usable_tokens(self) -> int | None:
        """`max_tokens`, or the model's own context where that ends before."""
        return None if self.max_tokens is None else min(self.max_tokens, self.model.context)

    def __str__(self) -> str:
        return "\n".join([*_table(self), *_verdicts(self)])


def plan(
    model: str | Path | Model,
    memory: int | str | None = None,
    policy: str | Policy = "turbo3",
    context: int | str | None = None,
    weights: int | str = 0,
    windows: str = "ring",
    page: int = 1,
) -> Plan:
    """What a model's cache takes, and how long a sequence fits a memory.

    For a policy the bytes are those of `KVCache.nbytes`; layers with a sliding window count as a cache whose policy has
    no sinks and ``max_tokens`` of the window, or what the policy keeps at least.

    Parameters
    ----------
    model : str, Path or Model
        A name of `catalogue`, or the path of a Hugging Face config.json.
    memory : int or str, optional
        Bytes, or a size with its unit: ``"8GiB"`` is 8·2³⁰ bytes, ``"8GB"`` is 8·10⁹.
    policy : str or Policy
        A policy, the name of a preset, or that of a format of `FORMATS`.
    context : int or str, optional
        Tokens; ``"128k"`` is 128·1,024. Default: the model's own context.
    weights : int or str
        What the weights take of the memory.
    windows : {"ring", "full"}
        Layers with a sliding window keep the tokens that they attend to, or all.
    page : int
        Tokens that another engine's format reserves at a time. Caches of tqvec reserve by a rule of their own.

    Returns
    -------
    Plan

    Raises
    ------
    InputError
        An unknown name, a size without a unit, or a memory that the weights fill.

    Examples
    --------
    >>> from tqvec.kvcache import plan
    >>> found = plan("llama-3.1-8b", memory="8GiB", policy="turbo3")
    >>> found.bytes_per_token, found.max_tokens > 2.5 * 131072
    (25600.0, True)
    """
    known = model if isinstance(model, Model) else find_model(model)
    tokens = known.context if context is None else parse_tokens(context, "context")
    held = None if memory is None else parse_bytes(memory, "memory")
    taken = parse_bytes(weights, "weights")
    if held is not None and taken >= held:
        raise InputError(f"memory of {show_bytes(held)} does not hold the weights of {show_bytes(taken)}")
    ring = _validate.choice(windows, "windows", ["ring", "full"]) == "ring"
    groups = groups_of(known, policy, ring, _validate.integer(page, "page", 1, _PAGE))
    sizes = Sizes(groups)
    return Plan(
        known,
        policy if isinstance(policy, str) else "policy",
        tokens,
        tuple(_part(group, tokens) for group in groups),
        sizes.rate(),
        held,
        taken,
        None if held is None else sizes.longest(held - taken),
        None if held is None else (held - taken) // max(1, sizes.peak(tokens)),
    )


def _part(group: Group, n: int) -> Part:
    """What a group takes of `n` tokens."""
    tokens = n if group.kept is None else min(n, group.kept)
    return Part(group.kind, group.layers, tokens, Nbytes.total([group.nbytes(n)] * group.layers), group.widths)


def groups_of(model: Model, policy: str | Policy, ring: bool = True, page: int = 1) -> list[Group]:
    """A model's layers, those together that take the same bytes.

    Layers with keys and values are numbered through, as a policy's widths and protected layers count them.
    """
    coded = [kind for kind in model.layers if kind.kv_heads]
    if isinstance(policy, str):
        _validate.choice(policy, "policy", [*PRESETS, *FORMATS])
    if isinstance(policy, str) and policy in FORMATS:
        found = [_in_format(kind, layers, FORMATS[policy], ring, page) for kind, layers in Counter(coded).items()]
    else:
        under = policy if isinstance(policy, Policy) else Policy.from_name(policy)
        alike = Counter((kind, under.layers(len(coded), kind.kv_heads)[i]) for i, kind in enumerate(coded))
        found = [_with_widths(kind, layers, under, widths, ring) for (kind, widths), layers in alike.items()]
    others = Counter(kind for kind in model.layers if not kind.kv_heads)
    return found + [Group(layers, kind, 0, lambda n: Nbytes()) for kind, layers in others.items()]


def _in_format(kind: LayerKind, layers: int, form: Format, ring: bool, page: int) -> Group:
    """Layers of a kind in another engine's format."""
    kept = kind.window if ring else None

    def size(n: int) -> Nbytes:
        return form.nbytes(kind.kv_heads, kind.head_dim, n if kept is None else min(n, kept), page)

    return Group(layers, kind, kept, size)


def _with_widths(kind: LayerKind, layers: int, policy: Policy, widths: LayerWidths, ring: bool) -> Group:
    """Layers of a kind whose heads have these widths."""

    def size(n: int) -> Nbytes:
        return layer_nbytes(own, widths, kind.head_dim, n if own.hot is not None or kept is None else min(n, kept))

    own, kept = policy, policy.max_tokens
    if ring and kind.window is not None:
        kept = kind.window if kept is None else min(kept, kind.window)
        if policy.hot is not None:  # otherwise nothing is ever coded or dropped: as a cache of the window's tokens
            own = replace(policy, sinks=0, max_tokens=None)
            kept = max(kept, own.least_tokens)
            own = replace(own, max_tokens=kept)
    sides = (f"{name}{_common(side)}" for name, side in (("K", widths.keys), ("V", widths.values)))
    return Group(layers, kind, kept, size, own, " ".join(sides) if policy.hot is not None else "")


def _common(widths: Sequence[Width]) -> str:
    """The width of all heads, if it is one."""
    return str(widths[0]) if set(widths) == {widths[0]} and not isinstance(widths[0], tuple) else "*"


class Sizes:
    """Bytes of a sequence by its tokens, of all layers and states.

    Parameters
    ----------
    groups : list of Group
    """

    def __init__(self, groups: list[Group]):
        self.groups = groups
        self.state = sum(group.layers * group.kind.state for group in groups)

    def __call__(self, n: int) -> int:
        """Of `n` tokens."""
        return self.state + sum(group.layers * group.nbytes(n) for group in self.groups)

    def peak(self, n: int) -> int:
        """The most that a sequence takes while it grows to `n` tokens."""
        marks = {n}.union(*(_marks(group.policy, n) for group in self.groups if group.policy is not None))
        return max(map(self, marks))

    def longest(self, memory: int) -> int | None:
        """The most tokens whose `peak` is no more than `memory`; None: any number."""
        if self.peak(_MOST) <= memory:
            return None
        low, high = 0, 1
        while self.peak(high) <= memory:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak(middle) <= memory else (low, middle)
        return low

    def rate(self) -> float:
        """Bytes of each further token in the long run, without bookkeeping."""
        chunks = [group.policy.chunk for group in self.groups if group.policy is not None]
        period = lcm(SEGMENT, *chunks)

        def live(group: Group, n: int) -> int:
            size = group.nbytes(n)
            return group.layers * (size - size.bookkeeping)

        return sum(live(group, _LATE + period) - live(group, _LATE) for group in self.groups) / period


def _marks(policy: Policy, n: int) -> Iterator[int]:
    """Numbers of tokens up to `n` among which a layer takes the most.

    Bytes fall only where tokens are coded, which frees 16-bit ones, or where all of a segment are dropped: what counts
    is the last number before. Where tokens are dropped or grow old, this repeats after as many tokens as `SEGMENT` and
    `chunk` both divide; otherwise bytes at these numbers never fall.
    """
    if policy.hot is None:
        return
    falls = policy.old_after is not None or policy.max_tokens is not None
    period = lcm(policy.chunk, SEGMENT) if falls else policy.chunk
    first = policy.sinks + max(policy.hot + policy.chunk, policy.mean_tokens)
    series = [(policy.sinks + policy.hot, policy.chunk)]
    if policy.max_tokens is not None:
        series.append((policy.max_tokens, segment_sizes(policy, ages=False).cold))
    if first <= n:
        yield first - 1
    for start, step in series:
        last = (n + 1 - start) // step
        for k in range(max(1, last - period // step), last + 1):
            yield start + k * step - 1


def _table(found: Plan) -> list[str]:
    """What each kind of layer takes, in columns."""
    names = list(Nbytes().items())
    rows = [["layers", "tokens", *names, "state", "total"]]
    for part in found.parts:
        shape = f" {part.kind.kv_heads} × {part.kind.head_dim}" if part.kind.kv_heads else ""
        sizes = [*part.nbytes.items().values(), part.state, part.nbytes + part.state]
        label = f"{part.layers} {part.kind.name}{shape} {part.widths}".rstrip()
        rows.append([label, f"{part.tokens:,}", *map(show_bytes, sizes)])
    sizes = [*found.nbytes.items().values(), found.total - found.nbytes, found.total]
    rows.append(["all", f"{found.context:,}", *map(show_bytes, sizes)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    title = f"{found.model.name} under {found.policy}: {found.context:,} tokens take {found.total:,} bytes"
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return [title, *lines]


def _verdicts(found: Plan) -> Iterator[str]:
    """What it means, in sentences."""
    plain = sum(4 * kind.kv_heads * kind.head_dim for kind in found.model.layers if kind.window is None)
    per_token = f"{found.bytes_per_token:,.10g} bytes a token in the long run"
    yield per_token + (
        f"; 16 bits a value: {plain:,}, {plain / found.bytes_per_token:.2f} times" if found.bytes_per_token else ""
    )
    if found.context > found.model.context:
        yield f"the model's own context ends at {found.model.context:,} tokens"
    if found.memory is None:
        return
    free = f"{show_bytes(found.memory)}" + (f" less weights of {show_bytes(found.weights)}" if found.weights else "")
    if found.max_tokens is None:
        yield f"{free} hold a sequence of any length"
    else:
        end = f" (the model's own context: {found.model.context:,})" if found.max_tokens > found.model.context else ""
        yield f"{free} hold {found.max_tokens:,} tokens of one sequence{end}"
    yield f"{free} hold {found.sequences:,} sequences of {found.context:,} tokens"

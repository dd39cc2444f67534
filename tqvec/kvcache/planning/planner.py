"""Plans: the bytes of a model's cache under a policy or in another engine's format, and the tokens that fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import lcm
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

from tqvec import _validate
from tqvec.errors import InputError
from tqvec.kvcache.byte_model import SEGMENT, Nbytes, layer_nbytes, segment_sizes
from tqvec.kvcache.planning.formats import FORMATS, Format
from tqvec.kvcache.planning.models import LayerKind, Model, as_model
from tqvec.kvcache.planning.plans import Plan, PlanPart, Plans
from tqvec.kvcache.planning.units import format_bytes, parse_bytes, parse_tokens
from tqvec.kvcache.planning.weights import StreamedWeights
from tqvec.kvcache.policy import PRESETS, LayerWidths, Policy, Width, as_policy

_NO_LIMIT = 2**40  # tokens: a memory that fits so many fits any number
_LATE = 2**30  # tokens: by then windows are full, and each further token takes the same bytes
_MAX_PAGE = 65536  # tokens
_PAIR = 4  # bytes of a coordinate of a key and of a value in 16 bits


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
        The policy, for caches of tqvec. None: another engine's format, or windows in 16 bits; these bytes never fall as
        a sequence grows.
    widths : str
        Bits per coordinate of keys and values, as "K4 V2".
    """

    layers: int
    kind: LayerKind
    kept: int | None
    nbytes: Callable[[int], Nbytes]
    policy: Policy | None = None
    widths: str = ""


@overload  # a str, which is a sequence of str, is the first of these
def plan(  # type: ignore[overload-overlap]
    model: str | Path | Model,
    *,
    memory: int | str | None = None,
    policy: str | Policy = "turbo3",
    context: int | str | None = None,
    weights: int | str | StreamedWeights = 0,
    windows: Literal["ring", "full"] = "ring",
    page: int = 1,
) -> Plan:
    """Compute one plan."""


@overload
def plan(
    model: str | Path | Model,
    *,
    memory: int | str | None = None,
    policy: Sequence[str | Policy],
    context: int | str | None = None,
    weights: int | str | StreamedWeights = 0,
    windows: Literal["ring", "full"] = "ring",
    page: int = 1,
) -> Plans:
    """Compute a plan per policy."""


def plan(
    model: str | Path | Model,
    *,
    memory: int | str | None = None,
    policy: str | Policy | Sequence[str | Policy] = "turbo3",
    context: int | str | None = None,
    weights: int | str | StreamedWeights = 0,
    windows: Literal["ring", "full"] = "ring",
    page: int = 1,
) -> Plan | Plans:
    """Compute the bytes of a model's cache, and the longest sequence that fits a memory.

    For a policy the bytes equal `KVCache.nbytes`, unless heads are guarded (see `KVCache.guarded_heads`). A layer with
    a sliding window counts as a cache without sinks whose ``max_tokens`` is the window. If that would code no token,
    the tokens of the window count with 16 bits per value.

    Parameters
    ----------
    model : str, Path or Model
        A name of `list_models`, or the path of a Hugging Face config.json.
    memory : int or str, optional
        Bytes, or a size with its unit: ``"8GiB"`` is 8·2³⁰ bytes, ``"8GB"`` is 8·10⁹.
    policy : str, Policy or a sequence of them
        A policy, the name of a preset, or the name of another engine's format in `FORMATS`. Several are compared.
    context : int or str, optional
        Tokens of a sequence; ``"128k"`` is 128·1,024. Default: the model's own context.
    weights : int, str or StreamedWeights
        Bytes of the memory that the model's weights take, or a size with its unit. `StreamedWeights`: layers are read
        from a disk one by one.
    windows : {"ring", "full"}
        Whether layers with a sliding window keep the tokens of the window, or all tokens.
    page : int
        Tokens that another engine's format reserves at a time. Caches of tqvec have their own rule.

    Returns
    -------
    Plan
        Of a sequence of policies `Plans`, a tuple that prints as a table.

    Raises
    ------
    InputError
        The name is unknown, a size has no unit, the weights fill the memory, or there is no policy.

    Examples
    --------
    >>> from tqvec.kvcache import plan
    >>> example = plan("llama-3.1-8b", memory="8GiB", policy="turbo3")
    >>> example.bytes_per_token, example.max_tokens > 2.5 * 131072
    (25600.0, True)
    """
    if isinstance(policy, Sequence) and not isinstance(policy, str):
        if not policy:
            raise InputError("policy must have at least one policy")
        if not all(isinstance(one, (str, Policy)) for one in policy):
            raise InputError(f"policy must be policies, or names of policies or formats, got {policy!r}")
        options: dict[str, Any] = {"context": context, "weights": weights, "windows": windows, "page": page}
        return Plans(plan(model, memory=memory, policy=one, **options) for one in policy)
    shape = as_model(model)
    tokens = shape.context if context is None else parse_tokens(context, "context")
    total = None if memory is None else parse_bytes(memory, "memory")
    streamed = weights.check() if isinstance(weights, StreamedWeights) else None
    weight_bytes = parse_bytes(weights if streamed is None else streamed.resident, "weights")
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
        streamed=streamed,
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
        rules = as_policy(policy)
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

    own, kept = policy, policy.max_tokens
    if ring and kind.window is not None:
        limited = limit_to_window(policy, kind.window)
        if limited is None:
            return _group_in_16_bits(kind, layers, kind.window)
        own, kept = limited, limited.max_tokens
    sides = (f"{name}{_common_width(side)}" for name, side in (("K", widths.keys), ("V", widths.values)))
    text = " ".join(sides) if policy.recent is not None else ""
    size = partial(layer_nbytes, own, widths, kind.head_dim)
    return LayerGroup(layers=layers, kind=kind, kept=kept, nbytes=size, policy=own, widths=text)


def _group_in_16_bits(kind: LayerKind, layers: int, window: int) -> LayerGroup:
    """Return layers that hold the tokens of their window in 16 bits."""

    def size(n: int) -> Nbytes:
        return Nbytes(uncoded=_PAIR * kind.kv_heads * kind.head_dim * min(n, window))

    return LayerGroup(layers, kind, window, size)


def limit_to_window(policy: Policy, window: int) -> Policy | None:
    """Return the policy of the cache of a layer that attends to a window; None if it would code no token of it."""
    without_sinks = replace(policy, sinks=0, max_tokens=None)
    if policy.recent is None or window < without_sinks.min_tokens:
        return None
    return replace(without_sinks, max_tokens=min(window, policy.max_tokens or window))


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

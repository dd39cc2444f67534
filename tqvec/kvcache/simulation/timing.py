"""Measure the time of the cache's work on this machine, once per policy and shape of layer, and extrapolate it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _validate
from tqvec._present import brief
from tqvec._random import generator
from tqvec._types import Doubles
from tqvec.errors import InputError
from tqvec.kvcache.cache import KVCache
from tqvec.kvcache.planning.models import LayerKind
from tqvec.kvcache.planning.planner import LayerGroup
from tqvec.kvcache.policy import Policy

LENGTHS = (2048, 8192, 32768)  # tokens at which attention is timed
_LAYERS = 3  # used in turn, as in a model: a single layer would stay in the processor's cache
_QUERIES = 32  # queries of a part of a prompt
_REPEATS = 5

AttentionShape = tuple[int, int, int]  # KV heads, head_dim, query heads


class Rates(NamedTuple):
    """The times of one layer, in seconds.

    Attributes
    ----------
    attend, attend_token : float
        Attention of one new token: a constant, and the time per token that it attends to.
    append : float
        Adding a generated token, with its share of the coding of a chunk.
    encode : float
        Adding a token of a prompt.
    pair : float
        Attention of a prompt, per pair of tokens.
    bend : int
        Tokens beyond which attention is slower, since they don't fit the processor's caches.
    attend_beyond : float
        Additional time per token beyond `bend`.
    """

    attend: float
    attend_token: float
    append: float
    encode: float
    pair: float
    bend: int = 0
    attend_beyond: float = 0.0


def measure_rates(
    kind: LayerKind, policy: Policy, *, threads: int | None = None, lengths: tuple[int, int, int] = LENGTHS
) -> Rates:
    """Measure the rates of one layer with a small cache on this machine.

    The time of attention is assumed to be linear in the tokens between three `lengths`, and beyond.

    Parameters
    ----------
    kind : LayerKind
        Number of heads and their dimension; the window is not used.
    policy : Policy
    threads : int, optional
    lengths : (int, int, int)
        Tokens at which attention is timed, rising.

    Returns
    -------
    Rates
    """
    cache = KVCache(_LAYERS, kind.kv_heads, kind.head_dim, policy)
    rng = generator(None, "decoding times")
    x = rng.standard_normal((kind.kv_heads, lengths[2], kind.head_dim), np.float32)
    q = rng.standard_normal((kind.heads or kind.kv_heads, _QUERIES, kind.head_dim), np.float32)

    def append(part: slice) -> float:
        """Return seconds per token and layer."""
        start = time.perf_counter()
        for layer in range(_LAYERS):
            cache.append(layer, x[:, part], x[:, part], threads=threads)
        return (time.perf_counter() - start) / _LAYERS / (part.stop - part.start)

    def attend(queries: int) -> Callable[[], object]:
        return lambda: [cache.attend(layer, q[:, :queries], threads=threads) for layer in range(_LAYERS)]

    append(slice(0, lengths[0] // 2))  # compiles
    append(slice(lengths[0] // 2, lengths[0]))
    times = [_median_time(attend(1)) / _LAYERS]
    encode = append(slice(*lengths[:2]))
    times.append(_median_time(attend(1)) / _LAYERS)
    pair = _median_time(attend(_QUERIES)) / _LAYERS / (_QUERIES * lengths[1])
    append(slice(*lengths[1:]))
    times.append(_median_time(attend(1)) / _LAYERS)
    steps = 2 * policy.chunk if policy.recent is not None else _QUERIES
    append(slice(0, 1))  # may move all to larger arrays, which is rare
    single = sum(append(slice(t, t + 1)) for t in range(steps)) / steps
    near, far = (max(0.0, (times[i + 1] - times[i]) / (lengths[i + 1] - lengths[i])) for i in range(2))
    return Rates(
        attend=max(0.0, times[0] - near * lengths[0]),
        attend_token=near,
        append=single,
        encode=encode,
        pair=pair,
        bend=lengths[1],
        attend_beyond=far - near,
    )


def _median_time(task: Callable[[], object]) -> float:
    """Return the median time of some runs, after one that compiles."""
    task()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return median(times)


class Clock(NamedTuple):
    """The time of the cache's work under a policy, by the rates of each shape of layer."""

    groups: list[LayerGroup]
    rates: dict[AttentionShape, Rates]

    def __repr__(self) -> str:
        return brief(self)

    @classmethod
    def calibrate(cls, groups: list[LayerGroup], policy: Policy, *, threads: int | None = None) -> Clock:
        """Measure the rates of these layers on this machine, which takes some seconds."""
        kinds = {attention_shape(group.kind): group.kind for group in groups if group.kind.kv_heads}
        return cls(groups, {shape: measure_rates(kind, policy, threads=threads) for shape, kind in kinds.items()})

    def _layers(self) -> Iterator[tuple[int, float, Rates]]:
        """Yield the number of layers of each kind, the most tokens that they keep, and their rates."""
        for group in self.groups:
            if group.kind.kv_heads:
                kept = math.inf if group.kept is None else group.kept
                yield group.layers, kept, self.rates[attention_shape(group.kind)]

    def decode_time(self, n: NDArray[np.int64]) -> Doubles:
        """Return the seconds of generated tokens that attend to `n` tokens each, over all layers."""
        total = np.zeros(np.shape(n))
        for count, kept, rate in self._layers():
            seen = np.minimum(n, kept)
            beyond = np.maximum(seen - rate.bend, 0)
            total = total + count * (rate.append + rate.attend + rate.attend_token * seen + rate.attend_beyond * beyond)
        return total

    def prompt_time(self, before: int, n: int) -> float:
        """Return the seconds of `n` tokens of a prompt behind `before` other tokens."""
        total = 0.0
        for count, kept, rate in self._layers():
            pairs = min(n * before + n * (n + 1) / 2, n * kept)
            total += count * (n * rate.encode + pairs * rate.pair)
        return total


def check_clock(clock: Clock, groups: list[LayerGroup]) -> Clock:
    """Return a clock that has rates of all these layers; it counts these layers, whichever it was made for."""
    rates = _validate.instance(clock, "clock", Clock).rates
    for shape in {attention_shape(group.kind) for group in groups if group.kind.kv_heads}:
        own = rates.get(shape) if isinstance(rates, dict) else None
        if not isinstance(own, Rates):
            raise InputError(f"clock has no rates of layers with (KV heads, head_dim, heads) {shape}; calibrate one")
        for name, value in own._asdict().items():
            _validate.number(value, f"clock.rates[{shape}].{name}")
    return Clock(groups, rates)


def attention_shape(kind: LayerKind) -> AttentionShape:
    """Return the numbers of a layer that decide the time of its attention."""
    return kind.kv_heads, kind.head_dim, kind.heads

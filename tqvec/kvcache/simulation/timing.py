"""How long the cache's work takes on this machine: measured once a policy and shape, then extrapolated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._random import generator
from tqvec.kvcache.cache import KVCache
from tqvec.kvcache.planning.models import LayerKind
from tqvec.kvcache.planning.planner import Group
from tqvec.kvcache.policy import Policy

LENGTHS = (2048, 8192, 32768)  # tokens at which attention is timed
_LAYERS = 3  # in turn, as a model goes through them: none stays in the processor's cache because it is the only one
_QUERIES = 32  # of a part of a prompt
_REPEATS = 5

Shape = tuple[int, int, int]  # KV heads, head_dim, query heads


class Rates(NamedTuple):
    """Seconds that one layer takes.

    Attributes
    ----------
    attend, attend_token : float
        For the attention of one new token: in any case, and for each token that it attends to.
    append : float
        For adding a generated token; coding, which comes in chunks, is shared out.
    encode : float
        For adding a token of a prompt.
    pair : float
        For each pair of a prompt's token and one that it attends to.
    bend : int
    attend_beyond : float
        What `attend_token` is more, for each token beyond `bend`: memory is slower than the processor's caches.
    """

    attend: float
    attend_token: float
    append: float
    encode: float
    pair: float
    bend: int = 0
    attend_beyond: float = 0.0


def calibrate(
    kind: LayerKind, policy: Policy, threads: int | None = None, lengths: tuple[int, int, int] = LENGTHS
) -> Rates:
    """Time a small cache on this machine.

    Attention is taken to be linear in the number of tokens between its medians at three `lengths`, and beyond.

    Parameters
    ----------
    kind : LayerKind
        Heads and dimension; the window does not matter.
    policy : Policy
    threads : int, optional
    lengths : (int, int, int)

    Returns
    -------
    Rates
    """
    cache = KVCache(_LAYERS, kind.kv_heads, kind.head_dim, policy)
    rng = generator(None, "decoding times")
    x = rng.standard_normal((kind.kv_heads, lengths[2], kind.head_dim), np.float32)
    q = rng.standard_normal((kind.heads or kind.kv_heads, _QUERIES, kind.head_dim), np.float32)

    def append(part: slice) -> float:
        """Seconds a token and layer."""
        start = time.perf_counter()
        for layer in range(_LAYERS):
            cache.append(layer, x[:, part], x[:, part], threads)
        return (time.perf_counter() - start) / _LAYERS / (part.stop - part.start)

    def attend(queries: int) -> Callable[[], object]:
        return lambda: [cache.attend(layer, q[:, :queries], threads=threads) for layer in range(_LAYERS)]

    append(slice(0, lengths[0] // 2))  # compiles
    append(slice(lengths[0] // 2, lengths[0]))
    times = [_seconds(attend(1)) / _LAYERS]
    encode = append(slice(*lengths[:2]))
    times.append(_seconds(attend(1)) / _LAYERS)
    pair = _seconds(attend(_QUERIES)) / _LAYERS / (_QUERIES * lengths[1])
    append(slice(*lengths[1:]))
    times.append(_seconds(attend(1)) / _LAYERS)
    steps = 2 * policy.chunk if policy.hot is not None else _QUERIES
    append(slice(0, 1))  # may move all to larger arrays, which is rare
    single = sum(append(slice(t, t + 1)) for t in range(steps)) / steps
    near, far = (max(0.0, (times[i + 1] - times[i]) / (lengths[i + 1] - lengths[i])) for i in range(2))
    return Rates(max(0.0, times[0] - near * lengths[0]), near, single, encode, pair, lengths[1], far - near)


def _seconds(task: Callable[[], object]) -> float:
    """Median of some runs, after one that compiles."""
    task()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return median(times)


class Clock(NamedTuple):
    """Seconds of the cache's work under a policy, by what calibration found for each shape of layer."""

    groups: list[Group]
    rates: dict[Shape, Rates]

    @classmethod
    def calibrated(cls, groups: list[Group], policy: Policy, threads: int | None) -> Clock:
        """Measure the shapes of these layers on this machine."""
        kinds = {shape_of(group.kind): group.kind for group in groups if group.kind.kv_heads}
        return cls(groups, {shape: calibrate(kind, policy, threads) for shape, kind in kinds.items()})

    def _layers(self) -> Iterator[tuple[int, float, Rates]]:
        """How many layers, tokens that each keeps at most, and their rates."""
        for group in self.groups:
            if group.kind.kv_heads:
                kept = math.inf if group.kept is None else group.kept
                yield group.layers, kept, self.rates[shape_of(group.kind)]

    def decode(self, n: NDArray[np.int64] | int) -> Any:
        """Of generated tokens, one each, that attend to `n` tokens, in all layers."""
        total: Any = 0.0
        for count, kept, rate in self._layers():
            seen = np.minimum(n, kept)
            beyond = np.maximum(seen - rate.bend, 0)
            total = total + count * (rate.append + rate.attend + rate.attend_token * seen + rate.attend_beyond * beyond)
        return total

    def prompt(self, before: int, n: int) -> float:
        """Of `n` tokens of a prompt behind `before` others."""
        total = 0.0
        for count, kept, rate in self._layers():
            pairs = min(n * before + n * (n + 1) / 2, n * kept)
            total += count * (n * rate.encode + pairs * rate.pair)
        return total


def shape_of(kind: LayerKind) -> Shape:
    """What decides how long a layer's attention takes."""
    return kind.kv_heads, kind.head_dim, kind.heads

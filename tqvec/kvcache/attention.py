"""Attention over a layer's tiers: on codes where tokens are coded, on numbers where they are hot.

Keys and values are taken less their head's means. For keys that adds the same number to all scores of a query, which
the softmax does not see; to the sum of values the mean is added in the end.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _threads
from tqvec._types import Floats
from tqvec.codec import attention
from tqvec.codec.turboquant import TurboQuant
from tqvec.kernels.tables import AttentionTables
from tqvec.kvcache.codecs import Coded, LayerCodecs, Side, Sides
from tqvec.kvcache.half_precision import Halves, widened
from tqvec.kvcache.state import Hot, Means, Segment, State

_SCORES = 1 << 22  # that one thread holds at a time, unless a single query has more
_WIDENED = 2048  # hot tokens that are float32 at a time
_GRAIN = 1 << 24  # products that a thread takes at least: with fewer, threads mostly wait for each other's Python


class Task(NamedTuple):
    """What an attention is over, and how.

    Attributes
    ----------
    state : State
    codecs : LayerCodecs
    basis : (head_dim, head_dim) float32
        The rotation.
    least : float
        Shares of attention below it may be skipped.
    """

    state: State
    codecs: LayerCodecs
    basis: Floats
    least: float


class _Block(NamedTuple):
    """Some queries of one KV head: plain and rotated, (g, head_dim), and the tokens that each sees, (g,)."""

    plain: Floats
    rotated: Floats
    seen: NDArray[np.int64]


class _Weights(NamedTuple):
    """Softmax over a part of the tokens: `largest` and `total` as in `attention.Part`, weights (g, tokens)."""

    weights: Floats
    largest: Floats
    total: Floats


@lru_cache(maxsize=256)
def _tables(codec: TurboQuant) -> AttentionTables:
    return attention.attention_tables(codec)


def attend(task: Task, q: Floats, threads: int) -> tuple[Floats, Floats]:
    """Attention of the newest tokens' queries.

    Parameters
    ----------
    task : Task
    q : (n_heads, n_queries, head_dim) float32
        Multiplied by what scores are to be multiplied by. Query j sees all tokens but the newest
        ``n_queries - 1 - j``.
    threads : int

    Returns
    -------
    out : (n_heads, n_queries, head_dim) float32
    skipped : (n_heads, n_queries) float32
        Share of the attention that was skipped.
    """
    n_heads, nq, d = q.shape
    heads = task.state.hot.keys.shape[0]
    plain = q.reshape(heads, n_heads // heads * nq, d)
    rotated = (plain.reshape(-1, d) @ task.basis).reshape(plain.shape)
    n = task.state.n
    seen = np.tile(np.arange(n - nq + 1, n + 1), n_heads // heads)
    out, skipped = np.empty_like(plain), np.empty(plain.shape[:2], np.float32)
    step = max(1, _SCORES // n)

    def some_heads(part: int, start: int, stop: int) -> None:
        for head in range(start, stop):
            for at in range(0, seen.size, step):
                rows = slice(at, at + step)
                block = _Block(plain[head, rows], rotated[head, rows], seen[rows])
                out[head, rows], skipped[head, rows] = _one_head(task, head, block)

    _threads.over_rows(some_heads, heads, -(-_GRAIN // (n * d * seen.size)), threads)
    return out.reshape(q.shape), skipped.reshape(n_heads, nq)


def _one_head(task: Task, head: int, block: _Block) -> tuple[Floats, Floats]:
    """Attention of some queries over the tokens of one KV head."""
    state = task.state
    parts: list[_Hot | _Codes] = [_Hot(state.sinks, state.means, head, task.basis)]
    for segments, sides in ((state.old, task.codecs.old), (state.cold, task.codecs.cold)):
        parts += [_Codes(segment, sides, head) for segment in segments]
    parts.append(_Hot(state.hot, state.means, head, task.basis))
    parts = [part for part in parts if part.n]
    g, first, softmaxes = len(block.seen), 0, []
    room = _threads.scratch(g * state.n)
    for part in parts:
        scores = room[g * first : g * (first + part.n)].reshape(g, part.n)
        part.score(block, scores)
        largest, total = attention.softmax_in_place(scores, block.seen - first)
        softmaxes.append(_Weights(scores, largest, total))
        first += part.n
    least = _thresholds(softmaxes, task.least)
    found = []
    for part, one, limit in zip(parts, softmaxes, least, strict=True):
        out, skipped = part.add(one.weights, limit)
        found.append(attention.Part(one.largest, one.total, skipped, out))
    out, skipped = attention.merge(found)
    out = out @ task.basis.T
    if state.means is not None and state.means.values is not None:
        out += state.means.values[head]
    return out, skipped


def _thresholds(softmaxes: list[_Weights], least: float) -> list[float]:
    """For each part what weights there have to be below, so that they are shares below `least` for every query.

    Weights of a part are relative to its largest, which is 1; so a threshold of 2 is above all.
    """
    if least == 0:
        return [0.0] * len(softmaxes)
    highest = np.max([one.largest for one in softmaxes], axis=0).astype(np.float64)
    total = sum(np.exp(one.largest - highest) * one.total for one in softmaxes)
    with np.errstate(over="ignore"):
        return [min(2.0, float(np.min(least * total * np.exp(highest - one.largest)))) for one in softmaxes]


class _Hot:
    """Hot tokens of a head, made float32 in parts that stay in the processor's cache."""

    def __init__(self, hot: Hot, means: Means | None, head: int, basis: Floats):
        self.n, self._basis = hot.n, basis
        self._parts = [slice(at, min(at + _WIDENED, hot.n)) for at in range(0, hot.n, _WIDENED)]
        self._keys, self._values = hot.keys[head], hot.values[head]
        self._key = None if means is None else means.keys[head]
        self._value = None if means is None or means.values is None else means.values[head]

    def score(self, block: _Block, out: Floats) -> None:
        """Fill in scores, (g, n)."""
        for part in self._parts:
            np.matmul(block.plain, _less(self._keys[part], self._key).T, out=out[:, part])

    def add(self, weights: Floats, least: float) -> tuple[Floats, Floats]:
        """Sum of values times weights, (g, head_dim), rotated; and of the weights that were skipped."""
        out = sum(np.matmul(weights[:, part], _less(self._values[part], self._value)) for part in self._parts)
        return np.matmul(out, self._basis), np.zeros(len(weights), np.float32)


def _less(halves: Halves, mean: Floats | None) -> Floats:
    """As float32, less a mean."""
    numbers = widened(halves)
    if mean is not None:
        numbers -= mean
    return numbers


class _Codes:
    """Coded tokens of a head."""

    def __init__(self, segment: Segment, sides: Sides | None, head: int):
        assert sides is not None
        self.n, self._d = segment.n, sides.values.groups[0].codec.d
        self._keys = _rows_of(segment.keys, segment.rows, sides.keys, head)
        self._values = _rows_of(segment.values, segment.rows, sides.values, head)

    def score(self, block: _Block, out: Floats) -> None:
        """As for hot tokens."""
        tables, codes, scales = self._keys
        attention.code_scores(tables, block.rotated, codes, scales, out)

    def add(self, weights: Floats, least: float) -> tuple[Floats, Floats]:
        """As for hot tokens."""
        tables, codes, scales = self._values
        out = np.zeros((len(weights), self._d), np.float32)
        return out, attention.add_values(tables, weights, codes, scales, out, least)


def _rows_of(
    coded: tuple[Coded, ...], rows: slice, side: Side, head: int
) -> tuple[AttentionTables, NDArray[np.uint8], NDArray[np.uint16]]:
    """Tables, codes and scales of one head."""
    group, place = side.places[head]
    found = coded[group]
    return _tables(side.groups[group].codec), found.codes[place, rows], found.scales[place, rows]

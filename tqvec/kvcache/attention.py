"""Attention over the tokens of a layer: on codes where tokens are coded, on 16-bit numbers elsewhere.

Codes of keys are of what the head's mean leaves. What the mean contributes to a score depends on the token's position
alone, and is added (`mean_scores`). The mean value is subtracted from all values, and added to their sum in the end.
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
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.tables import AttentionTables
from tqvec.kvcache.codecs import KVCodecs, LayerCodecs, SideCodec, SideCodes, basis
from tqvec.kvcache.half_precision import Halves, to_float32
from tqvec.kvcache.key_basis import Layout
from tqvec.kvcache.state import Segment, State, Uncoded

_SCORES = 1 << 22  # scores that one thread holds at a time, unless a single query has more
_WIDENED = 2048  # uncoded tokens that are float32 at a time
_GRAIN = 1 << 24  # products per thread, at least: with fewer, threads mostly wait for each other's Python


class Task(NamedTuple):
    """The tokens, codecs and options of an attention.

    Attributes
    ----------
    state : State
    codecs : LayerCodecs
    turning : Layout
        How the coordinates of keys turn with the position.
    skip_below : float
        Values with smaller attention weights may be skipped.
    """

    state: State
    codecs: LayerCodecs
    turning: Layout
    skip_below: float


class _QueryBlock(NamedTuple):
    """Some queries of one KV head, (g, head_dim), and the number of tokens that each sees, (g,)."""

    plain: Floats
    seen: NDArray[np.int64]


class _Softmax(NamedTuple):
    """Softmax over some of the tokens: weights (g, tokens), `largest` and `total` as in `attention.Part`."""

    weights: Floats
    largest: Floats
    total: Floats


@lru_cache(maxsize=256)
def _tables(codec: TurboQuant) -> AttentionTables:
    return attention.attention_tables(codec)


def attend(task: Task, q: Floats, threads: int) -> tuple[Floats, Floats]:
    """Compute causal attention of the newest tokens' queries.

    Parameters
    ----------
    task : Task
    q : (n_heads, n_queries, head_dim) float32
        Queries times the factor of the scores. Query j sees all tokens but the newest ``n_queries - 1 - j``.
    threads : int

    Returns
    -------
    out : (n_heads, n_queries, head_dim) float32
    skipped : (n_heads, n_queries) float32
        Share of each query's attention that was skipped.
    """
    n_heads, nq, d = q.shape
    heads = task.state.recent.keys.shape[0]
    plain = q.reshape(heads, n_heads // heads * nq, d)
    n = task.state.n
    seen = np.tile(np.arange(n - nq + 1, n + 1), n_heads // heads)
    out, skipped = np.empty_like(plain), np.empty(plain.shape[:2], np.float32)
    step = max(1, _SCORES // n)

    def some_heads(part: int, start: int, stop: int) -> None:
        for head in range(start, stop):
            for at in range(0, seen.size, step):
                rows = slice(at, at + step)
                block = _QueryBlock(plain[head, rows], seen[rows])
                out[head, rows], skipped[head, rows] = _attend_head(task, head, block)

    _threads.over_rows(some_heads, heads, -(-_GRAIN // (n * d * seen.size)), threads)
    return out.reshape(q.shape), skipped.reshape(n_heads, nq)


def _attend_head(task: Task, head: int, block: _QueryBlock) -> tuple[Floats, Floats]:
    """Compute attention of some queries over the tokens of one KV head."""
    state = task.state
    mean_value = None if state.learned is None or state.learned.values is None else state.learned.values[head]
    coded = _CodedHead(task, head, block)
    rotation = basis(task.codecs.coded.values.groups[0].codec)
    runs: list[_UncodedRun | _CodedRun] = [_UncodedRun(state.sinks, mean_value, head, rotation)]
    for segments, codecs in ((state.recoded, task.codecs.recoded), (state.coded, task.codecs.coded)):
        for segment in segments:
            runs.append(_CodedRun(segment, codecs, head, coded))
            coded.position += segment.n
    runs.append(_UncodedRun(state.recent, mean_value, head, rotation))
    runs = [run for run in runs if run.n]
    g, first, softmaxes = len(block.seen), 0, []
    workspace = _threads.scratch(g * state.n)
    for run in runs:
        scores = workspace[g * first : g * (first + run.n)].reshape(g, run.n)
        run.score(block, scores)
        largest, total = attention.softmax_in_place(scores, block.seen - first)
        softmaxes.append(_Softmax(scores, largest, total))
        first += run.n
    parts = []
    for run, softmax, threshold in zip(runs, softmaxes, _thresholds(softmaxes, task.skip_below), strict=True):
        out, skipped = run.sum_values(softmax.weights, threshold)
        parts.append(attention.Part(softmax.largest, softmax.total, skipped, out))
    out, skipped = attention.merge(parts)
    out = out @ rotation.T
    if mean_value is not None:
        out += mean_value
    return out, skipped


def _thresholds(softmaxes: list[_Softmax], skip_below: float) -> list[float]:
    """Return a threshold per run: smaller weights are attention weights below `skip_below` for every query.

    Weights of a run are relative to its largest, which is 1. So a threshold of 2 skips all of them.
    """
    if skip_below == 0:
        return [0.0] * len(softmaxes)
    highest = np.max([softmax.largest for softmax in softmaxes], axis=0).astype(np.float64)
    total = sum(np.exp(softmax.largest - highest) * softmax.total for softmax in softmaxes)
    with np.errstate(over="ignore"):
        return [min(2.0, float(np.min(skip_below * total * np.exp(highest - s.largest)))) for s in softmaxes]


class _UncodedRun:
    """Uncoded tokens of a head, made float32 in parts that stay in the processor's cache."""

    def __init__(self, tokens: Uncoded, mean_value: Floats | None, head: int, rotation: Floats):
        self.n, self._rotation = tokens.n, rotation
        self._parts = [slice(at, min(at + _WIDENED, tokens.n)) for at in range(0, tokens.n, _WIDENED)]
        self._keys, self._values = tokens.keys[head], tokens.values[head]
        self._mean_value = mean_value

    def score(self, block: _QueryBlock, out: Floats) -> None:
        """Fill in scores, (g, n)."""
        for part in self._parts:
            np.matmul(block.plain, to_float32(self._keys[part]).T, out=out[:, part])

    def sum_values(self, weights: Floats, threshold: float) -> tuple[Floats, Floats]:
        """Return the rotated sum of weighted values, (g, head_dim), and the sum of skipped weights, (g,)."""
        out = sum(np.matmul(weights[:, part], _subtract(self._values[part], self._mean_value)) for part in self._parts)
        return np.matmul(out, self._rotation), np.zeros(len(weights), np.float32)


def _subtract(halves: Halves, mean: Floats | None) -> Floats:
    """Return numbers as float32, less a mean."""
    numbers = to_float32(halves)
    if mean is not None:
        numbers -= mean
    return numbers


class _CodedHead:
    """Some queries of a head, as its codes need them.

    Attributes
    ----------
    position : int
        Of the first token of the next run.
    """

    def __init__(self, task: Task, head: int, block: _QueryBlock):
        self.position, self._waves = task.state.first_coded, task.turning.waves
        self._queries, self._products, learned = block.plain, None, task.state.learned
        self._rotated: dict[TurboQuant, Floats] = {}
        if learned is not None:
            self._queries = learned.keys.turn_queries(block.plain, head)
            self._products = task.turning.products(block.plain, learned.keys.means[head])

    def rotated(self, codec: TurboQuant) -> Floats:
        """Return the queries in the basis of a codec's codes, (g, head_dim)."""
        if codec not in self._rotated:
            self._rotated[codec] = self._queries @ basis(codec)
        return self._rotated[codec]

    def add_means(self, scales: NDArray[np.uint16], position: int, out: Floats) -> None:
        """Add what the mean key contributes to the scores of tokens with these scales, (g, n), from a position on."""
        if self._products is not None:
            kernel("add_means")(self._products, self._waves, position, scales, out)


class _CodedRun:
    """Coded tokens of a head."""

    def __init__(self, segment: Segment, codecs: KVCodecs | None, head: int, queries: _CodedHead):
        assert codecs is not None
        self.n, self._d = segment.n, codecs.values.groups[0].codec.d
        self._queries, self._position = queries, queries.position
        self._key_codec = codecs.keys.groups[codecs.keys.positions[head][0]].codec
        self._keys = _head_codes(segment.keys, segment.rows, codecs.keys, head)
        self._values = _head_codes(segment.values, segment.rows, codecs.values, head)

    def score(self, block: _QueryBlock, out: Floats) -> None:
        """Fill in scores, (g, n)."""
        tables, codes, scales = self._keys
        attention.code_scores(tables, self._queries.rotated(self._key_codec), codes, scales, out)
        self._queries.add_means(scales, self._position, out)

    def sum_values(self, weights: Floats, threshold: float) -> tuple[Floats, Floats]:
        """Return the rotated sum of weighted values, (g, head_dim), and the sum of skipped weights, (g,)."""
        tables, codes, scales = self._values
        out = np.zeros((len(weights), self._d), np.float32)
        return out, attention.add_values(tables, weights, codes, scales, out, threshold)


def _head_codes(
    side: SideCodes, rows: slice, codec: SideCodec, head: int
) -> tuple[AttentionTables, NDArray[np.uint8], NDArray[np.uint16]]:
    """Return the tables, codes and scales of one head."""
    number, position = codec.positions[head]
    group = side[number]
    return _tables(codec.groups[number].codec), group.codes[position, rows], group.scales[position, rows]

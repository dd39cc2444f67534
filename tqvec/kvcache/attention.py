"""Attention over the tokens of a layer: on codes where tokens are coded, on 16-bit numbers elsewhere.

Codes of keys are of what the head's mean leaves. What the mean contributes to a score depends on the token's position
alone, and is added (`tqvec.kvcache.mean_waves`). The mean value is subtracted from all values, and added to their sum
in the end.

Queries are taken in blocks of neighbouring positions. Tokens that no query of a block sees are left out of its runs.
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
from tqvec.kvcache.score_options import ScoreOptions
from tqvec.kvcache.state import Segment, State, Uncoded

_SCORES = 1 << 22  # scores that one thread holds at a time, unless a single query has more
_BLOCK = 1024  # queries that share the tokens that they see, at most
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
    options : ScoreOptions
    """

    state: State
    codecs: LayerCodecs
    turning: Layout
    skip_below: float
    options: ScoreOptions


class _QueryBlock(NamedTuple):
    """Some queries of one KV head, in the order of their positions.

    Attributes
    ----------
    plain : (g, head_dim) float32
    first, stop : (g,) int64
        Each query sees the tokens at positions ``first … stop - 1``.
    sinks : (g,) float32 or None
        Logits.
    """

    plain: Floats
    first: NDArray[np.int64]
    stop: NDArray[np.int64]
    sinks: Floats | None

    def visible(self, position: int, n: int) -> slice:
        """Return which of `n` tokens from a position on some query sees, or an empty slice."""
        first, stop = int(self.first[0]) - position, int(self.stop[-1]) - position
        return slice(max(0, first), max(0, min(n, stop)))


class _Place(NamedTuple):
    """Rows ``start … stop - 1`` of a head in the arrays of some tokens, and the position of the first."""

    head: int
    start: int
    stop: int
    position: int

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """The rows, as a slice."""
        return slice(self.start, self.stop)


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
        Queries times the factor of the scores. Query j does not see the newest ``n_queries - 1 - j`` tokens.
    threads : int

    Returns
    -------
    out : (n_heads, n_queries, head_dim) float32
    skipped : (n_heads, n_queries) float32
        Share of each query's attention that was skipped.
    """
    n_heads, nq, d = q.shape
    state, options = task.state, task.options
    heads = state.shape[0]
    group = n_heads // heads
    plain = np.ascontiguousarray(q.reshape(heads, group, nq, d).swapaxes(1, 2)).reshape(heads, nq * group, d)
    end = state.n + (state.evicted if state.n > state.sinks.n else 0)  # position behind the newest token
    stop = np.repeat(np.arange(end - nq, end) + 1, group)
    first = stop - options.window
    sinks = None if options.sinks is None else np.tile(options.sinks.reshape(heads, group), nq)
    out, skipped = np.empty_like(plain), np.empty(plain.shape[:2], np.float32)
    most = min(state.n, options.window + _BLOCK)  # tokens that a block sees
    step = min(_BLOCK, max(1, _SCORES // most))

    def some_heads(part: int, start: int, end: int) -> None:
        for head in range(start, end):
            for at in range(0, stop.size, step):
                rows = slice(at, at + step)
                logits = None if sinks is None else sinks[head, rows]
                block = _QueryBlock(plain[head, rows], first[rows], stop[rows], logits)
                out[head, rows], skipped[head, rows] = _attend_head(task, head, block)

    _threads.over_rows(some_heads, heads, -(-_GRAIN // (most * d * stop.size)), threads)
    out, skipped = (x.reshape(heads, nq, group, -1).swapaxes(1, 2).reshape(n_heads, nq, -1) for x in (out, skipped))
    return out, skipped[..., 0]


def _attend_head(task: Task, head: int, block: _QueryBlock) -> tuple[Floats, Floats]:
    """Compute attention of some queries over the tokens of one KV head."""
    state, softcap = task.state, task.options.softcap
    mean_value = None if state.learned is None or state.learned.values is None else state.learned.values[head]
    rotation = basis(task.codecs.coded.values.groups[0].codec)
    runs = _visible_runs(task, head, block, mean_value, rotation)
    g, held, softmaxes = len(block.stop), 0, []
    workspace = _threads.scratch(g * sum(run.n for run in runs))
    for run in runs:
        scores = workspace[g * held : g * (held + run.n)].reshape(g, run.n)
        run.score(block, scores)
        if softcap is not None:
            kernel("cap_scores")(scores, np.float32(softcap))
        seen = _hide(scores, block, run.position)
        softmaxes.append(_Softmax(scores, *attention.softmax_in_place(scores, seen)))
        held += run.n
    parts = [] if block.sinks is None else [_sink_part(block.sinks, mean_value, rotation)]
    for run, softmax, threshold in zip(runs, softmaxes, _thresholds(softmaxes, parts, task.skip_below), strict=True):
        out, skipped = run.sum_values(softmax.weights, threshold)
        parts.append(attention.Part(softmax.largest, softmax.total, skipped, out))
    out, skipped = attention.merge(parts)
    out = out @ rotation.T
    if mean_value is not None:
        out += mean_value
    return out, skipped


def _visible_runs(
    task: Task, head: int, block: _QueryBlock, mean_value: Floats | None, rotation: Floats
) -> list[_UncodedRun | _CodedRun]:
    """Return the tokens that some query of a block sees, in order."""
    state, position = task.state, task.state.first_coded
    places: list[tuple[Uncoded | Segment, KVCodecs | None, int]] = [(state.sinks, None, 0)]
    for segments, codecs in ((state.recoded, task.codecs.recoded), (state.coded, task.codecs.coded)):
        for segment in segments:
            places.append((segment, codecs, position))
            position += segment.n
    places.append((state.recent, None, position))
    coded = _CodedHead(task, head, block)
    runs: list[_UncodedRun | _CodedRun] = []
    for tokens, codecs, position in places:
        rows = block.visible(position, tokens.n)
        if rows.start >= rows.stop:
            continue
        place = _Place(head, rows.start, rows.stop, position + rows.start)
        if isinstance(tokens, Uncoded):
            runs.append(_UncodedRun(tokens, place, mean_value, rotation))
        else:
            assert codecs is not None
            runs.append(_CodedRun(tokens, place, codecs, coded))
    return runs


def _hide(scores: Floats, block: _QueryBlock, position: int) -> NDArray[np.int64]:
    """Make scores of tokens before a query's window -infinity.

    Return how many of the tokens, the first of which has this position, each query sees or has before its window; 0 if
    all are before it.
    """
    stop = block.stop - position
    if block.first[-1] <= position:
        return stop
    first = block.first - position
    hidden = scores[:, : int(first[-1])]
    hidden[np.arange(hidden.shape[1]) < first[:, None]] = -np.inf
    return np.where(first < scores.shape[1], stop, 0)


def _sink_part(logits: Floats, mean_value: Floats | None, rotation: Floats) -> attention.Part:
    """Return the part of one token per query with this score and the value 0, less the mean value as all values are."""
    g, ones = len(logits), np.ones_like(logits)
    value = np.zeros(len(rotation), np.float32) if mean_value is None else -mean_value @ rotation
    return attention.Part(logits, ones, np.zeros_like(logits), np.broadcast_to(value, (g, len(value))))


def _thresholds(softmaxes: list[_Softmax], others: list[attention.Part], skip_below: float) -> list[float]:
    """Return a threshold per softmax: smaller weights are attention weights below `skip_below` for every query.

    Weights of a run are relative to its largest, which is 1. So a threshold of 2 skips all of them. `others` take their
    shares of the attention too.
    """
    if skip_below == 0:
        return [0.0] * len(softmaxes)
    everything: list[_Softmax | attention.Part] = [*softmaxes, *others]
    highest = np.max([part.largest for part in everything], axis=0).astype(np.float64)
    total = sum(np.exp(part.largest - highest) * part.total for part in everything)
    with np.errstate(over="ignore"):
        return [min(2.0, float(np.min(skip_below * total * np.exp(highest - s.largest)))) for s in softmaxes]


class _UncodedRun:
    """Uncoded tokens of a head, made float32 in parts that stay in the processor's cache."""

    def __init__(self, tokens: Uncoded, place: _Place, mean_value: Floats | None, rotation: Floats):
        self.n, self.position, self._rotation = place.n, place.position, rotation
        self._parts = [slice(at, min(at + _WIDENED, self.n)) for at in range(0, self.n, _WIDENED)]
        self._keys, self._values = (side[place.head, place.rows] for side in (tokens.keys, tokens.values))
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
    """Some queries of a head, as its codes need them."""

    def __init__(self, task: Task, head: int, block: _QueryBlock):
        self._queries, self._products, learned = block.plain, None, task.state.learned
        self._waves = task.turning.waves
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

    def __init__(self, segment: Segment, place: _Place, codecs: KVCodecs, queries: _CodedHead):
        self.n, self.position, self._queries = place.n, place.position, queries
        self._d = codecs.values.groups[0].codec.d
        self._key_codec = codecs.keys.groups[codecs.keys.positions[place.head][0]].codec
        place = place._replace(start=segment.start + place.start, stop=segment.start + place.stop)
        self._keys = _head_codes(segment.keys, place, codecs.keys)
        self._values = _head_codes(segment.values, place, codecs.values)

    def score(self, block: _QueryBlock, out: Floats) -> None:
        """Fill in scores, (g, n)."""
        tables, codes, scales = self._keys
        attention.code_scores(tables, self._queries.rotated(self._key_codec), codes, scales, out)
        self._queries.add_means(scales, self.position, out)

    def sum_values(self, weights: Floats, threshold: float) -> tuple[Floats, Floats]:
        """Return the rotated sum of weighted values, (g, head_dim), and the sum of skipped weights, (g,)."""
        tables, codes, scales = self._values
        out = np.zeros((len(weights), self._d), np.float32)
        return out, attention.add_values(tables, weights, codes, scales, out, threshold)


def _head_codes(
    side: SideCodes, place: _Place, codec: SideCodec
) -> tuple[AttentionTables, NDArray[np.uint8], NDArray[np.uint16]]:
    """Return the tables, codes and scales of some rows of one head."""
    number, position = codec.positions[place.head]
    group = side[number]
    return _tables(codec.groups[number].codec), group.codes[position, place.rows], group.scales[position, place.rows]

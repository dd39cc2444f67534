"""Attention over uncoded tokens, which are made float32 in parts that stay in the processor's cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _threads
from tqvec._types import Floats
from tqvec.codec import attention
from tqvec.kernels.arguments import AttentionParts
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.threads.helpers import scratch
from tqvec.kvcache.half_precision import Halves, round_to_half
from tqvec.kvcache.products import multiply, rotate
from tqvec.kvcache.query_block import QueryBlock
from tqvec.kvcache.state import State, Uncoded

_WIDENED = 256  # tokens of each head that are float32 at a time
_GRAIN = 1 << 24  # products per thread, at least: with fewer, threads mostly wait for each other's Python


class UncodedRun(NamedTuple):
    """Uncoded tokens that some query of a block sees, and the position of the first."""

    keys: Halves
    values: Halves
    position: int

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.keys.shape[1]


def uncoded_runs(state: State, block: QueryBlock) -> list[UncodedRun]:
    """Return the uncoded tokens that some query of a block sees, in order."""
    places: list[tuple[Uncoded, int]] = [(state.sinks, 0), (state.recent, state.n + state.evicted - state.recent.n)]
    runs = []
    for tokens, position in places:
        rows = block.visible(position, tokens.n)
        if rows.start < rows.stop:
            runs.append(UncodedRun(tokens.keys[:, rows], tokens.values[:, rows], position + rows.start))
    return runs


def attend_uncoded(
    runs: list[UncodedRun],
    block: QueryBlock,
    mean_values: Floats | None,
    rotation: Floats,
    parts: AttentionParts,
    threads: int,
) -> None:
    """Fill in the first of the parts of an attention: one per run.

    Parameters
    ----------
    runs : list of UncodedRun
    block : QueryBlock
    mean_values : (heads, head_dim) float32 or None
        Subtracted from the values.
    rotation : (head_dim, head_dim) float32
        Of the sums of values.
    parts : AttentionParts
    threads : int
    """
    heads, g, d = block.plain.shape

    def some_heads(part: int, start: int, stop: int) -> None:
        some = slice(start, stop)
        for number, run in enumerate(runs):
            scores = _scores(run, block, some)
            largest, total = attention.softmax_in_place(
                scores.reshape(-1, run.n), np.tile(_hide(scores, block, run.position), stop - start)
            )
            parts.largest[some, number], parts.total[some, number] = largest.reshape(-1, g), total.reshape(-1, g)
            parts.skipped[some, number] = 0
            means = None if mean_values is None else mean_values[some, None]
            sums = _sum_values(run, scores, some, means)
            parts.sums[some, number] = rotate(sums, rotation)

    products = d * g * sum(run.n for run in runs)  # of a head
    if products:
        _threads.over_rows(some_heads, heads, -(-_GRAIN // products), threads)


def _scores(run: UncodedRun, block: QueryBlock, heads: slice) -> Floats:
    """Return the scores of some heads, (heads, g, n)."""
    queries = block.plain[heads]
    scores = np.empty((*queries.shape[:2], run.n), np.float32)
    for tokens in _pieces(run):
        multiply(queries, _widen(run.keys[heads, tokens]).swapaxes(1, 2), scores[:, :, tokens])
    if block.softcap is not None:
        kernel("cap_scores")(scores.reshape(-1, run.n), np.float32(block.softcap))
    return scores


def _sum_values(run: UncodedRun, weights: Floats, heads: slice, means: Floats | None) -> Floats:
    """Return the sums of weighted values less their means, (heads, g, head_dim)."""
    sums, part = np.zeros((2, *weights.shape[:2], run.values.shape[2]), np.float32)
    for tokens in _pieces(run):
        values = _widen(run.values[heads, tokens])
        if means is not None:
            values -= means
        multiply(weights[:, :, tokens], values, part)
        sums += part
    return sums


def _pieces(run: UncodedRun) -> list[slice]:
    return [slice(at, min(at + _WIDENED, run.n)) for at in range(0, run.n, _WIDENED)]


def _widen(x: Halves) -> Floats:
    """Return numbers as float32, in this thread's workspace."""
    out = scratch(1, 4 * x.size)[0].view(np.float32)[: x.size].reshape(x.shape)
    round_to_half(x, "float16" if x.dtype == np.float16 else "bfloat16", out)
    return out


def _hide(scores: Floats, block: QueryBlock, position: int) -> NDArray[np.int64]:
    """Make scores (heads, g, n) of tokens before a query's window -infinity.

    Return how many of the tokens, the first of which has this position, each query sees or has before its window; 0 if
    all are before it.
    """
    stop = block.stop - position
    if block.first[-1] <= position:
        return stop
    first = block.first - position
    hidden = scores[:, :, : int(first[-1])]
    hidden[:, np.arange(hidden.shape[2]) < first[:, None]] = -np.inf
    return np.where(first < scores.shape[2], stop, 0)

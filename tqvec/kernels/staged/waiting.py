"""Rows of a batch search by prefixes that wait for their full scores, so that few get them in vain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.arguments import Heap, SecondStage
from tqvec.kernels.copying import copy_table, copy_values
from tqvec.kernels.staged.one_query import offer_rows, second_stage
from tqvec.kernels.staged.sizes import DOUBTFUL
from tqvec.kernels.tables import PrefixQueries
from tqvec.kernels.topk.portable import kth_best

PROBES = 4  # rows beyond those needed whose full scores give the first threshold
LIKELY = 8  # rows that wait for each other, so that their codes are fetched side by side


class Waiting(NamedTuple):
    """Rows that wait for their full scores, for each query of a group.

    Attributes
    ----------
    likely, doubtful : (queries, LIKELY) and (queries, space) int32
        Rows whose estimates reach the threshold, which raise it soon, and others that only the slack lets in.
    likely_upper, upper : like these, float32
        Their estimates plus slack.
    n_likely, n_doubtful : (queries,) int64
        Their numbers.
    offered : (queries,) int64
        Doubtful rows that still reached the threshold when they had waited.
    floor : (queries,) float32
        What the threshold will be at least, as far as the rows seen are like all rows; -inf if nothing is known.
    rank : (queries,) int64
        Rank of the floor among the rows seen; 0 if there shall be none.
    entries : (space,) int32
        0, 1, 2, …
    parities : uint8
        As in `SecondStage`.
    """

    likely: np.ndarray
    likely_upper: np.ndarray
    doubtful: np.ndarray
    upper: np.ndarray
    n_likely: np.ndarray
    n_doubtful: np.ndarray
    offered: np.ndarray
    floor: np.ndarray
    rank: np.ndarray
    entries: np.ndarray
    parities: np.ndarray


@jit
def make_waiting(queries, nq, k, workspace):
    """No rows that wait, of `nq` queries whose heaps have `k` entries.

    `workspace` is (≥ waiting_bytes(nq, k),) uint8.
    """
    space = DOUBTFUL[0] + DOUBTFUL[1] * k
    half = 4 * nq * space
    return Waiting(
        likely=np.empty((nq, LIKELY), np.int32),
        likely_upper=np.empty((nq, LIKELY), np.float32),
        doubtful=workspace[:half].view(np.int32).reshape(nq, space),
        upper=workspace[half : 2 * half].view(np.float32).reshape(nq, space),
        n_likely=np.zeros(nq, np.int64),
        n_doubtful=np.zeros(nq, np.int64),
        offered=np.zeros(nq, np.int64),
        floor=np.empty(nq, np.float32),
        rank=np.empty(nq, np.int64),
        entries=np.arange(space).astype(np.int32),
        parities=np.empty(queries.bytes_.shape[1] // 8 + 63, np.uint8),
    )


@jit
def threshold_of(heaps, waiting, q):
    """Score that a row must reach to be one of the best of query `q`, as far as any thread knows."""
    return max(heaps.scores[q, 0], heaps.least[q], waiting.floor[q])


@jit
def offer(rows, row_numbers, stages, queries, heaps, q):
    """Offer rows to the heap of query `q`, with their full scores."""
    heap = Heap(heaps.scores[q], heaps.ids[q], heaps.least[q : q + 1])
    offer_rows(rows, row_numbers, row_numbers.size, stages, queries.integers[q], queries.unit[q], heap)


@jit
def offer_refined(rows, waiting, stages, queries, heaps, q, row_numbers, upper):
    """Offer those rows to the heap of query `q` that second bits let through, if the codec has these.

    `upper` are the rows' estimates plus slack; they are spoilt.
    """
    count = row_numbers.size
    if stages.second_level != 0:
        for r in range(count):
            upper[r] -= queries.slack[q] * rows.scale[row_numbers[r]]
        second = SecondStage(
            entries=queries.bytes_[q],
            share=np.float32(stages.sign_share),
            unit=queries.bit_unit[q],
            shift=queries.bit_shift[q],
            plane=waiting.parities,
        )
        count = second_stage(
            rows, waiting.entries, row_numbers, count, stages, second, upper, threshold_of(heaps, waiting, q)
        )
    offer(rows, row_numbers[:count], stages, queries, heaps, q)


@jit
def settle(rows, stages, queries, heaps, waiting, q, most):
    """Offer the doubtful rows of query `q` that still reach the threshold, unless they are at most `most`."""
    row_numbers, upper = waiting.doubtful[q], waiting.upper[q]
    least = threshold_of(heaps, waiting, q)
    kept = 0
    for r in range(waiting.n_doubtful[q]):
        if upper[r] >= least:
            row_numbers[kept] = row_numbers[r]
            upper[kept] = upper[r]
            kept += 1
    if kept > most:
        offer_refined(rows, waiting, stages, queries, heaps, q, row_numbers[:kept], upper[:kept])
        waiting.offered[q] += kept
        kept = 0
    waiting.n_doubtful[q] = kept


@jit
def settle_likely(rows, stages, queries, heaps, waiting, q):
    """Offer the likely rows of query `q`."""
    n = waiting.n_likely[q]
    offer_refined(rows, waiting, stages, queries, heaps, q, waiting.likely[q, :n], waiting.likely_upper[q, :n])
    waiting.n_likely[q] = 0


@jit
def raise_floor(waiting, heaps, q):
    """Let the score at `rank` among the rows of query `q` so far be the floor of its threshold."""
    scores = heaps.scores[q]
    rank = waiting.rank[q]
    if 0 < rank < scores.size:
        waiting.floor[q] = max(waiting.floor[q], kth_best(scores, rank))


@jit
def n_probes(rank, k):
    """Rows whose full scores give the first threshold."""
    return PROBES + (min(rank, k) if rank > 0 else k)


@jit
def floor_rank(k, share):
    """Rank among a share of all rows that hardly any of the best `k` of all falls behind."""
    return np.int64(np.ceil(k * share + 4.0 * np.sqrt(k * share) + 4.0))


@jit
def slice_queries(queries, first, size):
    """The tables of some queries."""
    stop = first + size
    return PrefixQueries(
        table=queries.table[first:stop],
        slope=queries.slope[first:stop],
        shift=queries.shift[first:stop],
        slack=queries.slack[first:stop],
        integers=queries.integers[first:stop],
        unit=queries.unit[first:stop],
        bytes_=queries.bytes_[first:stop],
        bit_unit=queries.bit_unit[first:stop],
        bit_shift=queries.bit_shift[first:stop],
    )


@jit
def take_queries(queries, numbers, tile):
    """The tables of the queries of these numbers, filled up with empty ones to whole tiles."""
    n = numbers.size
    table = np.zeros(((n + tile - 1) // tile * tile, queries.table.shape[1], queries.table.shape[2]), np.uint8)
    for i in range(n):
        copy_table(queries.table[numbers[i]], table[i])
    return PrefixQueries(
        table=table,
        slope=queries.slope[numbers],
        shift=queries.shift[numbers],
        slack=queries.slack[numbers],
        integers=_take_rows(queries.integers, numbers),
        unit=queries.unit[numbers],
        bytes_=_take_rows(queries.bytes_, numbers),
        bit_unit=queries.bit_unit[numbers],
        bit_shift=queries.bit_shift[numbers],
    )


@jit
def _take_rows(array, numbers):
    out = np.empty((numbers.size, array.shape[1]), array.dtype)
    for i in range(numbers.size):
        copy_values(array[numbers[i]], out[i])
    return out

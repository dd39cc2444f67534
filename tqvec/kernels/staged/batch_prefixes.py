"""Search of a batch of queries: prefixes of all rows by table lookups, then full scores of the few rows that pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.arguments import Heap, SecondStage
from tqvec.kernels.attend.indices import aligned_bytes
from tqvec.kernels.dispatch import kernel, module
from tqvec.kernels.scan.allowed import WORD, word_of
from tqvec.kernels.simd.bits import count_bits, find_lowest_bit
from tqvec.kernels.simd.floats import (
    add_f32x16,
    convert_f32x16,
    greater_equal_f32x16,
    mul_f32x16,
    multiply_add_f32x16,
)
from tqvec.kernels.simd.memory import load_f32x16, load_i32x16, load_u64, splat_f32x16, store_u64
from tqvec.kernels.staged.one_query import offer_rows, second_stage
from tqvec.kernels.tables import PrefixQueries
from tqvec.kernels.topk.portable import EMPTY_ID, topk_push_portable

tile_totals = kernel("tile_totals")
QUERY_TILE = module("tile_totals").QUERY_TILE

WORDS = 16  # of 64 rows, that all queries meet before the next: their prefixes and totals stay in the nearest caches
GROUP_BYTES = 1 << 17  # of tables of queries that walk through the rows together, a part of the second-level cache
PROBES = 4  # rows beyond those needed whose full scores give the first threshold
LIKELY = 8  # rows that wait for their full scores, so that their codes are fetched side by side
DOUBTFUL = 2 * WORDS * WORD, 8  # rows, and more per result, that wait for the end, when the threshold is highest
ALL = ~np.uint64(0)


class Step(NamedTuple):
    """Words of 64 rows that all queries of a group meet.

    Attributes
    ----------
    first : (WORDS,) int64
        First row of each.
    bits : (WORDS,) uint64
        Rows that may be returned.
    count : int
        Number of words.
    """

    first: np.ndarray
    bits: np.ndarray
    count: int


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
        What the threshold will be at least, as far as the rows seen are like all rows; -inf if nothing is known, inf
        for a query that is done.
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
def _steps(where):
    """Number of steps in which all words of a range are scanned."""
    return (where.stop - where.start + WORDS * WORD - 1) // (WORDS * WORD)


@jit
def _list_step(where, number, first, bits):
    """List the words of a step that have allowed rows; return their number.

    Its words are spread over the range, so that every step is a sample of all rows, in whatever order these came.
    """
    allowed, start, stop = where
    count = 0
    for word in range(start // WORD + number, (stop + WORD - 1) // WORD, _steps(where)):
        if allowed.size > 0:
            here = word_of(allowed, word, start, stop)
        else:
            here = ALL >> np.uint64(WORD - min(WORD, stop - WORD * word))
        first[count] = WORD * word
        bits[count] = here
        count += here != 0
    return count


@jit
def _passing_words(step, left, totals, line, rows_at, passing):
    """Find rows with ``(total slope + shift) scale + bias >= least``; return a mask of the words that have any.

    `step` is the number of words and the address of their first rows. `line` is slope, shift and least, `rows_at` the
    addresses of all scales and biases, 0 for none. The rest are addresses: of the bits that count, one word each, of
    the totals of one query, and of the words of bits, which are filled.
    """
    count, firsts = step
    slope, shift, least = splat_f32x16(line[0]), splat_f32x16(line[1]), splat_f32x16(line[2])
    words = np.uint64(0)
    for w in range(count):
        at = 4 * np.int64(load_u64(firsts + 8 * w))
        bits = np.uint64(0)
        for part in range(4):
            x = convert_f32x16(load_i32x16(totals + 4 * WORD * w + 64 * part))
            x = mul_f32x16(multiply_add_f32x16(x, slope, shift), load_f32x16(rows_at[0] + at + 64 * part))
            if rows_at[1] != 0:
                x = add_f32x16(x, load_f32x16(rows_at[1] + at + 64 * part))
            bits |= greater_equal_f32x16(x, least) << np.uint64(LANES * part)
        bits &= load_u64(left + 8 * w)
        store_u64(passing + 8 * w, bits)
        words |= np.uint64(bits != 0) << np.uint64(w)
    return words


@jit
def _first_probes(rows, step, totals, line, left):
    """List rows with high estimates, and take them off the bits `left`.

    `totals` (rows,) are those of one query, `line` its slope, its shift and the number of rows to list at most.
    """
    slope, shift, most = line
    best = np.full(most, -np.inf, np.float32)
    entries = np.full(most, EMPTY_ID, np.int64)
    for v in range(WORD * step.count):
        if left[v // WORD] >> np.uint64(v % WORD) & np.uint64(1):
            i = step.first[v // WORD] + v % WORD
            x = (np.float32(totals[v]) * slope + shift) * rows.scale[i]
            if rows.bias.size > 0:
                x += rows.bias[i]
            if x >= best[0]:
                topk_push_portable(x, v, best, entries)
    row_numbers = np.empty(most, np.int32)
    count = 0
    for v in entries:
        if v != EMPTY_ID:
            left[v // WORD] &= ~(np.uint64(1) << np.uint64(v % WORD))
            row_numbers[count] = step.first[v // WORD] + v % WORD
            count += 1
    return row_numbers[:count]


@jit
def _offer(rows, row_numbers, stages, queries, heaps, q):
    """Offer rows to the heap of query `q`, with their full scores."""
    heap = Heap(heaps.scores[q], heaps.ids[q])
    offer_rows(rows, row_numbers, row_numbers.size, stages, queries.integers[q], queries.unit[q], heap)


@jit
def _offer_refined(rows, waiting, stages, queries, heaps, q, row_numbers, upper):
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
            parities=waiting.parities,
        )
        least = max(heaps.scores[q, 0], waiting.floor[q])
        count = second_stage(rows, waiting.entries, row_numbers, count, stages, second, upper, least)
    _offer(rows, row_numbers[:count], stages, queries, heaps, q)


@jit
def _settle(rows, stages, queries, heaps, waiting, q, most):
    """Offer the doubtful rows of query `q` that still reach the threshold, unless they are at most `most`."""
    row_numbers, upper = waiting.doubtful[q], waiting.upper[q]
    least = max(heaps.scores[q, 0], waiting.floor[q])
    kept = 0
    for r in range(waiting.n_doubtful[q]):
        if upper[r] >= least:
            row_numbers[kept] = row_numbers[r]
            upper[kept] = upper[r]
            kept += 1
    if kept > most:
        _offer_refined(rows, waiting, stages, queries, heaps, q, row_numbers[:kept], upper[:kept])
        waiting.offered[q] += kept
        kept = 0
    waiting.n_doubtful[q] = kept


@jit
def _settle_likely(rows, stages, queries, heaps, waiting, q):
    n = waiting.n_likely[q]
    _offer_refined(rows, waiting, stages, queries, heaps, q, waiting.likely[q, :n], waiting.likely_upper[q, :n])
    waiting.n_likely[q] = 0


@jit
def _tile_done(floor, q):
    """Return whether no query of the tile from `q` on takes any row."""
    return floor[q : q + QUERY_TILE].min() == np.inf


@jit
def _scan_step(rows, prefixes, stages, queries, step, waiting, heaps):
    """Score the rows of a step for all queries of a group, and let those wait that reach the thresholds."""
    scales, biases = rows.scale, rows.bias
    likely, likely_upper, n_likely = waiting.likely, waiting.likely_upper, waiting.n_likely
    doubtful, upper, n_doubtful = waiting.doubtful, waiting.upper, waiting.n_doubtful
    groups = prefixes.shape[1]
    totals = aligned_bytes(QUERY_TILE, 4 * WORDS * WORD).view(np.int32)
    left, passing = np.empty((2, WORDS), np.uint64)
    for q in range(heaps.scores.shape[0]):
        i = q % QUERY_TILE
        if i == 0 and not _tile_done(waiting.floor, q):
            for w in range(step.count):
                prefix = prefixes.ctypes.data + 4 * groups * step.first[w]
                tables = queries.table.ctypes.data + 128 * groups * q
                tile_totals(prefix, tables, groups, totals.ctypes.data + 4 * WORD * w, 4 * WORDS * WORD)
        slope, slack = queries.slope[q], queries.slack[q]
        shift = queries.shift[q] + slack
        left[:] = step.bits
        if heaps.ids[q, 0] == EMPTY_ID and waiting.floor[q] == -np.inf:  # no threshold yet
            line = slope, shift, _probes(waiting.rank[q], heaps.scores.shape[1])
            _offer(rows, _first_probes(rows, step, totals[i], line, left), stages, queries, heaps, q)
            _raise_floor(waiting, heaps, q)
        least = max(heaps.scores[q, 0], waiting.floor[q])
        words = _passing_words(
            (step.count, step.first.ctypes.data), left.ctypes.data, totals.ctypes.data + 4 * WORDS * WORD * i,
            (slope, shift, least), (scales.ctypes.data, biases.ctypes.data if biases.size > 0 else 0),
            passing.ctypes.data,
        )  # fmt: skip
        while words != 0:
            w = find_lowest_bit(words)
            words &= words - np.uint64(1)
            bits = passing[w]
            while bits != 0:
                lane = find_lowest_bit(bits)
                bits &= bits - np.uint64(1)
                r = step.first[w] + lane
                x = (np.float32(totals[i, WORD * w + lane]) * slope + shift) * scales[r]
                if biases.size > 0:
                    x += biases[r]
                if x - slack * scales[r] < least:
                    doubtful[q, n_doubtful[q]] = r
                    upper[q, n_doubtful[q]] = x
                    n_doubtful[q] += 1
                    continue
                likely[q, n_likely[q]] = r
                likely_upper[q, n_likely[q]] = x
                n_likely[q] += 1
                if n_likely[q] == LIKELY:
                    _settle_likely(rows, stages, queries, heaps, waiting, q)
                    least = max(heaps.scores[q, 0], waiting.floor[q])
        if n_doubtful[q] > doubtful.shape[1] - WORDS * WORD:
            _settle(rows, stages, queries, heaps, waiting, q, doubtful.shape[1] // 2)


@jit
def _raise_floor(waiting, heaps, q):
    """Let the best row but `rank` of query `q`, as far as they are known, be the floor of its threshold."""
    scores = heaps.scores[q]
    rank = waiting.rank[q]
    if 0 < rank < scores.size:
        waiting.floor[q] = max(waiting.floor[q], np.partition(scores, scores.size - rank)[scores.size - rank])


@jit
def _probes(rank, k):
    """Rows whose full scores give the first threshold."""
    return PROBES + (min(rank, k) if rank > 0 else k)


@jit
def _rank(k, share):
    """Rank among a share of all rows that hardly any of the best `k` of all falls behind."""
    return np.int64(np.ceil(k * share + 4.0 * np.sqrt(k * share) + 4.0))


@jit
def _waiting(queries, nq, k):
    """No rows that wait, of `nq` queries whose heaps have `k` entries."""
    space = DOUBTFUL[0] + DOUBTFUL[1] * k
    return Waiting(
        likely=np.empty((nq, LIKELY), np.int32),
        likely_upper=np.empty((nq, LIKELY), np.float32),
        doubtful=np.empty((nq, space), np.int32),
        upper=np.empty((nq, space), np.float32),
        n_likely=np.zeros(nq, np.int64),
        n_doubtful=np.zeros(nq, np.int64),
        offered=np.zeros(nq, np.int64),
        floor=np.empty(nq, np.float32),
        rank=np.empty(nq, np.int64),
        entries=np.arange(space).astype(np.int32),
        parities=np.empty(queries.bytes_.shape[1] // 8 + 63, np.uint8),
    )


@jit
def _scan_steps(rows, prefixes, stages, queries, where, last, waiting, heaps):
    """Offer rows of the steps before `last` to the heaps of a group of queries; return their number.

    Queries that begin with empty heaps (`rank` > 0) expect that of their best k rows as large a share lies in the first
    steps as these have of all rows. That gives floors of their thresholds, which the caller checks in the end.
    """
    nq, k = heaps.scores.shape
    first, bits = np.empty(WORDS, np.int64), np.empty(WORDS, np.uint64)
    seen = 0
    for number in range(last):
        count = _list_step(where, number, first, bits)
        for w in range(count):
            seen += count_bits(bits[w])
        for q in range(nq):
            if waiting.rank[q] > 0:
                waiting.rank[q] = _rank(k, max(1, number) / last)
                if number > 0 and number & (number - 1) == 0:
                    _raise_floor(waiting, heaps, q)
        _scan_step(rows, prefixes, stages, queries, Step(first, bits, count), waiting, heaps)
    for q in range(nq):
        _settle_likely(rows, stages, queries, heaps, waiting, q)
        _settle(rows, stages, queries, heaps, waiting, q, -1)
    return seen


@jit
def search_prefixes(rows, prefixes, stages, queries, where, heaps):
    """Offer rows of a block to the heaps of a batch of queries.

    Parameters
    ----------
    rows, prefixes, stages
        As in `search_one_query`.
    queries : PrefixQueries
    where : RowRange
        `start` is a multiple of 64.
    heaps : Heap
        One per query of the batch; rows of other calls may have gone into them.
    """
    nq, k = heaps.scores.shape
    size = max(1, GROUP_BYTES // (128 * prefixes.shape[1]) // QUERY_TILE) * QUERY_TILE
    steps = _steps(where)
    waiting = _waiting(queries, min(nq, size), k)
    enough = where.stop - where.start >= k
    for q in range(0, nq, size):
        best = Heap(heaps.scores[q : q + size], heaps.ids[q : q + size])
        group = _group(queries, q, size)
        waiting.floor[:] = -np.inf
        for i in range(best.scores.shape[0]):
            waiting.rank[i] = enough and best.ids[i].min() == EMPTY_ID
        _scan_steps(rows, prefixes, stages, group, where, steps, waiting, best)
        failed = 0
        for i in range(best.scores.shape[0]):
            if best.scores[i, 0] < waiting.floor[i]:
                best.scores[i] = -np.inf
                best.ids[i] = EMPTY_ID
                waiting.floor[i] = -np.inf
                failed += 1
            else:
                waiting.floor[i] = np.inf
            waiting.rank[i] = 0
        if failed > 0:
            _scan_steps(rows, prefixes, stages, group, where, steps, waiting, best)


@jit
def survivor_share(rows, prefixes, stages, queries, where, steps, k):
    """Measure the share of rows that the last threshold of a search lets through.

    Parameters
    ----------
    rows, prefixes, stages, queries, where
        As in `search_prefixes`; a few queries of a batch do.
    steps : int
        Steps of 1,024 rows, spread over all rows, that are searched.
    k : int
        Results among them.

    Returns
    -------
    float
    """
    nq = queries.unit.size
    heaps = Heap(np.full((nq, k), -np.inf, np.float32), np.full((nq, k), EMPTY_ID, np.int64))
    waiting = _waiting(queries, nq, k)
    waiting.floor[:] = -np.inf
    waiting.rank[:] = 0
    seen = _scan_steps(rows, prefixes, stages, queries, where, min(steps, _steps(where)), waiting, heaps)
    return waiting.offered.sum() / max(1, nq * seen)


@jit
def _group(queries, first, size):
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

"""Search of a batch of queries: prefixes of all rows by table lookups, then full scores of the few rows that pass."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.arguments import Heap
from tqvec.kernels.attend.indices import aligned_bytes
from tqvec.kernels.copying import copy_values
from tqvec.kernels.dispatch import kernel, module
from tqvec.kernels.scan.allowed import WORD
from tqvec.kernels.scan.units import (
    FEW_QUERIES,
    SEED_QUERIES,
    count_units,
    group_of,
    heaps_of,
    merge_heaps,
    rows_of_chunk,
    rows_to_seed,
    seed_rows,
    share_search,
    units_of,
)
from tqvec.kernels.simd.bits import count_bits, find_lowest_bit
from tqvec.kernels.staged.prefetch import prefetch_row
from tqvec.kernels.staged.prefix_queries import prefix_queries
from tqvec.kernels.staged.prefix_steps import ROWS, WORDS, Step, count_steps, list_probes, list_step, passing_words
from tqvec.kernels.staged.sizes import UNIT_QUERIES, group_size, waiting_bytes
from tqvec.kernels.staged.waiting import (
    LIKELY,
    floor_rank,
    make_waiting,
    n_probes,
    offer,
    raise_floor,
    settle,
    settle_likely,
    slice_queries,
    take_queries,
    threshold_of,
)
from tqvec.kernels.threads.pool import address_of, run_units, unit_function
from tqvec.kernels.topk.portable import EMPTY_ID, is_empty

tile_totals = kernel("tile_totals")
query_directions = kernel("query_directions")
QUERY_TILE = module("tile_totals").QUERY_TILE

UNIT_ROWS = 65536  # of a unit at most
PREPARED = -(-SEED_QUERIES // QUERY_TILE) * QUERY_TILE  # queries of a unit that prepares them
GUESS_FROM = 32  # results per query, from which on guessed floors spare more rows than they cost


@jit
def _scan_step(rows, prefixes, stages, queries, step, waiting, heaps):
    """Score the rows of a step for all queries of a group, and let those wait that reach the thresholds."""
    scales, biases = rows.scale, rows.bias
    likely, likely_upper, n_likely = waiting.likely, waiting.likely_upper, waiting.n_likely
    doubtful, upper, n_doubtful = waiting.doubtful, waiting.upper, waiting.n_doubtful
    groups = prefixes.shape[1]
    totals = aligned_bytes(QUERY_TILE, 4 * ROWS).view(np.int32)
    passing = np.empty(WORDS, np.uint64)
    left = np.empty(WORDS, np.uint64)  # rows that are not probed
    for q in range(heaps.scores.shape[0]):
        i = q % QUERY_TILE
        if i == 0:
            for w in range(step.count):
                prefix = prefixes.ctypes.data + 4 * groups * step.first[w]
                tables = queries.table.ctypes.data + 128 * groups * q
                if q == 0:  # the rows of the next step follow these
                    prefetch_row(prefix + 4 * groups * WORD, 4 * groups * WORD)
                    prefetch_row(scales.ctypes.data + 4 * (step.first[w] + WORD), 4 * WORD)
                tile_totals(prefix, tables, groups, totals.ctypes.data + 4 * WORD * w, 4 * ROWS)
        slope, slack = queries.slope[q], queries.slack[q]
        shift = queries.shift[q] + slack
        bits = step.bits.ctypes.data
        if heaps.ids[q, 0] == EMPTY_ID and threshold_of(heaps, waiting, q) == -np.inf:
            line = slope, shift, n_probes(waiting.rank[q], heaps.scores.shape[1])
            copy_values(step.bits, left)
            offer(rows, list_probes(rows, step, totals[i], line, left), stages, queries, heaps, q)
            raise_floor(waiting, heaps, q)
            bits = left.ctypes.data
        least = threshold_of(heaps, waiting, q)
        words = passing_words(
            (step.count, step.first.ctypes.data), bits, totals.ctypes.data + 4 * ROWS * i,
            (slope, shift, least), (scales.ctypes.data, biases.ctypes.data if biases.size > 0 else 0),
            passing.ctypes.data,
        )  # fmt: skip
        while words != 0:
            w = find_lowest_bit(words)
            words &= words - np.uint64(1)
            here = passing[w]
            while here != 0:
                lane = find_lowest_bit(here)
                here &= here - np.uint64(1)
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
                    settle_likely(rows, stages, queries, heaps, waiting, q)
                    least = threshold_of(heaps, waiting, q)
        if n_doubtful[q] > doubtful.shape[1] - ROWS:
            settle(rows, stages, queries, heaps, waiting, q, doubtful.shape[1] // 2)


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
        count = list_step(where, number, first, bits)
        for w in range(count):
            seen += count_bits(bits[w])
        for q in range(nq):
            if waiting.rank[q] > 0:
                waiting.rank[q] = floor_rank(k, max(1, number) / last)
                if number > 0 and number & (number - 1) == 0:
                    raise_floor(waiting, heaps, q)
        _scan_step(rows, prefixes, stages, queries, Step(first, bits, count), waiting, heaps)
    for q in range(nq):
        settle_likely(rows, stages, queries, heaps, waiting, q)
        settle(rows, stages, queries, heaps, waiting, q, -1)
    return seen


@jit
def _search_groups(rows, prefixes, stages, queries, where, heaps, workspace, guess):
    """Offer rows to heaps, one group of queries after the other; list queries whose floors were too high.

    Only if `guess` is true there are floors.
    """
    nq, k = heaps.scores.shape
    size = group_size(prefixes.shape[1], QUERY_TILE)
    waiting = make_waiting(queries, min(nq, size), k, workspace)
    failed = np.empty(nq, np.int64)
    n_failed = 0
    for q in range(0, nq, size):
        best = Heap(heaps.scores[q : q + size], heaps.ids[q : q + size], heaps.least[q : q + size])
        waiting.floor[:] = -np.inf
        for i in range(best.scores.shape[0]):
            waiting.rank[i] = guess and is_empty(best.ids[i]) and best.least[i] == -np.inf
        group = slice_queries(queries, q, size)
        _scan_steps(rows, prefixes, stages, group, where, count_steps(where), waiting, best)
        for i in range(best.scores.shape[0]):
            failed[n_failed] = q + i
            n_failed += max(best.scores[i, 0], best.least[i]) < waiting.floor[i]
    return failed[:n_failed]


@jit
def search_prefixes(rows, prefixes, stages, queries, where, heaps, workspace):
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
    workspace : (≥ prefix_workspace(nq, k, groups, tile),) uint8
        For rows that wait.
    """
    k = heaps.scores.shape[1]
    guess = GUESS_FROM <= k <= where.stop - where.start
    failed = _search_groups(rows, prefixes, stages, queries, where, heaps, workspace, guess)
    if failed.size > 0:
        scores = np.full((failed.size, k), -np.inf, np.float32)
        ids = np.full((failed.size, k), EMPTY_ID, np.int64)
        some = take_queries(queries, failed, QUERY_TILE)
        _search_groups(rows, prefixes, stages, some, where, Heap(scores, ids, heaps.least[failed]), workspace, False)
        for i in range(failed.size):
            copy_values(scores[i], heaps.scores[failed[i]])
            copy_values(ids[i], heaps.ids[failed[i]])


@jit
def _prepare_unit(plan, call, worker, unit):
    """Prepare a group of queries, and compare them with the first rows."""
    stages, tables = plan
    search, queries, out, directions, count = call
    rotated, weight, scale = directions
    start = unit * count
    stop = min(queries.shape[0], start + count)
    here = slice(start, stop)
    query_directions(queries[here], tables, rotated[here], weight[here], scale[here])
    prefix_queries(rotated, weight, scale, tables.bands, stages, start, stop, out)
    if search.seeded > 0:
        rows, prefixes, where = seed_rows(search)
        heaps = heaps_of(search, 0, start, stop)
        some = slice_queries(out, start, stop - start)
        search_prefixes(rows, prefixes, stages, some, where, heaps, search.workspace[worker])


@jit
def _search_unit(plan, call, worker, unit):
    stages, _ = plan
    search, _, queries, _, _ = call
    chunk, start, stop = group_of(search, unit)
    rows, prefixes, where = rows_of_chunk(search, chunk)
    heaps = heaps_of(search, worker, start, stop)
    some = slice_queries(queries, start, stop - start)
    search_prefixes(rows, prefixes, stages, some, where, heaps, search.workspace[worker])


@jit
def search_by_prefixes(pool, threads, blocks, plan, queries, out, workspace, heaps):
    """Search for a batch of queries by prefixes, with at most `threads` threads.

    Parameters
    ----------
    pool, threads, blocks, heaps
        As in `search_full`.
    plan : (StageTables, QueryTables)
    queries : (nq, d) float32
    out : PrefixQueries
        Space for the queries.
    workspace : (threads, prefix_workspace(nq, k, groups, tile)) uint8

    Returns
    -------
    bool
        False if memory ran out.
    """
    nq = queries.shape[0]
    chunk, group = units_of(blocks, nq, threads, UNIT_ROWS, UNIT_QUERIES)
    units = chunk, (group + QUERY_TILE - 1) // QUERY_TILE * QUERY_TILE
    search = share_search(blocks, units, heaps, workspace, rows_to_seed(nq, threads))
    directions = np.empty(queries.shape, np.float32), np.empty(nq), np.empty(nq, np.float32)
    count = PREPARED if search.seeded > 0 else FEW_QUERIES
    call = (search, queries, out, directions, count)
    function = unit_function(_prepare_unit, plan, call)
    done = run_units(pool, threads, function, address_of(plan), address_of(call), (nq + count - 1) // count)
    function = unit_function(_search_unit, plan, call)
    done &= run_units(pool, threads, function, address_of(plan), address_of(call), count_units(search, nq))
    return merge_heaps(pool, threads, search) and done and directions[1].size == nq  # all live until here


@jit
def survivor_share(rows, prefixes, plan, queries, out, where, steps, k):
    """Measure the share of rows that the last threshold of a search lets through.

    Parameters
    ----------
    rows, prefixes, where
        As in `search_prefixes`.
    plan, queries, out
        As in `search_by_prefixes`; a few queries of a batch do.
    steps : int
        Steps of 1,024 rows, spread over all rows, that are searched.
    k : int
        Results among them.

    Returns
    -------
    float
    """
    stages, tables = plan
    nq = queries.shape[0]
    directions, weight, scale = np.empty(queries.shape, np.float32), np.empty(nq), np.empty(nq, np.float32)
    query_directions(queries, tables, directions, weight, scale)
    prefix_queries(directions, weight, scale, tables.bands, stages, 0, nq, out)
    nothing = np.full(nq, -np.inf, np.float32)
    heaps = Heap(np.full((nq, k), -np.inf, np.float32), np.full((nq, k), EMPTY_ID, np.int64), nothing)
    waiting = make_waiting(out, nq, k, np.empty(waiting_bytes(nq, k), np.uint8))
    waiting.floor[:] = -np.inf
    waiting.rank[:] = 0
    seen = _scan_steps(rows, prefixes, stages, out, where, min(steps, count_steps(where)), waiting, heaps)
    return waiting.offered.sum() / max(1, nq * seen)

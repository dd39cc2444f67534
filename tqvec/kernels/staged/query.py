"""Search of a few queries, one after the other and in stages, in one call: Python between them would cost time."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.arguments import RowBlocks
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.scan.allowed import SPARE, allowed_blocks, allowed_rows, count_allowed
from tqvec.kernels.scan.queries import integer_queries_portable
from tqvec.kernels.scan.units import heap_of, merge_heaps, rows_of_chunk, share_search, units_of
from tqvec.kernels.staged.one_query import offer_rows, search_one_query
from tqvec.kernels.staged.sizes import ROWS_ALONE, SHARED_ROWS
from tqvec.kernels.tables import BYTE_STEPS, TABLE_STEPS, StagedQueries, StagedQuery, Z
from tqvec.kernels.threads.pool import address_of, run_units, unit_function

query_directions = kernel("query_directions")
TINY = np.float32(1e-30)
ROW_COST = 15  # of the full score of a row on its own, in prefixes of rows in listed blocks of 16
LISTED_COST = 1.3  # of the prefixes of listed blocks, in those of as many blocks in order


@jit
def prefix_table(weights, table):
    """Fill the table of `StagedQuery` for bits of these weights, (32 * groups,) float32; return its step."""
    groups = weights.size // 32
    largest = TINY
    for j in range(0, weights.size, 4):
        four = np.abs(weights[j]) + np.abs(weights[j + 1]) + np.abs(weights[j + 2]) + np.abs(weights[j + 3])
        largest = max(largest, four)
    step = largest / np.float32(TABLE_STEPS)
    sums = np.empty(16, np.float32)
    for nibble in range(8 * groups):
        sums[0] = np.float32(0.0)
        for bit in range(4):
            half = 1 << bit
            value = weights[4 * nibble + bit] / step
            for entry in range(half):
                sums[half + entry] = sums[entry] + value
                sums[entry] -= value
        at = 64 * (nibble & 1) + 16 * (nibble % 8 // 2)  # even nibbles first
        for entry in range(16):
            table[nibble // 8, at + entry] = np.uint8(np.rint(sums[entry]) + np.float32(TABLE_STEPS + 1))
    return step


@jit
def _prefix_weights(direction, bands, stages):
    """Weight of each bit of the prefix for a query of length 1, and the variance of estimates.

    In a band that the prefix skips, a row is assumed to have the share of its score that the query has of its length.
    """
    seen = 0.0
    skipped = 0.0
    error = 0.0
    scores = 0.0
    beside = 0.0
    for b in range(bands.shape[0]):
        energy = 0.0
        for j in range(bands[b, 0], bands[b, 1]):
            energy += np.float64(direction[j]) * np.float64(direction[j])
        if stages.skipped[b]:
            skipped += energy
            beside += energy * stages.scores[b]
        else:
            seen += energy
            error += energy * stages.unknown[b]
            scores += energy * stages.scores[b]
    whole = (seen + skipped) / max(seen, 1e-6 * (seen + skipped) + 1e-30)
    weights = np.empty(stages.prefix_source.size, np.float32)
    for i in range(weights.size):
        weights[i] = direction[stages.prefix_source[i]] * stages.prefix_level[i] * np.float32(whole)
    return weights, whole * whole * error + (whole - 1.0) * (whole - 1.0) * scores + beside


@jit
def staged_queries(nq, stages):
    """Return `StagedQueries` to fill."""
    last = stages.layout.shape[0] - 1
    return StagedQueries(
        table=np.empty((nq, stages.prefix_source.size // 32, 128), np.uint8),
        bytes_=np.zeros((nq, 64 * stages.layout[0, 5]), np.int8),
        integers=np.empty((nq, stages.layout[last, 4] + 64 * stages.layout[last, 5]), np.int16),
        numbers=np.empty((nq, 7)),
    )


@jit
def query_at(staged, q):
    """Return one of `StagedQueries`."""
    numbers = staged.numbers[q]
    return StagedQuery(
        length=numbers[0],
        table=staged.table[q],
        table_step=numbers[1],
        table_zero=numbers[2],
        slack=numbers[3],
        bytes_=staged.bytes_[q],
        byte_unit=numbers[4],
        byte_sum=np.int64(numbers[5]),
        integers=staged.integers[q],
        unit=np.float32(numbers[6]),
    )


@jit
def fill_query(direction, bands, stages, length, unit, staged, q):
    """Fill number `q` of `StagedQueries` for a rotated query of length 1; `unit` is that of its integer products."""
    weights, variance = _prefix_weights(direction, bands, stages)
    step = np.float64(prefix_table(weights, staged.table[q]))
    # Entries are rounded, a quarter as many as bits.
    variance += step * step / 12.0 * (weights.size // 4)
    n = bands[0, 1]
    largest = TINY
    for j in range(n):
        largest = max(largest, np.abs(direction[j]))
    byte_unit = largest / np.float32(BYTE_STEPS)
    bytes_ = staged.bytes_[q]
    total = 0
    for j in range(n):
        bytes_[j] = np.int8(np.rint(direction[j] / byte_unit))
        total += bytes_[j]
    integer_queries_portable(direction.reshape(1, direction.size), bands, 64, staged.integers[q : q + 1])
    numbers = staged.numbers[q]
    numbers[0] = length
    numbers[1] = step
    numbers[2] = (TABLE_STEPS + 1) * (weights.size // 4) * step
    numbers[3] = Z * np.sqrt(variance)
    numbers[4] = byte_unit
    numbers[5] = total
    numbers[6] = unit


@jit
def prepare_query(queries, q, tables, stages, staged):
    """Fill number `q` of `StagedQueries` for ``queries[q]``."""
    direction = np.empty((1, queries.shape[1]), np.float32)
    weight = np.empty(1)
    unit = np.empty(1, np.float32)
    query_directions(queries[q : q + 1], tables, direction, weight, unit)
    fill_query(direction[0], tables.bands, stages, weight[0], unit[0], staged, q)


@jit
def search_few(rows, prefixes, query, stages, workspace, where, heap):
    """Offer rows of a block to the heap of one query, in stages, or at once if a filter leaves few.

    Parameters
    ----------
    rows, prefixes, query, stages
        As in `search_one_query`.
    workspace : (≥ staged_workspace(stop - start, k, 1) / 4,) float32
    where : RowRange
        `start` is a multiple of 64.
    heap : Heap
        Of one query.
    """
    allowed, start, stop = where
    count, blocks = count_allowed(allowed, start, stop)
    if ROW_COST * count < LANES * blocks:
        row_numbers = np.empty(count + SPARE, np.int32)
        allowed_rows(allowed, start, stop, count, row_numbers)
        offer_rows(rows, row_numbers, count, stages, query.integers, query.unit, heap)
        return
    listed = LISTED_COST * LANES * blocks < stop - start
    starts = workspace[: (stop - start) // LANES + 4 if listed else 0].view(np.int32)
    n = allowed_blocks(allowed, start, stop, starts) if listed else stop - start
    if n == 0:
        return
    blocks = RowBlocks(allowed, starts, start, (n + LANES - 1) // LANES)
    search_one_query(rows, prefixes, query, stages, blocks, n, workspace[starts.size :], heap)


@jit
def _prepare_unit(plan, call, worker, unit):
    stages, tables = plan
    queries, staged = call
    prepare_query(queries, unit, tables, stages, staged)


@jit
def prepare_queries(pool, threads, plan, queries, staged):
    """Fill `StagedQueries`, one query per unit; return whether there was memory for it."""
    call = (queries, staged)
    function = unit_function(_prepare_unit, plan, call)
    return run_units(pool, threads, function, address_of(plan), address_of(call), queries.shape[0])


@jit
def _few_unit(plan, call, worker, unit):
    stages, _ = plan
    search, staged = call
    chunks = search.first_chunk[-1]
    q = unit // chunks
    rows, prefixes, where = rows_of_chunk(search, unit % chunks)
    workspace = search.workspace[worker].view(np.float32)
    search_few(rows, prefixes, query_at(staged, q), stages, workspace, where, heap_of(search, worker, q))


@jit
def search_staged(pool, threads, blocks, plan, queries, workspace, heaps):
    """Search for a few queries, one after the other and in stages, with at most `threads` threads.

    Parameters
    ----------
    pool, threads, blocks, queries, heaps
        As in `search_full`.
    plan : (StageTables, QueryTables)
    workspace : (threads, staged_workspace(rows, k, threads)) uint8

    Returns
    -------
    bool
        False if memory ran out.
    """
    stages, _ = plan
    nq = queries.shape[0]
    chunk, _ = units_of(blocks, nq, threads, SHARED_ROWS if threads > 1 else ROWS_ALONE, 1)
    search = share_search(blocks, (chunk, 1), heaps, workspace, 0)
    staged = staged_queries(nq, stages)
    done = prepare_queries(pool, threads, plan, queries, staged)
    share = (search, staged)
    function = unit_function(_few_unit, plan, share)
    done &= run_units(pool, threads, function, address_of(plan), address_of(share), search.first_chunk[-1] * nq)
    return merge_heaps(pool, threads, search) and done and staged.numbers.shape[0] == nq  # all live until here

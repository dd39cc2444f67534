"""Search of a batch of queries: byte products of all rows and queries, then full scores of the few rows that pass."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.scan.allowed import SPARE, allowed_rows
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
from tqvec.kernels.simd.bits import find_lowest_bit
from tqvec.kernels.simd.floats import (
    add_f32x16,
    convert_f32x16,
    greater_equal_f32x16,
    min_f32x16,
    mul_f32x16,
    sub_f32x16,
)
from tqvec.kernels.simd.memory import load_f32x16, load_i32x16, splat_f32x16
from tqvec.kernels.staged.full_score import row_dot
from tqvec.kernels.staged.prefetch import RowList
from tqvec.kernels.staged.product_queries import product_queries
from tqvec.kernels.staged.sizes import BLOCK_BYTES, PAIR
from tqvec.kernels.staged.unpack import BandShape
from tqvec.kernels.tables import BatchTables
from tqvec.kernels.threads.pool import address_of, run_units, unit_function
from tqvec.kernels.topk.portable import topk_push_portable

unpack_levels = kernel("unpack_levels")
begin_products = kernel("begin_products")
pair_products = kernel("pair_products")
end_products = kernel("end_products")
query_directions = kernel("query_directions")

UNIT_ROWS = 8192  # of a unit at most
UNIT_QUERIES = 128  # at least: they share unpacked rows
TINY = np.float32(1e-30)  # stands for a scale of 0
LEAST_WEIGHT = np.finfo(np.float32).tiny  # stands for that of a zero query, whose rows all reach a threshold of 0


@jit
def _extremes(scales, biases, row_numbers, count, out):
    """1 / largest scale, 1 / smallest scale and largest bias of each `PAIR` of ``row_numbers[:count]``; out (…, 3)."""
    for r in range(0, count, PAIR):
        low = np.float32(np.inf)
        high = TINY
        shift = np.float32(-np.inf) if biases.size > 0 else np.float32(0.0)
        for v in range(r, min(r + PAIR, count)):
            i = row_numbers[v]
            low = min(low, max(scales[i], TINY))
            high = max(high, scales[i])
            if biases.size > 0:
                shift = max(shift, biases[i])
        out[r // PAIR, 0] = np.float32(1.0) / high
        out[r // PAIR, 1] = np.float32(1.0) / low
        out[r // PAIR, 2] = shift


@jit
def _cut(least, slack, inverse, extremes):
    """Lower bound of the products of a `PAIR` of rows whose scores reach `least`, for 16 queries.

    All but `extremes` (3,) are addresses of 16 numbers. ``(product weight + slack) scale + bias`` grows with the bias,
    and with the scale unless it is below the bias.
    """
    short = sub_f32x16(load_f32x16(least), splat_f32x16(extremes[2]))
    needed = min_f32x16(mul_f32x16(short, splat_f32x16(extremes[0])), mul_f32x16(short, splat_f32x16(extremes[1])))
    return mul_f32x16(sub_f32x16(needed, load_f32x16(slack)), load_f32x16(inverse))


@jit
def search_batch(rows, stages, batch, where, heaps, workspace):
    """Offer rows of a block to the heaps of a batch of queries.

    Parameters
    ----------
    rows, stages
        As in `search_one_query`.
    batch : BatchTables
    where : RowRange
    heaps : Heap
        One per query of the batch.
    workspace : (≥ product_workspace(words),) uint8
        For unpacked levels.
    """
    codes, scales, biases, base = rows
    allowed, start, stop = where
    scores, ids, bounds = heaps
    nq = scores.shape[0]
    words = batch.packed.shape[1]
    width = 64 * words
    n_bands = stages.layout.shape[0]
    most = min(max(1, BLOCK_BYTES // (width * PAIR)), (stop - start + PAIR - 1) // PAIR) * PAIR
    unpacked = workspace[: most * width].reshape(most, width)
    products = np.empty((PAIR, PAIR), np.int32)
    extremes = np.empty((most // PAIR, 3), np.float32)
    inverse = np.float32(1.0) / np.maximum(batch.weight, LEAST_WEIGHT)
    threshold = np.full(batch.weight.size, np.inf, np.float32)  # of the queries that only fill up a tile
    for q in range(nq):
        threshold[q] = max(scores[q, 0], bounds[q])
    begin_products(batch.config)
    row_numbers = np.empty(most + SPARE, np.int32)
    at = start
    while at < stop:
        n, at = allowed_rows(allowed, at, stop, most, row_numbers)
        for b in range(n_bands):
            band = stages.layout[b]
            listed = RowList(np.int64(codes.ctypes.data) + band[0] // 8, codes.shape[1], row_numbers.ctypes.data, n)
            shape = BandShape(band[0] % 8, band[1], batch.planes[b], band[3], band[5])
            unpack_levels(listed, shape, batch.table[b].ctypes.data, unpacked.ctypes.data + band[4], width)
        _extremes(scales, biases, row_numbers, n, extremes)
        for q in range(0, batch.weight.size, PAIR):
            packed = batch.packed.ctypes.data + q // LANES * words * 1024
            weight = batch.weight.ctypes.data + 4 * q
            slack = batch.slack.ctypes.data + 4 * q
            for r in range(0, n, PAIR):
                # Numba frees an array after the last mention of its name: addresses are taken where they are used.
                least = threshold.ctypes.data + 4 * q
                product = products.ctypes.data
                pair_products(unpacked.ctypes.data + r * width, packed, words, product)
                few = extremes[r // PAIR]
                low_cut = _cut(least, slack, inverse.ctypes.data + 4 * q, few)
                high_cut = _cut(least + 64, slack + 64, inverse.ctypes.data + 4 * q + 64, few)
                for v in range(min(PAIR, n - r)):
                    sums = product + 128 * v
                    passed = greater_equal_f32x16(convert_f32x16(load_i32x16(sums)), low_cut)
                    passed |= greater_equal_f32x16(convert_f32x16(load_i32x16(sums + 64)), high_cut)
                    if passed == 0:
                        continue
                    i = row_numbers[r + v]
                    scale = splat_f32x16(scales[i])
                    shift = splat_f32x16(biases[i] if biases.size > 0 else np.float32(0.0))
                    for h in range(2):
                        half = 64 * h
                        x = mul_f32x16(convert_f32x16(load_i32x16(sums + half)), load_f32x16(weight + half))
                        x = add_f32x16(mul_f32x16(add_f32x16(x, load_f32x16(slack + half)), scale), shift)
                        bits = greater_equal_f32x16(x, load_f32x16(least + half))
                        while bits != 0:
                            best = q + h * LANES + find_lowest_bit(bits)
                            bits &= bits - np.uint64(1)
                            row = codes.ctypes.data + i * codes.shape[1]
                            layout, table = stages.layout.ctypes.data, stages.level_bytes.ctypes.data
                            query = batch.integers.ctypes.data + 2 * width * best
                            total = row_dot(row, layout, n_bands, table, query)
                            score = np.float32(total) * batch.unit[best] * scales[i]
                            if biases.size > 0:
                                score += biases[i]
                            if score >= threshold[best]:
                                topk_push_portable(score, base + i, scores[best], ids[best])
                                threshold[best] = max(threshold[best], scores[best, 0])
        for q in range(nq):
            threshold[q] = bounds[q] = max(threshold[q], bounds[q])
    end_products()


@jit
def queries_of_batch(batch, start, stop):
    """Return the queries ``start .. stop`` of a batch; `start` is a multiple of `PAIR`."""
    end = (stop + PAIR - 1) // PAIR * PAIR
    return BatchTables(
        packed=batch.packed[start // LANES : end // LANES],
        weight=batch.weight[start:end],
        slack=batch.slack[start:end],
        integers=batch.integers[start:stop],
        unit=batch.unit[start:stop],
        planes=batch.planes,
        table=batch.table,
        config=batch.config,
    )


@jit
def _prepare_unit(plan, call, worker, unit):
    """Prepare a group of queries, and compare them with the first rows."""
    stages, tables, levels = plan
    search, queries, out, directions, count = call
    rotated, weight, scale = directions
    start = unit * count
    stop = min(queries.shape[0], start + count)
    here = slice(start, stop)
    query_directions(queries[here], tables, rotated[here], weight[here], scale[here])
    product_queries(rotated, weight, scale, tables.bands, levels, start, stop, out)
    space = search.workspace[worker]
    if search.seeded > 0:
        rows, _, where = seed_rows(search)
        search_batch(rows, stages, queries_of_batch(out, start, stop), where, heaps_of(search, 0, start, stop), space)


@jit
def _search_unit(plan, call, worker, unit):
    stages, _, _ = plan
    search, _, batch, _, _ = call
    chunk, start, stop = group_of(search, unit)
    rows, _, where = rows_of_chunk(search, chunk)
    space = search.workspace[worker]
    search_batch(
        rows, stages, queries_of_batch(batch, start, stop), where, heaps_of(search, worker, start, stop), space
    )


@jit
def search_products(pool, threads, blocks, plan, queries, out, workspace, heaps):
    """Search for a batch of queries by byte products, with at most `threads` threads.

    Parameters
    ----------
    pool, threads, blocks, queries, heaps
        As in `search_by_prefixes`.
    plan : (StageTables, QueryTables, ProductLevels)
    out : BatchTables
        Space for the queries.
    workspace : (threads, product_workspace(words)) uint8

    Returns
    -------
    bool
        False if memory ran out.
    """
    nq = queries.shape[0]
    chunk, group = units_of(blocks, nq, threads, UNIT_ROWS, UNIT_QUERIES)
    units = chunk, (group + PAIR - 1) // PAIR * PAIR
    search = share_search(blocks, units, heaps, workspace, rows_to_seed(nq, threads))
    directions = np.empty(queries.shape, np.float32), np.empty(nq), np.empty(nq, np.float32)
    count = SEED_QUERIES if search.seeded > 0 else FEW_QUERIES
    call = (search, queries, out, directions, count)
    function = unit_function(_prepare_unit, plan, call)
    done = run_units(pool, threads, function, address_of(plan), address_of(call), (nq + count - 1) // count)
    function = unit_function(_search_unit, plan, call)
    done &= run_units(pool, threads, function, address_of(plan), address_of(call), count_units(search, nq))
    return merge_heaps(pool, threads, search) and done and directions[1].size == nq  # all live until here

"""Search of all rows: unpack a block of them to int16 tiles, score all queries on it, keep the k best."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.arguments import Heap
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.pack.portable import padded_words, unpack_row_portable
from tqvec.kernels.scan.allowed import SPARE, allowed_rows
from tqvec.kernels.scan.queries import integer_queries_portable
from tqvec.kernels.scan.units import count_units, group_of, heaps_of, merge_heaps, rows_of_chunk, share_search, units_of
from tqvec.kernels.threads.pool import address_of, run_units, unit_function
from tqvec.kernels.topk.portable import topk_update_portable
from tqvec.kernels.trellis.windows import indices_of_row_portable

dot_tiles = kernel("dot_tiles")
query_directions = kernel("query_directions")

TILE_BYTES = 1 << 19  # of a block: a part of the second-level cache, which the queries share
FULL_ROWS = 2048  # of a unit at most
QUERIES = 32  # scored on a block at a time; bounds the sums that wait for the selection


@jit
def _fill_band(words, first, n_words, wide, level, pair_level, count, tile):
    """Put words ``first .. first + n_words`` of indices into a tile: eight coordinates fill four rows of 32 bits."""
    if wide:
        for g in range(first, first + n_words):
            for lane in range(count):
                word = words[lane, g]
                for p in range(4):
                    high = level[(word >> np.uint64(8)) & np.uint64(255)] << np.uint32(16)
                    tile[4 * g + p, lane] = level[word & np.uint64(255)] | high
                    word >>= np.uint64(16)
    else:
        for g in range(first, first + n_words):
            for lane in range(count):
                word = words[lane, g]
                word |= word >> np.uint64(4)
                tile[4 * g, lane] = pair_level[word & np.uint64(255)]
                tile[4 * g + 1, lane] = pair_level[(word >> np.uint64(16)) & np.uint64(255)]
                tile[4 * g + 2, lane] = pair_level[(word >> np.uint64(32)) & np.uint64(255)]
                tile[4 * g + 3, lane] = pair_level[(word >> np.uint64(48)) & np.uint64(255)]


@jit
def tiles_of_rows(codes, tables, row_numbers, n, words, tiles):
    """Unpack rows ``row_numbers[:n]`` into int16 tiles (README.md), seen as pairs; the last tile may keep old values.

    `tables` are `ScanTables`, `tiles` is (n_tiles, pairs, LANES) uint32;
    `words` (LANES, padded_words) uint64 workspace.
    """
    bands, windows, levels, pairs, spread = tables
    for r in range(0, n, LANES):
        count = min(LANES, n - r)
        for lane in range(count):
            unpack_row_portable(codes[row_numbers[r + lane]], bands, spread, words[lane])
            indices_of_row_portable(words[lane], bands, windows)
        tile = tiles[r // LANES]
        first = 0
        for b in range(bands.shape[0]):
            n_words = (bands[b, 1] - bands[b, 0] + 7) // 8
            wide = bands[b, 2] > 4 or windows[b] > 0
            _fill_band(words, first, n_words, wide, levels[b], pairs[b], count, tile)
            first += n_words


@jit
def _values_at(values, row_numbers, n, out):
    """``out[:n] = values[row_numbers[:n]]``"""
    for v in range(n):
        out[v] = values[row_numbers[v]]


@jit
def search_rows(rows, tables, queries, unit, where, heaps):
    """Offer rows of a block to the heaps of all queries.

    Parameters
    ----------
    rows : Rows
    tables : ScanTables
    queries : (nq, 2 * pairs) int16
        Rotated, scaled and rounded; every band is padded with zeros to a multiple of 8 coordinates.
    unit : (nq,) float32
        Score of 1 in the integer dot product, for a row of scale 1.
    where : RowRange
    heaps : Heap
        Of all queries; rows of other calls may have gone into them.
    """
    codes, scale, bias, base = rows
    allowed, start, stop = where
    scores, ids, least = heaps
    nq = queries.shape[0]
    pairs = queries.shape[1] // 2
    n_tiles = min(max(1, TILE_BYTES // (3 * pairs * 4 * LANES)) * 3, (stop - start + LANES - 1) // LANES)
    block = n_tiles * LANES
    tiles = np.zeros((n_tiles, pairs, LANES), np.uint32)
    halves = tiles.view(np.int16)
    acc = np.empty(min(nq, QUERIES) * block, np.int32)
    words = np.zeros((LANES, padded_words(tables.bands)), np.uint64)
    candidates = np.empty(block, np.float32)
    scales = np.empty(block, np.float32)
    biases = np.empty(block, np.float32)
    row_numbers = np.empty(block + SPARE, np.int32)
    at = start
    while at < stop:
        n, at = allowed_rows(allowed, at, stop, block, row_numbers)
        tiles_of_rows(codes, tables, row_numbers, n, words, tiles)
        _values_at(scale, row_numbers, n, scales)
        if bias.size > 0:
            _values_at(bias, row_numbers, n, biases)
        used = (n + LANES - 1) // LANES
        for q in range(0, nq, QUERIES):
            m = min(QUERIES, nq - q)
            totals = acc[: m * used * LANES].reshape(m, used * LANES)
            dot_tiles(halves[:used], queries[q : q + m], totals)
            for r in range(m):
                sums = totals[r]
                weight = unit[q + r]
                for v in range(n):
                    candidates[v] = np.float32(sums[v]) * weight * scales[v]
                if bias.size > 0:
                    for v in range(n):
                        candidates[v] += biases[v]
                topk_update_portable(candidates, row_numbers, n, base, Heap(scores[q + r], ids[q + r], least[q + r :]))


@jit
def _full_unit(plan, call, worker, unit):
    tables, _ = plan
    search, integers, unit_scores = call
    chunk, start, stop = group_of(search, unit)
    rows, _, where = rows_of_chunk(search, chunk)
    heaps = heaps_of(search, worker, start, stop)
    search_rows(rows, tables, integers[start:stop], unit_scores[start:stop], where, heaps)


@jit
def search_full(pool, threads, blocks, plan, queries, heaps):
    """Search all rows in full, with at most `threads` threads.

    Parameters
    ----------
    pool : int
        Address.
    threads : int
    blocks : (n_blocks, BLOCK_FIELDS) int64
    plan : (ScanTables, QueryTables)
    queries : (nq, d) float32
    heaps : (scores, ids)
        (nq, k) float32 and int64; filled, best first.

    Returns
    -------
    bool
        False if memory ran out.
    """
    tables, query_tables = plan
    nq = queries.shape[0]
    directions = np.empty(queries.shape, np.float32)
    weight = np.empty(nq)
    unit = np.empty(nq, np.float32)
    query_directions(queries, query_tables, directions, weight, unit)
    bands = tables.bands
    width = 0
    for b in range(bands.shape[0]):
        width += (bands[b, 1] - bands[b, 0] + 7) // 8 * 8
    integers = np.empty((nq, width), np.int16)
    integer_queries_portable(directions, bands, 8, integers)
    workspace = np.empty((threads, 0), np.uint8)
    search = share_search(blocks, units_of(blocks, nq, threads, FULL_ROWS, QUERIES), heaps, workspace, 0)
    call = (search, integers, unit)
    function = unit_function(_full_unit, plan, call)
    done = run_units(pool, threads, function, address_of(plan), address_of(call), count_units(search, nq))
    return merge_heaps(pool, threads, search) and done and integers.shape[0] == unit.shape[0]  # both live until here

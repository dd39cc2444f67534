"""Staged search of single queries with AVX-512 VBMI and VNNI; the mathematics is in README.md."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.pack.portable import padded_words, unpack_row_portable
from tqvec.kernels.simd.base import (
    bits_to_bytes_i8x64,
    high_nibbles_i8x64,
    load_i8x64,
    load_u64,
    low_nibbles_i8x64,
    or_i8x64,
    splat_i8x64,
    store_i32x16,
    sum_i32x16,
    table_offsets_i8x64,
    zero_i32x16,
)
from tqvec.kernels.simd.x86 import dot_bytes_i32x16, permute_i8x64
from tqvec.kernels.topk.portable import EMPTY_ID, topk_update_portable

BLOCKS = 4  # of 16 rows, scanned together: they share the loads of the tables


@jit
def _add_signs(sums, x, low_table, high_table, offsets, ones):
    """Add the table entries of 32 coordinates of 16 rows."""
    low = permute_i8x64(low_table, or_i8x64(low_nibbles_i8x64(x), offsets))
    high = permute_i8x64(high_table, or_i8x64(high_nibbles_i8x64(x), offsets))
    return dot_bytes_i32x16(dot_bytes_i32x16(sums, low, ones), high, ones)


@jit
def sign_totals_avx512(signs, block, table, totals):
    """Totals of table entries of the 64 rows of blocks ``block .. block + 4``.

    Parameters
    ----------
    signs : (n_blocks, groups, 64) uint8
    block : int
    table : (groups, 128) uint8
    totals : (64,) int32
        Filled.
    """
    groups = signs.shape[1]
    size = groups * 64
    p0 = signs.ctypes.data + block * size
    p1 = p0 + size
    p2 = p1 + size
    p3 = p2 + size
    t = table.ctypes.data
    offsets = table_offsets_i8x64()
    ones = splat_i8x64(np.int8(1))
    a0 = zero_i32x16()
    a1 = zero_i32x16()
    a2 = zero_i32x16()
    a3 = zero_i32x16()
    for g in range(groups):
        low = load_i8x64(t + 128 * g)
        high = load_i8x64(t + 128 * g + 64)
        at = 64 * g
        a0 = _add_signs(a0, load_i8x64(p0 + at), low, high, offsets, ones)
        a1 = _add_signs(a1, load_i8x64(p1 + at), low, high, offsets, ones)
        a2 = _add_signs(a2, load_i8x64(p2 + at), low, high, offsets, ones)
        a3 = _add_signs(a3, load_i8x64(p3 + at), low, high, offsets, ones)
    out = totals.ctypes.data
    store_i32x16(out, a0)
    store_i32x16(out + 64, a1)
    store_i32x16(out + 128, a2)
    store_i32x16(out + 192, a3)


@jit
def prefix_dot_avx512(row, plane_bytes, planes, table, query, words):
    """Dot product of the byte levels of a row's first 2, 3 or 4 planes with a byte query.

    `row` is the address of the row's codes, `table` that of 64 bytes of levels, `query` that of 64 * words int8. Bits
    past the end of a plane meet zeros of the query.
    """
    levels = load_i8x64(table)
    sums = zero_i32x16()
    for w in range(words):
        at = row + 8 * w
        first = load_u64(at)
        second = load_u64(at + plane_bytes)
        if planes == 2:
            code = or_i8x64(bits_to_bytes_i8x64(first, np.int8(2)), bits_to_bytes_i8x64(second, np.int8(1)))
        elif planes == 3:
            code = or_i8x64(bits_to_bytes_i8x64(first, np.int8(4)), bits_to_bytes_i8x64(second, np.int8(2)))
            code = or_i8x64(code, bits_to_bytes_i8x64(load_u64(at + 2 * plane_bytes), np.int8(1)))
        else:
            code = or_i8x64(bits_to_bytes_i8x64(first, np.int8(8)), bits_to_bytes_i8x64(second, np.int8(4)))
            code = or_i8x64(code, bits_to_bytes_i8x64(load_u64(at + 2 * plane_bytes), np.int8(2)))
            code = or_i8x64(code, bits_to_bytes_i8x64(load_u64(at + 3 * plane_bytes), np.int8(1)))
        sums = dot_bytes_i32x16(sums, permute_i8x64(levels, code), load_i8x64(query + 64 * w))
    return sum_i32x16(sums)


@jit
def _full_score(row, bands, levels, spread, query, words):
    """The integer sum that `dot_tiles` gives for this row and query."""
    unpack_row_portable(row, bands, spread, words)
    codes = words.view(np.uint8)
    total = np.int32(0)
    first = 0
    for b in range(bands.shape[0]):
        level = levels[b]
        n = bands[b, 1] - bands[b, 0]
        for j in range(first, first + n):
            total += np.int32(np.int16(level[codes[j]])) * np.int32(query[j])
        first += (n + 7) // 8 * 8
    return total


@jit
def _estimate_signs(signs, query, sign_level, factor, bias, start, stop, estimates, scores, ids):
    """Sign estimates of rows ``start .. stop``, and a heap of the best of them."""
    totals = np.empty(BLOCKS * LANES, np.int32)
    a = np.float32(query.table_step * sign_level * query.length)
    b = np.float32(-query.table_zero * sign_level * query.length)
    for i in range(start, stop, totals.size):
        sign_totals_avx512(signs, i // LANES, query.table, totals)
        n = min(totals.size, stop - i)
        part = estimates[i - start : i - start + n]
        for v in range(n):
            part[v] = (np.float32(totals[v]) * a + b) * factor[i + v]
        if bias.size > 0:
            for v in range(n):
                part[v] += bias[i + v]
        topk_update_portable(part, n, i, scores, ids)


@jit
def search_staged_avx512(
    data, factor, bias, bands, levels, spread, integers, unit, signs, query, stages, probes, start, stop, scores, ids
):
    """Offer rows ``start .. stop`` to the heap of one query, judging most of them by a few bits.

    Parameters
    ----------
    data, factor, bias, bands, levels, spread
        As in `search_rows_portable`. Planes start at whole bytes (d % 8 == 0), and `data` has a row after `stop`.
    integers : (2 * pairs,) int16
        The query as in `search_rows_portable`.
    unit : float32
    signs : (n_blocks, groups, 64) uint8
        At least up to the multiple of 64 after `stop`.
    query : StagedQuery
    stages : StageTables
    probes : int
        Rows whose full score gives the first threshold; at least k.
    start, stop : int
        `start` is a multiple of 64.
    scores, ids : (k,) float32 and int64
        A heap.
    """
    estimates = np.empty(stop - start, np.float32)
    best = np.full(min(probes, stop - start), -np.inf, np.float32)
    best_ids = np.full(best.size, EMPTY_ID, np.int64)
    _estimate_signs(signs, query, stages.sign_level, factor, bias, start, stop, estimates, best, best_ids)
    words = np.zeros(padded_words(bands), np.uint64)
    one = np.empty(1, np.float32)
    for p in range(best.size):
        i = best_ids[p]
        one[0] = np.float32(_full_score(data[i], bands, levels, spread, integers, words)) * unit * factor[i]
        if bias.size > 0:
            one[0] += bias[i]
        topk_update_portable(one, 1, i, scores, ids)
        estimates[i - start] = -np.inf  # done
    plane_bytes = (bands[0, 1] - bands[0, 0]) // 8
    n_words = query.bytes_.size // 64
    row_bytes = data.shape[1]
    data0 = data.ctypes.data
    bytes0 = query.bytes_.ctypes.data
    slack = stages.slack[0] * np.float32(query.length)
    chunk = 256
    for c in range(0, estimates.size, chunk):
        n = min(chunk, estimates.size - c)
        threshold = scores[0]
        hits = 0
        for v in range(c, c + n):
            hits += estimates[v] + slack * factor[start + v] >= threshold
        if hits == 0:
            continue
        for v in range(c, c + n):
            i = start + v
            if estimates[v] + slack * factor[i] < scores[0]:
                continue
            keep = True
            for s in range(stages.planes.size):
                table = stages.levels.ctypes.data + 64 * s
                total = prefix_dot_avx512(data0 + i * row_bytes, plane_bytes, stages.planes[s], table, bytes0, n_words)
                worth = stages.level_unit[s] * query.byte_unit * query.length
                estimate = (total - 128 * query.byte_sum) * worth * factor[i]
                if bias.size > 0:
                    estimate += bias[i]
                if estimate + stages.slack[1 + s] * query.length * factor[i] < scores[0]:
                    keep = False
                    break
            if keep:
                one[0] = np.float32(_full_score(data[i], bands, levels, spread, integers, words)) * unit * factor[i]
                if bias.size > 0:
                    one[0] += bias[i]
                topk_update_portable(one, 1, i, scores, ids)

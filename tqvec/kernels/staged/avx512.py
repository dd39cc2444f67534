"""Staged search of single queries with AVX-512 VBMI and VNNI; the mathematics is in README.md."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.pack.portable import padded_words, unpack_row_portable
from tqvec.kernels.simd.base import (
    add_f32x16,
    add_i32x16,
    at_least_f32x16,
    bits_to_bytes_i8x64,
    high_nibbles_i8x64,
    load_f32x16,
    load_i8x64,
    load_i16x32,
    load_u64,
    low_nibbles_i8x64,
    lowest_bit,
    mul_f32x16,
    or_i8x64,
    prefetch,
    splat_f32x16,
    splat_i8x64,
    store_f32x16,
    sum_i32x16,
    table_offsets_i8x64,
    to_f32x16,
    widen_high_i16x32,
    widen_low_i16x32,
    zero_i32x16,
)
from tqvec.kernels.simd.x86 import dot_bytes_i32x16, dot_words_i32x16, permute_i8x64, permute_i16x32
from tqvec.kernels.topk.portable import EMPTY_ID, topk_push_portable, topk_update_portable

ROWS = 64  # scanned together: four blocks of 16 share the loads of the tables
LOWEST = np.float32(-3e38)
CHUNK = 4096  # rows whose candidates are judged together
PROBES = 16  # rows beyond k whose full scores give the first threshold
AHEAD = 16  # candidates whose codes are on their way to the cache


@jit
def _add_signs(sums, x, low_table, high_table, offsets, ones):
    """Add the table entries of 32 coordinates of 16 rows."""
    low = permute_i8x64(low_table, or_i8x64(low_nibbles_i8x64(x), offsets))
    high = permute_i8x64(high_table, or_i8x64(high_nibbles_i8x64(x), offsets))
    return dot_bytes_i32x16(dot_bytes_i32x16(sums, low, ones), high, ones)


@jit
def _totals(signs, table, block, groups):
    """Four registers of totals, of the 64 rows from `block` on."""
    size = groups * 64
    p0 = signs + block * size
    p1 = p0 + size
    p2 = p1 + size
    p3 = p2 + size
    offsets = table_offsets_i8x64()
    ones = splat_i8x64(np.int8(1))
    a0 = zero_i32x16()
    a1 = zero_i32x16()
    a2 = zero_i32x16()
    a3 = zero_i32x16()
    for g in range(groups):
        low = load_i8x64(table + 128 * g)
        high = load_i8x64(table + 128 * g + 64)
        at = 64 * g
        a0 = _add_signs(a0, load_i8x64(p0 + at), low, high, offsets, ones)
        a1 = _add_signs(a1, load_i8x64(p1 + at), low, high, offsets, ones)
        a2 = _add_signs(a2, load_i8x64(p2 + at), low, high, offsets, ones)
        a3 = _add_signs(a3, load_i8x64(p3 + at), low, high, offsets, ones)
    return a0, a1, a2, a3


@jit
def _store_estimates(totals, a, b, factor, bias, out):
    """``out = (totals a + b) factor + bias`` for 16 rows; `factor`, `bias` and `out` are addresses, `bias` may be 0."""
    x = add_f32x16(mul_f32x16(to_f32x16(totals), a), b)
    x = mul_f32x16(x, load_f32x16(factor))
    if bias != 0:
        x = add_f32x16(x, load_f32x16(bias))
    store_f32x16(out, x)


@jit
def sign_estimates_avx512(signs, table, a, b, factor, bias, start, stop, estimates):
    """Estimates ``(total a + b) factor (+ bias)`` of rows ``start .. stop`` from their signs.

    Parameters
    ----------
    signs : (n_blocks, groups, 64) uint8
    table : (groups, 128) uint8
    a, b : float32
    factor : (≥ 64-row multiple after stop,) float32
    bias : like `factor`, or (0,) float32
    start, stop : int
        `start` is a multiple of 64.
    estimates : (≥ 64-row multiple after stop - start,) float32
        Filled; what lies past the last row is noise.
    """
    groups = signs.shape[1]
    signs0 = signs.ctypes.data
    table0 = table.ctypes.data
    slope = splat_f32x16(a)
    shift = splat_f32x16(b)
    for i in range(start, stop, ROWS):
        t0, t1, t2, t3 = _totals(signs0, table0, i // LANES, groups)
        f = factor.ctypes.data + 4 * i
        out = estimates.ctypes.data + 4 * (i - start)
        c = bias.ctypes.data + 4 * i if bias.size > 0 else 0
        step = 64 if bias.size > 0 else 0
        _store_estimates(t0, slope, shift, f, c, out)
        _store_estimates(t1, slope, shift, f + 64, c + step, out + 64)
        _store_estimates(t2, slope, shift, f + 128, c + 2 * step, out + 128)
        _store_estimates(t3, slope, shift, f + 192, c + 3 * step, out + 192)


@jit
def candidates_avx512(estimates, factor, first, count, slack, threshold, out):
    """List rows ``first + v``, v < count, with ``estimates[v] + slack factor[first + v] >= threshold``; how many.

    `count` is rounded up to a multiple of 16 rows, which both arrays must have.
    """
    least = splat_f32x16(threshold)
    width = splat_f32x16(slack)
    e = estimates.ctypes.data
    f = factor.ctypes.data + 4 * first
    found = 0
    for v in range(0, count, LANES):
        upper = add_f32x16(load_f32x16(e + 4 * v), mul_f32x16(load_f32x16(f + 4 * v), width))
        bits = at_least_f32x16(upper, least)
        while bits != 0:
            out[found] = first + v + lowest_bit(bits)
            found += 1
            bits &= bits - np.uint64(1)
    return found


@jit
def prefix_codes(at, plane_bytes, planes):
    """Codes of 64 coordinates from their first 1, 2, 3 or 4 planes; `at` is the address of their word in the first."""
    first = load_u64(at)
    if planes == 1:
        return bits_to_bytes_i8x64(first, np.int8(1))
    second = load_u64(at + plane_bytes)
    if planes == 2:
        return or_i8x64(bits_to_bytes_i8x64(first, np.int8(2)), bits_to_bytes_i8x64(second, np.int8(1)))
    third = load_u64(at + 2 * plane_bytes)
    if planes == 3:
        code = or_i8x64(bits_to_bytes_i8x64(first, np.int8(4)), bits_to_bytes_i8x64(second, np.int8(2)))
        return or_i8x64(code, bits_to_bytes_i8x64(third, np.int8(1)))
    code = or_i8x64(bits_to_bytes_i8x64(first, np.int8(8)), bits_to_bytes_i8x64(second, np.int8(4)))
    code = or_i8x64(code, bits_to_bytes_i8x64(third, np.int8(2)))
    return or_i8x64(code, bits_to_bytes_i8x64(load_u64(at + 3 * plane_bytes), np.int8(1)))


@jit
def prefix_dot_avx512(row, plane_bytes, planes, table, query, words):
    """Dot product of the byte levels of a row's first `planes` planes (at most 4) with a byte query.

    `row` is the address of the row's codes, `table` that of 64 bytes of levels, `query` that of 64 * words int8. Bits
    past the end of a plane meet zeros of the query.
    """
    levels = load_i8x64(table)
    sums = zero_i32x16()
    for w in range(words):
        codes = prefix_codes(row + 8 * w, plane_bytes, planes)
        sums = dot_bytes_i32x16(sums, permute_i8x64(levels, codes), load_i8x64(query + 64 * w))
    return sum_i32x16(sums)


@jit
def full_dot_avx512(row, plane_bytes, planes, table, query, words):
    """The integer sum that `dot_tiles` gives for a row of at most 4 planes.

    `table` is the address of 32 int16 levels, `query` that of 64 * words int16.
    """
    levels = load_i16x32(table)
    sums = zero_i32x16()
    more = zero_i32x16()
    for w in range(words):
        codes = prefix_codes(row + 8 * w, plane_bytes, planes)
        at = query + 128 * w
        sums = dot_words_i32x16(sums, permute_i16x32(levels, widen_low_i16x32(codes)), load_i16x32(at))
        more = dot_words_i32x16(more, permute_i16x32(levels, widen_high_i16x32(codes)), load_i16x32(at + 64))
    return sum_i32x16(add_i32x16(sums, more))


@jit
def _unpacked_dot(row, bands, levels, spread, integers, words):
    """The integer sum that `dot_tiles` gives for a row of any width; `words` is room for its codes."""
    unpack_row_portable(row, bands, spread, words)
    codes = words.view(np.uint8)
    total = np.int32(0)
    first = 0
    for b in range(bands.shape[0]):
        level = levels[b]
        n = bands[b, 1] - bands[b, 0]
        for j in range(first, first + n):
            total += np.int32(np.int16(level[codes[j]])) * np.int32(integers[j])
        first += (n + 7) // 8 * 8
    return total


@jit
def full_score_avx512(data, i, bands, levels, level_words, spread, integers, unit, factor, bias, words):
    """The score of row `i` that the unstaged search would give, to the last bit.

    `level_words` are the levels of codes of at most 4 bits as 32 int16, `integers` and `unit` the query's.
    """
    if bands[0, 2] <= 4:
        total = full_dot_avx512(
            data.ctypes.data + i * data.shape[1],
            (bands[0, 1] - bands[0, 0]) // 8,
            bands[0, 2],
            level_words.ctypes.data,
            integers.ctypes.data,
            integers.size // 64,
        )
    else:
        total = _unpacked_dot(data[i], bands, levels, spread, integers, words)
    score = np.float32(total) * unit * factor[i]
    return score + bias[i] if bias.size > 0 else score


@jit
def _prefetch_row(address, size):
    """Ask for `size` bytes."""
    for line in range(0, size, 64):
        prefetch(address + line)


@jit
def _judge(data, ids, count, planes, plane_bytes, table, query, words, factor, bias, worth, zero, slack, threshold):
    """Keep those of ``ids[:count]`` whose estimate from `planes` planes may still reach `threshold`; how many."""
    row_bytes = data.shape[1]
    data0 = data.ctypes.data
    kept = 0
    for c in range(count):
        ahead = ids[min(c + AHEAD, count - 1)]
        _prefetch_row(data0 + ahead * row_bytes, planes * plane_bytes)
        i = ids[c]
        total = prefix_dot_avx512(data0 + i * row_bytes, plane_bytes, planes, table, query, words)
        estimate = (np.float32(total - zero) * worth + slack) * factor[i]
        if bias.size > 0:
            estimate += bias[i]
        if estimate >= threshold:
            ids[kept] = i
            kept += 1
    return kept


@jit
def search_staged_avx512(
    data, factor, bias, bands, levels, spread, signs, query, stages, estimates, start, stop, scores, ids
):
    """Offer rows ``start .. stop`` to the heap of one query, judging most of them by a few bits.

    Parameters
    ----------
    data, factor, bias, bands, levels, spread
        As in `search_rows_portable`. Planes start at whole bytes (d % 8 == 0). All have at least 64 rows after `stop`,
        of any content.
    signs : (n_blocks, groups, 64) uint8
        At least up to the multiple of 64 after `stop`.
    query : StagedQuery
    stages : StageTables
    estimates : (≥ stop - start + 64,) float32
        Room. A fresh array each time would cost more in page faults than the arithmetic on it.
    start, stop : int
        `start` is a multiple of 64.
    scores, ids : (k,) float32 and int64
        A heap.
    """
    n = stop - start
    length = np.float32(query.length)
    a = np.float32(query.table_step * stages.sign_level) * length
    b = np.float32(-query.table_zero * stages.sign_level) * length
    sign_estimates_avx512(signs, query.table, a, b, factor, bias, start, stop, estimates)
    estimates[n : n + ROWS] = -np.inf
    best = np.full(min(scores.size + PROBES, n), -np.inf, np.float32)
    best_ids = np.full(best.size, EMPTY_ID, np.int64)
    for c in range(0, n, CHUNK // 8):
        topk_update_portable(estimates[c:], min(CHUNK // 8, n - c), start + c, best, best_ids)
    level_words = levels[0, :32].astype(np.int16)
    words = np.zeros(padded_words(bands), np.uint64)
    integers, unit = query.integers, query.unit
    for i in best_ids:
        score = full_score_avx512(data, i, bands, levels, level_words, spread, integers, unit, factor, bias, words)
        topk_push_portable(score, i, scores, ids)
        estimates[i - start] = -np.inf  # done
    plane_bytes = (bands[0, 1] - bands[0, 0]) // 8
    rows = np.empty(CHUNK, np.int64)
    # First the rows that half the slack lets in: they bring the threshold near its end, which spares many of the rest.
    for share in (np.float32(0.5), np.float32(1.0)):
        width = stages.slack[0] * length * share
        for c in range(0, n, CHUNK):
            m = min(CHUNK, n - c)
            least = max(scores[0], LOWEST)  # below it are the rows that are done
            count = candidates_avx512(estimates[c:], factor, start + c, m, width, least, rows)
            for r in range(count):
                estimates[rows[r] - start] = -np.inf  # judged now
            for s in range(stages.planes.size):
                count = _judge(
                    data,
                    rows,
                    count,
                    stages.planes[s],
                    plane_bytes,
                    stages.levels.ctypes.data + 64 * s,
                    query.bytes_.ctypes.data,
                    query.bytes_.size // 64,
                    factor,
                    bias,
                    np.float32(stages.level_unit[s] * query.byte_unit) * length,
                    128 * query.byte_sum,
                    stages.slack[1 + s] * length,
                    scores[0],
                )
            for r in range(count):
                i = rows[r]
                score = full_score_avx512(
                    data, i, bands, levels, level_words, spread, integers, unit, factor, bias, words
                )
                topk_push_portable(score, i, scores, ids)

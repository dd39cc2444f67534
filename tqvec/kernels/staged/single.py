"""Staged search of one query: signs judge all rows, the second plane a few, full scores a handful (README.md)."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.pack.portable import padded_words, unpack_row_portable
from tqvec.kernels.simd.base import (
    add_f32x16,
    add_i32x8,
    at_least_f32x16,
    count_bits,
    load_bytes_i32x8,
    load_f32x16,
    max_f32x16,
    mul_f32x16,
    prefetch,
    splat_f32x16,
    splat_i32x8,
    store_f32x16,
    store_i32x8,
    to_f32x16,
)
from tqvec.kernels.staged.codes import parity_plane
from tqvec.kernels.topk.portable import EMPTY_ID, topk_push_portable, topk_update_portable

sign_totals = kernel("sign_totals")
plane_query = kernel("plane_query")
plane_dot = kernel("plane_dot")
full_dot = kernel("full_dot")

ROWS = 64  # scanned together: four blocks of 16 share the loads of the tables
LOWEST = np.float32(-3e38)
CHUNK = 4096  # rows whose candidates are judged together
PROBES = 16  # rows beyond k whose full scores give the first threshold
AHEAD = 16  # candidates whose codes are on their way to the cache
# The set bits of each byte, lowest first.
POSITIONS = np.array([sorted(range(8), key=lambda bit: (not byte >> bit & 1, bit)) for byte in range(256)], np.uint8)


@jit
def _store_estimates(totals, a, b, factor, bias, width, out):
    """``out = (totals a + b) factor + bias`` for 16 rows, and these plus ``width factor``.

    `factor`, `bias` and `out` are addresses, `bias` may be 0.
    """
    x = add_f32x16(mul_f32x16(to_f32x16(totals), a), b)
    scale = load_f32x16(factor)
    x = mul_f32x16(x, scale)
    if bias != 0:
        x = add_f32x16(x, load_f32x16(bias))
    store_f32x16(out, x)
    return add_f32x16(x, mul_f32x16(scale, width))


@jit
def sign_estimates(signs, table, a, b, factor, bias, slack, start, stop, estimates, tops):
    """Estimates ``(total a + b) factor (+ bias)`` of rows ``start .. stop`` from their signs.

    Parameters
    ----------
    signs : (n_blocks, groups, 64) uint8
    table : (groups, 128) uint8
    a, b, slack : float32
    factor : (≥ 64-row multiple after stop,) float32
    bias : like `factor`, or (0,) float32
    start, stop : int
        `start` is a multiple of 64.
    estimates : (≥ 64-row multiple after stop - start,) float32
        Filled; what lies past the last row is noise.
    tops : (≥ (stop - start) / 64, 16) float32
        Filled: the largest ``estimate + slack factor`` of rows v, v + 16, v + 32 and v + 48 of each 64.
    """
    groups = signs.shape[1]
    slope = splat_f32x16(a)
    shift = splat_f32x16(b)
    width = splat_f32x16(slack)
    for i in range(start, stop, ROWS):
        t0, t1, t2, t3 = sign_totals(signs.ctypes.data + i * groups * 4, table.ctypes.data, groups)
        f = factor.ctypes.data + 4 * i
        out = estimates.ctypes.data + 4 * (i - start)
        c = bias.ctypes.data + 4 * i if bias.size > 0 else 0
        step = 64 if bias.size > 0 else 0
        u0 = _store_estimates(t0, slope, shift, f, c, width, out)
        u1 = _store_estimates(t1, slope, shift, f + 64, c + step, width, out + 64)
        u2 = _store_estimates(t2, slope, shift, f + 128, c + 2 * step, width, out + 128)
        u3 = _store_estimates(t3, slope, shift, f + 192, c + 3 * step, width, out + 192)
        store_f32x16(tops.ctypes.data + (i - start), max_f32x16(max_f32x16(u0, u1), max_f32x16(u2, u3)))


@jit
def first_probes(estimates, tops, n, best, rows):
    """List rows below `n` with high estimates, one for each of the best entries of `tops`; how many.

    `best` and `rows` (probes,) float32 and int64 are a heap; the rows replace its ids.
    """
    for group in range(n // ROWS):
        if at_least_f32x16(load_f32x16(tops.ctypes.data + ROWS * group), splat_f32x16(best[0])) != 0:
            topk_update_portable(tops[group], LANES, LANES * group, best, rows)
    found = 0
    for entry in rows:
        if entry != EMPTY_ID:
            row = entry // LANES * ROWS + entry % LANES
            for v in range(row + LANES, entry // LANES * ROWS + ROWS, LANES):
                if estimates[v] > estimates[row]:
                    row = v
            rows[found] = row
            found += 1
    return found


@jit
def candidates(estimates, tops, factor, first, count, slack, threshold, positions, out):
    """List v < count with ``estimates[v] + slack factor[first + v] >= threshold``; how many.

    `tops` are those of the rows from `first` on, for at least this `slack`. `count` is rounded up to a multiple of 64
    rows, which all arrays must have. `positions` is `POSITIONS`; `out` has room for 16 more than `count`. Every eight
    rows are written without a branch, which would be hard to predict.
    """
    least = splat_f32x16(threshold)
    width = splat_f32x16(slack)
    found = 0
    for group in range(0, count, ROWS):
        if at_least_f32x16(load_f32x16(tops.ctypes.data + group), least) == 0:
            continue
        for v in range(group, group + ROWS, LANES):
            scale = load_f32x16(factor.ctypes.data + 4 * (first + v))
            upper = add_f32x16(load_f32x16(estimates.ctypes.data + 4 * v), mul_f32x16(scale, width))
            bits = at_least_f32x16(upper, least)
            for part in range(2):
                eight = (bits >> np.uint64(8 * part)) & np.uint64(255)
                places = load_bytes_i32x8(positions.ctypes.data + 8 * np.int64(eight))
                store_i32x8(out.ctypes.data + 4 * found, add_i32x8(places, splat_i32x8(np.int32(v + 8 * part))))
                found += count_bits(eight)
    return found


@jit
def unpacked_dot(row, bands, levels, spread, integers, words):
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
def _offer(data, first, rows, count, bands, levels, stages, spread, integers, unit, factor, bias, words, scores, ids):
    """Offer the rows ``first + rows[:count]`` to a heap, with the scores that the unstaged search would give.

    `integers` and `unit` are the query's; `words` is room. Arrays are not passed on for single rows: that updates their
    reference counts, which takes longer than the arithmetic.
    """
    nbits = bands[0, 2]
    windows = stages.windows
    plane_bytes = (bands[0, 1] - bands[0, 0]) // 8
    for r in range(count):
        i = first + rows[r]
        if nbits <= 4 or windows > 0:
            row = data.ctypes.data + i * data.shape[1]
            table, query = stages.level_bytes.ctypes.data, integers.ctypes.data
            total = full_dot(row, plane_bytes, nbits, windows, table, query, integers.size // 64)
        else:
            total = unpacked_dot(data[i], bands, levels, spread, integers, words)
        score = np.float32(total) * unit * factor[i]
        if bias.size > 0:
            score += bias[i]
        if score >= scores[0]:
            topk_push_portable(score, i, scores, ids)


@jit
def _prefetch_row(address, size):
    """Ask for `size` bytes."""
    for line in range(0, size, 64):
        prefetch(address + line)
    prefetch(address + size - 1)


@jit
def _judge_by_two(
    data, first, rows, count, bands, query, stages, bit, byte_sum, room, estimates, factor, bias, slack, threshold
):
    """Keep those of ``rows[:count]``, after row `first`, that two bits let reach `threshold`; how many.

    The estimate is linear in the signs and the second bits (README.md). The first part is a share of the estimate from
    signs, which is struck out: no row is judged twice. The second is ``bit`` times the sum of the query's entries, each
    plus or minus: twice those whose bits are set, less all, `byte_sum`. `room` is for the bits of a row.
    """
    row_bytes = data.shape[1]
    plane_bytes = (bands[0, 1] - bands[0, 0]) // 8
    planes = bands[0, 2]
    mask = stages.second_mask
    share = np.float32(stages.sign_share)
    at = plane_bytes * (1 if mask == 0 else planes - 1)
    shift = slack - byte_sum * bit
    kept = 0
    for c in range(count):
        ahead = first + rows[min(c + AHEAD, count - 1)]
        _prefetch_row(data.ctypes.data + ahead * row_bytes + at, plane_bytes)
        v = rows[c]
        i = first + v
        if mask == 0:
            total = plane_dot(data.ctypes.data + i * row_bytes + at, query.ctypes.data, query.size)
        else:
            parity_plane(data.ctypes.data + i * row_bytes, plane_bytes, planes, mask, room.ctypes.data)
            total = plane_dot(room.ctypes.data, query.ctypes.data, query.size)
        estimate = estimates[v]
        estimates[v] = -np.inf
        added = (np.float32(total) * (2 * bit) + shift) * factor[i]
        if bias.size > 0:
            estimate = (estimate - bias[i]) * share + added + bias[i]
        else:
            estimate = estimate * share + added
        if estimate >= threshold:
            _prefetch_row(data.ctypes.data + i * row_bytes, row_bytes)
            rows[kept] = v
            kept += 1
    return kept


@jit
def _judge_by_four(data, first, rows, count, plane_bytes, table, query, words, worth, factor, bias, slack, threshold):
    """Keep those of ``rows[:count]``, after row `first`, that four planes let reach `threshold`; how many."""
    kept = 0
    for c in range(count):
        i = first + rows[c]
        total = full_dot(data.ctypes.data + i * data.shape[1], plane_bytes, 4, 0, table, query, words)
        estimate = (np.float32(total) * worth + slack) * factor[i]
        if bias.size > 0:
            estimate += bias[i]
        if estimate >= threshold:
            rows[kept] = rows[c]
            kept += 1
    return kept


@jit
def search_staged_avx2(data, factor, bias, bands, levels, spread, signs, query, stages, room, start, stop, scores, ids):
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
    room : (≥ 5/4 (stop - start) + 128,) float32
        For estimates and their tops. A fresh array each time would cost more in page faults than the arithmetic on it.
    start, stop : int
        `start` is a multiple of 64.
    scores, ids : (k,) float32 and int64
        A heap.
    """
    n = stop - start
    length = np.float32(query.length)
    a = np.float32(query.table_step * stages.sign_level) * length
    b = np.float32(-query.table_zero * stages.sign_level) * length
    estimates = room[: n + ROWS]
    tops = room[n + ROWS : n + ROWS + (n // ROWS + 1) * LANES].reshape(-1, LANES)
    sign_estimates(signs, query.table, a, b, factor, bias, stages.slack[0] * length, start, stop, estimates, tops)
    estimates[n : n + ROWS] = -np.inf
    words = np.zeros(padded_words(bands), np.uint64)
    integers, unit = query.integers, query.unit
    bytes_ = plane_query(query.bytes_)
    if ids[0] == EMPTY_ID:  # no threshold yet
        best = np.full(scores.size + PROBES, -np.inf, np.float32)
        probes = np.full(best.size, EMPTY_ID, np.int64)
        count = first_probes(estimates, tops, n, best, probes)
        _offer(
            data, start, probes, count, bands, levels, stages, spread, integers, unit, factor, bias, words,
            scores, ids,
        )  # fmt: skip
        for v in probes[:count]:
            estimates[v] = -np.inf  # done
    plane_bytes = (bands[0, 1] - bands[0, 0]) // 8
    bit = np.float32(stages.second_level * query.byte_unit) * length
    rows = np.empty(CHUNK + ROWS, np.int32)
    parities = np.empty(bytes_.size // 8 + 63, np.uint8)
    # First the rows that half the slack lets in: they bring the threshold near its end, which spares many of the rest.
    for share in (np.float32(0.5), np.float32(1.0)):
        width = stages.slack[0] * length * share
        for c in range(0, n, CHUNK):
            m = min(CHUNK, n - c)
            here = estimates[c : c + m + ROWS]
            least = max(scores[0], LOWEST)  # below it are the rows that are done
            count = candidates(here, tops[c // ROWS :], factor, start + c, m, width, least, POSITIONS, rows)
            if stages.second_level != 0:
                count = _judge_by_two(
                    data, start + c, rows, count, bands, bytes_, stages, bit, np.float32(query.byte_sum), parities,
                    here, factor, bias, stages.slack[1] * length, scores[0],
                )  # fmt: skip
            else:
                for r in range(count):
                    here[rows[r]] = -np.inf
            if stages.prefix_unit > 0:
                count = _judge_by_four(
                    data, start + c, rows, count, plane_bytes, stages.prefix_words.ctypes.data, integers.ctypes.data,
                    integers.size // 64, np.float32(stages.prefix_unit) * length, factor, bias,
                    stages.slack[2] * length, scores[0],
                )  # fmt: skip
            _offer(
                data, start + c, rows, count, bands, levels, stages, spread, integers, unit, factor, bias, words,
                scores, ids,
            )  # fmt: skip

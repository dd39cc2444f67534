"""Staged search of one query: a prefix judges all rows, second bits a few, full scores a handful (README.md)."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.scan.allowed import POSITIONS
from tqvec.kernels.simd.bits import count_bits, find_lowest_bit, select_f32x16
from tqvec.kernels.simd.floats import (
    add_f32x16,
    convert_f32x16,
    greater_equal_f32x16,
    greater_f32x16,
    max_f32x16,
    mul_f32x16,
)
from tqvec.kernels.simd.integers import add_i32x8
from tqvec.kernels.simd.memory import (
    load_bytes_i32x8,
    load_f32x16,
    load_u64,
    prefetch,
    splat_f32x16,
    splat_i32x8,
    store_f32x16,
    store_i32x8,
)
from tqvec.kernels.staged.ahead import AHEAD, prefetch_row
from tqvec.kernels.staged.codes import parity_plane
from tqvec.kernels.staged.dots import row_dot
from tqvec.kernels.topk.portable import EMPTY_ID, topk_push_portable

prefix_totals = kernel("prefix_totals")
plane_query = kernel("plane_query")
plane_dot = kernel("plane_dot")

ROWS = 64  # scanned together: four blocks of 16 share the loads of the tables
LOWEST = np.finfo(np.float32).min
CHUNK = 16384  # rows whose candidates are judged together
PROBES = 16  # rows beyond k whose full scores give the first threshold
AHEAD_BYTES = 4096  # of prefixes that are on their way: a page, where the processor's own prefetching stops


@jit
def _four(places, first, i):
    """First rows of blocks ``i .. i + 4``; see `prefix_estimates`."""
    if places.size == 0:
        row = first + LANES * i
        return row, row + LANES, row + 2 * LANES, row + 3 * LANES
    return np.int64(places[i]), np.int64(places[i + 1]), np.int64(places[i + 2]), np.int64(places[i + 3])


@jit
def _rows_at(places, first, found, count, rows):
    """The rows that entries ``found[:count]`` of the estimates stand for; see `prefix_estimates`."""
    if places.size == 0:
        for r in range(count):
            rows[r] = first + found[r]
    else:
        for r in range(count):
            rows[r] = places[found[r] // LANES] + found[r] % LANES


@jit
def _store_estimates(totals, a, b, factor, bias, width, allowed, place, out):
    """``out = (totals a + b) factor + bias`` for the 16 rows from `place` on, and these plus ``width factor``.

    `factor`, `bias`, `allowed` and `out` are addresses; `bias` and `allowed` may be 0. Rows that are not allowed are at
    -inf.
    """
    x = add_f32x16(mul_f32x16(convert_f32x16(totals), a), b)
    scale = load_f32x16(factor + 4 * place)
    x = mul_f32x16(x, scale)
    if bias != 0:
        x = add_f32x16(x, load_f32x16(bias + 4 * place))
    if allowed != 0:
        bits = load_u64(allowed + 8 * (place // ROWS)) >> np.uint64(place % ROWS)
        x = select_f32x16(bits, x, splat_f32x16(np.float32(-np.inf)))
    store_f32x16(out, x)
    return add_f32x16(x, mul_f32x16(scale, width))


@jit
def prefix_estimates(prefixes, table, a, b, factor, bias, slack, allowed, places, first, count, estimates, tops):
    """Estimates ``(total a + b) factor (+ bias)`` of rows from their prefixes.

    Parameters
    ----------
    prefixes : (n_blocks, groups, 64) uint8
    table : (groups, 128) uint8
    a, b, slack : float32
    factor : (n,) float32
    bias : (n,) or (0,) float32
    allowed : (⌈n / 64⌉,) or (0,) uint64
        Rows that are not allowed get -inf.
    places : (≥ count,) or (0,) int32
        First rows of the blocks of 16 that are judged, filled up to a multiple of four. Empty stands for `count` blocks
        from row `first` on.
    first, count : int
    estimates : (≥ 16 count,) float32
        Filled, in the order of `places`.
    tops : (≥ count / 4, 16) float32
        Filled: the largest ``estimate + slack factor`` of rows v of each four blocks.
    """
    groups = prefixes.shape[1]
    step = 4 * groups  # bytes a row
    slope = splat_f32x16(a)
    shift = splat_f32x16(b)
    width = splat_f32x16(slack)
    ahead = max(3, AHEAD_BYTES // (64 * groups)) | 1
    last = (count - 1) // 4 * 4
    for i in range(0, count, 4):
        p = prefixes.ctypes.data
        f = factor.ctypes.data
        c = bias.ctypes.data if bias.size > 0 else 0
        m = allowed.ctypes.data if allowed.size > 0 else 0
        out = estimates.ctypes.data + 64 * i
        r0, r1, r2, r3 = _four(places, first, i)
        n0, n1, n2, n3 = _four(places, first, min(i + ahead, last))
        prefetch(f + 4 * n0)
        prefetch(f + 4 * n1)
        prefetch(f + 4 * n2)
        prefetch(f + 4 * n3)
        t0, t1, t2, t3 = prefix_totals(
            p + step * r0, p + step * r1, p + step * r2, p + step * r3,
            p + step * n0, p + step * n1, p + step * n2, p + step * n3, table.ctypes.data, groups,
        )  # fmt: skip
        u0 = _store_estimates(t0, slope, shift, f, c, width, m, r0, out)
        u1 = _store_estimates(t1, slope, shift, f, c, width, m, r1, out + 64)
        u2 = _store_estimates(t2, slope, shift, f, c, width, m, r2, out + 128)
        u3 = _store_estimates(t3, slope, shift, f, c, width, m, r3, out + 192)
        store_f32x16(tops.ctypes.data + 16 * i, max_f32x16(max_f32x16(u0, u1), max_f32x16(u2, u3)))


@jit
def first_probes(estimates, tops, n, best, rows):
    """List rows below `n` with high estimates, one for each of the best entries of `tops`; how many.

    Rows at -inf are not listed.
    `best` and `rows` (probes,) float32 and int64 are a heap; the rows replace its ids.
    """
    for group in range(n // ROWS):
        bits = greater_f32x16(load_f32x16(tops.ctypes.data + ROWS * group), splat_f32x16(best[0]))
        while bits != 0:
            lane = find_lowest_bit(bits)
            bits &= bits - np.uint64(1)
            topk_push_portable(tops[group, lane], LANES * group + lane, best, rows)
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
def candidates(estimates, tops, factor, places, first, count, slack, threshold, positions, out):
    """List v < count with ``estimates[v] + slack factor >= threshold``, the factor being that of v's row; how many.

    `estimates`, `tops`, `places` and `first` are those of `prefix_estimates`, whose `slack` was at least this one.
    `count` is rounded up to a multiple of 64, which all arrays must have. `positions` is `POSITIONS`; `out` has room
    for 16 more than `count`. Every eight are written without a branch, which would be hard to predict.
    """
    least = splat_f32x16(threshold)
    width = splat_f32x16(slack)
    found = 0
    for group in range(0, count, ROWS):
        if greater_equal_f32x16(load_f32x16(tops.ctypes.data + group), least) == 0:
            continue
        for v in range(group, group + ROWS, LANES):
            row = first + v if places.size == 0 else np.int64(places[v // LANES])
            scale = load_f32x16(factor.ctypes.data + 4 * row)
            upper = add_f32x16(load_f32x16(estimates.ctypes.data + 4 * v), mul_f32x16(scale, width))
            bits = greater_equal_f32x16(upper, least)
            for part in range(2):
                eight = (bits >> np.uint64(8 * part)) & np.uint64(255)
                lanes = load_bytes_i32x8(positions.ctypes.data + 8 * np.int64(eight))
                store_i32x8(out.ctypes.data + 4 * found, add_i32x8(lanes, splat_i32x8(np.int32(v + 8 * part))))
                found += count_bits(eight)
    return found


@jit
def offer_rows(data, rows, count, stages, integers, unit, factor, bias, base, scores, ids):
    """Offer ``rows[:count]`` to a heap, with the scores that the unstaged search would give.

    `integers` and `unit` are the query's.
    """
    n_bands = stages.layout.shape[0]
    for r in range(min(AHEAD, count)):
        prefetch_row(data.ctypes.data + rows[r] * data.shape[1], data.shape[1])
        prefetch(factor.ctypes.data + 4 * rows[r])
    for r in range(count):
        if r + AHEAD < count:
            prefetch_row(data.ctypes.data + rows[r + AHEAD] * data.shape[1], data.shape[1])
            prefetch(factor.ctypes.data + 4 * rows[r + AHEAD])
        i = rows[r]
        row = data.ctypes.data + i * data.shape[1]
        layout, table, query = stages.layout.ctypes.data, stages.level_bytes.ctypes.data, integers.ctypes.data
        score = np.float32(row_dot(row, layout, n_bands, table, query)) * unit * factor[i]
        if bias.size > 0:
            score += bias[i]
        if score >= scores[0]:
            topk_push_portable(score, base + i, scores, ids)


@jit
def _judge_by_two(
    data, found, rows, count, query, stages, bit, byte_sum, room, estimates, factor, bias, slack, threshold
):
    """Keep those of ``rows[:count]``, whose estimates are at `found`, that two bits let reach `threshold`; how many.

    The estimate is linear in the signs and the second bits (README.md). The first part is a share of the estimate from
    signs, which is struck out: no row is judged twice. The second is ``bit`` times the sum of the query's entries, each
    plus or minus: twice those whose bits are set, less all, `byte_sum`. `room` is for the bits of a row.
    """
    row_bytes = data.shape[1]
    plane_bytes = stages.layout[0, 1]
    planes = stages.layout[0, 2]
    mask = stages.second_mask
    share = np.float32(stages.sign_share)
    at = plane_bytes * (1 if mask == 0 else planes - 1)
    shift = slack - byte_sum * bit
    kept = 0
    for c in range(min(AHEAD, count)):
        prefetch_row(data.ctypes.data + rows[c] * row_bytes + at, plane_bytes)
    for c in range(count):
        if c + AHEAD < count:
            prefetch_row(data.ctypes.data + rows[c + AHEAD] * row_bytes + at, plane_bytes)
        i = rows[c]
        if mask == 0:
            total = plane_dot(data.ctypes.data + i * row_bytes + at, query.ctypes.data, query.size)
        else:
            parity_plane(data.ctypes.data + i * row_bytes, plane_bytes, planes, mask, room.ctypes.data)
            total = plane_dot(room.ctypes.data, query.ctypes.data, query.size)
        estimate = estimates[found[c]]
        estimates[found[c]] = -np.inf
        added = (np.float32(total) * (2 * bit) + shift) * factor[i]
        if bias.size > 0:
            estimate = (estimate - bias[i]) * share + added + bias[i]
        else:
            estimate = estimate * share + added
        if estimate >= threshold:
            rows[kept] = i
            kept += 1
    return kept


@jit
def search_staged_avx2(data, factor, bias, prefixes, query, stages, allowed, places, first, n, room, base, scores, ids):
    """Offer the allowed rows of some blocks to the heap of one query, judging most of them by a few bits.

    Parameters
    ----------
    data, factor, bias
        As in `search_rows_portable`. Planes of all bands start at whole bytes. All have at least 64 rows after `stop`,
        of any finite content.
    prefixes : (n_blocks, groups, 64) uint8
        At least up to the multiple of 64 after `stop`.
    query : StagedQuery
    stages : StageTables
    allowed, base
        As in `search_rows_portable`.
    places, first
        Blocks, as in `prefix_estimates`.
    n : int
        Rows of these blocks, without those of the last one that don't count.
    room : (≥ 5/4 n + 128,) float32
        For estimates and their tops. A fresh array each time would cost more in page faults than the arithmetic on it.
    scores, ids : (k,) float32 and int64
        A heap.
    """
    count = (n + LANES - 1) // LANES
    length = np.float32(query.length)
    a = np.float32(query.table_step) * length
    b = np.float32(-query.table_zero) * length
    slack = np.float32(query.slack) * length
    estimates = room[: n + ROWS]
    tops = room[n + ROWS : n + ROWS + (n // ROWS + 1) * LANES].reshape(-1, LANES)
    prefix_estimates(prefixes, query.table, a, b, factor, bias, slack, allowed, places, first, count, estimates, tops)
    estimates[n : n + ROWS] = -np.inf
    integers, unit = query.integers, query.unit
    found = np.empty(CHUNK + ROWS, np.int32)
    rows = np.empty(CHUNK + ROWS, np.int32)
    if ids[0] == EMPTY_ID:  # no threshold yet
        best = np.full(scores.size + PROBES, -np.inf, np.float32)
        probes = np.full(best.size, EMPTY_ID, np.int64)
        m = first_probes(estimates, tops, n, best, probes)
        for v in probes[:m]:
            estimates[v] = -np.inf  # done
        _rows_at(places, first, probes, m, probes)
        offer_rows(data, probes, m, stages, integers, unit, factor, bias, base, scores, ids)
    bytes_ = plane_query(query.bytes_)
    bit = np.float32(stages.second_level * query.byte_unit) * length
    second_slack = np.float32(stages.second_slack) * length
    parities = np.empty(bytes_.size // 8 + 63, np.uint8)
    # First the rows that half the slack lets in: they bring the threshold near its end, which spares many of the rest.
    for share in (np.float32(0.5), np.float32(1.0)):
        for c in range(0, n, CHUNK):
            m = min(CHUNK, n - c)
            here = estimates[c : c + m + ROWS]
            blocks = places[c // LANES :]
            least = max(scores[0], LOWEST)  # below it are the rows that are done
            width = slack * share
            m = candidates(here, tops[c // ROWS :], factor, blocks, first + c, m, width, least, POSITIONS, found)
            _rows_at(blocks, first + c, found, m, rows)
            if stages.second_level != 0:
                m = _judge_by_two(
                    data, found, rows, m, bytes_, stages, bit, np.float32(query.byte_sum), parities, here, factor, bias,
                    second_slack, scores[0],
                )  # fmt: skip
            else:
                for r in range(m):
                    here[found[r]] = -np.inf
            offer_rows(data, rows, m, stages, integers, unit, factor, bias, base, scores, ids)

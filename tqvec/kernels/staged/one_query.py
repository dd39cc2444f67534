"""Staged search of one query: all rows by a prefix, a few by second bits, a handful in full (README.md)."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.arguments import Estimator, Heap, RowBlocks, SecondStage
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.scan.allowed import POSITIONS
from tqvec.kernels.simd.bits import count_bits, select_f32x16
from tqvec.kernels.simd.floats import (
    add_f32x16,
    convert_f32x16,
    greater_equal_f32x16,
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
from tqvec.kernels.staged.full_score import row_dot
from tqvec.kernels.staged.prefetch import AHEAD, prefetch_row
from tqvec.kernels.staged.sizes import WORD, chunk_rows, list_size
from tqvec.kernels.staged.unpack import copy_plane, parity_plane
from tqvec.kernels.topk.portable import EMPTY_ID, topk_update_portable

prefix_totals = kernel("prefix_totals")
plane_query = kernel("plane_query")
plane_dot = kernel("plane_dot")

ROWS = WORD  # scanned together: four blocks of 16 share the loads of the tables
LOWEST = np.finfo(np.float32).min
EVERYWHERE = np.zeros(0, np.int32)
PROBES = 16  # rows beyond k whose full scores give the first threshold
ENOUGH = 256  # rows that tell whether second bits are worth reading: they cost half as much as a full score
AHEAD_BYTES = 4096  # of prefixes that are on their way: a page, where the processor's own prefetching stops


@jit
def _four_rows(starts, first, i):
    """First rows of the blocks ``i .. i + 4`` of `RowBlocks`."""
    if starts.size == 0:
        row = first + LANES * i
        return row, row + LANES, row + 2 * LANES, row + 3 * LANES
    return np.int64(starts[i]), np.int64(starts[i + 1]), np.int64(starts[i + 2]), np.int64(starts[i + 3])


@jit
def _row_numbers(blocks, entries, count, out):
    """Numbers of the rows that ``entries[:count]`` of the estimates belong to, into `out`."""
    starts, first = blocks.starts, blocks.first
    if starts.size == 0:
        for r in range(count):
            out[r] = first + entries[r]
    else:
        for r in range(count):
            out[r] = starts[entries[r] // LANES] + entries[r] % LANES


@jit
def _store_estimates(totals, line, rows, row, out):
    """Store ``(totals slope + shift) scale + bias`` of 16 rows from `row` on; return that plus ``width scale``.

    `line` is three registers, slope, shift and width. `rows` is three addresses, of the scales, the biases and the
    words of a filter; the last two may be 0. `out` is an address. Rows that are not allowed are at -inf.
    """
    slope, shift, width = line
    scales, bias, allowed = rows
    x = add_f32x16(mul_f32x16(convert_f32x16(totals), slope), shift)
    scale = load_f32x16(scales + 4 * row)
    x = mul_f32x16(x, scale)
    if bias != 0:
        x = add_f32x16(x, load_f32x16(bias + 4 * row))
    if allowed != 0:
        bits = load_u64(allowed + 8 * (row // ROWS)) >> np.uint64(row % ROWS)
        x = select_f32x16(bits, x, splat_f32x16(np.float32(-np.inf)))
    store_f32x16(out, x)
    return add_f32x16(x, mul_f32x16(scale, width))


@jit
def prefix_estimates(prefixes, rows, blocks, estimator, estimates, tops):
    """Estimate the scores of rows from their prefixes.

    Parameters
    ----------
    prefixes : (n_blocks, groups, 64) uint8
    rows : Rows
    blocks : RowBlocks
        Rows that are not allowed get -inf.
    estimator : Estimator
    estimates : (≥ 16 count,) float32
        Filled, in the order of `blocks`.
    tops : (≥ count / 4, 16) float32
        Filled: the largest ``estimate + slack scale`` of rows v of each four blocks.
    """
    scales, biases = rows.scale, rows.bias
    allowed, starts, first, count = blocks
    table = estimator.table
    groups = prefixes.shape[1]
    step = 4 * groups  # bytes per row
    line = splat_f32x16(estimator.slope), splat_f32x16(estimator.shift), splat_f32x16(estimator.slack)
    ahead = max(3, AHEAD_BYTES // (64 * groups)) | 1
    last = (count - 1) // 4 * 4
    for i in range(0, count, 4):
        p = prefixes.ctypes.data
        f = scales.ctypes.data
        at = f, biases.ctypes.data if biases.size > 0 else 0, allowed.ctypes.data if allowed.size > 0 else 0
        out = estimates.ctypes.data + 64 * i
        r0, r1, r2, r3 = _four_rows(starts, first, i)
        n0, n1, n2, n3 = _four_rows(starts, first, min(i + ahead, last))
        prefetch(f + 4 * n0)
        prefetch(f + 4 * n1)
        prefetch(f + 4 * n2)
        prefetch(f + 4 * n3)
        here = p + step * r0, p + step * r1, p + step * r2, p + step * r3
        later = p + step * n0, p + step * n1, p + step * n2, p + step * n3
        t0, t1, t2, t3 = prefix_totals(here, later, table.ctypes.data, groups)
        u0 = _store_estimates(t0, line, at, r0, out)
        u1 = _store_estimates(t1, line, at, r1, out + 64)
        u2 = _store_estimates(t2, line, at, r2, out + 128)
        u3 = _store_estimates(t3, line, at, r3, out + 192)
        store_f32x16(tops.ctypes.data + 16 * i, max_f32x16(max_f32x16(u0, u1), max_f32x16(u2, u3)))


@jit
def first_probes(estimates, tops, n, probes, entries):
    """List rows below `n` with high estimates, one for each of the best `probes` entries of `tops`.

    Return their number. Rows at -inf are not listed. `entries` (≥ probes,) int32 is filled.
    """
    best = np.full(probes, -np.inf, np.float32)
    found = np.full(probes, EMPTY_ID, np.int64)
    heap = Heap(best, found, np.full(1, -np.inf, np.float32))
    uppers = tops.reshape(-1)
    step = max(ROWS, probes // 4 * 4)
    for first in range(0, n // ROWS * LANES, step):
        part = uppers[first : min(first + step, n // ROWS * LANES)]
        topk_update_portable(part, EVERYWHERE, part.size, first, heap)
    count = 0
    for p in range(probes):
        if best[p] > -np.inf:
            row = found[p] // LANES * ROWS + found[p] % LANES
            for v in range(row + LANES, found[p] // LANES * ROWS + ROWS, LANES):
                if estimates[v] > estimates[row]:
                    row = v
            entries[count] = row
            count += 1
    return count


@jit
def candidates(estimates, tops, scales, blocks, n, slack, threshold, out):
    """List entries v < n with ``estimates[v] + slack scale >= threshold``; return their number.

    The scale is that of the row which entry v belongs to. `estimates`, `tops` and `blocks` are those of
    `prefix_estimates`, whose slack was at least this one. `n` is rounded up to a multiple of 64, which all arrays must
    have. `out` has space for 16 entries more than `n`: every eight are written without a branch, which would be hard to
    predict.
    """
    starts, first, positions = blocks.starts, blocks.first, POSITIONS
    least = splat_f32x16(threshold)
    width = splat_f32x16(slack)
    count = 0
    for group in range(0, n, ROWS):
        if greater_equal_f32x16(load_f32x16(tops.ctypes.data + group), least) == 0:
            continue
        for v in range(group, group + ROWS, LANES):
            row = first + v if starts.size == 0 else np.int64(starts[v // LANES])
            scale = load_f32x16(scales.ctypes.data + 4 * row)
            upper = add_f32x16(load_f32x16(estimates.ctypes.data + 4 * v), mul_f32x16(scale, width))
            bits = greater_equal_f32x16(upper, least)
            for part in range(2):
                eight = (bits >> np.uint64(8 * part)) & np.uint64(255)
                lanes = load_bytes_i32x8(positions.ctypes.data + 8 * np.int64(eight))
                store_i32x8(out.ctypes.data + 4 * count, add_i32x8(lanes, splat_i32x8(np.int32(v + 8 * part))))
                count += count_bits(eight)
    return count


@jit
def offer_rows(rows, row_numbers, count, stages, integers, unit, heap):
    """Offer ``row_numbers[:count]`` to the heap of a query, with the scores of `search_rows`.

    `integers` and `unit` are those of the query's `StagedQuery`.
    """
    codes, scales, biases, base = rows
    n_bands = stages.layout.shape[0]
    found = np.empty(count, np.float32)
    for r in range(min(AHEAD, count)):
        prefetch_row(codes.ctypes.data + row_numbers[r] * codes.shape[1], codes.shape[1])
        prefetch(scales.ctypes.data + 4 * row_numbers[r])
    for r in range(count):
        if r + AHEAD < count:
            prefetch_row(codes.ctypes.data + row_numbers[r + AHEAD] * codes.shape[1], codes.shape[1])
            prefetch(scales.ctypes.data + 4 * row_numbers[r + AHEAD])
        i = row_numbers[r]
        row = codes.ctypes.data + i * codes.shape[1]
        layout, table, query = stages.layout.ctypes.data, stages.level_bytes.ctypes.data, integers.ctypes.data
        score = np.float32(row_dot(row, layout, n_bands, table, query)) * unit * scales[i]
        if biases.size > 0:
            score += biases[i]
        found[r] = score
    topk_update_portable(found, row_numbers, count, base, heap)


@jit
def second_stage(rows, entries, row_numbers, count, stages, second, estimates, threshold):
    """Keep those of ``row_numbers[:count]`` whose estimates from two bits reach `threshold`; return their number.

    Their first estimates are at `entries` of `estimates`, and are set to -inf, so that no row comes here twice. The new
    estimate is linear in the signs and the second bits (README.md): a share of the first one, and the sum of the
    query's entries, each plus or minus, which is twice those whose bits are set, less all. `second` is a `SecondStage`.
    """
    codes, scales, biases, _ = rows
    query, share, unit, shift, plane = second
    row_bytes = codes.shape[1]
    plane_bits, planes = stages.layout[0, 1], stages.layout[0, 2]
    mask = stages.second_mask
    first = plane_bits * (1 if mask == 0 else planes - 1)
    whole = mask == 0 and first % 8 == 0  # read where they lie
    size = plane_bits // 8 + 1
    kept = 0
    for c in range(min(AHEAD, count)):
        prefetch_row(codes.ctypes.data + row_numbers[c] * row_bytes + first // 8, size)
    for c in range(count):
        if c + AHEAD < count:
            prefetch_row(codes.ctypes.data + row_numbers[c + AHEAD] * row_bytes + first // 8, size)
        i = row_numbers[c]
        at = codes.ctypes.data + i * row_bytes
        if whole:
            total = plane_dot(at + first // 8, query.ctypes.data, query.size)
        else:
            if mask == 0:
                copy_plane(8 * at + first, plane_bits, plane.ctypes.data)
            else:
                parity_plane(8 * at + first, plane_bits, mask, plane.ctypes.data)
            total = plane_dot(plane.ctypes.data, query.ctypes.data, query.size)
        estimate = estimates[entries[c]]
        estimates[entries[c]] = -np.inf
        added = (np.float32(total) * (2 * unit) + shift) * scales[i]
        if biases.size > 0:
            estimate = (estimate - biases[i]) * share + added + biases[i]
        else:
            estimate = estimate * share + added
        if estimate >= threshold:
            row_numbers[kept] = i
            kept += 1
    return kept


@jit
def search_one_query(rows, prefixes, query, stages, blocks, n, workspace, heap):
    """Offer the allowed rows of some blocks to the heap of one query, ruling out most of them by a few bits.

    Parameters
    ----------
    rows : Rows
        All arrays have at least 64 rows after the last one searched, of any
        finite content.
    prefixes : (n_blocks, groups, 64) uint8
        At least up to the next multiple of 64 rows.
    query : StagedQuery
    stages : StageTables
    blocks : RowBlocks
    n : int
        Rows of these blocks, without those of the last one that don't count.
    workspace : (≥ 5/4 n + 128 + 2 list_size(n, k),) float32
        For estimates, their tops and lists of rows.
    heap : Heap
        Of one query.
    """
    scores, ids, bound = heap
    length = np.float32(query.length)
    slack = np.float32(query.slack) * length
    shift = np.float32(-query.table_zero) * length
    estimates = workspace[: n + ROWS]
    tops = workspace[n + ROWS : n + ROWS + (n // ROWS + 1) * LANES].reshape(-1, LANES)
    estimator = Estimator(table=query.table, slope=np.float32(query.table_step) * length, shift=shift, slack=slack)
    prefix_estimates(prefixes, rows, blocks, estimator, estimates, tops)
    estimates[n : n + ROWS] = -np.inf
    integers, unit = query.integers, query.unit
    chunk = chunk_rows(scores.size)
    listed = list_size(n, scores.size)
    first = n + ROWS + tops.size
    entries = workspace[first : first + listed].view(np.int32)
    row_numbers = workspace[first + listed : first + 2 * listed].view(np.int32)
    if ids[0] == EMPTY_ID and bound[0] == -np.inf and scores.size + PROBES <= n // 8:  # no threshold yet
        m = first_probes(estimates, tops, n, scores.size + PROBES, entries)
        for v in entries[:m]:
            estimates[v] = -np.inf  # done
        _row_numbers(blocks, entries, m, row_numbers)
        offer_rows(rows, row_numbers, m, stages, integers, unit, heap)
    bit = np.float32(stages.second_level * query.byte_unit) * length
    bytes_ = plane_query(query.bytes_)
    second = SecondStage(
        entries=bytes_,
        share=np.float32(stages.sign_share),
        unit=bit,
        shift=np.float32(stages.second_slack) * length - np.float32(query.byte_sum) * bit,
        plane=np.empty(bytes_.size // 8 + 63, np.uint8),
    )
    # First the rows that half the slack lets in: they bring the threshold near its end, which spares many of the rest.
    for share in (np.float32(0.5), np.float32(1.0)):
        refined = stages.second_level != 0 and max(scores[0], bound[0]) >= LOWEST
        for c in range(0, n, chunk):
            m = min(chunk, n - c)
            here = estimates[c : c + m + ROWS]
            part = RowBlocks(blocks.allowed, blocks.starts[c // LANES :], blocks.first + c, blocks.count - c // LANES)
            least = max(scores[0], bound[0], LOWEST)  # below it are the rows that are done
            m = candidates(here, tops[c // ROWS :], rows.scale, part, m, slack * share, least, entries)
            _row_numbers(part, entries, m, row_numbers)
            if refined:
                kept = second_stage(rows, entries, row_numbers, m, stages, second, here, max(scores[0], bound[0]))
                refined = m < ENOUGH or 2 * kept < m
                m = kept
            else:
                for r in range(m):
                    here[entries[r]] = -np.inf
            offer_rows(rows, row_numbers, m, stages, integers, unit, heap)

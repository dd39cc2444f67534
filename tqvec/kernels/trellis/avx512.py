"""`encode_trellis_rows` with AVX-512: the same numbers as the portable kernel (README.md, *AVX-512*)."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.avx512 import ROW, aligned_tile, forward_tile_avx512
from tqvec.kernels.pack.avx512 import pack_tile_avx512
from tqvec.kernels.quantize.tile_avx512 import add_products_avx512, finish_sums, load_tile_avx512, load_workspace
from tqvec.kernels.simd.bits import (
    add_where_i32x16,
    and_i32x16,
    and_nonzero_i32x16,
    select_f32x16,
    select_i32x16,
    shift_left_i32x16,
    shift_right_i32x16,
)
from tqvec.kernels.simd.floats import greater_f32x16
from tqvec.kernels.simd.integers import add_i32x16
from tqvec.kernels.simd.memory import (
    load_bytes_i32x16,
    load_f32x16,
    load_i32x16,
    load_nibbles_i32x16,
    load_words_i32x16,
    prefetch,
    splat_i32x16,
    store_f32x16,
    store_i32x16,
    store_u16,
    zero_i32x16,
)
from tqvec.kernels.simd.x86 import permute_f32x16, permute_two_f32x16
from tqvec.kernels.trellis.portable import REACH, decode_tile_portable, encode_tile_portable
from tqvec.kernels.trellis.steps_avx512 import fill_orders, place, run_avx512

CHUNK = 64  # coordinates whose cells are found before their steps: they are still in the first-level cache then
STAGES = 7  # of the search for a cell, and b + ν, so ν = STAGES − b
PAIRS = 1 << STAGES  # of level and window; there are fewer thresholds
ENTRIES = 8192  # of the rows of a band: 128 cells of 64 windows


@jit
def _mirror_bits(number, bits):
    """Reverse the order of the lowest bits of a number."""
    mirror = 0
    for bit in range(bits):
        mirror |= (number >> bit & 1) << (bits - 1 - bit)
    return mirror


@jit
def _ascending_order(values):
    """Indices that sort some values. `np.argsort` would take a second to compile."""
    order = np.empty(values.size, np.int64)
    for i in range(values.size):
        at = i
        while at > 0 and values[order[at - 1]] > values[i]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = i
    return order


@jit
def _fill_tables(tables, nbits, cells, rows, nearest):
    """Fill the lookup tables of a band from its `TrellisTables`.

    Parameters
    ----------
    cells : (PAIRS,) float32
        Filled: search tree of all thresholds.
    rows : (ENTRIES,) float32
        Filled: nearest level of each state window, in the order of `place`, for each cell.
    nearest : (2 * PAIRS,) float32
        Filled: search trees of the thresholds of each state window, then the levels.
    """
    thresholds = tables.thresholds
    levels = tables.levels
    windows = levels.shape[1]
    states = windows // 2
    order = _ascending_order(thresholds.reshape(-1))
    ascending = np.full(1 << STAGES, np.float32(np.inf), np.float32)
    for i in range(order.size):
        ascending[i] = thresholds[order[i] // windows, order[i] % windows]
    for stage in range(STAGES):
        for before in range(1 << stage):
            cells[(1 << stage) + before] = ascending[_mirror_bits(before, STAGES) + (64 >> stage) - 1]
    below = np.zeros(windows, np.int64)
    for cell in range(order.size + 1):
        first = _mirror_bits(cell, STAGES) * windows
        for w in range(windows):
            rows[first + w // states * states + place(w % states, states)] = levels[below[w], w]
        if cell < order.size:
            below[order[cell] % windows] += 1
    subset = nbits - 1
    for w in range(windows):
        at = w // states * states + place(w % states, states)
        for stage in range(subset):
            size = windows << stage
            for before in range(1 << stage):
                threshold = thresholds[_mirror_bits(before, subset) + (1 << (subset - 1 - stage)) - 1, w]
                nearest[size + windows * before + at] = threshold
        for s in range(1 << subset):
            nearest[PAIRS + windows * _mirror_bits(s, subset) + at] = levels[s, w]


@jit
def _lookup_32(table, index):
    return permute_two_f32x16(load_f32x16(table), load_f32x16(table + 64), index)


@jit
def _lookup_64(table, index):
    upper = and_nonzero_i32x16(index, splat_i32x16(np.int32(32)))
    return select_f32x16(upper, _lookup_32(table + 128, index), _lookup_32(table, index))


@jit
def _lookup_128(table, index):
    upper = and_nonzero_i32x16(index, splat_i32x16(np.int32(64)))
    return select_f32x16(upper, _lookup_64(table + 256, index), _lookup_64(table, index))


@jit
def _above(value, tree, size, index):
    """Lanes whose value is above threshold number `index` of the `size` thresholds of a stage of a tree."""
    table = tree + 4 * size
    if size <= 16:
        return greater_f32x16(value, permute_f32x16(load_f32x16(table), index))
    if size == 32:
        return greater_f32x16(value, _lookup_32(table, index))
    return greater_f32x16(value, _lookup_64(table, index))


@jit
def _find_cells(y, cells, nu, offsets, first, count, ahead):
    """Find the first entry of the row of each value's cell; meanwhile ask for the lines of the next 16 vectors."""
    for j in range(count):
        prefetch(ahead + ROW * (first + j))
        value = load_f32x16(y.ctypes.data + ROW * (first + j))
        cell = zero_i32x16()
        for stage in range(STAGES):
            size = np.int32(1 << stage)
            cell = add_where_i32x16(cell, _above(value, cells.ctypes.data, size, cell), size)
        store_i32x16(offsets.ctypes.data + ROW * j, shift_left_i32x16(cell, splat_i32x16(np.int32(nu + 1))))


@jit
def _run_forward(y, nu, tables, work, start, stop, ahead):
    """Run the steps of the coordinates ``start .. stop``."""
    states = 1 << nu
    cells, rows, _, orders = tables
    offsets, costs, decisions, _ = work
    if states == 64:  # at 1 bit there are no thresholds, so there is one cell
        offsets[:] = 0
    for first in range(start, stop, CHUNK):
        count = min(CHUNK, stop - first)
        if states < 64:
            _find_cells(y, cells, nu, offsets, first, count, ahead)
        run_avx512(
            states,
            orders.ctypes.data,
            rows.ctypes.data,
            offsets.ctypes.data,
            y.ctypes.data + ROW * first,
            costs.ctypes.data,
            decisions.ctypes.data + 2 * states * first,
            count,
        )


@jit
def _decision_bits(states, decisions, at):
    """1 if the path into the state whose place is `at` comes from the higher predecessor, otherwise 0."""
    if states == 4:
        words = load_nibbles_i32x16(decisions)
    elif states == 8:
        words = load_bytes_i32x16(decisions)
    elif states == 16:
        words = load_words_i32x16(decisions)
    elif states == 32:
        words = load_i32x16(decisions)
    else:
        upper = and_nonzero_i32x16(at, splat_i32x16(np.int32(32)))
        words = select_i32x16(upper, load_i32x16(decisions + 64), load_i32x16(decisions))
        at = and_i32x16(at, splat_i32x16(np.int32(31)))
    return and_i32x16(shift_right_i32x16(words, at), splat_i32x16(np.int32(1)))


@jit
def _previous_place(states, nu, higher, at):
    """Place of the previous state: of the predecessor h or h + states / 2 of the state 2 h or 2 h + 1."""
    one = splat_i32x16(np.int32(1))
    top = splat_i32x16(np.int32(nu - 1))
    state = and_i32x16(at, splat_i32x16(np.int32(states // 2 - 1)))
    state = add_i32x16(state, shift_left_i32x16(higher, top))
    return add_i32x16(shift_right_i32x16(state, one), shift_left_i32x16(and_i32x16(state, one), top))


@jit
def _start_states(nu, work, start):
    """Places of the states before `start` on the cheapest paths of a run that ended ``REACH`` ν coordinates later."""
    _, costs, decisions, at = work
    states = 1 << nu
    for lane in range(LANES):
        best = 0
        for state in range(1, states):
            if costs[lane * states + place(state, states)] < costs[lane * states + place(best, states)]:
                best = state
        at[lane] = place(best, states)
    now = load_i32x16(at.ctypes.data)
    for j in range(start + REACH * nu - 1, start - 1, -1):
        higher = _decision_bits(states, decisions.ctypes.data + 2 * states * j, now)
        now = _previous_place(states, nu, higher, now)
    store_i32x16(at.ctypes.data, now)


@jit
def _choose(value, tree, size, index, bits):
    """Run a stage of the search for the nearest level, whose outcome is a bit of 16 codes; store it at `bits`."""
    above = _above(value, tree, size, index)
    store_u16(bits, above)
    return add_where_i32x16(index, above, size)


@jit
def _trace_back(y, band, nu, nearest, work, masks, levels):
    """Trace the tail-biting paths back from the start states to their codes and levels."""
    start, stop, nbits = band
    _, _, decisions, at = work
    states = 1 << nu
    now = load_i32x16(at.ctypes.data)
    for j in range(stop - 1, start - 1, -1):
        value = load_f32x16(y.ctypes.data + ROW * j)
        higher = _decision_bits(states, decisions.ctypes.data + 2 * states * j, now)
        index = add_i32x16(now, shift_left_i32x16(higher, splat_i32x16(np.int32(nu))))
        tree = nearest.ctypes.data
        plane = 2 * masks.shape[1]
        to = masks.ctypes.data + 2 * j
        if nbits > 4:
            index = _choose(value, tree, np.int32(8), index, to + 4 * plane)
        if nbits > 3:
            index = _choose(value, tree, np.int32(16), index, to + 3 * plane)
        if nbits > 2:
            index = _choose(value, tree, np.int32(32), index, to + 2 * plane)
        if nbits > 1:
            index = _choose(value, tree, np.int32(64), index, to + plane)
        store_u16(to, and_nonzero_i32x16(now, splat_i32x16(np.int32(states // 2))))
        store_f32x16(levels.ctypes.data + ROW * j, _lookup_128(nearest.ctypes.data + 4 * PAIRS, index))
        now = _previous_place(states, nu, higher, now)


@jit
def _encode_band(y, band, nu, tables, work, masks, levels, ahead):
    """Encode a band of at least `REACH` ν coordinates to codes and levels."""
    start, stop, _ = band
    _, costs, _, at = work
    reach = REACH * nu
    costs[:] = np.float32(0.0)
    _run_forward(y, nu, tables, work, stop - reach, stop, ahead)
    _run_forward(y, nu, tables, work, start, start + reach, ahead)
    _start_states(nu, work, start)
    costs[:] = np.float32(np.inf)
    for lane in range(LANES):
        costs[(lane << nu) + at[lane]] = np.float32(0.0)
    _run_forward(y, nu, tables, work, start, stop, ahead)
    _trace_back(y, band, nu, tables[2], work, masks, levels)


@jit
def _encode_short_band(y, band, tables, masks, levels):
    """Encode a band of any length, by the portable kernel."""
    start, stop, nbits = band
    codes = np.empty((stop - start, LANES), np.uint8)
    encode_tile_portable(y[start:stop], tables, codes)
    decode_tile_portable(codes, tables.levels, levels[start:stop])
    for plane in range(nbits):
        for j in range(start, stop):
            mask = 0
            for lane in range(LANES):
                mask |= (codes[j - start, lane] >> plane & 1) << lane
            masks[plane, j] = mask


@jit
def encode_trellis_rows_avx512(x, rotation, bands, tables, start, stop, out):
    """`encode_trellis_rows_portable`, to the last bit."""
    data, norm, dot, energy = out
    d = x.shape[1]
    count_bands = bands.shape[0]
    cells = np.zeros((count_bands, PAIRS), np.float32)
    rows = aligned_tile(ENTRIES // LANES * count_bands).reshape(count_bands, ENTRIES)
    nearest = np.zeros((count_bands, 2 * PAIRS), np.float32)
    orders = np.empty((count_bands, 2, LANES), np.int32)
    for b in range(count_bands):
        _fill_tables(tables[b], bands[b, 2], cells[b], rows[b], nearest[b])
        fill_orders(tables[b].levels.shape[1] // 2, orders[b])
    tile = aligned_tile(d)
    spare = aligned_tile(d)
    levels = aligned_tile(d)
    levels[:] = np.float32(0.0)  # bands need not reach d
    loading = load_workspace()
    costs = aligned_tile(64).reshape(-1)
    work = aligned_tile(CHUNK).view(np.int32), costs, np.empty(128 * d, np.uint8), np.empty(LANES, np.int32)
    masks = np.empty((8, d + 64), np.uint16)
    dot_part = np.empty((8, LANES))
    energy_part = np.empty((8, LANES))
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        good = load_tile_avx512(x, i, count, loading, tile, norm)
        if good < i + count:
            return good
        y = forward_tile_avx512(tile, spare, rotation)
        for b in range(count_bands):
            band = bands[b, 0], bands[b, 1], bands[b, 2]
            nu = STAGES - band[2]
            if band[1] - band[0] < REACH * nu:
                _encode_short_band(y, band, tables[b], masks, levels)
            else:
                lookups = cells[b], rows[b], nearest[b], orders[b]
                ahead = x.ctypes.data + 4 * d * (i + LANES)
                _encode_band(y, band, nu, lookups, work, masks, levels, ahead)
        dot_part[:] = 0.0
        energy_part[:] = 0.0
        for j in range(d):
            level = load_f32x16(levels.ctypes.data + ROW * j)
            values = y.ctypes.data + ROW * j
            add_products_avx512(values, level, j, dot_part.ctypes.data, energy_part.ctypes.data)
        pack_tile_avx512(masks, bands, count, data[i : i + count])
        finish_sums(dot_part, dot[i : i + count])
        finish_sums(energy_part, energy[i : i + count])
    return stop

"""`encode_trellis_rows` with AVX-512: the same numbers as the portable kernel; README.md tells how."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.avx512 import ROW, aligned_tile, forward_tile_avx512
from tqvec.kernels.pack.avx512 import pack_tile_avx512
from tqvec.kernels.quantize.tile_avx512 import add_products_avx512, finish_sums, load_tile_avx512, load_work
from tqvec.kernels.simd.base import (
    add_i32x16,
    add_where_i32x16,
    and_i32x16,
    bits_set_i32x16,
    greater_f32x16,
    load_bytes_i32x16,
    load_f32x16,
    load_i32x16,
    load_nibbles_i32x16,
    load_words_i32x16,
    prefetch,
    select_f32x16,
    select_i32x16,
    shift_left_i32x16,
    shift_right_i32x16,
    splat_i32x16,
    splat_load_f32x16,
    store_f32x16,
    store_i32x16,
    zero_i32x16,
)
from tqvec.kernels.simd.x86 import gather_f32x16, gather_near_i32x16, permute_f32x16, permute_two_f32x16
from tqvec.kernels.trellis.portable import REACH, decode_tile_portable, encode_tile_portable
from tqvec.kernels.trellis.steps_avx512 import fill_orders, place, run_avx512

CHUNK = 64  # coordinates whose cells are found before their steps: they are still in the first-level cache then
STAGES = 7  # of the search for a cell: 2^7 − 1 thresholds at most
ENTRIES = 8192  # of the rows of a band: 128 cells of 64 windows


@jit
def _mirrored(cell):
    """The number of `STAGES` bits read from the other end."""
    mirror = 0
    for bit in range(STAGES):
        mirror |= (cell >> bit & 1) << (STAGES - 1 - bit)
    return mirror


@jit
def _fill_tables(tables, search, rows, codes):
    """What a band's encoder looks up, from its `TrellisTables`.

    Parameters
    ----------
    search : (STAGES, 64) float32
        Filled: the threshold that stage k compares with, by the outcomes of the stages before, the first lowest.
    rows : (ENTRIES,) float32
        Filled: nearest level of each window, in the order of `place`, for each mirrored cell.
    codes : (ENTRIES + 3,) uint8
        Filled: the code that goes with each.
    """
    thresholds = tables.thresholds
    levels = tables.levels
    windows = levels.shape[1]
    states = windows // 2
    order = np.argsort(thresholds.reshape(-1))
    ascending = np.full(1 << STAGES, np.float32(np.inf), np.float32)
    for i in range(order.size):
        ascending[i] = thresholds[order[i] // windows, order[i] % windows]
    for stage in range(STAGES):
        for before in range(1 << stage):
            search[stage, before] = ascending[_mirrored(before) + (64 >> stage) - 1]
    nearest = np.zeros(windows, np.int64)
    for cell in range(order.size + 1):
        first = _mirrored(cell) * windows
        for w in range(windows):
            at = first + w // states * states + place(w % states, states)
            rows[at] = levels[nearest[w], w]
            codes[at] = 2 * nearest[w] + (w & 1)
        if cell < order.size:
            nearest[order[cell] % windows] += 1


@jit
def _find_cells(y, search, offsets, start, stop, windows, ahead):
    """Where the row of each value's cell begins. Meanwhile the lines of the next 16 vectors are asked for."""
    bits = 0
    while 1 << bits < windows:
        bits += 1
    for j in range(start, stop):
        prefetch(ahead + ROW * j)
        value = load_f32x16(y.ctypes.data + ROW * j)
        cell = zero_i32x16()
        cell = add_where_i32x16(cell, greater_f32x16(value, splat_load_f32x16(search.ctypes.data)), np.int32(1))
        for stage in range(1, 5):
            middle = permute_f32x16(load_f32x16(search.ctypes.data + 256 * stage), cell)
            cell = add_where_i32x16(cell, greater_f32x16(value, middle), np.int32(1 << stage))
        a = search.ctypes.data + 256 * 5
        middle = permute_two_f32x16(load_f32x16(a), load_f32x16(a + 64), cell)
        cell = add_where_i32x16(cell, greater_f32x16(value, middle), np.int32(32))
        low = permute_two_f32x16(load_f32x16(a + 256), load_f32x16(a + 320), cell)
        high = permute_two_f32x16(load_f32x16(a + 384), load_f32x16(a + 448), cell)
        middle = select_f32x16(bits_set_i32x16(cell, splat_i32x16(np.int32(32))), high, low)
        cell = add_where_i32x16(cell, greater_f32x16(value, middle), np.int32(64))
        store_i32x16(offsets.ctypes.data + ROW * j, shift_left_i32x16(cell, splat_i32x16(np.int32(bits))))


@jit
def _forward(y, states, search, rows, orders, work, start, stop, ahead):
    """Steps of the coordinates ``start .. stop``."""
    offsets, costs, decisions = work[:3]
    for first in range(start, stop, CHUNK):
        count = min(CHUNK, stop - first)
        if states < 64:  # at 1 bit a window has one level, so there is one cell
            _find_cells(y, search, offsets, first, first + count, 2 * states, ahead)
        run_avx512(
            states,
            orders.ctypes.data,
            rows.ctypes.data,
            offsets.ctypes.data + ROW * first,
            y.ctypes.data + ROW * first,
            costs.ctypes.data,
            decisions.ctypes.data + 2 * states * first,
            count,
        )


@jit
def _decided(states, decisions, at):
    """Lowest bit: whether the path into the state whose place is `at` comes from the higher predecessor."""
    if states == 4:
        words = load_nibbles_i32x16(decisions)
    elif states == 8:
        words = load_bytes_i32x16(decisions)
    elif states == 16:
        words = load_words_i32x16(decisions)
    elif states == 32:
        words = load_i32x16(decisions)
    else:
        upper = bits_set_i32x16(at, splat_i32x16(np.int32(32)))
        words = select_i32x16(upper, load_i32x16(decisions + 64), load_i32x16(decisions))
        at = and_i32x16(at, splat_i32x16(np.int32(31)))
    return and_i32x16(shift_right_i32x16(words, at), splat_i32x16(np.int32(1)))


@jit
def _before(states, nu, higher, at):
    """Place of the state before: of the predecessor h or h + states / 2 of the state 2 h or 2 h + 1."""
    one = splat_i32x16(np.int32(1))
    top = splat_i32x16(np.int32(nu - 1))
    state = and_i32x16(at, splat_i32x16(np.int32(states // 2 - 1)))
    state = add_i32x16(state, shift_left_i32x16(higher, top))
    return add_i32x16(shift_right_i32x16(state, one), shift_left_i32x16(and_i32x16(state, one), top))


@jit
def _seam(states, nu, costs, decisions, at, start, stop):
    """Places at the seam of the cheapest paths, into `at` (LANES,) int32, from a run that ended at `stop`."""
    for lane in range(LANES):
        best = 0
        for state in range(1, states):
            if costs[lane * states + place(state, states)] < costs[lane * states + place(best, states)]:
                best = state
        at[lane] = place(best, states)
    now = load_i32x16(at.ctypes.data)
    for j in range(stop - 1, start - 1, -1):
        higher = _decided(states, decisions.ctypes.data + 2 * states * j, now)
        now = _before(states, nu, higher, now)
    store_i32x16(at.ctypes.data, now)


@jit
def _back(states, nu, nbits, rows, codes, work, start, stop, masks, levels):
    """Codes and levels of the paths that end in the states at `at`."""
    offsets, _, decisions, at = work
    now = load_i32x16(at.ctypes.data)
    for j in range(stop - 1, start - 1, -1):
        higher = _decided(states, decisions.ctypes.data + 2 * states * j, now)
        window = add_i32x16(now, shift_left_i32x16(higher, splat_i32x16(np.int32(nu))))
        entry = add_i32x16(load_i32x16(offsets.ctypes.data + ROW * j), window)
        store_f32x16(levels.ctypes.data + ROW * j, gather_f32x16(rows.ctypes.data, entry))
        code = gather_near_i32x16(codes.ctypes.data, entry)
        for plane in range(nbits):
            masks[plane, j] = bits_set_i32x16(code, splat_i32x16(np.int32(1 << plane)))
        now = _before(states, nu, higher, now)


@jit
def _encode_band(y, states, nu, nbits, search, rows, codes, orders, work, start, stop, masks, levels, ahead):
    """Codes and levels of one band of at least `REACH` ν coordinates."""
    _, costs, decisions, at = work
    reach = REACH * nu
    costs[:] = np.float32(0.0)
    _forward(y, states, search, rows, orders, work, stop - reach, stop, ahead)
    _forward(y, states, search, rows, orders, work, start, start + reach, ahead)
    _seam(states, nu, costs, decisions, at, start, start + reach)
    costs[:] = np.float32(np.inf)
    for lane in range(LANES):
        costs[lane * states + at[lane]] = np.float32(0.0)
    _forward(y, states, search, rows, orders, work, start, stop, ahead)
    _back(states, nu, nbits, rows, codes, work, start, stop, masks, levels)


@jit
def _encode_short_band(y, tables, nbits, start, stop, masks, levels):
    """`_encode_band` of any length, by the portable kernel."""
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
def encode_trellis_rows_avx512(x, rotation, bands, tables, start, stop, data, norm, dot, energy):
    """`encode_trellis_rows_portable`, to the last bit."""
    d = x.shape[1]
    count_bands = bands.shape[0]
    tile = aligned_tile(d)
    spare = aligned_tile(d)
    levels = aligned_tile(d)
    offsets = aligned_tile(d).view(np.int32)
    offsets[:] = 0
    work = offsets, aligned_tile(64).reshape(-1), np.empty(128 * d, np.uint8), np.empty(LANES, np.int32)
    masks = np.empty((8, d + 64), np.uint16)
    dot_part = np.empty((8, LANES))
    energy_part = np.empty((8, LANES))
    loading = load_work()
    search = np.empty((count_bands, STAGES, 64), np.float32)
    rows = aligned_tile(ENTRIES // LANES * count_bands).reshape(count_bands, ENTRIES)
    codes = np.empty((count_bands, ENTRIES + 3), np.uint8)
    orders = np.empty((count_bands, 2, LANES), np.int32)
    for b in range(count_bands):
        _fill_tables(tables[b], search[b], rows[b], codes[b])
        fill_orders(tables[b].levels.shape[1] // 2, orders[b])
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        good = load_tile_avx512(x, i, count, loading, tile, norm)
        if good < i + count:
            return good
        y = forward_tile_avx512(tile, spare, rotation)
        ahead = x.ctypes.data + 4 * d * (i + LANES)
        for b in range(count_bands):
            lo = bands[b, 0]
            hi = bands[b, 1]
            nbits = bands[b, 2]
            states = tables[b].levels.shape[1] // 2
            nu = 0
            while 1 << nu < states:
                nu += 1
            if hi - lo < REACH * nu:
                _encode_short_band(y, tables[b], nbits, lo, hi, masks, levels)
                continue
            _encode_band(
                y, states, nu, nbits, search[b], rows[b], codes[b], orders[b], work, lo, hi, masks, levels, ahead
            )
        dot_part[:] = 0.0
        energy_part[:] = 0.0
        for j in range(d):
            level = load_f32x16(levels.ctypes.data + ROW * j)
            add_products_avx512(
                y.ctypes.data + ROW * j, level, j, dot_part.ctypes.data, energy_part.ctypes.data
            )
        pack_tile_avx512(masks, bands, count, data[i : i + count])
        finish_sums(dot_part, dot[i : i + count])
        finish_sums(energy_part, energy[i : i + count])
    return stop

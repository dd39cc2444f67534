"""Viterbi's steps in registers: the costs of states stay there from coordinate to coordinate.

Lanes are states, not vectors: the levels of all windows for one y are then a row of a table, loaded as it is. A
register holds the costs of 4 vectors at 4 states, of 2 at 8, or of 1 at 16 states; at 32 states a vector takes 2 and at
64 states 4 registers. Even states come first, then the odd ones (`place`), and windows likewise within each half:
states 2h and 2h + 1 have the same predecessors, so the costs of both are the same sums in different lanes.

All arguments but `states`, `count` and registers are addresses, of the first coordinate and vector at hand: `offsets`
and `y` of rows of LANES numbers, `costs` of one vector's costs behind the other's, and `decisions` of 2 · states bytes
a coordinate, a bit for each state of each vector.
"""

from __future__ import annotations

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.avx512 import ROW
from tqvec.kernels.simd.floats import add_f32x16, greater_f32x16, min_f32x16, mul_f32x16, sub_f32x16
from tqvec.kernels.simd.memory import (
    load_f32x16,
    load_fourfold_f32x16,
    load_halves_f32x16,
    load_i32,
    load_i32x16,
    splat_load_f32x16,
    store_f32x16,
    store_u16,
)
from tqvec.kernels.simd.shuffles import (
    interleave_high_f32x16,
    interleave_low_f32x16,
    join_even_quarters_f32x16,
    join_high_halves_f32x16,
    join_low_halves_f32x16,
    join_odd_quarters_f32x16,
)
from tqvec.kernels.simd.x86 import permute_f32x16


@jit
def place(state, states):
    """Where a state comes in the order of costs and decisions."""
    return (state >> 1) + (state & 1) * (states >> 1)


@jit
def fill_orders(states, orders):
    """Where in a register of at most 16 states a lane's lower and its higher predecessor are; (2, 16) int32."""
    for lane in range(16):
        h = lane % (states // 2)
        first = lane // states * states
        orders[0, lane] = first + place(h, states)
        orders[1, lane] = first + place(h + states // 2, states)


@jit
def _row(rows, offset):
    """Address of the row that begins at the element whose number is at `offset`."""
    return rows + 4 * load_i32(offset)


@jit
def _path(cost, error):
    return add_f32x16(cost, mul_f32x16(error, error))


@jit
def _select(low, high, decisions):
    store_u16(decisions, greater_f32x16(low, high))
    return min_f32x16(high, low)


@jit
def _advance(cost, lower, higher, low, high, decisions):
    """New costs, given where the predecessors are and the errors of the windows from the lower and the higher ones."""
    low = _path(permute_f32x16(cost, lower), low)
    high = _path(permute_f32x16(cost, higher), high)
    return _select(low, high, decisions)


@jit
def _step_4(cost, lower, higher, rows, offsets, y, decisions):
    values = load_fourfold_f32x16(y)
    a = load_halves_f32x16(_row(rows, offsets), _row(rows, offsets + 4))
    b = load_halves_f32x16(_row(rows, offsets + 8), _row(rows, offsets + 12))
    low = sub_f32x16(values, join_even_quarters_f32x16(a, b))
    high = sub_f32x16(values, join_odd_quarters_f32x16(a, b))
    return _advance(cost, lower, higher, low, high, decisions)


@jit
def _step_8(cost, lower, higher, rows, offsets, y, decisions):
    a = sub_f32x16(splat_load_f32x16(y), load_f32x16(_row(rows, offsets)))
    b = sub_f32x16(splat_load_f32x16(y + 4), load_f32x16(_row(rows, offsets + 4)))
    return _advance(cost, lower, higher, join_low_halves_f32x16(a, b), join_high_halves_f32x16(a, b), decisions)


@jit
def _step_16(cost, lower, higher, rows, offsets, y, decisions):
    value = splat_load_f32x16(y)
    row = _row(rows, offsets)
    low = sub_f32x16(value, load_f32x16(row))
    high = sub_f32x16(value, load_f32x16(row + 64))
    return _advance(cost, lower, higher, low, high, decisions)


@jit
def _step_wide(value, low_cost, high_cost, row, half, decisions):
    """16 states whose windows from the lower predecessors are at `row`, the others `half` bytes behind."""
    low = _path(low_cost, sub_f32x16(value, load_f32x16(row)))
    high = _path(high_cost, sub_f32x16(value, load_f32x16(row + half)))
    return _select(low, high, decisions)


@jit
def _step_32(even, odd, rows, offsets, y, decisions):
    value = splat_load_f32x16(y)
    row = _row(rows, offsets)
    low = interleave_low_f32x16(even, odd)
    high = interleave_high_f32x16(even, odd)
    even = _step_wide(value, low, high, row, 128, decisions)
    odd = _step_wide(value, low, high, row + 64, 128, decisions + 2)
    return even, odd


@jit
def _step(states, cost, lower, higher, rows, offsets, y, decisions):
    """One register of costs, of ``16 / states`` vectors."""
    if states == 4:
        return _step_4(cost, lower, higher, rows, offsets, y, decisions)
    if states == 8:
        return _step_8(cost, lower, higher, rows, offsets, y, decisions)
    return _step_16(cost, lower, higher, rows, offsets, y, decisions)


@jit
def _run_narrow(states, orders, rows, offsets, y, costs, decisions, count):
    lower = load_i32x16(orders)
    higher = load_i32x16(orders + 64)
    c0 = load_f32x16(costs)
    c1 = load_f32x16(costs + 64)
    c2 = load_f32x16(costs + 128)
    c3 = load_f32x16(costs + 192)
    size = 64 // states  # bytes that a register's vectors take in a row of `offsets` or `y`
    for i in range(count):
        o = offsets + ROW * i
        v = y + ROW * i
        to = decisions + 2 * states * i
        c0 = _step(states, c0, lower, higher, rows, o, v, to)
        c1 = _step(states, c1, lower, higher, rows, o + size, v + size, to + 2)
        c2 = _step(states, c2, lower, higher, rows, o + 2 * size, v + 2 * size, to + 4)
        c3 = _step(states, c3, lower, higher, rows, o + 3 * size, v + 3 * size, to + 6)
    store_f32x16(costs, c0)
    store_f32x16(costs + 64, c1)
    store_f32x16(costs + 128, c2)
    store_f32x16(costs + 192, c3)


@jit
def _run_32(rows, offsets, y, costs, decisions, count):
    e0 = load_f32x16(costs)
    o0 = load_f32x16(costs + 64)
    e1 = load_f32x16(costs + 128)
    o1 = load_f32x16(costs + 192)
    for i in range(count):
        o = offsets + ROW * i
        v = y + ROW * i
        to = decisions + 64 * i
        e0, o0 = _step_32(e0, o0, rows, o, v, to)
        e1, o1 = _step_32(e1, o1, rows, o + 4, v + 4, to + 4)
    store_f32x16(costs, e0)
    store_f32x16(costs + 64, o0)
    store_f32x16(costs + 128, e1)
    store_f32x16(costs + 192, o1)


@jit
def _run_64(rows, offsets, y, costs, decisions, count):
    e0 = load_f32x16(costs)
    e1 = load_f32x16(costs + 64)
    o0 = load_f32x16(costs + 128)
    o1 = load_f32x16(costs + 192)
    for i in range(count):
        value = splat_load_f32x16(y + ROW * i)
        row = _row(rows, offsets + ROW * i)
        to = decisions + 128 * i
        low0 = interleave_low_f32x16(e0, o0)
        low1 = interleave_high_f32x16(e0, o0)
        high0 = interleave_low_f32x16(e1, o1)
        high1 = interleave_high_f32x16(e1, o1)
        e0 = _step_wide(value, low0, high0, row, 256, to)
        e1 = _step_wide(value, low1, high1, row + 64, 256, to + 2)
        o0 = _step_wide(value, low0, high0, row + 128, 256, to + 64)
        o1 = _step_wide(value, low1, high1, row + 192, 256, to + 66)
    store_f32x16(costs, e0)
    store_f32x16(costs + 64, e1)
    store_f32x16(costs + 128, o0)
    store_f32x16(costs + 192, o1)


@jit
def run_avx512(states, orders, rows, offsets, y, costs, decisions, count):
    """`count` steps of all vectors, 256 bytes of costs at a time."""
    for lane in range(0, LANES, max(1, 64 // states)):
        o = offsets + 4 * lane
        v = y + 4 * lane
        c = costs + 4 * states * lane
        if states == 64:
            _run_64(rows, o, v, c, decisions + 4 * lane, count)
        elif states == 32:
            _run_32(rows, o, v, c, decisions + 4 * lane, count)
        else:
            _run_narrow(states, orders, rows, o, v, c, decisions + states * lane // 8, count)

"""`softmax_rows` with AVX-512 or AVX2: 16 exponentials at a time, in one register or two."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.attend.indices import bytes_kept
from tqvec.kernels.attend.portable import (
    BLOCK,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    LOWEST,
    ONE,
    P0,
    P1,
    P2,
    P3,
    P4,
    P5,
)
from tqvec.kernels.simd.bits import select_f32x16, shift_left_i32x16
from tqvec.kernels.simd.floats import (
    add_f32x16,
    convert_f32x16,
    greater_equal_f32x16,
    max_f32x16,
    mul_f32x16,
    multiply_add_f32x16,
    round_i32x16,
    sub_f32x16,
)
from tqvec.kernels.simd.integers import add_i32x16
from tqvec.kernels.simd.memory import (
    load_f32x16,
    load_where_f32x16,
    splat_f32x16,
    splat_i32x16,
    store_f32x16,
    store_where_f32x16,
)
from tqvec.kernels.simd.shuffles import view_i32x16_as_f32x16

_NOTHING = np.float32(-np.inf)
_ALL = np.uint64(0xFFFF)


@jit
def _exponentials(x, largest):
    """``e**(x - largest)`` of a register, 0 below e**-87."""
    z = sub_f32x16(x, splat_f32x16(largest))
    whole = round_i32x16(mul_f32x16(max_f32x16(z, splat_f32x16(LOWEST)), splat_f32x16(LOG2_E)))
    n = convert_f32x16(whole)
    r = multiply_add_f32x16(n, splat_f32x16(-LN2_HIGH), z)
    r = multiply_add_f32x16(n, splat_f32x16(-LN2_LOW), r)
    p = multiply_add_f32x16(splat_f32x16(P0), r, splat_f32x16(P1))
    p = multiply_add_f32x16(p, r, splat_f32x16(P2))
    p = multiply_add_f32x16(p, r, splat_f32x16(P3))
    p = multiply_add_f32x16(p, r, splat_f32x16(P4))
    p = multiply_add_f32x16(p, r, splat_f32x16(P5))
    p = multiply_add_f32x16(p, mul_f32x16(r, r), add_f32x16(r, splat_f32x16(ONE)))
    power = shift_left_i32x16(add_i32x16(whole, splat_i32x16(np.int32(127))), splat_i32x16(np.int32(23)))
    product = mul_f32x16(p, view_i32x16_as_f32x16(power))
    return select_f32x16(greater_equal_f32x16(z, splat_f32x16(LOWEST)), product, splat_f32x16(np.float32(0.0)))


@jit
def _largest(at, count, lanes):
    """The largest of `count` numbers at an address, -infinity if there is none."""
    nothing = splat_f32x16(_NOTHING)
    a, b, c, d = nothing, nothing, nothing, nothing
    whole = count // (4 * LANES) * (4 * LANES)
    for t in range(0, whole, 4 * LANES):  # four chains, since each maximum waits for the one before
        a = max_f32x16(a, load_f32x16(at + 4 * t))
        b = max_f32x16(b, load_f32x16(at + 4 * t + 64))
        c = max_f32x16(c, load_f32x16(at + 4 * t + 128))
        d = max_f32x16(d, load_f32x16(at + 4 * t + 192))
    for t in range(whole, count, LANES):
        a = max_f32x16(a, load_where_f32x16(bytes_kept(count - t) & _ALL, at + 4 * t, nothing))
    store_f32x16(lanes.ctypes.data, max_f32x16(max_f32x16(a, b), max_f32x16(c, d)))
    best = lanes[0]
    for lane in range(1, LANES):
        best = max(best, lanes[lane])
    return best


@jit
def softmax_rows(scores, seen, largest, total):
    """See `softmax_rows_portable`; the last bits differ. `scores` is C-contiguous."""
    g, n = scores.shape
    lanes = np.empty(LANES, np.float32)
    nothing = splat_f32x16(_NOTHING)
    for q in range(g):
        count = max(0, min(n, seen[q]))
        at = scores.ctypes.data + 4 * q * n
        largest[q] = _largest(at, count, lanes)
        sums = 0.0
        for first in range(0, count, BLOCK):
            stop = min(first + BLOCK, count)
            whole = first + (stop - first) // LANES * LANES
            part = splat_f32x16(np.float32(0.0))
            for t in range(first, whole, LANES):
                weights = _exponentials(load_f32x16(at + 4 * t), largest[q])
                store_f32x16(at + 4 * t, weights)
                part = add_f32x16(part, weights)
            if whole < stop:
                kept = bytes_kept(stop - whole) & _ALL
                weights = _exponentials(load_where_f32x16(kept, at + 4 * whole, nothing), largest[q])
                store_where_f32x16(kept, at + 4 * whole, weights)
                part = add_f32x16(part, weights)
            store_f32x16(lanes.ctypes.data, part)
            for lane in range(LANES):
                sums += np.float64(lanes[lane])
        total[q] = np.float32(sums)
        scores[q, count:] = np.float32(0.0)


softmax_rows_avx512 = softmax_rows_avx2 = softmax_rows  # LLVM makes two registers of one where they are smaller

"""Tiles and a dense matrix of bytes, with the byte products of AVX-512 VNNI: 64 a register."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.copying import copy_table
from tqvec.kernels.fwht.weights import byte_steps, join_digits, scale_rows, split_digits
from tqvec.kernels.simd.bits import shift_left_i32x16, xor_i8x64
from tqvec.kernels.simd.floats import add_f32x16, convert_f32x16, max_f32x16, mul_f32x16, round_i32x16, sub_f32x16
from tqvec.kernels.simd.integers import add_i32x16, sum_i32x16
from tqvec.kernels.simd.memory import (
    load_f32x16,
    load_i8x64,
    splat_f32x16,
    splat_i8x64,
    splat_i32x16,
    splat_load_f32x16,
    splat_load_i32x16,
    store_f32x16,
    store_i32x16,
    zero_i32x16,
)
from tqvec.kernels.simd.tuples import dot_numbers_16, zeros_16
from tqvec.kernels.simd.x86 import dot_bytes_i32x16

_ROW = 4 * LANES  # bytes
_COLUMNS = 64  # converted to float32 at a time
_BYTES_128 = np.int32(-0x7F7F7F80)  # four bytes of 128: what makes signed bytes unsigned ones


@jit
def _find_top(tile, top):
    """Find the largest magnitude of each lane."""
    zero = splat_f32x16(np.float32(0.0))
    largest = zero
    for at in range(tile.ctypes.data, tile.ctypes.data + _ROW * tile.shape[0], _ROW):
        x = load_f32x16(at)
        largest = max_f32x16(largest, max_f32x16(x, sub_f32x16(zero, x)))
    store_f32x16(top.ctypes.data, largest)


@jit
def _pack_bytes(tile, factor):
    """Put four coordinates of a lane, as bytes plus 128, into one number; the numbers replace the tile's first rows."""
    factors = load_f32x16(factor.ctypes.data)
    base = tile.ctypes.data
    for j in range(0, tile.shape[0], 4):
        word = splat_i32x16(_BYTES_128)
        for c in range(min(4, tile.shape[0] - j)):
            x = round_i32x16(mul_f32x16(load_f32x16(base + _ROW * (j + c)), factors))
            word = add_i32x16(word, shift_left_i32x16(x, splat_i32x16(np.int32(8 * c))))
        store_i32x16(base + _ROW // 4 * j, word)


@jit
def _scaled(sums, offset, step, scale):
    """A row of the result, from its sums and the addresses of its offset and scale."""
    total = convert_f32x16(add_i32x16(sums, splat_load_i32x16(offset)))
    return mul_f32x16(mul_f32x16(total, step), splat_load_f32x16(scale))


@jit
def _store_block(out, sums, offset, scale, step):
    """Store 16 rows at the address `out`; `offset` and `scale` are addresses too."""
    store_f32x16(out, _scaled(sums[0], offset, step, scale))
    store_f32x16(out + _ROW, _scaled(sums[1], offset + 4, step, scale + 4))
    store_f32x16(out + 2 * _ROW, _scaled(sums[2], offset + 8, step, scale + 8))
    store_f32x16(out + 3 * _ROW, _scaled(sums[3], offset + 12, step, scale + 12))
    store_f32x16(out + 4 * _ROW, _scaled(sums[4], offset + 16, step, scale + 16))
    store_f32x16(out + 5 * _ROW, _scaled(sums[5], offset + 20, step, scale + 20))
    store_f32x16(out + 6 * _ROW, _scaled(sums[6], offset + 24, step, scale + 24))
    store_f32x16(out + 7 * _ROW, _scaled(sums[7], offset + 28, step, scale + 28))
    store_f32x16(out + 8 * _ROW, _scaled(sums[8], offset + 32, step, scale + 32))
    store_f32x16(out + 9 * _ROW, _scaled(sums[9], offset + 36, step, scale + 36))
    store_f32x16(out + 10 * _ROW, _scaled(sums[10], offset + 40, step, scale + 40))
    store_f32x16(out + 11 * _ROW, _scaled(sums[11], offset + 44, step, scale + 44))
    store_f32x16(out + 12 * _ROW, _scaled(sums[12], offset + 48, step, scale + 48))
    store_f32x16(out + 13 * _ROW, _scaled(sums[13], offset + 52, step, scale + 52))
    store_f32x16(out + 14 * _ROW, _scaled(sums[14], offset + 56, step, scale + 56))
    store_f32x16(out + 15 * _ROW, _scaled(sums[15], offset + 60, step, scale + 60))


@jit
def weigh_tile_avx512(src, dst, rotation):
    """`weigh_tile_portable`, to the last bit."""
    weights = rotation.weights
    d, row = src.shape[0], weights.shape[1]
    top, factor, steps = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    _find_top(src, top)
    byte_steps(top, factor, steps)
    _pack_bytes(src, factor)
    step = load_f32x16(steps.ctypes.data)
    last = np.empty((LANES, LANES), np.float32)
    for i in range(0, d, LANES):
        sums = zeros_16()
        at = weights.ctypes.data + row * i
        for words in range(src.ctypes.data, src.ctypes.data + (d + 3) // 4 * _ROW, _ROW):
            sums = dot_numbers_16(sums, load_i8x64(words), at, row)
            at += 4
        whole = i + LANES <= d
        out = dst.ctypes.data + _ROW * i if whole else last.ctypes.data
        offset, scale = rotation.weight_offsets.ctypes.data + 4 * i, rotation.weight_steps.ctypes.data + 4 * i
        _store_block(out, sums, offset, scale, step)
        if not whole:
            copy_table(last, dst[i:])


@jit
def _as_floats(weights, first, floats):
    """Convert entries from `first` on of each row of `weights` to float32."""
    for i in range(floats.shape[0]):
        row = weights[i, first:]
        out = floats[i]
        for c in range(out.size):
            out[c] = row[c]


@jit
def add_product(total, factor, row):
    """``total + factor * row``, rounded twice, with the factor at an address."""
    return add_f32x16(total, mul_f32x16(splat_load_f32x16(factor), row))


@jit
def unweigh_tile_avx512(src, dst, rotation):
    """`unweigh_tile_portable`, to the last bit: eight coordinates at a time in registers."""
    d = src.shape[0]
    scale_rows(src, rotation.weight_steps)
    floats = np.empty((d, _COLUMNS), np.float32)
    last = np.empty((8, LANES), np.float32)
    for j in range(0, d, 8):
        if j % _COLUMNS == 0:
            _as_floats(rotation.weights, j, floats)
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = splat_f32x16(np.float32(0.0))
        at = floats.ctypes.data + 4 * (j % _COLUMNS)
        for row in range(src.ctypes.data, src.ctypes.data + _ROW * d, _ROW):
            values = load_f32x16(row)
            s0 = add_product(s0, at, values)
            s1 = add_product(s1, at + 4, values)
            s2 = add_product(s2, at + 8, values)
            s3 = add_product(s3, at + 12, values)
            s4 = add_product(s4, at + 16, values)
            s5 = add_product(s5, at + 20, values)
            s6 = add_product(s6, at + 24, values)
            s7 = add_product(s7, at + 28, values)
            at += 4 * _COLUMNS
        whole = j + 8 <= d
        out = dst.ctypes.data + j * _ROW if whole else last.ctypes.data
        store_f32x16(out, s0)
        store_f32x16(out + _ROW, s1)
        store_f32x16(out + 2 * _ROW, s2)
        store_f32x16(out + 3 * _ROW, s3)
        store_f32x16(out + 4 * _ROW, s4)
        store_f32x16(out + 5 * _ROW, s5)
        store_f32x16(out + 6 * _ROW, s6)
        store_f32x16(out + 7 * _ROW, s7)
        if not whole:
            copy_table(last, dst[j:])


@jit
def weigh_vector_avx512(src, dst, rotation, digits):
    """`weigh_vector_portable`, to the last bit; `digits` is (3, row of `weights`) int8, 0 beyond d."""
    weights, offsets, scale = rotation.weights, rotation.weight_offsets, rotation.weight_steps
    step = split_digits(src, digits)
    row = weights.shape[1]
    sign = splat_i8x64(np.int8(-128))
    words = digits.ctypes.data
    for i in range(dst.size):
        at = weights.ctypes.data + row * i
        high = middle = low = zero_i32x16()
        for j in range(0, row, 64):
            m = load_i8x64(at + j)
            high = dot_bytes_i32x16(high, xor_i8x64(load_i8x64(words + j), sign), m)
            middle = dot_bytes_i32x16(middle, xor_i8x64(load_i8x64(words + row + j), sign), m)
            low = dot_bytes_i32x16(low, xor_i8x64(load_i8x64(words + 2 * row + j), sign), m)
        extra = np.int64(offsets[i])
        total = join_digits(sum_i32x16(high) + extra, sum_i32x16(middle) + extra, sum_i32x16(low) + extra)
        dst[i] = np.float32(total * (step * np.float64(scale[i])))

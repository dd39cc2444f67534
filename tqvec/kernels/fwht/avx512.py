"""The rotation of a tile with up to 16 rows in registers: a third of the passes over memory of the portable kernel."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.dense import dense_tile_portable
from tqvec.kernels.fwht.portable import (
    fwht_tile_portable,
    inverse_tile_portable,
    rotate_rounds,
    rotate_rows_portable,
    unrotate_tile_portable,
)
from tqvec.kernels.fwht.weights_avx512 import add_product, unweigh_tile_avx512, weigh_tile_avx512, weigh_vector_avx512
from tqvec.kernels.simd.memory import load_f32x16, splat_f32x16, store_f32x16
from tqvec.kernels.simd.tuples import (
    gather_16,
    hadamard_2,
    hadamard_4,
    hadamard_8,
    hadamard_16,
    load_2,
    load_4,
    load_8,
    load_16,
    store_2,
    store_4,
    store_8,
    store_16,
)

ROW = 4 * LANES  # bytes
PART = 256  # rows that stay in the first-level cache while all stages inside them run


@jit
def aligned_tile(d):
    """Allocate a tile (d, LANES) float32 whose rows are whole cache lines."""
    flat = np.empty((d + 1) * LANES, np.float32)
    first = -flat.ctypes.data % ROW // 4
    return flat[first : first + d * LANES].reshape(d, LANES)


@jit
def _stages(base, end, step):
    """All stages of the rows at addresses ``base .. end`` from the one whose inputs lie `step` bytes apart."""
    size = end - base
    while step < size:
        if 16 * step <= size and step < PART * ROW:  # sixteen rows that far apart would share one set of the cache
            for i in range(base, end, 16 * step):
                for at in range(i, i + step, ROW):
                    store_16(at, step, hadamard_16(load_16(at, step)))
            step *= 16
        elif 8 * step <= size:
            for i in range(base, end, 8 * step):
                for at in range(i, i + step, ROW):
                    store_8(at, step, hadamard_8(load_8(at, step)))
            step *= 8
        elif 4 * step <= size:
            for i in range(base, end, 4 * step):
                for at in range(i, i + step, ROW):
                    store_4(at, step, hadamard_4(load_4(at, step)))
            step *= 4
        else:
            for at in range(base, base + step, ROW):
                store_2(at, step, hadamard_2(load_2(at, step)))
            step *= 2


@jit
def _round(src, dst, perm, mult, blocks):
    """One round: permute the rows of `src`, multiply them, transform each block; into `dst`."""
    for b in range(blocks.shape[0]):
        start = blocks[b, 0]
        size = blocks[b, 1]
        if size < 16:
            for j in range(start, start + size):
                for lane in range(LANES):
                    dst[j, lane] = src[perm[j], lane] * mult[j]
            fwht_tile_portable(dst, start, size)
            continue
        for part in range(start, start + size, PART):
            rows = min(PART, size)
            for j in range(part, part + rows, 16):
                values = gather_16(src.ctypes.data, perm.ctypes.data + 4 * j, mult.ctypes.data + 4 * j)
                store_16(dst.ctypes.data + ROW * j, ROW, hadamard_16(values))
            base = dst.ctypes.data + ROW * part
            _stages(base, base + ROW * rows, 16 * ROW)
        base = dst.ctypes.data + ROW * start
        _stages(base, base + ROW * size, PART * ROW)


@jit
def dense_tile_avx512(src, dst, matrix):
    """`dense_tile_portable`, not transposed, to the last bit: eight rows at a time in registers."""
    d = src.shape[0]
    step = 4 * matrix.shape[1]
    whole = d // 8 * 8
    for i in range(0, whole, 8):
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = splat_f32x16(np.float32(0.0))
        at = matrix.ctypes.data + step * i
        for row in range(src.ctypes.data, src.ctypes.data + ROW * d, ROW):
            values = load_f32x16(row)
            s0 = add_product(s0, at, values)
            s1 = add_product(s1, at + step, values)
            s2 = add_product(s2, at + 2 * step, values)
            s3 = add_product(s3, at + 3 * step, values)
            s4 = add_product(s4, at + 4 * step, values)
            s5 = add_product(s5, at + 5 * step, values)
            s6 = add_product(s6, at + 6 * step, values)
            s7 = add_product(s7, at + 7 * step, values)
            at += 4
        out = dst.ctypes.data + ROW * i
        store_f32x16(out, s0)
        store_f32x16(out + ROW, s1)
        store_f32x16(out + 2 * ROW, s2)
        store_f32x16(out + 3 * ROW, s3)
        store_f32x16(out + 4 * ROW, s4)
        store_f32x16(out + 5 * ROW, s5)
        store_f32x16(out + 6 * ROW, s6)
        store_f32x16(out + 7 * ROW, s7)
    dense_tile_portable(src, dst[whole:], matrix[whole:], False)


@jit
def forward_tile_avx512(tile, spare, rotation):
    """`forward_tile_portable`, to the last bit: the same butterflies, several stages per pass."""
    src = tile
    dst = spare
    for r in range(rotation.perm.shape[0]):
        _round(src, dst, rotation.perm[r], rotation.mult[r], rotation.blocks)
        src, dst = dst, src
    if rotation.weights.shape[0] > 0:
        weigh_tile_avx512(src, dst, rotation)
        return dst
    if rotation.matrix.shape[0] == 0:
        return src
    dense_tile_avx512(src, dst, rotation.matrix)
    return dst


@jit
def inverse_tile_avx512(tile, spare, rotation):
    """`inverse_tile_portable`, to the last bit; only a matrix of bytes has a kernel of its own."""
    if rotation.weights.shape[0] == 0:
        return inverse_tile_portable(tile, spare, rotation)
    unweigh_tile_avx512(tile, spare, rotation)
    return unrotate_tile_portable(spare, tile, rotation.perm, rotation.mult, rotation.blocks)


@jit
def rotate_rows_avx512(x, rotation, start, stop, out):
    """`rotate_rows_portable`, to the last bit; only a matrix of bytes has a kernel of its own."""
    if rotation.weights.shape[0] == 0:
        rotate_rows_portable(x, rotation, start, stop, out)
        return
    d = x.shape[1]
    workspace, first, second = np.empty(d, np.float32), np.empty(d, np.float32), np.empty(d, np.float32)
    digits = np.zeros((3, rotation.weights.shape[1]), np.int8)
    for i in range(start, stop):
        src = rotate_rounds(x[i], first, second, workspace, rotation)
        weigh_vector_avx512(src, out[i], rotation, digits)

"""The rotation of a tile with up to 16 rows in registers: a third of the passes over memory of the portable kernel."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.portable import dense_tile_portable, fwht_tile_portable
from tqvec.kernels.simd.rows import (
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
    """An empty tile whose rows are whole cache lines."""
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
def forward_tile_avx512(tile, spare, rotation):
    """`forward_tile_portable`, to the last bit: the same butterflies, several stages of them a pass."""
    src = tile
    dst = spare
    for r in range(rotation.perm.shape[0]):
        _round(src, dst, rotation.perm[r], rotation.mult[r], rotation.blocks)
        src, dst = dst, src
    if rotation.matrix.shape[0] == 0:
        return src
    dense_tile_portable(src, dst, rotation.matrix, False)
    return dst

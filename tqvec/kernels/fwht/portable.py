"""Fast Walsh-Hadamard transform and the block rotation built from it, `LANES` vectors at a time.

Every tile is an array of shape (d, LANES) float32: a row is a coordinate, a lane is a vector. So all operations run
along a row, and the arithmetic of one vector never depends on its neighbours.
"""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.dense import dense_tile_portable, dense_vector
from tqvec.kernels.fwht.weights import unweigh_tile_portable, weigh_tile_portable, weigh_vector_portable


@jit
def _butterflies(flat, base, end, n):
    """All stages of floats ``base .. end`` from the one whose inputs lie `n` floats apart; two stages per pass.

    Every butterfly is (a + b, a - b). Taking two stages in one pass does the same additions, so gives the same bits.
    """
    while 4 * n <= end - base:
        for i in range(base, end, 4 * n):
            q0 = flat[i : i + n]
            q1 = flat[i + n : i + 2 * n]
            q2 = flat[i + 2 * n : i + 3 * n]
            q3 = flat[i + 3 * n : i + 4 * n]
            for k in range(n):
                s0 = q0[k] + q1[k]
                d0 = q0[k] - q1[k]
                s1 = q2[k] + q3[k]
                d1 = q2[k] - q3[k]
                q0[k] = s0 + s1
                q1[k] = d0 + d1
                q2[k] = s0 - s1
                q3[k] = d0 - d1
        n *= 4
    if 2 * n <= end - base:
        low = flat[base : base + n]
        high = flat[base + n : base + 2 * n]
        for k in range(n):
            a = low[k]
            b = high[k]
            low[k] = a + b
            high[k] = a - b


@jit
def fwht_tile_portable(tile, start, size):
    """Transform rows ``start .. start + size`` of `tile` in place by Walsh-Hadamard, unnormalised; `size` is 2^i.

    Stages run with strides 1, 2, 4, …; the first eight run part by part, so that their rows stay in the
    first-level cache.
    """
    flat = tile.reshape(-1)
    base = start * LANES
    end = base + size * LANES
    part = min(size, 256) * LANES
    for i in range(base, end, part):
        _butterflies(flat, i, i + part, LANES)
    if part < end - base:
        _butterflies(flat, base, end, part)


@jit
def rotate_tile_portable(tile, spare, perm, mult, blocks):
    """Rotate a tile: in each round permute rows, multiply them by a signed factor, transform each block.

    Parameters
    ----------
    tile, spare : (d, LANES) float32
        Input, and a workspace of the same shape. Both are overwritten.
    perm : (rounds, d) int32
        Row ``j`` of a round's input is row ``perm[j]`` of what came before.
    mult : (rounds, d) float32
        Sign times 1/sqrt(block size).
    blocks : (n_blocks, 2) int64
        Start and size of each block.

    Returns
    -------
    (d, LANES) float32
        The one of the two arrays that holds the result.
    """
    src = tile
    dst = spare
    for r in range(perm.shape[0]):
        for j in range(perm.shape[1]):
            row = src[perm[r, j]]
            out = dst[j]
            m = mult[r, j]
            for lane in range(LANES):
                out[lane] = row[lane] * m
        for b in range(blocks.shape[0]):
            fwht_tile_portable(dst, blocks[b, 0], blocks[b, 1])
        src, dst = dst, src
    return src


@jit
def unrotate_tile_portable(tile, spare, perm, mult, blocks):
    """Undo `rotate_tile_portable`: the same steps backwards (each transform is its own inverse)."""
    src = tile
    dst = spare
    for r in range(perm.shape[0] - 1, -1, -1):
        for b in range(blocks.shape[0]):
            fwht_tile_portable(src, blocks[b, 0], blocks[b, 1])
        for j in range(perm.shape[1]):
            row = src[j]
            out = dst[perm[r, j]]
            m = mult[r, j]
            for lane in range(LANES):
                out[lane] = row[lane] * m
        src, dst = dst, src
    return src


@jit
def forward_tile_portable(tile, spare, rotation):
    """Apply `rotation` (`RotationTables`) to a tile; return the array that holds the result."""
    out = rotate_tile_portable(tile, spare, rotation.perm, rotation.mult, rotation.blocks)
    other = spare if rotation.perm.shape[0] % 2 == 0 else tile
    if rotation.weights.shape[0] > 0:
        weigh_tile_portable(out, other, rotation)
        return other
    if rotation.matrix.shape[0] > 0:
        dense_tile_portable(out, other, rotation.matrix, False)
        return other
    return out


@jit
def inverse_tile_portable(tile, spare, rotation):
    """Undo `forward_tile_portable`; return the array that holds the result."""
    if rotation.weights.shape[0] > 0:
        unweigh_tile_portable(tile, spare, rotation)
    elif rotation.matrix.shape[0] > 0:
        dense_tile_portable(tile, spare, rotation.matrix, True)
    else:
        return unrotate_tile_portable(tile, spare, rotation.perm, rotation.mult, rotation.blocks)
    return unrotate_tile_portable(spare, tile, rotation.perm, rotation.mult, rotation.blocks)


@jit
def _rotate_round(src, dst, workspace, perm, mult, blocks):
    """A round of `rotate_tile_portable` for one vector; `workspace` is as long as the vector.

    Strides below 16 would leave most of a register idle. So the permutation puts coordinate 16 a + c of a block at
    position c (size / 16) + a of `workspace`, where the stages of c have long strides, and the others follow in order.
    """
    for b in range(blocks.shape[0]):
        start = blocks[b, 0]
        size = blocks[b, 1]
        end = start + size
        columns = size // 16
        if columns == 0:
            for j in range(start, end):
                dst[j] = src[perm[j]] * mult[j]
            _butterflies(dst, start, end, 1)
            continue
        for a in range(columns):
            for c in range(16):
                j = start + 16 * a + c
                workspace[c * columns + a] = src[perm[j]] * mult[j]
        _butterflies(workspace, 0, size, columns)
        for a in range(columns):
            for c in range(16):
                dst[start + 16 * a + c] = workspace[c * columns + a]
        _butterflies(dst, start, end, 16)


@jit
def rotate_rounds(src, first, second, workspace, rotation):
    """Run the rounds on one vector, into `first`, `second` and so on in turn; return the array of the last."""
    for r in range(rotation.perm.shape[0]):
        _rotate_round(src, first, workspace, rotation.perm[r], rotation.mult[r], rotation.blocks)
        src = first
        first, second = second, first
    return src


@jit
def rotate_rows_portable(x, rotation, start, stop, out):
    """Rotate rows ``start .. stop`` of `x` (n, d) float32 into the same rows of `out` (n, d) float32, one by one."""
    d = x.shape[1]
    workspace, spare = np.empty(d, np.float32), np.empty(d, np.float32)
    digits = np.empty((3, d), np.int8)
    weighed = rotation.weights.shape[0] > 0
    last = weighed or rotation.matrix.shape[0] > 0  # the last round writes to `out`, but to `spare` before a matrix
    begins_in_out = (rotation.perm.shape[0] % 2 == 1) != last
    for i in range(start, stop):
        first, second = (out[i], spare) if begins_in_out else (spare, out[i])
        src = rotate_rounds(x[i], first, second, workspace, rotation)
        if weighed:
            weigh_vector_portable(src, out[i], rotation, digits)
        elif last:
            dense_vector(src, out[i], rotation.columns)

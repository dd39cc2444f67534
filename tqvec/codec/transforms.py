"""Random rotations of any dimension.

``hadamard``: a few rounds of (random permutation, random signs, block Walsh-Hadamard transform). The blocks are the
powers of two in d's binary digits (384 = 256 + 128), so nothing is padded and the cost is O(d log d); the permutations
mix the blocks. The distortion of the worst inputs stays within 2 % of a Haar rotation's for d ≥ 128 and within 5 % for
64 ≤ d < 128 (docs/explanation/rotation.md has the table).

``haar``: a dense matrix by QR, O(d²). The reference; its bits depend on NumPy and LAPACK.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tqvec.codec.splitmix import stream
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.tables import RotationTables


def blocks(d: int) -> list[tuple[int, int]]:
    """Start and size of each Hadamard block: the binary digits of `d`, largest first."""
    out = []
    start = 0
    while start < d:
        size = 1 << ((d - start).bit_length() - 1)
        out.append((start, size))
        start += size
    return out


def rounds(d: int) -> int:
    """Rounds that bring the worst input close to a Haar rotation."""
    return 3 if d >= 128 else 4


def hadamard(d: int, seed: int, first: int = 0) -> RotationTables:
    """Tables of the structured rotation; permutations and signs come from SplitMix64 (see docs/format.md).

    Round `first` and the following have their own random bits, so rotations that share no round are independent.
    """
    layout = blocks(d)
    factor = np.concatenate([np.full(size, 1.0 / math.sqrt(size)) for _, size in layout])
    perm = []
    mult = []
    for r in range(first, first + rounds(d)):
        perm.append(np.argsort(stream(seed, 2 * r, d), kind="stable"))
        negative = stream(seed, 2 * r + 1, d) >> np.uint64(63)
        mult.append(np.where(negative == 1, -factor, factor))
    return RotationTables(
        np.array(perm, np.int32),
        np.array(mult, np.float32),
        np.array(layout, np.int64),
        np.zeros((0, 0), np.float32),
        np.zeros((0, 0), np.float32),
    )


def haar(d: int, seed: int) -> RotationTables:
    """Tables of a Haar-distributed rotation: QR of a Gaussian matrix, columns times the signs of R's diagonal."""
    gaussian = np.random.default_rng(seed).standard_normal((d, d))
    q, r = np.linalg.qr(gaussian)
    return dense(np.ascontiguousarray(q * np.sign(np.diag(r)), np.float32))


def dense(matrix: NDArray[np.float32]) -> RotationTables:
    """Tables of a (d, d) matrix."""
    d = matrix.shape[0]
    no_rounds = np.zeros((0, d), np.int32), np.zeros((0, d), np.float32), np.zeros((0, 2), np.int64)
    return RotationTables(*no_rounds, matrix, np.ascontiguousarray(matrix.T))


def compose(first: RotationTables, second: RotationTables) -> RotationTables:
    """Tables of `second` after `first`."""
    if first.matrix.size:
        out = np.empty_like(first.columns)
        kernel("rotate_rows")(first.columns, second, 0, out.shape[0], out)
        return first._replace(matrix=np.ascontiguousarray(out.T), columns=out)
    perm, mult = np.concatenate([first.perm, second.perm]), np.concatenate([first.mult, second.mult])
    return RotationTables(perm, mult, first.blocks, second.matrix, second.columns)


ROTATIONS: dict[str, Callable[[int, int], RotationTables]] = {"hadamard": hadamard, "haar": haar}

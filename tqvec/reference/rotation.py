"""Random rotations of rows. Sources: arXiv 2504.19874 section 3.1 (Haar), "File format" page, section 2 (Hadamard)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.reference.splitmix import word


def haar(d: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Orthogonal (d, d) matrix, Haar distributed: QR, columns times the signs of R's diagonal.

    Source: arXiv 2504.19874 section 3.1; the sign fix is Mezzadri's (2007).
    """
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return np.asarray(q * np.where(np.diag(r) < 0, -1.0, 1.0), np.float64)


def block_sizes(d: int) -> list[int]:
    """Powers of two in the binary digits of `d`, largest first ("File format" page, section 2)."""
    return [1 << bit for bit in reversed(range(d.bit_length())) if d >> bit & 1]


def rounds(d: int) -> int:
    """Number of rounds R ("File format" page, section 2)."""
    return 3 if d >= 128 else 4


def permutation(d: int, seed: int, r: int) -> list[int]:
    """π of round `r` ("File format" page, section 2, step 1)."""
    return sorted(range(d), key=lambda i: (word(seed, 2 * r, i + 1), i))


def factors(d: int, seed: int, r: int, dtype: DTypeLike) -> NDArray:
    """m of round `r`: sign over the root of the block's size ("File format" page, section 2, steps 2 and 3)."""
    sizes = [size for size in block_sizes(d) for _ in range(size)]
    signs = [-1.0 if word(seed, 2 * r + 1, j + 1) >> 63 else 1.0 for j in range(d)]
    return np.array([s / math.sqrt(size) for s, size in zip(signs, sizes, strict=True)]).astype(dtype)


def transform_blocks(w: NDArray, sizes: list[int]) -> NDArray:
    """Unnormalised Walsh-Hadamard transform of each block of the last axis ("File format" page, section 2, step 4)."""
    parts = []
    start = 0
    for size in sizes:
        block = w[:, start : start + size]
        h = 1
        while h < size:
            pairs = block.reshape(len(w), size // (2 * h), 2, h)
            a, b = pairs[:, :, 0], pairs[:, :, 1]
            block = np.stack([a + b, a - b], axis=2).reshape(len(w), size)
            h *= 2
        parts.append(block)
        start += size
    return np.concatenate(parts, axis=1)


def hadamard(
    x: NDArray, seed: int, dtype: DTypeLike = np.float64, first: int = 0, n_rounds: int | None = None
) -> NDArray:
    """Rotate rows by the randomised Hadamard rotation ("File format" page, section 2).

    Parameters
    ----------
    x : (n, d)
    seed : int
    dtype : float32 or float64
        float32 has the bits that the format prescribes; float64 is the same map, accurately.
    first : int
        First round: 0 for the rotation, 4 for the structured S of Algorithm 2.
    n_rounds : int, optional
        Default: R of section 2.
    """
    d = x.shape[1]
    w = x.astype(dtype)
    for r in range(first, first + (n_rounds or rounds(d))):
        w = w[:, permutation(d, seed, r)] * factors(d, seed, r, dtype)
        w = transform_blocks(w, block_sizes(d))
    return w


def hadamard_inverse(y: NDArray, seed: int, dtype: DTypeLike = np.float64, first: int = 0) -> NDArray:
    """Undo `hadamard`: the steps backwards; a transform is its own inverse up to the factors (derived)."""
    d = y.shape[1]
    v = y.astype(dtype)
    for r in reversed(range(first, first + rounds(d))):
        w = transform_blocks(v, block_sizes(d)) * factors(d, seed, r, dtype)
        v = np.empty_like(w)
        v[:, permutation(d, seed, r)] = w
    return v


def hadamard_matrix(d: int, seed: int) -> NDArray[np.float64]:
    """Dense matrix Π of `hadamard`: column i is the rotated i-th unit vector (derived)."""
    return hadamard(np.eye(d), seed).T

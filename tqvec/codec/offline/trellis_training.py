"""Training of the trellis codebook, and the script that freezes it.

The tables are trained for a Gaussian coordinate of variance 1, the limit of √d times a coordinate of a random unit
vector: k-means whose assignment is Viterbi's algorithm (Linde, Buzo and Gray 1980; Marcellin and Fischer 1990). A start
labels the subsets by a rate-1/2 convolutional code drawn at random; the best of many short trainings is trained on.
Changing all signs complements path and in-subset bits, so tables are kept antisymmetric.

``python -m tqvec.codec.offline.trellis_training`` trains all widths and rewrites ``data/trellis.json``, in a few
minutes. Nothing else calls it: stored bytes depend on the frozen numbers alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Doubles
from tqvec.codec.codebooks import scalar
from tqvec.kernels._jit import LANES
from tqvec.kernels.tables import TrellisTables
from tqvec.kernels.trellis.portable import encode_tile_portable

Tiles = NDArray[np.float32]

NU = {1: 6, 2: 5, 3: 4, 4: 3, 5: 2}  # bits of the state: with nbits they add up to 7
LENGTH = 4096  # coordinates of a training vector: so long that its ends don't matter
RARE = 10  # a level that fewer samples chose stays where it is
STARTS = 200
FINALISTS = 4
TOLERANCE = 1.005  # among finalists this close to the best, the one with the best sign plane is taken
SEED = 20240419
TEST_SEED = 1504
DIMS = (*range(1, 17), 20, 24, 32, 48, 64, 96, 128, 256, 1024, 4096)  # where `distortion` is measured


class Measurement(NamedTuple):
    """The error and the statistics of a table on test vectors.

    Attributes
    ----------
    distortion : float
        Squared error of a unit vector.
    sign : float
        Correlation of a coordinate with its sign bit as ±1: the most significant bit of its code, at 1 bit the parity
        of `sign_mask`.
    probabilities : (2**(nbits - 1), windows) float64
        Frequency of each level.
    entropy : float
        Entropy of a code in bits.
    """

    distortion: float
    sign: float
    probabilities: Doubles
    entropy: float


def parity(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the exclusive or of the bits of small numbers."""
    return (values[..., None] >> np.arange(16) & 1).sum(axis=-1) & 1


def sign_mask(levels: Doubles) -> tuple[int, bool]:
    """Return the path bits whose parity says most about a level of 1 bit, and whether parity 1 is negative.

    They belong to the largest coefficient of the levels' Walsh-Hadamard transform.
    """
    windows = np.arange(levels.shape[1])
    coefficients = (2 * parity(windows[:, None] & windows) - 1) @ levels[0]
    mask = int(np.argmax(np.abs(coefficients)))
    return mask, bool(coefficients[mask] < 0)


def start(nbits: int, nu: int, rng: np.random.Generator) -> Doubles:
    """Return levels whose four subsets are labelled by a random convolutional code.

    Ungerboeck's partition: every fourth level of the Lloyd-Max codebook of `nbits` + 1 bits makes a subset, and two
    parities of the window say which (IEEE Trans. IT 28, 1982).

    Returns
    -------
    (2**(nbits - 1), 2**(nu + 1)) float64
        In units of 1/√d, ascending along the first axis.
    """
    union = scalar.centroids(65536, nbits + 1) * 256
    masks = rng.choice(np.arange(1, 2 ** (nu + 1)), 2, replace=False)
    subsets = parity(np.arange(2 ** (nu + 1))[:, None] & masks) @ [1, 2]
    return np.stack([union[subset::4] for subset in subsets], axis=1)


def windows_of(path: NDArray, nu: int) -> NDArray[np.int32]:
    """Return the state windows of (…, d, LANES) path bits of a tail-biting path (it closes on itself)."""
    windows = np.zeros(path.shape, np.int32)
    for k in range(nu + 1):
        windows |= np.roll(path, k, axis=-2).astype(np.int32) << k
    return windows


def assign(tiles: Tiles, levels: Doubles) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Encode (n, d, LANES) tiles; return codes and state windows."""
    tables = TrellisTables(((levels[1:] + levels[:-1]) / 2).astype(np.float32), levels.astype(np.float32))
    codes = np.empty(tiles.shape, np.uint8)
    for tile, out in zip(tiles, codes, strict=True):
        encode_tile_portable(tile, tables, out)
    return codes, windows_of(codes & 1, int(math.log2(levels.shape[1])) - 1)


def counts(levels: Doubles, codes: NDArray, windows: NDArray, weights: NDArray | None = None) -> Doubles:
    """Return the number, or the sum of `weights`, of the samples of each level."""
    index = (codes >> 1) * np.int32(levels.shape[1]) + windows
    flat = None if weights is None else weights.ravel()
    return np.bincount(index.ravel(), flat, levels.size).astype(np.float64).reshape(levels.shape)


def refine(levels: Doubles, iterations: int, tiles: int, rng: np.random.Generator) -> Doubles:
    """Take steps of k-means, each on `tiles` · LANES fresh Gaussian vectors and on their mirror images."""
    for _ in range(iterations):
        y = rng.standard_normal((tiles, LENGTH, LANES), np.float32)
        codes, windows = assign(y, levels)
        number = counts(levels, codes, windows)
        total = counts(levels, codes, windows, y)
        number = number + number[::-1, ::-1]
        total = total - total[::-1, ::-1]
        levels = np.sort(np.where(number > RARE, total / np.maximum(number, 1), levels), axis=0)
    return levels


def unit_tiles(d: int, tiles: int, rng: np.random.Generator) -> Tiles:
    """Draw (tiles, d, LANES) vectors of length √d, uniform on the sphere."""
    y = rng.standard_normal((tiles, d, LANES))
    return (y * (math.sqrt(d) / np.linalg.norm(y, axis=1, keepdims=True))).astype(np.float32)


def measure(levels: Doubles, d: int, tiles: int, seed: int) -> Measurement:
    """Encode `tiles` · LANES random unit vectors."""
    error = sign = 0.0
    number = np.zeros(levels.shape)
    bits = np.zeros(2 * levels.shape[0])
    mask = sign_mask(levels)[0]
    rng = np.random.default_rng([seed, d])
    for _ in range(tiles):
        y = unit_tiles(d, 1, rng)
        codes, windows = assign(y, levels)
        error += float(np.mean((y - levels[codes >> 1, windows]) ** 2))
        bit = codes >= levels.shape[0] if levels.shape[0] > 1 else parity(windows & mask) == 1
        sign += float(np.mean(np.where(bit, y, -y)))
        number += counts(levels, codes, windows)
        bits += np.bincount(codes.ravel(), minlength=bits.size)
    p = bits[bits > 0] / bits.sum()
    number = number + number[::-1, ::-1]  # the mirror images
    return Measurement(
        distortion=error / tiles,
        sign=sign / tiles,
        probabilities=number / number.sum(),
        entropy=float(-np.sum(p * np.log2(p))),
    )


def train(nbits: int, nu: int, seed: int = SEED) -> Doubles:
    """Train tables from many starts and return the best.

    Parameters
    ----------
    nbits : int
        Width, at least 1.
    nu : int
        Bits of the state, at least 1.
    seed : int

    Returns
    -------
    (2**(nbits - 1), 2**(nu + 1)) float64
        Levels in units of 1/√d, rounded to float32; ascending along the first axis, antisymmetric when both axes are
        reversed, and of the sign that the most significant in-subset bit says; at 1 bit the parity of `sign_mask` is
        1 where levels are positive on average.
    """
    rng = np.random.default_rng([seed, nbits, nu])
    short = [refine(start(nbits, nu, rng), 20, 1, rng) for _ in range(STARTS)]
    short.sort(key=lambda levels: measure(levels, LENGTH, 2, seed).distortion)
    long = [refine(refine(levels, 100, 4, rng), 10, 32, rng) for levels in short[:FINALISTS]]
    results = [(measure(levels, LENGTH, 16, seed), levels) for levels in long]
    limit = TOLERANCE * min(result.distortion for result, _ in results)
    best = max((r for r in results if r[0].distortion <= limit), key=lambda r: abs(r[0].sign))[1]
    best = best.astype(np.float32).astype(np.float64)
    half = nbits > 1 and best.shape[0] // 2
    if half and not (np.all(best[half:] > 0) and np.all(best[:half] < 0)):
        raise ArithmeticError(f"the sign plane of nbits={nbits}, nu={nu} does not tell the sign")
    return -best if nbits == 1 and sign_mask(best)[1] else best


def freeze_width(nbits: int) -> dict[str, object]:
    """Train one width and measure it."""
    levels = train(nbits, NU[nbits])
    long = measure(levels, LENGTH, 64, TEST_SEED)
    tiles = {d: min(4096, 2**21 // (d * LANES)) for d in DIMS}
    return {
        "nu": NU[nbits],
        "levels": [[value.hex() for value in row] for row in levels.tolist()],
        "probabilities": [[round(value, 7) for value in row] for row in long.probabilities.tolist()],
        "distortion": [float(f"{measure(levels, d, tiles[d], TEST_SEED).distortion:.5g}") for d in DIMS],
        "sign_mask": sign_mask(levels)[0] if nbits == 1 else 0,
        "sign_correlation": round(long.sign, 4),
        "entropy": round(long.entropy, 4),
    }


if __name__ == "__main__":
    import json
    from pathlib import Path

    frozen = {"dims": DIMS, "widths": {str(nbits): freeze_width(nbits) for nbits in NU}}
    (Path(__file__).parents[1] / "data" / "trellis.json").write_text(json.dumps(frozen, indent=1) + "\n")

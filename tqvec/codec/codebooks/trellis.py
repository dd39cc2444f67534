"""Frozen trellis codebooks, and what they are known to achieve. docs/explanation/trellis.md has the mathematics.

The numbers come from ``data/trellis.json``, written once by
`tqvec.codec.offline.trellis_training`. Levels are exact float32
numbers in hexadecimal, so a table has the same bits on every machine.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec._types import Doubles
from tqvec.codec.bands import MAX_BANDS, Band
from tqvec.errors import InputError
from tqvec.kernels.tables import QuantizerTables, TrellisTables

MAX_NBITS = 5
MIN_COORDINATES = 16  # of a band: below, paths hardly differ from each other and the scalar codebook is better


@lru_cache(maxsize=1)
def _frozen() -> dict[str, Any]:
    frozen: dict[str, Any] = json.loads(files("tqvec.codec").joinpath("data/trellis.json").read_bytes())
    return frozen


def _width(nbits: int) -> dict[str, Any]:
    width: dict[str, Any] = _frozen()["widths"][str(nbits)]
    return width


def states(nbits: int) -> int:
    """Number of states 2^ν of the trellis; a state window is ν + 1 path bits."""
    return 1 << int(_width(nbits)["nu"])


def table(d: int, nbits: int) -> Doubles:
    """Levels of the trellis codebook for a unit vector.

    Parameters
    ----------
    d : int
        Dimension of the vector, at least 1.
    nbits : int
        Width, 1 to 5.

    Returns
    -------
    (2**(nbits - 1), 2 * states) float64
        Level of in-subset bits (row) and state window (column). Columns ascend, and reversing both axes changes all
        signs. From 2 bits on the lower half of the rows is negative and the upper half positive.
    """
    levels = [[float.fromhex(value) for value in row] for row in _width(nbits)["levels"]]
    return np.array(levels) / math.sqrt(d)


def tables(d: int, nbits: int, spread: float = 1.0) -> TrellisTables:
    """Levels times `spread`, rounded to float32, and the midpoints between them, rounded in turn, for the kernels."""
    levels = (table(d, nbits) * spread).astype(np.float32)
    thresholds = (levels[1:].astype(np.float64) + levels[:-1]) / 2
    return TrellisTables(thresholds.astype(np.float32), levels)


def check(bands: tuple[Band, ...]) -> None:
    """Refuse bands that the trellis does not code.

    Raises
    ------
    InputError
        A band is wider than `MAX_NBITS` or shorter than `MIN_COORDINATES`.
    """
    for band in bands:
        if band.nbits > MAX_NBITS:
            raise InputError(f"codebook='trellis' has widths of 1 to {MAX_NBITS} bits, got {band.nbits}")
        count = band.stop - band.start
        if count < MIN_COORDINATES:
            raise InputError(f"codebook='trellis' needs at least {MIN_COORDINATES} coordinates a band, got {count}")


def encoder_tables(d: int, bands: tuple[Band, ...], spreads: ArrayLike = 1.0) -> tuple[TrellisTables, ...]:
    """Tables for the encoding kernel, one a band, and the last again up to `MAX_BANDS`: their number is part of the
    kernel's type, which would be compiled anew for each."""
    factors = np.broadcast_to(np.asarray(spreads, np.float64), len(bands))
    found = [tables(d, band.nbits, float(factor)) for band, factor in zip(bands, factors, strict=True)]
    return (*found, *found[-1:] * (MAX_BANDS - len(found)))


def quantizer_tables(d: int, bands: tuple[Band, ...], spreads: ArrayLike = 1.0) -> QuantizerTables:
    """Tables for the kernels that read codes: levels by index, in-subset bits first, then the state window."""
    n = len(bands)
    centroids = np.zeros((n, 256), np.float32)
    for i, encoder in enumerate(encoder_tables(d, bands, spreads)[:n]):
        centroids[i, : encoder.levels.size] = encoder.levels.ravel()
    windows = np.array([states(band.nbits).bit_length() for band in bands], np.int64)
    empty = np.zeros((n, 0), np.float32)
    return QuantizerTables(
        bands=np.array(bands, np.int64),
        windows=windows,
        centroids=centroids,
        thresholds=empty,
        grid=np.zeros((n, 0), np.uint8),
        grid_affine=empty,
    )


def distortion(d: int, nbits: int) -> float:
    """Expected squared error D of a unit vector of `d` coordinates, with tail-biting paths.

    Measured on random vectors for some d, linear in 1/d between them; within 1 % from d = 16 on.
    """
    width = _width(nbits)
    inverse = 1 / np.array(_frozen()["dims"][::-1], np.float64)
    return float(np.interp(1 / d, inverse, width["distortion"][::-1]))


def entropy(nbits: int) -> float:
    """Entropy of a code in bits, for large d."""
    return float(_width(nbits)["entropy"])


def sign_mask(nbits: int) -> int:
    """Bits of a state window whose parity is the sign bit at 1 bit; 0 from 2 bits on, where the first bit is it."""
    return int(_width(nbits)["sign_mask"])


def sign_correlation(nbits: int) -> float:
    """E[y · s] of a coordinate y of variance 1 and its sign bit as s = ±1, for large d.

    √(2/π) = .798 is that of the coordinate's own sign.
    """
    return float(_width(nbits)["sign_correlation"])


def probabilities(nbits: int) -> Doubles:
    """Probability of each level of `table`, for large d."""
    return np.array(_width(nbits)["probabilities"])


def parity_masks(nbits: int) -> tuple[int, ...]:
    """For each bit that stages of a search judge by, the bits of a table's flat index whose parity it is.

    These are the in-subset bits and, where they are not two, parities of path bits, the lowest bits of the index. The
    second parity explains most of the level together with the first bit, of all 127.
    """
    subset = tuple(1 << bit for bit in range(6, 7 - nbits, -1))
    return {1: (sign_mask(1), 0b0110010), 2: (*subset, 0b0101111)}.get(nbits, subset)


def _parity(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    return (bits[:, None] >> np.arange(7) & 1).sum(axis=1) & 1


def prefix_means(d: int, nbits: int, planes: int) -> tuple[Doubles, float]:
    """Mean level given the first bits of `parity_masks`, and the expected squared length of it for a unit vector.

    Knowing all bits, path bits of its predecessors included, the mean is the level itself, and the squared length is
    1 − `distortion`.

    Returns
    -------
    means : (2**planes,) float64
        E[level | prefix], the counterpart of `tables.staged.prefix_means`.
    energy : float
        e_p = d Σ P(prefix) mean².
    """
    prefix = sum(
        _parity(np.arange(128) & mask) << (planes - 1 - i) for i, mask in enumerate(parity_masks(nbits)[:planes])
    )
    p = probabilities(nbits).ravel()
    mass = np.bincount(prefix, p)
    means = np.bincount(prefix, p * table(d, nbits).ravel()) / mass
    return means, float(d * np.sum(mass * means * means))

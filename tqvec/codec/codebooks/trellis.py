"""The trellis codebook: frozen levels, their distortion and their entropy (see the "Trellis codebook" page).

The numbers come from ``data/trellis.json``, written once by `tqvec.codec.offline.trellis_training`. Levels are exact
float32 numbers in hexadecimal, so a table has the same bits on every machine.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tqvec._types import Doubles, Ids
from tqvec.codec.bands import MAX_BANDS, Band
from tqvec.codec.codebooks.codebook import Codebook
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
    """Return the number of states 2^ν of the trellis; a state window is ν + 1 path bits."""
    return 1 << int(_width(nbits)["nu"])


def table(d: int, nbits: int) -> Doubles:
    """Return the levels of the trellis codebook for a unit vector.

    Parameters
    ----------
    d : int
        Dimension of the vector, at least 1.
    nbits : int
        Width, 1 to 5.

    Returns
    -------
    (2**(nbits - 1), 2 * states) float64
        Level by in-subset bits (row) and state window (column). Columns ascend. Reversing both axes changes all signs.
        From 2 bits on the lower half of the rows is negative and the upper half positive.
    """
    levels = [[float.fromhex(value) for value in row] for row in _width(nbits)["levels"]]
    return np.array(levels) / math.sqrt(d)


def tables(d: int, nbits: int, band_std: float = 1.0) -> TrellisTables:
    """Return the tables with which the kernel encodes a band, in float32: levels times `band_std`, and midpoints."""
    levels = (table(d, nbits) * band_std).astype(np.float32)
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


def encoder_tables(d: int, bands: tuple[Band, ...], band_std: ArrayLike = 1.0) -> tuple[TrellisTables, ...]:
    """Return the tables of each band, then the last again up to `MAX_BANDS`.

    Their number is part of the kernel's type, which would be compiled anew for each.
    """
    factors = np.broadcast_to(np.asarray(band_std, np.float64), len(bands))
    by_band = [tables(d, band.nbits, float(factor)) for band, factor in zip(bands, factors, strict=True)]
    return (*by_band, *by_band[-1:] * (MAX_BANDS - len(by_band)))


def _quantizer_tables(bands: tuple[Band, ...], encoders: tuple[TrellisTables, ...]) -> QuantizerTables:
    """Return the tables of the kernels that read codes: levels by index, in-subset bits first, then the window."""
    n = len(bands)
    centroids = np.zeros((n, 256), np.float32)
    for row, encoder in zip(centroids, encoders, strict=False):
        row[: encoder.levels.size] = encoder.levels.ravel()
    empty = np.zeros((n, 0), np.float32)
    return QuantizerTables(
        bands=np.array(bands, np.int64),
        windows=np.array([states(band.nbits).bit_length() for band in bands], np.int64),
        centroids=centroids,
        thresholds=empty,
        grid=np.zeros((n, 0), np.uint8),
        grid_affine=empty,
    )


class TrellisCodebook(Codebook):
    """Levels that depend on the path, so on the codes of the coordinates before."""

    encoder = "encode_trellis_rows"

    def __init__(self, d: int, bands: tuple[Band, ...], band_std: ArrayLike = 1.0) -> None:
        check(bands)
        encoders = encoder_tables(d, bands, band_std)
        decoder = _quantizer_tables(bands, encoders)
        super().__init__(d, bands, tables=decoder, encoder_tables=(decoder.bands, encoders))

    def distortion(self, nbits: int) -> float:
        """Return `distortion` of this dimension."""
        return distortion(self.d, nbits)

    def entropy(self, nbits: int) -> float:
        """Return `entropy`, which is that of large d."""
        return entropy(nbits)


def distortion(d: int, nbits: int) -> float:
    """Return the expected squared error D of a unit vector of `d` coordinates, tail-biting included.

    D was measured on random vectors for some d, and is linear in 1/d between them. It is within 1 % from d = 16 on.
    """
    width = _width(nbits)
    inverse = 1 / np.array(_frozen()["dims"][::-1], np.float64)
    return float(np.interp(1 / d, inverse, width["distortion"][::-1]))


def entropy(nbits: int) -> float:
    """Return the entropy of a code in bits, for large d."""
    return float(_width(nbits)["entropy"])


def sign_mask(nbits: int) -> int:
    """Return the bits of a state window whose parity is the sign bit at 1 bit.

    From 2 bits on it is 0: the first bit of the code is the sign bit.
    """
    return int(_width(nbits)["sign_mask"])


def sign_correlation(nbits: int) -> float:
    """Return E[y · s] of a coordinate y of variance 1 and its sign bit s = ±1, for large d.

    With the coordinate's own sign it would be √(2/π) = 0.798.
    """
    return float(_width(nbits)["sign_correlation"])


def probabilities(nbits: int) -> Doubles:
    """Return the probability of each level of `table`, for large d."""
    return np.array(_width(nbits)["probabilities"])


def parity_masks(nbits: int) -> tuple[int, ...]:
    """Return a mask for each bit by which stages of a search estimate a level.

    The bit is the parity of the masked bits of the level's flat index in `table`. Masks are the in-subset bits and,
    where there are fewer than two, path bits, which are the lowest bits of the index. Of all 127 masks the second
    parity was chosen to explain most of the level together with the first bit.
    """
    subset = tuple(1 << bit for bit in range(6, 7 - nbits, -1))
    return {1: (sign_mask(1), 0b0110010), 2: (*subset, 0b0101111)}.get(nbits, subset)


def _parity(bits: Ids) -> Ids:
    return (bits[:, None] >> np.arange(7) & 1).sum(axis=1) & 1


def prefix_means(d: int, nbits: int, planes: int) -> tuple[Doubles, float]:
    """Return the mean level given the first bits of `parity_masks`, and its expected squared length for a unit vector.

    Given all bits, with the path bits of the coordinates before, the mean is the level itself and the squared length
    is 1 − `distortion`.

    Returns
    -------
    means : (2**planes,) float64
        E[level | prefix].
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

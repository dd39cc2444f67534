"""Random rotations of any dimension, and the transform of vectors that codecs make of one.

``hadamard``: a few rounds of (random permutation, random signs, block Walsh-Hadamard transform). The blocks are the
powers of two in d's binary digits (384 = 256 + 128), so nothing is padded and the cost is O(d log d); the permutations
mix the blocks. The distortion of the worst inputs stays within 2 % of a Haar rotation's for d ≥ 128 and within 5 % for
64 ≤ d < 128 (see the "Rotation" page).

``haar``: a dense matrix by QR, O(d²). The reference; its bits depend on NumPy and LAPACK.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec._fixed import Fixed, protect, protect_fields
from tqvec._types import Bytes, Doubles, Floats
from tqvec.codec.bands import Band, mean
from tqvec.codec.codebooks.codebook import Codebook
from tqvec.codec.splitmix import stream
from tqvec.errors import InputError
from tqvec.kernels import plain
from tqvec.kernels.background import ready
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.tables import RotationTables

_SPREADING = 2  # rounds before a matrix of bytes, so that no coordinate of a vector is much larger than others
_NO_MATRIX: dict[str, NDArray[Any]] = {"matrix": np.zeros((0, 0), np.float32), "columns": np.zeros((0, 0), np.float32)}
_NO_WEIGHTS: dict[str, NDArray[Any]] = {
    "weights": np.zeros((0, 0), np.int8),
    "weight_steps": np.zeros(0, np.float32),
    "weight_offsets": np.zeros(0, np.int32),
}
_BAND_ROUND = 64  # first round inside bands; those before belong to rotations, projections and calibrations


def blocks(d: int) -> list[tuple[int, int]]:
    """Return the start and size of each Hadamard block: the binary digits of `d`, largest first."""
    out = []
    start = 0
    while start < d:
        size = 1 << ((d - start).bit_length() - 1)
        out.append((start, size))
        start += size
    return out


def rounds(d: int) -> int:
    """Return the number of rounds that bring the worst input close to a Haar rotation."""
    return 3 if d >= 128 else 4


def hadamard(d: int, seed: int, first: int = 0, n_rounds: int | None = None) -> RotationTables:
    """Return the tables of the structured rotation, whose permutations and signs come from SplitMix64.

    Round `first` and the following have their own random bits, so rotations that share no round are independent.
    There are ``rounds(d)`` of them, if `n_rounds` is not given.
    """
    layout = blocks(d)
    factor = np.concatenate([np.full(size, 1.0 / math.sqrt(size)) for _, size in layout])
    perm = []
    mult = []
    for r in range(first, first + (n_rounds or rounds(d))):
        perm.append(np.argsort(stream(seed, 2 * r, d), kind="stable"))
        negative = stream(seed, 2 * r + 1, d) >> np.uint64(63)
        mult.append(np.where(negative == 1, -factor, factor))
    return RotationTables(
        perm=np.array(perm, np.int32),
        mult=np.array(mult, np.float32),
        blocks=np.array(layout, np.int64),
        **_NO_MATRIX,
        **_NO_WEIGHTS,
    )


def bandwise(bands: tuple[Band, ...], seed: int) -> RotationTables:
    """Return the tables of structured rotations inside each band: no coordinate leaves its band."""
    n_rounds = max(rounds(band.stop - band.start) for band in bands)
    parts = [
        hadamard(band.stop - band.start, seed, _BAND_ROUND + n_rounds * i, n_rounds) for i, band in enumerate(bands)
    ]
    firsts = [band.start for band in bands]
    return RotationTables(
        perm=np.hstack([part.perm + np.int32(first) for part, first in zip(parts, firsts, strict=True)]),
        mult=np.hstack([part.mult for part in parts]),
        blocks=np.vstack([part.blocks + np.array([first, 0]) for part, first in zip(parts, firsts, strict=True)]),
        **_NO_MATRIX,
        **_NO_WEIGHTS,
    )


def bandwise_std(bands: tuple[Band, ...]) -> Floats:
    """Return the standard deviations that ``rotation="bandwise"`` takes the coordinates of bands to have, (n_bands,).

    They grow as 2^(width / 4); their mean square over all coordinates is 1.
    """
    std = np.sqrt(np.sqrt([2.0**band.nbits for band in bands]))
    sizes = np.array([band.stop - band.start for band in bands])
    normalized: Floats = (std / np.sqrt(np.sum(sizes * np.square(std)) / sizes.sum())).astype(np.float32)
    return normalized


def haar(d: int, seed: int) -> RotationTables:
    """Return the tables of a Haar-distributed rotation.

    It is the Q of the QR decomposition of a Gaussian matrix, its columns times the signs of R's diagonal.
    """
    gaussian = np.random.default_rng(seed).standard_normal((d, d))
    q, r = np.linalg.qr(gaussian)
    return dense(np.ascontiguousarray(q * np.sign(np.diag(r)), np.float32))


def dense(matrix: Floats) -> RotationTables:
    """Return the tables of a (d, d) matrix."""
    d = matrix.shape[0]
    no_rounds = np.zeros((0, d), np.int32), np.zeros((0, d), np.float32), np.zeros((0, 2), np.int64)
    return RotationTables(*no_rounds, matrix, np.ascontiguousarray(matrix.T), **_NO_WEIGHTS)


def spread(d: int) -> RotationTables:
    """Return the tables of the rotation before a matrix of bytes; no seed moves it, so a calibration fits any codec."""
    return hadamard(d, 0, 0, _SPREADING)


def weigh(weights: NDArray[np.int8], row_steps: Floats) -> RotationTables:
    """Return the tables of `spread`, and after it a (d, d) matrix in bytes whose rows have steps (d,)."""
    d = weights.shape[0]
    lines = -(-d // 64)  # an odd number for each row: then 16 rows side by side share no set of a cache
    whole = np.zeros((-(-d // 16) * 16, (lines | 1) * 64), np.int8)
    whole[:d, :d] = weights
    return spread(d)._replace(
        weights=whole,
        weight_steps=np.concatenate([row_steps, np.zeros(whole.shape[0] - d, np.float32)]),
        weight_offsets=-128 * whole.sum(axis=1, dtype=np.int32),
    )


def rotate(x: Floats, tables: RotationTables) -> Floats:
    """Return rows of `x`, (n, d) float32, in another basis.

    Raises
    ------
    InputError
        `x` has another shape or type.
    """
    d = tables.perm.shape[1]
    if x.ndim != 2 or x.shape[1] != d or x.dtype != np.float32 or not x.flags.c_contiguous:
        raise InputError(f"x must be C-contiguous float32 of shape (n, {d}), got {x.dtype} of shape {x.shape}")
    out = np.empty_like(x)
    if ready("decode"):
        kernel("rotate_rows")(x, tables, 0, x.shape[0], out)
    else:
        plain.rotate_rows(x, tables, out)
    return out


def compose(first: RotationTables, second: RotationTables) -> RotationTables:
    """Return the tables of `second` after `first`; neither has a matrix of bytes."""
    if first.matrix.size:
        columns = rotate(first.columns, second)
        return first._replace(matrix=np.ascontiguousarray(columns.T), columns=columns)
    perm, mult = np.concatenate([first.perm, second.perm]), np.concatenate([first.mult, second.mult])
    return second._replace(perm=perm, mult=mult, blocks=first.blocks)


ROTATIONS: dict[str, Callable[[int, int], RotationTables]] = {"hadamard": hadamard, "haar": haar}


def random_rotation(kind: str, bands: tuple[Band, ...], seed: int) -> tuple[RotationTables, Floats]:
    """Return the tables of a kind of rotation, and the standard deviations that it leaves to bands, (n_bands,)."""
    if kind == "bandwise":
        return bandwise(bands, seed), bandwise_std(bands)
    return ROTATIONS[kind](bands[-1].stop, seed), np.ones(len(bands), np.float32)


class Transform(Fixed):
    """The map of vectors to the coordinates that a codebook codes: a rotation.

    `tqvec.codec.calibration.CalibratedTransform` subtracts a centre first. Methods take checked float32 rows.

    Attributes
    ----------
    name : {"hadamard", "haar", "bandwise", "calibrated"}
    """

    _fixed = frozenset({"name", "_tables", "_codebook", "_centre", "_band_std"})

    def __init__(
        self,
        name: str,
        tables: RotationTables,
        codebook: Codebook,
        centre: Floats | None = None,
        band_std: Floats | None = None,
    ) -> None:
        self.name, self._tables, self._codebook = name, tables, codebook
        self._centre = np.zeros(codebook.d, np.float32) if centre is None else centre
        self._band_std = np.ones(len(codebook.bands), np.float32) if band_std is None else band_std

    @property
    def tables(self) -> RotationTables:
        """The rotation; its arrays can't be written to."""
        return protect_fields(self._tables)

    @property
    def centre(self) -> Floats:
        """Subtracted from vectors, (d,); 0 without a calibration."""
        return protect(self._centre)

    @property
    def band_std(self) -> Floats:
        """Factor of the levels of each band, (n_bands,); 1 unless the codec or its calibration has others."""
        return protect(self._band_std)

    @property
    def learned(self) -> tuple[NDArray[Any], ...]:
        """What codes depend on beside the rotation and the codebook."""
        return ()

    def rotate(self, x: Floats) -> Floats:
        """Rotate rows (n, d) into the basis of the codes; the centre is not subtracted."""
        return rotate(x, self._tables)

    def centre_products(self, queries: Floats) -> Doubles:
        """Return the product of each query with the centre, (nq,): the part of a score that no code holds."""
        return np.zeros(queries.shape[0])

    def subtract_centre(self, rows: Floats, unit: bool) -> Floats:
        """Return rows, or their directions if `unit`, less the centre.

        Without a centre these are the rows: a row and its direction have the same codes.
        """
        return rows

    def code_lengths(self, lengths: Doubles, unit: bool) -> Doubles:
        """Return the lengths of vectors to keep, given the `lengths` of the rows of `subtract_centre`."""
        return (lengths > 0).astype(np.float64) if unit else lengths

    def decoded_energy(self, data: Bytes, energy: Doubles, threads: int) -> Doubles:
        """Return the squared lengths of the vectors that codes stand for, given the sums of their squared levels."""
        return energy

    @property
    def shares(self) -> Doubles:
        """Part of the expected squared length of a vector that lies in each band, (n_bands,)."""
        sizes = np.array([(band.stop - band.start) / self._codebook.d for band in self._codebook.bands])
        return sizes * np.square(self._band_std, dtype=np.float64)

    @property
    def band_factors(self) -> Doubles:
        """Squared length of the rows of the matrix that belong to each band, (n_bands,): 1 for a rotation."""
        return np.ones(len(self._codebook.bands))

    @property
    def distortion(self) -> float:
        """Expected squared error of a decoded vector whose squared distance to the centre is 1."""
        by_band = self._codebook.distortions * np.square(self._band_std, dtype=np.float64)
        return mean(self._codebook.d, self._codebook.bands, by_band.tolist())

    def decode_factors(self) -> tuple[np.float32, Floats]:
        """Return the factors that turn unbiased vectors into least-squares ones: of the scales, and (n_bands, 1)."""
        return np.float32(1.0 - self.distortion), np.ones((len(self._codebook.bands), 1), np.float32)

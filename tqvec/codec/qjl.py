"""QJL, the second stage of Algorithm 2 (arXiv 2504.19874): one bit per coordinate for the residual of the first stage.

The residual r is stored as γ = ‖x‖‖r‖ and z = sign(S r), and decoded as factor · γ · Sᵀz. S is drawn for the rotated
basis, from random streams of its own: it must be independent of the rotation, or the correction recovers only a part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tqvec import _validate
from tqvec._types import ScaleName
from tqvec._vectors import Vectors
from tqvec.codec import transforms
from tqvec.codec.bands import Band, code_bytes
from tqvec.codec.codebooks import scalar
from tqvec.codec.codebooks.codebook import Codebook, Term
from tqvec.codec.codes import Codes
from tqvec.codec.encoded import scales_as_float32
from tqvec.codec.scales import SCALES
from tqvec.codec.splitmix import stream
from tqvec.errors import InputError
from tqvec.kernels.arguments import EncodedProducts
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.rows import NS_TO_ENCODE
from tqvec.kernels.tables import RotationTables
from tqvec.kernels.threads.helpers import check_memory, share

MAX_GAUSSIAN_D = 8192  # 256 MiB of float32
FIRST_ROUND = 4  # of the structured S; the rotation's own rounds come before
STREAM = 2 * FIRST_ROUND  # of random words that no rotation draws from


class Projection(NamedTuple):
    """The matrix S, and the factor and the error of its estimate of a residual.

    Attributes
    ----------
    tables : RotationTables
        S, up to a positive factor.
    factor : float
        ``factor · ‖r‖ · Sᵀ sign(S r)`` with this S is r on average.
    error : float
        Expected squared error of that for ‖r‖ = 1.
    """

    tables: RotationTables
    factor: float
    error: float


def gaussian(d: int, seed: int) -> Projection:
    """Draw S with independent N(0, 1) entries, as in the paper; its bits depend on NumPy's generator.

    The factor is √(π/2)/d (Definition 1). The estimate has length² π/(2d²)·‖Sᵀz‖², and E‖Sᵀz‖² = (d−1)·d across r
    plus E(Σ|⟨s_i, r⟩|)² = d + d(d−1)·2/π along it: π/2 + 1 − 1/d in all. Its product with r is 1 on average, so the
    squared error is π/2 − 1/d.

    Raises
    ------
    InputError
        `d` is above `MAX_GAUSSIAN_D`.
    """
    if d > MAX_GAUSSIAN_D:
        raise InputError(f"d must be at most {MAX_GAUSSIAN_D} with qjl='gaussian', got {d}; use qjl='hadamard'")
    matrix = np.random.default_rng(stream(seed, STREAM, 4)).standard_normal((d, d), np.float32)
    factor, error = math.sqrt(math.pi / 2) / d, math.pi / 2 - 1 / d
    return Projection(tables=transforms.dense(matrix), factor=factor, error=error)


def hadamard(d: int, seed: int) -> Projection:
    """Draw S = √d times a structured rotation O; the tables hold O, and the factor is for it.

    For a Haar rotation each row o of O is uniform on the sphere, so on average sign⟨o, r⟩·o is m·r for ‖r‖ = 1, where
    m = E|t| for a coordinate t of a random unit vector. All d rows: E Oᵀz = d·m·r, so the factor is 1/(d·m). m is the
    positive level of the codebook of 1 bit, Γ(d/2)/(√π Γ((d+1)/2)) = √(2/(πd))·(1 + 1/(4d) + …). For √d·O the factor
    is therefore √(π/2)/d·(1 − 1/(4d) + …), a little below the Gaussian one. ‖Oᵀz‖² = d exactly, so the squared error
    is 1/(d·m²) − 1 (→ π/2 − 1), about a third of the Gaussian one.
    """
    level = float(scalar.centroids(d, 1)[1])
    tables = transforms.hadamard(d, seed, FIRST_ROUND)
    return Projection(tables=tables, factor=1 / (d * level), error=1 / (d * level * level) - 1)


PROJECTIONS: dict[str, Callable[[int, int], Projection]] = {"gaussian": gaussian, "hadamard": hadamard}


class QjlCodebook(Codebook):
    """The codebook of mode "prod": scalar levels of one bit less, and a QJL bit for the residual.

    Attributes
    ----------
    projection : Projection
    """

    encoder = "encode_prod_rows"

    def __init__(self, d: int, bands: tuple[Band, ...], rotation: RotationTables, projection: Projection) -> None:
        first = scalar.quantizer_tables(d, tuple(band._replace(nbits=band.nbits - 1) for band in bands))
        by_code = np.repeat(first.centroids[:, :128], 2, axis=1)  # the first stage's code is all bits but the last
        tables = first._replace(bands=np.array(bands, np.int64), centroids=by_code)
        super().__init__(d, bands, tables=tables, encoder_tables=(first, projection.tables, tables.bands))
        self.projection = projection
        self.drawn = (projection.tables.matrix,)
        self._basis = transforms.compose(rotation, projection.tables)
        self._signs = tables._replace(centroids=np.tile(np.array([-1, 1], np.float32), (len(bands), 128)))

    def distortion(self, nbits: int) -> float:
        """Return the expected squared error of a unit vector: that of the first stage times that of the estimate."""
        return scalar.distortion(self.d, nbits - 1) * self.projection.error

    def entropy(self, nbits: int) -> float:
        """Return the entropy of a code in bits; the QJL bit has one."""
        return 1 + scalar.entropy(self.d, nbits - 1)

    def terms(self, codes: Codes, rotation: RotationTables) -> list[Term]:
        """Return the first stage, and the estimate of the residual."""
        with np.errstate(over="ignore"):
            scale = np.asarray(codes.gamma) * np.float32(self.projection.factor)
        return [*super().terms(codes, rotation), Term(scale, self._basis, self._signs)]

    def encode(self, vectors: Vectors, rotation: RotationTables, threads: int) -> Codes:
        """Encode vectors: codes with QJL bits, lengths, and the lengths of the residuals."""
        vectors.require(self.d)
        x, n = vectors.checked(), len(vectors)
        data, norm, residual = np.empty((n, code_bytes(self.bands)), np.uint8), np.empty(n), np.empty(n)
        sharing = share(threads, n * self.d * NS_TO_ENCODE)
        tables = rotation, *self.encoder_tables
        check_memory(kernel(f"share_{self.encoder}")(*sharing, x, tables, EncodedProducts(data, norm, residual)))
        scale, gamma = (scales_as_float32(each, vectors.names) for each in (norm, norm * residual))
        return Codes(data, scale, gamma)


def check_options(mode: str, codebook: str, scale: object, qjl: object) -> tuple[ScaleName, str | None]:
    """Return the scale rule and the projection of a mode, or raise for those that it does not have."""
    projection = _validate.choice(qjl, "qjl", PROJECTIONS)
    if mode == "prod":
        _validate.choice(codebook, "codebook of mode 'prod'", ["scalar"])
        return _validate.choice("norm" if scale is None else scale, "scale of mode 'prod'", ["norm"]), projection
    if projection != "gaussian":
        raise InputError(f"qjl belongs to mode='prod', got qjl={qjl!r} with mode={mode!r}")
    return _validate.choice("unbiased" if scale is None else scale, "scale", SCALES), None

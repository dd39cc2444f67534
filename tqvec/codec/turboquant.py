"""TurboQuant: the codec's public face."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _threads, _validate
from tqvec._config import num_threads
from tqvec._types import Floats
from tqvec.codec.bands import Width, code_bytes, mean, parse, quantizer_tables
from tqvec.codec.calibration import Calibration, distortions
from tqvec.codec.codebooks import scalar as frozen
from tqvec.codec.codebooks import trellis
from tqvec.codec.codes import Codes
from tqvec.codec.qjl import PROJECTIONS, SecondStage, stages
from tqvec.codec.scales import SCALES
from tqvec.codec.transforms import ROTATIONS, dense
from tqvec.errors import InputError
from tqvec.kernels.arguments import EncodedProducts, EncodedRows
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.tables import QuantizerTables, RotationTables, TrellisTables

MAX_D = 65536
CODEC_VERSION = 1  # part of the fingerprint; grows when the same input would give other bytes
_GRAIN = 256  # rows a thread takes at least


class Encoded(NamedTuple):
    """Packed codes and the three sums that every scale rule is made of (see `tqvec.codec.scales`)."""

    data: NDArray[np.uint8]
    norm: NDArray[np.float64]
    dot: NDArray[np.float64]
    energy: NDArray[np.float64]


class Term(NamedTuple):
    """A summand of coded vectors: ``scale[i] · basisᵀ (value of each code of row i)``."""

    scale: Floats
    basis: RotationTables
    tables: QuantizerTables


class TurboQuant:
    """Compress vectors to `nbits` bits a coordinate, with no training (TurboQuant, arXiv 2504.19874).

    A vector is normalised, rotated at random, and each coordinate replaced by the index of the nearest centroid of the
    codebook computed for the density that a coordinate then has. One float32 scale a vector is kept beside the codes.

    Parameters
    ----------
    d : int
        Dimension of the vectors, 1 to 65,536; any number, nothing is padded.
    nbits : int, float or sequence of (int, int)
        Bits a coordinate, 1 to 8. 2.5 and 3.5: a quarter of the coordinates gets one bit more than 2 or 3, which makes
        2.5 and 3.5 bits at d = 128 with the scale counted. Or bands, as (coordinates, width) pairs: at most 8, whose
        coordinates add up to `d`.
    mode : {"mse", "prod"}
        Algorithm 1 of the paper, or Algorithm 2: codes of one bit less, and the bit for the signs of a projection of
        what they leave over (QJL). ``"prod"`` is unbiased too, but worse than ``"mse"`` with the unbiased scale
        (docs/explanation/prod.md); it is here to compare with.
    codebook : {"scalar", "trellis"}
        ``"scalar"``: Lloyd-Max levels of the exact Beta density. ``"trellis"``: levels that depend on the codes of the
        coordinates before; .78 (1 bit) to .57 (4 bits) of the error at equal bytes, but slower to encode. For widths
        up to 5 bits and bands of at least 16 coordinates; at 1 bit it takes 20 to be better than scalar
        (docs/explanation/trellis.md).
    rotation : {"hadamard", "haar"}
        ``"hadamard"`` costs O(d log d) and has the same bits everywhere; ``"haar"`` is the dense reference, O(d²).
    seed : int
        Of the rotation, 0 to 2^64 − 1. Codes of different seeds can't be mixed. Don't draw data with it.
    scale : {"unbiased", "least_squares", "norm"}, optional
        What `Codes.scale` holds. ``"unbiased"`` makes `inner_product` unbiased; `decode` then shrinks by the expected
        cos²θ, 1 − D; at d = 128 its error is 0.4 % (1 bit) to 0.06 % (4 bits) above that of ``"least_squares"``.
        ``"least_squares"`` is for codes that are only decoded; ``"norm"`` is the paper's. Default: ``"unbiased"``; mode
        ``"prod"`` has ``"norm"`` alone.
    qjl : {"gaussian", "hadamard"}
        S of mode ``"prod"``. ``"gaussian"`` is the paper's dense matrix, for d up to 8,192; ``"hadamard"`` is a second,
        independent structured rotation: faster, with the same bits everywhere, and a third of the variance at 1 bit.

    Attributes
    ----------
    bands : tuple of Band
        Runs of rotated coordinates and their widths; one, unless `nbits` says otherwise.
    calibration : Calibration or None
        What the codec has learned from data (`calibrated`).
    centre : (d,) float32
        Subtracted from vectors; 0 without a calibration.
    spreads : (n_bands,) float32
        Factor of the levels of each band; 1 without a calibration.
    rotation_tables, quantizer : RotationTables, QuantizerTables
        Rotation and codebooks as the kernels take them; in mode ``"prod"`` the first stage's centroid of each code.

    Raises
    ------
    InputError
        An argument is out of its range.

    Examples
    --------
    >>> import numpy as np, tqvec
    >>> x = np.random.default_rng(1).standard_normal((1000, 100)).astype(np.float32)
    >>> tq = tqvec.TurboQuant(100, nbits=4)
    >>> codes = tq.encode(x)
    >>> codes.data.shape, tq.code_size
    ((1000, 50), 54)
    >>> scores = tq.inner_product(x[:2], codes)
    >>> scores.shape
    (2, 1000)
    """

    def __init__(
        self,
        d: int,
        nbits: Width = 4,
        mode: str = "mse",
        codebook: str = "scalar",
        rotation: str = "hadamard",
        seed: int = 0,
        scale: str | None = None,
        qjl: str = "gaussian",
    ):
        self.d = _validate.integer(d, "d", 1, MAX_D)
        self.nbits, self.bands = parse(nbits, self.d)
        self.mode = _validate.choice(mode, "mode", ["mse", "prod"])
        self.codebook = _validate.choice(codebook, "codebook", ["scalar", "trellis"])
        self.rotation = _validate.choice(rotation, "rotation", ROTATIONS)
        self.seed = _validate.integer(seed, "seed", 0, 2**64 - 1)
        self.scale, self.qjl = _options(self.mode, self.codebook, scale, qjl)
        self.rotation_tables = ROTATIONS[self.rotation](self.d, self.seed)
        self.calibration: Calibration | None = None
        self.spreads = np.ones(len(self.bands), np.float32)
        self.centre = np.zeros(self.d, np.float32)
        self._second = None
        self._trellis: tuple[TrellisTables, ...] = ()
        if self.qjl is not None:
            projection = PROJECTIONS[self.qjl](self.d, self.seed)
            self.quantizer, self._second = stages(self.d, self.bands, self.rotation_tables, projection)
        else:
            self._set_tables()

    def __repr__(self) -> str:
        kind = "codebook='trellis', " if self.codebook == "trellis" else ""
        if self.qjl is not None:
            kind = f"mode='prod', qjl={self.qjl!r}, "
        return f"TurboQuant(d={self.d}, nbits={self.nbits}, {kind}rotation={self.rotation!r}, seed={self.seed})"

    def _set_tables(self) -> None:
        """Tables of mode ``"mse"``, for the bands and spreads of now."""
        if self.codebook == "trellis":
            trellis.check(self.bands)
            self.quantizer = trellis.quantizer_tables(self.d, self.bands, self.spreads)
            self._trellis = trellis.encoder_tables(self.d, self.bands, self.spreads)
        else:
            self.quantizer = quantizer_tables(self.d, self.bands, self.spreads)

    def calibrated(self, calibration: Calibration) -> TurboQuant:
        """A codec of the same codebook and seed, with the centre, rotation and bands of a calibration.

        Raises
        ------
        InputError
            The calibration is not for this dimension or codebook, or the codec has mode ``"prod"`` or another scale
            rule than ``"unbiased"``.
        """
        if self.scale != "unbiased":
            raise InputError(f"only a codec with scale='unbiased' can be calibrated, not {self!r}")
        if not isinstance(calibration, Calibration):
            raise InputError(f"calibration must be a Calibration, got {type(calibration).__name__}")
        calibration.check(self.d)
        other = copy.copy(self)
        other.rotation = "calibrated"
        other.calibration, other.bands = calibration, calibration.bands
        other.centre, other.spreads = calibration.centre, calibration.spreads
        other.rotation_tables = dense(calibration.matrix)
        other._set_tables()
        return other

    @property
    def code_size(self) -> int:
        """Bytes a vector: packed codes, the float32 scale and, in mode ``"prod"``, the float32 gamma."""
        return code_bytes(self.bands) + (4 if self._second is None else 8)

    @property
    def distortion(self) -> float:
        """Expected squared error D of a decoded unit vector with the paper's scale; the others do slightly better.

        Of a calibrated codec: of a vector like those of the sample, as a part of its squared distance to the centre.
        Mode ``"prod"``: D of the first stage times π/2 − 1/d, or about π/2 − 1 for ``qjl="hadamard"``. That is what
        being unbiased costs: the first stage alone would decode with less.
        """
        if self._second is not None:
            first = mean(self.d, self.bands, [frozen.distortion(self.d, band.nbits - 1) for band in self.bands])
            return first * self._second.projection.error
        table = distortions(self.d, self.codebook)
        own = np.array([table[band.nbits] for band in self.bands])
        if self.calibration is not None:
            return float(1 - np.sum(self.calibration.shares(table) * (1 - own)))
        return mean(self.d, self.bands, own.tolist())

    @property
    def entropy(self) -> float:
        """Mean entropy of a code in bits: what an entropy coder could reach per coordinate."""
        if self.codebook == "trellis":
            return mean(self.d, self.bands, [trellis.entropy(band.nbits) for band in self.bands])
        if self._second is None:
            return mean(self.d, self.bands, [frozen.entropy(self.d, band.nbits) for band in self.bands])
        return 1 + mean(self.d, self.bands, [frozen.entropy(self.d, band.nbits - 1) for band in self.bands])

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the bytes of the codes. Equal fingerprints: codes can be mixed."""
        header = {
            "version": CODEC_VERSION,
            "d": self.d,
            "bands": self.bands,
            "mode": self.mode,
            "codebook": self.codebook,
            "rotation": self.rotation,
            "seed": self.seed,
        }
        if self._second is not None:
            header["qjl"] = self.qjl
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        digest.update(self.quantizer.centroids.astype("<f4").tobytes())
        digest.update(self.rotation_tables.matrix.astype("<f4").tobytes())
        if self.calibration is not None:
            digest.update(self.centre.astype("<f4").tobytes())
        if self._second is not None:
            digest.update(self._second.projection.tables.matrix.astype("<f4").tobytes())
        return digest.hexdigest()[:32]

    def encode(self, x: ArrayLike, threads: int | None = None) -> Codes:
        """Compress vectors.

        The bytes depend on the vector and the codec alone: not on the batch, the threads or the instruction set.

        Parameters
        ----------
        x : (n, d) or (d,) float16, float32, float64 or bfloat16
            Vectors of any length; a zero vector gets scale 0.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.

        Returns
        -------
        Codes

        Raises
        ------
        InputError
            Wrong type or shape; NaN, Inf or a length beyond float32, with the row.
        """
        if self._second is not None:
            return self._encode_prod(_validate.vectors(x, self.d, "x"), self._second, num_threads(threads))
        encoded = self.encode_sums(x, threads)
        return Codes(encoded.data, self.stored_scale(encoded))

    def _encode_prod(self, x: Floats, second: SecondStage, threads: int) -> Codes:
        """Codes with QJL bits, lengths, and those of the residuals."""
        n = x.shape[0]
        data, norm, residual = np.empty((n, code_bytes(self.bands)), np.uint8), np.empty(n), np.empty(n)
        tables = (self.rotation_tables, second.encoder, second.projection.tables, self.quantizer.bands)
        encode, out = kernel("encode_prod_rows"), EncodedProducts(data, norm, residual)

        def task(part: int, start: int, stop: int) -> None:
            encode(x, *tables, start, stop, out)

        _threads.over_rows(task, n, _GRAIN, threads)
        return Codes(data, _as_float32(norm), _as_float32(norm * residual))

    def encode_sums(self, x: ArrayLike, threads: int | None = None, unit: bool = False) -> Encoded:
        """Codes of vectors, with the sums that the scale rules need; arguments and errors as in `encode`.

        Mode ``"mse"`` only. With `unit`, a vector stands for its direction: its length counts as 1.
        """
        rows = _validate.shaped(x, self.d, "x")
        if self.calibration is not None:
            rows = self._residuals(rows, unit)
        n = rows.shape[0]
        workers = num_threads(threads)
        out = Encoded(np.empty((n, code_bytes(self.bands)), np.uint8), np.empty(n), np.empty(n), np.empty(n))
        encode, tables = self._encoder()
        arrays = EncodedRows(*out)
        good = np.full(workers, n)  # rows before the first bad one, as each part found it

        def task(part: int, start: int, stop: int) -> None:
            end = encode(rows, self.rotation_tables, *tables, start, stop, arrays)
            good[part] = end if end < stop else n

        _threads.over_rows(task, n, _GRAIN, workers)
        if good.min() < n:
            raise _validate.bad_row(x, int(good.min()), "x")
        if unit and self.calibration is None:
            return out._replace(norm=(out.norm > 0).astype(np.float64))
        return out

    def _residuals(self, rows: Floats, unit: bool) -> Floats:
        """Rows, or their directions, less the centre; what float32 can't hold becomes infinite or NaN."""
        if unit:
            directions = np.empty_like(rows)
            kernel("unit_rows")(rows, 0, rows.shape[0], directions)
            rows = directions
        with np.errstate(over="ignore", invalid="ignore"):
            residuals: Floats = rows - self.centre
        return residuals

    def centre_products(self, queries: Floats) -> NDArray[np.float64]:
        """Product of each checked query with the centre, (nq,): what a score lacks that is made of codes alone."""
        if self.calibration is None:
            return np.zeros(queries.shape[0])
        return np.einsum("ij,j->i", queries, self.centre, dtype=np.float64)

    def _encoder(self) -> tuple[Any, tuple[Any, ...]]:
        """Kernel of mode ``"mse"``, and the tables that it takes after the rotation."""
        if self.codebook == "trellis":
            return kernel("encode_trellis_rows"), (self.quantizer.bands, self._trellis)
        return kernel("encode_rows"), (self.quantizer,)

    def stored_scale(self, encoded: Encoded) -> Floats:
        """Scales by this codec's rule, as float32."""
        return _as_float32(SCALES[self.scale](encoded.norm, encoded.dot, encoded.energy))

    def tangents(self, encoded: Encoded, threads: int | None = None) -> NDArray[np.float64]:
        """tan θ of each vector, (n,), with θ the angle to what its codes stand for; of zero vectors not finite.

        cos θ = ⟨u, ũ⟩/‖ũ‖. A calibration multiplies the axes of a band, and its levels, by f: what codes stand for has
        f² times the level on an axis, so of the energy f²c² of a coordinate only f⁴c² counts.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.sqrt(np.maximum(self._energy(encoded, threads) / np.square(encoded.dot) - 1, 0.0))

    def _energy(self, encoded: Encoded, threads: int | None) -> NDArray[np.float64]:
        """‖ũ‖² of each vector: the sum of squared levels less the part of it that is too much, which is small."""
        if self.calibration is None:
            return encoded.energy
        tables = self.quantizer._replace(centroids=np.square(self.quantizer.centroids))
        excess = np.repeat(1 - self.axis_factors(), [band.stop - band.start for band in self.bands])
        query = np.zeros((1, self.d), np.float32)
        query[0, : excess.size] = excess
        n = encoded.data.shape[0]
        ones, out = np.ones(n, np.float32), np.empty((1, n), np.float32)
        score = kernel("adc_rows")

        def task(part: int, start: int, stop: int) -> None:
            score(encoded.data, ones, tables, SPREAD, query, start, stop, out)

        _threads.over_rows(task, n, _GRAIN, num_threads(threads))
        return encoded.energy - out[0]

    def axis_factors(self) -> NDArray[np.float64]:
        """f² of each band, (n_bands,): the squared length of the rows of its matrix; 1 without a calibration."""
        if self.calibration is None:
            return np.ones(len(self.bands))
        table = distortions(self.d, self.codebook)
        kept = np.array([1 - table[band.nbits] for band in self.bands])
        return kept.min() / kept

    def decode(self, codes: Codes, threads: int | None = None) -> Floats:
        """Reconstruct vectors with the least-squares scale (see `scale` above); in mode ``"prod"``, without bias.

        Parameters
        ----------
        codes : Codes
        threads : int, optional

        Returns
        -------
        (n, d) float32
        """
        return self._vectors(codes, *self._shrinkage(), threads)

    def decode_unbiased(self, codes: Codes, threads: int | None = None) -> Floats:
        """Vectors whose products with queries are what `inner_product` says: unbiased, but longer than decoded ones.

        Arguments and result are those of `decode`.
        """
        return self._vectors(codes, np.float32(1), np.ones((len(self.bands), 1), np.float32), threads)

    def _vectors(self, codes: Codes, shrink: np.float32, by_band: Floats, threads: int | None) -> Floats:
        """Sum of the terms of coded vectors, with factors for all scales and for the levels of each band."""
        self._check(codes)
        n, workers = len(codes), num_threads(threads)
        decode = kernel("decode_rows")

        def decoded(term: Term) -> Floats:
            scale, out = term.scale * shrink, np.empty((n, self.d), np.float32)
            tables = term.tables._replace(centroids=term.tables.centroids * by_band)

            def task(part: int, start: int, stop: int) -> None:
                decode(codes.data, scale, term.basis, tables, SPREAD, start, stop, out)

            _threads.over_rows(task, n, _GRAIN, workers)
            return out

        return _sum(decoded(term) for term in self._terms(codes)) + self.centre

    def _shrinkage(self) -> tuple[np.float32, Floats]:
        """What decoding multiplies scales with, and the levels of each band, (n_bands, 1)."""
        if self.calibration is None:
            shrink = np.float32(1.0 - self.distortion if self.scale == "unbiased" else 1.0)
            return shrink, np.ones((len(self.bands), 1), np.float32)
        table = distortions(self.d, self.codebook)
        by_band = np.array([[1 - table[band.nbits]] for band in self.bands], np.float32)
        return np.float32(self.calibration.shares(table).sum()), by_band

    def inner_product(self, queries: ArrayLike, codes: Codes, threads: int | None = None) -> Floats:
        """Inner products of queries with compressed vectors, computed on the codes in float32.

        Unbiased under the random rotation with the default scale rule; sums of float32 terms, within
        10^-5 Σ|terms|. A product beyond float32 becomes infinite.

        Parameters
        ----------
        queries : (nq, d) or (d,) float
        codes : Codes
        threads : int, optional

        Returns
        -------
        (nq, n) float32
        """
        self._check(codes)
        rows, workers = _validate.vectors(queries, self.d, "queries"), num_threads(threads)
        score = kernel("adc_rows")

        def scores(term: Term) -> Floats:
            mapped, out = _mapped(rows, term.basis), np.empty((rows.shape[0], len(codes)), np.float32)

            def task(part: int, start: int, stop: int) -> None:
                score(codes.data, term.scale, term.tables, SPREAD, mapped, start, stop, out)

            _threads.over_rows(task, len(codes), _GRAIN, workers)
            return out

        return (
            _sum(scores(term) for term in self._terms(codes)) + self.centre_products(rows).astype(np.float32)[:, None]
        )

    def _terms(self, codes: Codes) -> Iterator[Term]:
        """What vectors are the sum of: their centroids and, in mode ``"prod"``, the estimate of what those leave."""
        yield Term(codes.scale, self.rotation_tables, self.quantizer)
        if self._second is not None and codes.gamma is not None:
            with np.errstate(over="ignore"):
                scale = codes.gamma * np.float32(self._second.projection.factor)
            yield Term(scale, self._second.both, self._second.signs)

    def rotate(self, x: Floats) -> Floats:
        """Rotate checked (n, d) float32 rows into the basis that codes live in."""
        return _mapped(x, self.rotation_tables)

    def _check(self, codes: Codes) -> None:
        if not isinstance(codes, Codes):
            raise InputError(f"codes must be Codes, as encode returns them, got {type(codes).__name__}")
        n = np.shape(codes.data)[0] if np.ndim(codes.data) else 0
        floats = f"({n},) float32"
        wanted = {
            "data": f"({n}, {code_bytes(self.bands)}) uint8",
            "scale": floats,
            "gamma": "None" if self._second is None else floats,
        }
        for name, kind in wanted.items():
            if (found := _kind(getattr(codes, name))) != kind:
                raise InputError(f"codes.{name} must be {kind} for {self!r}, got {found}")


def _options(mode: str, codebook: str, scale: object, qjl: object) -> tuple[str, str | None]:
    """Scale rule and S of a mode, or an error for what it does not have."""
    projection = _validate.choice(qjl, "qjl", PROJECTIONS)
    if mode == "prod":
        _validate.choice(codebook, "codebook of mode 'prod'", ["scalar"])
        return _validate.choice("norm" if scale is None else scale, "scale of mode 'prod'", ["norm"]), projection
    if projection != "gaussian":
        raise InputError(f"qjl belongs to mode='prod', got qjl={qjl!r} with mode={mode!r}")
    return _validate.choice("unbiased" if scale is None else scale, "scale", SCALES), None


def _kind(array: object) -> str:
    """Shape and type of an array, as messages have it."""
    if isinstance(array, np.ndarray):
        return f"{array.shape} {array.dtype}"
    return "None" if array is None else type(array).__name__


def _as_float32(scale: NDArray[np.float64]) -> Floats:
    """Scales of rows of `x`, as they are stored."""
    with np.errstate(over="ignore"):
        stored: Floats = scale.astype(np.float32)
    if not np.isfinite(stored).all():
        row = int(np.flatnonzero(~np.isfinite(stored))[0])
        raise InputError(f"x row {row} is too long: its scale does not fit float32")
    return stored


def _mapped(x: Floats, basis: RotationTables) -> Floats:
    """Rows of `x` in another basis."""
    out = np.empty_like(x)
    kernel("rotate_rows")(x, basis, 0, x.shape[0], out)
    return out


def _sum(parts: Iterator[Floats]) -> Floats:
    """Sum, in the first part's memory; what float32 can't hold becomes infinite, as in a kernel."""
    total = next(parts)
    with np.errstate(over="ignore", invalid="ignore"):
        for part in parts:
            total += part
    return total

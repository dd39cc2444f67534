"""TurboQuant: the codec's public face."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tqvec import _threads, _validate
from tqvec._config import num_threads
from tqvec._types import CodebookName, Doubles, Floats, ScaleName
from tqvec._vectors import Vectors
from tqvec.codec.bands import Band, Width, code_bytes, mean, parse
from tqvec.codec.calibration import CalibratedTransform, Calibration
from tqvec.codec.codebooks.codebook import Codebook, Term
from tqvec.codec.codebooks.scalar import ScalarCodebook
from tqvec.codec.codebooks.trellis import TrellisCodebook
from tqvec.codec.codes import Codes, check_codes, join_codes
from tqvec.codec.encoded import Encoded
from tqvec.codec.qjl import PROJECTIONS, QjlCodebook
from tqvec.codec.scales import SCALES
from tqvec.codec.transforms import ROTATIONS, Transform, rotate
from tqvec.errors import InputError
from tqvec.kernels.arguments import EncodedRows
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.tables import QuantizerTables

MAX_D = 65536
CODEC_VERSION = 1  # part of the fingerprint; grows when the same input would give other bytes
_CODEBOOKS: dict[CodebookName, type[ScalarCodebook | TrellisCodebook]] = {
    "scalar": ScalarCodebook,
    "trellis": TrellisCodebook,
}


class TurboQuant:
    """A codec that compresses vectors to `nbits` bits per coordinate without training (TurboQuant, arXiv 2504.19874).

    A vector is normalised and rotated at random. Each coordinate is then replaced by the index of the nearest centroid
    of the codebook computed for the density of such coordinates. One float32 scale per vector is kept beside the codes.

    Parameters
    ----------
    d : int
        Dimension of the vectors, 1 to 65,536; nothing is padded.
    nbits : int, float or sequence of (int, int)
        Bits per coordinate, 1 to 8. With 2.5 and 3.5 a quarter of the coordinates gets one bit more than 2 or 3, which
        makes 2.5 and 3.5 bits at d = 128 with the scale counted. Or bands, as (coordinates, width) pairs: at most 8,
        whose coordinates add up to `d`.
    mode : {"mse", "prod"}
        Algorithm 1 of the paper, or Algorithm 2. In mode ``"prod"`` the codes use nbits − 1 bits; the last bit stores
        the signs of a random projection of the residual (QJL). It is unbiased too, but worse than ``"mse"`` with the
        unbiased scale (see the "Algorithm 2" page); it is here to compare with.
    codebook : {"scalar", "trellis"}
        ``"scalar"``: Lloyd-Max levels of the exact Beta density. ``"trellis"``: levels that depend on the codes of the
        coordinates before. At equal bytes it has 0.78 (1 bit) to 0.57 (4 bits) of the squared error, but is slower to
        encode. It takes widths up to 5 bits and bands of at least 16 coordinates; at 1 bit it is better than scalar
        from 20 coordinates on (see the "Trellis codebook" page).
    rotation : {"hadamard", "haar"}
        ``"hadamard"`` costs O(d log d) and has the same bits everywhere; ``"haar"`` is the dense reference, O(d²).
    seed : int
        Seed of the rotation, 0 to 2^64 − 1. Codes of different seeds can't be mixed. Don't draw data with it.
    scale : {"unbiased", "least_squares", "norm"}, optional
        Rule of `Codes.scale`. ``"unbiased"`` makes `inner_product` unbiased; `decode` then shrinks by the expected
        cos²θ, 1 − D; at d = 128 its error is 0.4 % (1 bit) to 0.06 % (4 bits) above that of ``"least_squares"``.
        ``"least_squares"`` is for codes that are only decoded; ``"norm"`` is the paper's. Default: ``"unbiased"``; mode
        ``"prod"`` has ``"norm"`` alone.
    qjl : {"gaussian", "hadamard"}
        Projection S of mode ``"prod"``. ``"gaussian"`` is the paper's dense matrix, for d up to 8,192. ``"hadamard"``
        is a second, independent structured rotation: faster, with the same bits everywhere, and a third of the variance
        at 1 bit.

    Attributes
    ----------
    d, nbits, mode, codebook, seed, qjl
        The arguments; `qjl` is None in mode ``"mse"``.
    scale_rule : str
        The `scale` above.
    calibration : Calibration or None
        Centre, axes and bands learned from data (`calibrated`).
    transform : Transform
        The rotation, and the centre if there is one.

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
        *,
        mode: Literal["mse", "prod"] = "mse",
        codebook: CodebookName = "scalar",
        rotation: Literal["hadamard", "haar"] = "hadamard",
        seed: int = 0,
        scale: ScaleName | None = None,
        qjl: Literal["gaussian", "hadamard"] = "gaussian",
    ):
        self.d = _validate.integer(d, "d", 1, MAX_D)
        self.nbits, bands = parse(nbits, self.d)
        self.mode = _validate.choice(mode, "mode", ["mse", "prod"])
        self.codebook = _validate.choice(codebook, "codebook", _CODEBOOKS)
        kind = _validate.choice(rotation, "rotation", ROTATIONS)
        self.seed = _validate.integer(seed, "seed", 0, 2**64 - 1)
        self.scale_rule, self.qjl = _options(self.mode, self.codebook, scale, qjl)
        self.calibration: Calibration | None = None
        tables = ROTATIONS[kind](self.d, self.seed)
        self._codebook: Codebook
        if self.qjl is None:
            self._codebook = _CODEBOOKS[self.codebook](self.d, bands)
        else:
            self._codebook = QjlCodebook(self.d, bands, tables, PROJECTIONS[self.qjl](self.d, self.seed))
        self.transform = Transform(kind, tables, self._codebook)

    def __repr__(self) -> str:
        kind = "codebook='trellis', " if self.codebook == "trellis" else ""
        if self.qjl is not None:
            kind = f"mode='prod', qjl={self.qjl!r}, "
        return f"TurboQuant(d={self.d}, nbits={self.nbits}, {kind}rotation={self.rotation!r}, seed={self.seed})"

    def calibrated(self, calibration: Calibration) -> TurboQuant:
        """Return a codec of the same codebook and seed, with the centre, axes and bands of a calibration.

        Raises
        ------
        InputError
            The calibration is not for this dimension or codebook, or the codec has mode ``"prod"`` or another scale
            rule than ``"unbiased"``.
        """
        if self.scale_rule != "unbiased":
            raise InputError(f"only a codec with scale='unbiased' can be calibrated, not {self!r}")
        if not isinstance(calibration, Calibration):
            raise InputError(f"calibration must be a Calibration, got {type(calibration).__name__}")
        calibration.check(self.d)
        other = copy.copy(self)
        other.calibration = calibration
        other._codebook = _CODEBOOKS[self.codebook](self.d, calibration.bands, calibration.band_std)
        other.transform = CalibratedTransform(calibration, other._codebook)
        return other

    @property
    def rotation(self) -> str:
        """The argument `rotation`, or ``"calibrated"``."""
        return self.transform.name

    @property
    def bands(self) -> tuple[Band, ...]:
        """Runs of rotated coordinates and their widths; one, unless `nbits` or a calibration says otherwise."""
        return self._codebook.bands

    @property
    def centre(self) -> Floats:
        """The point that is subtracted from vectors, (d,); 0 without a calibration."""
        return self.transform.centre

    @property
    def band_std(self) -> Floats:
        """Factor of the levels of each band, (n_bands,); 1 without a calibration."""
        return self.transform.band_std

    @property
    def quantizer(self) -> QuantizerTables:
        """Levels by code, for kernels that read codes; in mode ``"prod"`` those of the first stage."""
        return self._codebook.tables

    @property
    def shrinkage(self) -> Doubles:
        """1 − D of each band, (n_bands,), with D the expected squared error at its width."""
        return self._codebook.shrinkage

    @property
    def code_size(self) -> int:
        """Bytes per vector: packed codes, the float32 scale and, in mode ``"prod"``, the float32 gamma."""
        return code_bytes(self.bands) + (4 if self.qjl is None else 8)

    @property
    def distortion(self) -> float:
        """Expected squared error D of a decoded unit vector with the paper's scale; the others do slightly better.

        Of a calibrated codec it is that of a vector like those of the sample, as a part of its squared distance to the
        centre. In mode ``"prod"`` it is D of the first stage times π/2 − 1/d, or about π/2 − 1 for ``qjl="hadamard"``.
        That is the price of being unbiased: the first stage alone would decode with less.
        """
        return self.transform.distortion

    @property
    def entropy(self) -> float:
        """Mean entropy of a code in bits: the bits per coordinate that an entropy coder could reach."""
        return mean(self.d, self.bands, [self._codebook.entropy(band.nbits) for band in self.bands])

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the bytes of the codes. Codes of equal fingerprints can be mixed."""
        header = {
            "version": CODEC_VERSION,
            "d": self.d,
            "bands": self.bands,
            "mode": self.mode,
            "codebook": self.codebook,
            "rotation": self.rotation,
            "seed": self.seed,
        }
        if self.qjl is not None:
            header["qjl"] = self.qjl
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        rotation = self.transform.tables.matrix
        for array in (self.quantizer.centroids, rotation, *self.transform.learned, *self._codebook.drawn):
            digest.update(array.astype("<f4").tobytes())
        return digest.hexdigest()[:32]

    def encode(self, x: ArrayLike, *, threads: int | None = None) -> Codes:
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
        vectors = Vectors(x, self.d, "x")
        return join_codes([self._encode_part(part, threads) for part in vectors.parts(whole=self.calibration is None)])

    def _encode_part(self, vectors: Vectors, threads: int | None) -> Codes:
        if isinstance(self._codebook, QjlCodebook):
            return self._codebook.encode(vectors, self.transform.tables, num_threads(threads))
        return encode_sums(self, vectors, threads=threads).codes()

    def decode(self, codes: Codes, *, threads: int | None = None) -> Floats:
        """Reconstruct vectors with the least-squares scale (see `scale` above); in mode ``"prod"``, without bias.

        Parameters
        ----------
        codes : Codes
        threads : int, optional

        Returns
        -------
        (n, d) float32
        """
        if self.scale_rule != "unbiased":
            return self.decode_unbiased(codes, threads=threads)
        return self._sum_terms(codes, *self.transform.decode_factors(), threads)

    def decode_unbiased(self, codes: Codes, *, threads: int | None = None) -> Floats:
        """Reconstruct the vectors whose products with queries `inner_product` returns.

        They are unbiased, but longer than those of `decode`. Arguments and result are the same.
        """
        return self._sum_terms(codes, np.float32(1), np.ones((len(self.bands), 1), np.float32), threads)

    def _sum_terms(self, codes: Codes, shrink: np.float32, by_band: Floats, threads: int | None) -> Floats:
        """Decode, with factors for all scales and for the levels of each band."""
        check_codes(codes, code_bytes(self.bands), self.qjl is not None, self)
        n, workers = len(codes), num_threads(threads)
        decode = kernel("decode_rows")

        def vectors(term: Term) -> Floats:
            scale, out = term.scale * shrink, np.empty((n, self.d), np.float32)
            tables = term.tables._replace(centroids=term.tables.centroids * by_band)

            def task(part: int, start: int, stop: int) -> None:
                decode(codes.data, scale, term.basis, tables, SPREAD, start, stop, out)

            _threads.over_rows(task, n, _threads.GRAIN, workers)
            return out

        return self._sum(vectors, codes) + self.centre

    def inner_product(self, queries: ArrayLike, codes: Codes, *, threads: int | None = None) -> Floats:
        """Compute inner products of queries with compressed vectors, on the codes and in float32.

        They are unbiased under the random rotation with the default scale rule. They are sums of float32 terms, exact
        within 10^-5 Σ|terms|. A product beyond float32 becomes infinite.

        Parameters
        ----------
        queries : (nq, d) or (d,) float
        codes : Codes
        threads : int, optional

        Returns
        -------
        (nq, n) float32
        """
        check_codes(codes, code_bytes(self.bands), self.qjl is not None, self)
        rows, workers = _validate.vectors(queries, self.d, "queries"), num_threads(threads)
        score = kernel("adc_rows")

        def scores(term: Term) -> Floats:
            rotated, out = rotate(rows, term.basis), np.empty((rows.shape[0], len(codes)), np.float32)

            def task(part: int, start: int, stop: int) -> None:
                score(codes.data, term.scale, term.tables, SPREAD, rotated, start, stop, out)

            _threads.over_rows(task, len(codes), _threads.GRAIN, workers)
            return out

        return self._sum(scores, codes) + self.transform.centre_products(rows).astype(np.float32)[:, None]

    def _sum(self, function: Callable[[Term], Floats], codes: Codes) -> Floats:
        """Sum a function of the terms of codes; beyond float32 it becomes infinite, as in a kernel."""
        first, *rest = self._codebook.terms(codes, self.transform.tables)
        total = function(first)
        with np.errstate(over="ignore", invalid="ignore"):
            for term in rest:
                total += function(term)
        return total


def encode_sums(
    codec: TurboQuant, x: ArrayLike | Vectors, *, threads: int | None = None, unit: bool = False
) -> Encoded:
    """Compress vectors, and keep the sums from which scales and error bars are computed.

    Arguments and errors are those of `TurboQuant.encode`.

    Parameters
    ----------
    codec : TurboQuant
        Of mode ``"mse"``.
    x : (n, d) or (d,) array_like, or Vectors
        Float32 of all rows is held at once.
    threads : int, optional
    unit : bool
        Take the direction of each vector: its length counts as 1.
    """
    codebook, transform, workers = codec._codebook, codec.transform, num_threads(threads)
    vectors = x if isinstance(x, Vectors) else Vectors(x, codec.d, "x")
    rows = transform.subtract_centre(vectors.float32(), unit)
    n = rows.shape[0]
    data = np.empty((n, code_bytes(codec.bands)), np.uint8)
    norm, dot, energy = np.empty(n), np.empty(n), np.empty(n)
    encode, rows_out = kernel(codebook.encoder), EncodedRows(data, norm, dot, energy)
    good = np.full(workers, n)  # rows before the first bad one of each part

    def task(part: int, start: int, stop: int) -> None:
        end = encode(rows, transform.tables, *codebook.encoder_tables, start, stop, rows_out)
        good[part] = end if end < stop else n

    _threads.over_rows(task, n, _threads.GRAIN, workers)
    if good.min() < n:
        # The kernel computes lengths anyway, so there NaN and Inf are found at no cost; a check before it would read
        # all rows once more. Why the row is bad only the input tells: `rows` may be rounded, or less the centre.
        raise vectors.bad_row(int(good.min()))
    return Encoded(
        transform=transform,
        scale_rule=codec.scale_rule,
        threads=workers,
        data=data,
        norm=transform.code_lengths(norm, unit),
        dot=dot,
        energy=energy,
        names=vectors.names,
    )


def _options(mode: str, codebook: str, scale: object, qjl: object) -> tuple[ScaleName, str | None]:
    """Return the scale rule and the projection of a mode, or raise for those that it does not have."""
    projection = _validate.choice(qjl, "qjl", PROJECTIONS)
    if mode == "prod":
        _validate.choice(codebook, "codebook of mode 'prod'", ["scalar"])
        return _validate.choice("norm" if scale is None else scale, "scale of mode 'prod'", ["norm"]), projection
    if projection != "gaussian":
        raise InputError(f"qjl belongs to mode='prod', got qjl={qjl!r} with mode={mode!r}")
    return _validate.choice("unbiased" if scale is None else scale, "scale", SCALES), None

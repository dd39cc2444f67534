"""TurboQuant: the codec's public face."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from tqvec import _validate
from tqvec._config import num_threads
from tqvec._fixed import Fixed, protect_fields
from tqvec._locks import cached_property
from tqvec._types import CodebookName, Doubles, Floats, ScaleName
from tqvec._vectors import Vectors
from tqvec.codec.bands import MAX_D, Band, Width, code_bytes, mean, parse
from tqvec.codec.calibration import CalibratedTransform, Calibration
from tqvec.codec.codebooks.codebook import Codebook, Term
from tqvec.codec.codebooks.scalar import ScalarCodebook
from tqvec.codec.codebooks.trellis import TrellisCodebook
from tqvec.codec.codes import Codes, check_codes, join_codes
from tqvec.codec.encoded import Encoded, encode
from tqvec.codec.maker import Maker, hash_codec
from tqvec.codec.qjl import PROJECTIONS, QjlCodebook, check_options
from tqvec.codec.served import decode_rows, score_rows
from tqvec.codec.transforms import ROTATIONS, Transform, random_rotation, rotate
from tqvec.errors import InputError
from tqvec.kernels.tables import QuantizerTables, RotationTables

_CODEBOOKS: dict[CodebookName, type[ScalarCodebook | TrellisCodebook]] = {
    "scalar": ScalarCodebook,
    "trellis": TrellisCodebook,
}


class TurboQuant(Fixed):
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
    rotation : {"hadamard", "haar", "bandwise"}
        ``"hadamard"`` costs O(d log d) and has the same bits everywhere; ``"haar"`` is the dense reference, O(d²).
        ``"bandwise"`` is a Hadamard rotation inside each band, for vectors whose coordinates come in the order of their
        importance: their standard deviation in a band is taken to grow as 2^(width / 4). Bands shrink by different
        factors, so it needs ``scale="least_squares"``.
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
        The arguments, which can't be changed; `qjl` is None in mode ``"mse"``.
    scale_rule : str
        The `scale` above.

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

    _fixed = frozenset(
        {"d", "nbits", "mode", "codebook", "seed", "scale_rule", "qjl", "_calibration", "_codebook", "_transform"}
    )

    def __init__(
        self,
        d: int,
        nbits: Width = 4,
        *,
        mode: Literal["mse", "prod"] = "mse",
        codebook: CodebookName = "scalar",
        rotation: Literal["hadamard", "haar", "bandwise"] = "hadamard",
        seed: int = 0,
        scale: ScaleName | None = None,
        qjl: Literal["gaussian", "hadamard"] = "gaussian",
    ):
        self.d: Final = _validate.integer(d, "d", 1, MAX_D)
        own, bands = parse(nbits, self.d)
        self.nbits: Final = own
        self.mode: Final = _validate.choice(mode, "mode", ["mse", "prod"])
        self.codebook: Final = _validate.choice(codebook, "codebook", _CODEBOOKS)
        kind = _validate.choice(rotation, "rotation", [*ROTATIONS, "bandwise"])
        self.seed: Final = _validate.integer(seed, "seed", 0, 2**64 - 1)
        rule, projection = check_options(self.mode, self.codebook, scale, qjl)
        self.scale_rule: Final = rule
        self.qjl: Final = projection
        self._calibration: Calibration | None = None
        if kind == "bandwise" and rule != "least_squares":
            raise InputError(f"rotation='bandwise' needs scale='least_squares', got {rule!r}")
        tables, std = random_rotation(kind, bands, self.seed)
        self._codebook: Codebook
        if projection is None:
            self._codebook = _CODEBOOKS[self.codebook](self.d, bands, std)
        else:
            self._codebook = QjlCodebook(self.d, bands, tables, PROJECTIONS[projection](self.d, self.seed))
        self._transform = Transform(kind, tables, self._codebook, band_std=std)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made when it is needed."""
        return {name: value for name, value in vars(self).items() if name != "_maker"}

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
        own = calibration.owned()
        own.check(self._codebook.d)
        codebook = _CODEBOOKS[self.codebook](self._codebook.d, own.bands, own.band_std)
        other = copy.copy(self)
        vars(other).update(_calibration=own, _codebook=codebook, _transform=CalibratedTransform(own, codebook))
        return other

    @property
    def calibration(self) -> Calibration | None:
        """Centre, axes and bands learned from data (`calibrated`); its arrays can't be written to."""
        return None if self._calibration is None else protect_fields(self._calibration)

    @property
    def transform(self) -> Transform:
        """The rotation, and the centre if there is one."""
        return self._transform

    @property
    def rotation(self) -> str:
        """The argument `rotation`, or ``"calibrated"``."""
        return self._transform.name

    @property
    def bands(self) -> tuple[Band, ...]:
        """Runs of rotated coordinates and their widths; one, unless `nbits` or a calibration says otherwise."""
        return self._codebook.bands

    @property
    def centre(self) -> Floats:
        """The point that is subtracted from vectors, (d,); 0 without a calibration."""
        return self._transform.centre

    @property
    def band_std(self) -> Floats:
        """Factor of the levels of each band, (n_bands,); 1 unless the codec or its calibration has others."""
        return self._transform.band_std

    @property
    def quantizer(self) -> QuantizerTables:
        """Levels by code; in mode ``"prod"`` those of the first stage. The arrays can't be written to."""
        return protect_fields(self._codebook.tables)

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
        return self._transform.distortion

    @property
    def entropy(self) -> float:
        """Mean entropy of a code in bits: the bits per coordinate that an entropy coder could reach."""
        return mean(self.d, self.bands, [self._codebook.entropy(band.nbits) for band in self.bands])

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the bytes of the codes. Codes of equal fingerprints can be mixed."""
        return self._maker.fingerprint

    @cached_property
    def _maker(self) -> Maker:
        """The codec as its codes name it."""
        names = ("d", "mode", "codebook", "rotation", "seed", "qjl")
        settings = {name: getattr(self, name) for name in names}
        codebook, transform = self._codebook, self._transform
        arrays = (codebook.tables.centroids, transform.tables.matrix, *transform.learned, *codebook.drawn)
        hashed = hash_codec(settings, codebook.bands, arrays)
        return Maker(fingerprint=hashed, nbits=self.nbits, scale=self.scale_rule, **settings)

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
        vectors = Vectors(x, self._codebook.d, "x")
        parts = vectors.parts(whole=self._calibration is None)
        return replace(join_codes([self._encode_part(part, threads) for part in parts]), maker=self._maker)

    def _encode_part(self, vectors: Vectors, threads: int | None) -> Codes:
        if isinstance(self._codebook, QjlCodebook):
            return self._codebook.encode(vectors, self._transform._tables, num_threads(threads))
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

        Raises
        ------
        InputError
            The codes are of another codec, or have arrays of wrong shapes or types.
        """
        if self.scale_rule != "unbiased":
            return self.decode_unbiased(codes, threads=threads)
        return self._sum_terms(codes, *self._transform.decode_factors(), threads)

    def decode_unbiased(self, codes: Codes, *, threads: int | None = None) -> Floats:
        """Reconstruct the vectors whose products with queries `inner_product` returns.

        They are unbiased, but longer than those of `decode`. Arguments and result are the same.
        """
        return self._sum_terms(codes, np.float32(1), np.ones((len(self._codebook.bands), 1), np.float32), threads)

    def _check(self, codes: Codes) -> Codes:
        """Return codes as the kernels take them, or raise for those that this codec can't read."""
        codebook = self._codebook
        return check_codes(codes, code_bytes(codebook.bands), isinstance(codebook, QjlCodebook), self, self._maker)

    def _sum_terms(self, codes: Codes, shrink: np.float32, by_band: Floats, threads: int | None) -> Floats:
        """Decode, with factors for all scales and for the levels of each band."""
        codes = self._check(codes)
        workers = num_threads(threads)

        def vectors(term: Term) -> Floats:
            tables = term.tables._replace(centroids=term.tables.centroids * by_band)
            return decode_rows(codes.data, term.scale * shrink, term.basis, tables, workers)

        return self._sum(vectors, codes) + self._transform.centre

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

        Raises
        ------
        InputError
            As `decode`; bad queries, with the row.
        """
        codes = self._check(codes)
        rows, workers = _validate.vectors(queries, self._codebook.d, "queries"), num_threads(threads)

        def scores(term: Term) -> Floats:
            return score_rows(codes.data, term.scale, term.tables, rotate(rows, term.basis), workers)

        return self._sum(scores, codes) + self._transform.centre_products(rows).astype(np.float32)[:, None]

    def _sum(self, function: Callable[[Term], Floats], codes: Codes) -> Floats:
        """Sum a function of the terms of codes; beyond float32 it becomes infinite, as in a kernel."""
        first, *rest = self._codebook.terms(codes, self._transform._tables)
        total = function(first)
        with np.errstate(over="ignore", invalid="ignore"):
            for term in rest:
                total += function(term)
        return total


def kernel_tables(codec: TurboQuant) -> tuple[RotationTables, QuantizerTables]:
    """Return the rotation and the levels of a codec as kernels take them: arrays that nobody may write to."""
    return codec._transform._tables, codec._codebook.tables


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
    vectors = x if isinstance(x, Vectors) else Vectors(x, codec._codebook.d, "x")
    return encode(vectors, codec._codebook, codec._transform, codec.scale_rule, num_threads(threads), unit)

"""TurboQuant: the codec's public face."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _threads, _validate
from tqvec._config import num_threads
from tqvec.codec import codebook as frozen
from tqvec.codec.bands import Width, code_bytes, mean, parse, quantizer_tables
from tqvec.codec.codes import Codes
from tqvec.codec.rotation import ROTATIONS
from tqvec.codec.scales import SCALES
from tqvec.errors import InputError
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.pack.portable import SPREAD

MAX_D = 65536
CODEC_VERSION = 1  # part of the fingerprint; grows when the same input would give other bytes
_GRAIN = 256  # rows a thread takes at least

Floats = NDArray[np.float32]


class Encoded(NamedTuple):
    """Packed codes and the three sums that every scale rule is made of (see `tqvec.codec.scales`)."""

    data: NDArray[np.uint8]
    norm: NDArray[np.float64]
    dot: NDArray[np.float64]
    energy: NDArray[np.float64]


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
    mode : {"mse"}
        Algorithm 1 of the paper.
    codebook : {"scalar"}
        Lloyd-Max levels of the exact Beta density.
    rotation : {"hadamard", "haar"}
        ``"hadamard"`` costs O(d log d) and has the same bits everywhere; ``"haar"`` is the dense reference, O(d²).
    seed : int
        Of the rotation, 0 to 2^64 − 1. Codes of different seeds can't be mixed. Don't draw data with it.
    scale : {"unbiased", "least_squares", "norm"}
        What `Codes.scale` holds. ``"unbiased"`` makes `inner_product` unbiased; `decode` then shrinks by the expected
        cos²θ, 1 − D; at d = 128 its error is 0.4 % (1 bit) to 0.06 % (4 bits) above that of ``"least_squares"``.
        ``"least_squares"`` is for codes that are only decoded; ``"norm"`` is the paper's.

    Attributes
    ----------
    bands : tuple of Band
        Runs of rotated coordinates and their widths; one, unless `nbits` says otherwise.
    rotation_tables, quantizer : RotationTables, QuantizerTables
        Rotation and codebooks as the kernels take them.

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
        scale: str = "unbiased",
    ):
        self.d = _validate.integer(d, "d", 1, MAX_D)
        self.nbits, self.bands = parse(nbits, self.d)
        self.mode = _validate.choice(mode, "mode", ["mse"])
        self.codebook = _validate.choice(codebook, "codebook", ["scalar"])
        self.rotation = _validate.choice(rotation, "rotation", ROTATIONS)
        self.seed = _validate.integer(seed, "seed", 0, 2**64 - 1)
        self.scale = _validate.choice(scale, "scale", SCALES)
        self.rotation_tables = ROTATIONS[self.rotation](self.d, self.seed)
        self.quantizer = quantizer_tables(self.d, self.bands)

    def __repr__(self) -> str:
        return f"TurboQuant(d={self.d}, nbits={self.nbits}, rotation={self.rotation!r}, seed={self.seed})"

    @property
    def code_size(self) -> int:
        """Bytes a vector: packed codes and the float32 scale."""
        return code_bytes(self.bands) + 4

    @property
    def distortion(self) -> float:
        """Expected squared error D of a unit vector with the paper's scale; the other scales do slightly better."""
        return mean(self.bands, [frozen.distortion(self.d, band.nbits) for band in self.bands])

    @property
    def entropy(self) -> float:
        """Mean entropy of a code in bits: what an entropy coder could reach per coordinate."""
        return mean(self.bands, [frozen.entropy(self.d, band.nbits) for band in self.bands])

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
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        digest.update(self.quantizer.centroids.astype("<f4").tobytes())
        digest.update(self.rotation_tables.matrix.astype("<f4").tobytes())
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
        encoded = self.encode_sums(x, threads)
        return Codes(encoded.data, self.stored_scale(encoded))

    def encode_sums(self, x: ArrayLike, threads: int | None = None) -> Encoded:
        """Codes of vectors, with the sums that the scale rules need; arguments and errors as in `encode`."""
        rows = _validate.shaped(x, self.d, "x")
        n = rows.shape[0]
        workers = num_threads(threads)
        out = Encoded(np.empty((n, code_bytes(self.bands)), np.uint8), np.empty(n), np.empty(n), np.empty(n))
        encode = kernel("encode_rows")
        good = np.full(workers, n)  # rows before the first bad one, as each part found it

        def task(part: int, start: int, stop: int) -> None:
            end = encode(rows, self.rotation_tables, self.quantizer, start, stop, *out)
            good[part] = end if end < stop else n

        _threads.over_rows(task, n, _GRAIN, workers)
        if good.min() < n:
            raise _validate.bad_row(x, int(good.min()), "x")
        return out

    def stored_scale(self, encoded: Encoded) -> Floats:
        """Scales by this codec's rule, as float32."""
        with np.errstate(over="ignore"):
            scale = SCALES[self.scale](encoded.norm, encoded.dot, encoded.energy).astype(np.float32)
        if not np.isfinite(scale).all():
            row = int(np.flatnonzero(~np.isfinite(scale))[0])
            raise InputError(f"x row {row} is too long: its scale does not fit float32")
        return scale

    def decode(self, codes: Codes, threads: int | None = None) -> Floats:
        """Reconstruct vectors with the least-squares scale (see `scale` above).

        Parameters
        ----------
        codes : Codes
        threads : int, optional

        Returns
        -------
        (n, d) float32
        """
        self._check(codes)
        out = np.empty((len(codes), self.d), np.float32)
        shrink = np.float32(1.0 - self.distortion if self.scale == "unbiased" else 1.0)
        scale = codes.scale * shrink
        decode = kernel("decode_rows")

        def task(part: int, start: int, stop: int) -> None:
            decode(codes.data, scale, self.rotation_tables, self.quantizer, SPREAD, start, stop, out)

        _threads.over_rows(task, len(codes), _GRAIN, num_threads(threads))
        return out

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
        rotated = self.rotate(_validate.vectors(queries, self.d, "queries"))
        out = np.empty((rotated.shape[0], len(codes)), np.float32)
        score = kernel("adc_rows")

        def task(part: int, start: int, stop: int) -> None:
            score(codes.data, codes.scale, self.quantizer, SPREAD, rotated, start, stop, out)

        _threads.over_rows(task, len(codes), _GRAIN, num_threads(threads))
        return out

    def rotate(self, x: Floats) -> Floats:
        """Rotate checked (n, d) float32 rows into the basis that codes live in."""
        out = np.empty_like(x)
        kernel("rotate_rows")(x, self.rotation_tables, 0, x.shape[0], out)
        return out

    def _check(self, codes: Codes) -> None:
        expected = code_bytes(self.bands)
        if codes.data.ndim != 2 or codes.data.shape[1] != expected or codes.data.dtype != np.uint8:
            raise InputError(
                f"codes.data must be (n, {expected}) uint8 for {self!r}, got {codes.data.shape} {codes.data.dtype}"
            )
        if codes.scale.shape != (codes.data.shape[0],) or codes.scale.dtype != np.float32:
            raise InputError(f"codes.scale must be ({codes.data.shape[0]},) float32, got {codes.scale.shape}")

"""Index: exhaustive search over compressed vectors."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _validate
from tqvec._config import num_threads
from tqvec.codec.bands import Width
from tqvec.codec.quantizer import TurboQuant
from tqvec.errors import InputError
from tqvec.index import persistence
from tqvec.index.rerank import reranked, source
from tqvec.index.rows import METRICS, empty_rows, encoded
from tqvec.index.scan import SPARE_ROWS, Scanner, squared_lengths
from tqvec.index.shortlist import shortlist
from tqvec.index.training import Samples, Training, fit
from tqvec.index.uncertainty import Judge, centre_products, with_errors

_HEAP_ENTRIES = 1 << 24  # of one batch of queries, all threads together

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class Index:
    """Compressed vectors that can be searched without decompressing them.

    No training is needed; `train` fits the codec to the data, for more recall at the same bytes.

    Parameters
    ----------
    d : int
        Dimension, 1 to 65,536.
    nbits : int, float or sequence of (int, int)
        Bits a coordinate, 1 to 8; 2.5, 3.5 or bands as in `TurboQuant`. Several bands, and so a trained index, are
        always searched in full.
    metric : {"ip", "cosine", "l2"}
        Inner product and cosine: larger is better. l2: squared Euclidean distance, smaller is better; it keeps 4 more
        bytes a vector (its squared length).
    codebook : {"scalar", "trellis"}
        As in `TurboQuant`: ``"trellis"`` finds more at equal bytes, but is slower to build.
    seed : int
        Of the random rotation.

    Raises
    ------
    InputError
        An argument is out of its range.

    Examples
    --------
    >>> import numpy as np, tqvec
    >>> x = np.random.default_rng(1).standard_normal((1000, 64)).astype(np.float32)
    >>> index = tqvec.Index(64, nbits=4, metric="cosine")
    >>> index.add(x)
    >>> scores, ids = index.search(x[:3], k=5)
    >>> ids[:, 0].tolist(), index.code_size
    ([0, 1, 2], 36)
    """

    def __init__(self, d: int, nbits: Width = 4, metric: str = "ip", codebook: str = "scalar", seed: int = 0):
        self.metric = _validate.choice(metric, "metric", METRICS)
        self._start(TurboQuant(d, nbits=nbits, codebook=codebook, seed=seed))
        self.d = self.codec.d
        self.nbits = self.codec.nbits

    def _start(self, codec: TurboQuant) -> None:
        """Become an empty index of this codec."""
        self.codec = codec
        self._scanner = Scanner(codec, self.metric)
        self._rows = empty_rows(codec, self.metric)
        self._ntotal = 0

    def _like(self, codec: TurboQuant) -> Index:
        """An empty index of another codec, all else equal."""
        other = object.__new__(type(self))
        other.d, other.nbits, other.metric = self.d, self.nbits, self.metric
        other._start(codec)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """For pickling and copying: without the scanner, whose tables, caches and locks are made anew."""
        rows = {name: array[: self._ntotal] for name, array in self._rows.items()}
        return {"d": self.d, "nbits": self.nbits, "metric": self.metric, "codec": self.codec, "rows": rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.d, self.nbits, self.metric = state["d"], state["nbits"], state["metric"]
        self._start(state["codec"])
        self._append(state["rows"])

    def __repr__(self) -> str:
        kind = "codebook='trellis', " if self.codec.codebook == "trellis" else ""
        kind += "" if self.codec.calibration is None else "trained, "
        return f"Index(d={self.d}, nbits={self.nbits}, {kind}metric={self.metric!r}, ntotal={self.ntotal})"

    def __len__(self) -> int:
        return self._ntotal

    @property
    def ntotal(self) -> int:
        """Number of vectors."""
        return self._ntotal

    @property
    def code_size(self) -> int:
        """Bytes a vector: codes, scale and, for l2, the squared length."""
        return self.codec.code_size + (4 if self.metric == "l2" else 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors (``ntotal * code_size``)."""
        return self._ntotal * self.code_size

    def train(
        self,
        sample: ArrayLike,
        queries: ArrayLike | None = None,
        vectors: ArrayLike | None = None,
        threads: int | None = None,
    ) -> Training:
        """Fit the codec to the data, at the same bytes a vector, if that helps (docs/explanation/calibration.md).

        A part of the sample is held out to judge: unless results on it get better, the index stays as it was.

        Parameters
        ----------
        sample : (n, d) float16, float32, float64 or bfloat16
            Vectors like those to be stored, in any order: a few thousand, some times `d`. Of many, 65,536 are drawn.
        queries : (m, d), optional
            Queries like those to come. Default: the vectors themselves stand for them.
        vectors : (ntotal, d), optional
            What has been added, in that order, for an index that isn't empty: it is compressed anew.
        threads : int, optional

        Returns
        -------
        Training
            What was found and decided; prints as a table.

        Raises
        ------
        InputError
            Bad vectors, or values above 10¹⁸ in a `sample` or `queries` for ip or l2, with the row; no queries in
            `queries`; `vectors` missing or not as many as are stored; `d` above 8,192.
        """
        rows = _validate.vectors(sample, self.d, "sample")
        asked = None if queries is None else _validate.vectors(queries, self.d, "queries")
        stored = np.empty((0, self.d), np.float32) if vectors is None else _validate.vectors(vectors, self.d, "vectors")
        if stored.shape[0] != self._ntotal:
            raise InputError(
                f"vectors must be the {self._ntotal} that were added: codes can't be made anew from codes, got "
                + (f"{stored.shape[0]} rows" if vectors is not None else "none")
            )
        codec, training = fit(self._like, self.codec, self.metric, Samples(rows, asked), num_threads(threads))
        if training.used:
            trained = self._like(codec)
            trained.add(stored, threads)
            self.__dict__.update(trained.__dict__)
        return training

    def add(self, x: ArrayLike, threads: int | None = None) -> None:
        """Compress vectors and append them; ids are consecutive row numbers.

        Nothing is added if any row is bad.

        Parameters
        ----------
        x : (n, d) or (d,) float16, float32, float64 or bfloat16
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.

        Raises
        ------
        InputError
            Wrong type or shape; NaN, Inf or a length beyond float32, with the row.
        """
        self._append(encoded(self.codec, self.metric, x, threads))

    def _append(self, new: dict[str, NDArray]) -> None:
        n = self._ntotal
        total = n + new["scale"].shape[0]
        room = self._rows["scale"].shape[0]
        if total + SPARE_ROWS > room:
            room = max(total + SPARE_ROWS, room + room // 2)
            grown = {}
            for name, old in self._rows.items():
                grown[name] = np.zeros((room, *old.shape[1:]), old.dtype)
                grown[name][:n] = old[:n]
            self._rows = grown
        for name, rows in new.items():
            self._rows[name][n:total] = rows
        self._ntotal = total

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        threads: int | None = None,
        *,
        return_error: bool = False,
        confidence: float | None = None,
        rerank: ArrayLike | None = None,
    ) -> tuple[Any, ...]:
        """The `k` best vectors for each query.

        Queries are rotated once and scored against the codes in integer arithmetic (kernels/scan/README.md states the
        error: about 1.5·10⁻⁵ ‖query‖‖vector‖). Results do not depend on the batch or the threads; of equal scores the
        smaller id comes first.

        Parameters
        ----------
        queries : (nq, d) or (d,) float16, float32, float64 or bfloat16
            A 1-D query counts as one row.
        k : int
            Results a query, at least 1.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.
        return_error : bool
            Return the standard errors of the scores too (docs/explanation/errors.md).
        confidence : float, optional
            Above 0 and below 1: return as many results as hold all of the true best `k` with this probability. The
            query that needs most decides the number; others are filled up with empty entries.
        rerank : (ntotal, d) array, optional
            The vectors in the order of adding; a memory map will do, since only some rows are read: those that
            `confidence`, by default 0.99, asks for. The `k` best of them by their exact scores are returned.

        Returns
        -------
        scores : (nq, k) float32
            Best first. Where there are fewer than `k` vectors: -inf (l2: +inf). With `confidence` alone (nq, m), m ≥ k.
        ids : (nq, k) int64
            Where there are fewer than `k` vectors: -1.
        error : (nq, k) float32
            With `return_error`: root mean square error of each score, including that the best lean upwards; 0 for exact
            scores, inf for empty entries.

        Raises
        ------
        InputError
            Bad queries (see `add`), `k` is not a positive integer, `confidence` is not between 0 and 1, `rerank` has
            another shape or type, or NaN or Inf in a row that is read.
        """
        k = _validate.integer(k, "k", 1, 2**31 - 1)
        find = partial(self._found, threads=num_threads(threads))
        rows = _validate.vectors(queries, self.d, "queries")
        vectors = None if rerank is None else source(rerank, self._ntotal, self.d)
        if confidence is not None or vectors is not None:
            confidence = _validate.fraction(0.99 if confidence is None else confidence, "confidence")
        judge = Judge(self.codec, self.metric, self._rows, self._ntotal)
        wanted = min(k, self._ntotal)
        if confidence is not None:
            results: tuple[NDArray, ...] = shortlist(find, judge, rows, wanted, confidence)
        elif return_error:
            results = with_errors(find, judge, rows, wanted)
        else:
            results = find(rows, wanted)
        if vectors is not None:
            results = reranked(vectors, self.metric, rows, results[1], wanted)
        empty = (np.inf if self.metric == "l2" else -np.inf, -1, np.inf)
        arrays = results[: 3 if return_error else 2]
        return tuple(_padded(array, k, value) for array, value in zip(arrays, empty, strict=False))

    def _found(self, rows: Floats, k: int, threads: int) -> tuple[Floats, Ids]:
        """Scores and ids of the best `k` rows, of at least as many, for each checked query."""
        if k == 0:
            return np.empty((rows.shape[0], 0), np.float32), np.empty((rows.shape[0], 0), np.int64)
        if self.metric == "l2":
            rows = rows - self.codec.centre  # distances don't change
        scores, ids = self._best(rows, k, threads)
        if self.metric == "l2":
            distances = np.maximum(squared_lengths(rows)[:, None] - scores.astype(np.float64), 0.0)
            return distances.astype(np.float32), ids
        return (scores + centre_products(self.codec, self.metric, rows)[:, None]).astype(np.float32), ids

    def _best(self, queries: Floats, k: int, threads: int) -> tuple[Floats, Ids]:
        """What the scanner finds, in batches whose heaps fit the memory set aside for them."""
        batch = max(1, _HEAP_ENTRIES // (k * threads))
        parts = [
            self._scanner.search(self._rows, self._ntotal, queries[q : q + batch], k, threads)
            for q in range(0, max(1, queries.shape[0]), batch)
        ]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([ids for _, ids in parts])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file, which any framework can open (docs/format.md).

        The file appears under its name when it is complete: a crash leaves the old file or none.
        """
        rows = {name: array[: self._ntotal] for name, array in self._rows.items()}
        persistence.save(Path(path), self.codec, self.metric, self._ntotal, [rows])

    @classmethod
    def load(cls, path: str | os.PathLike[str], verify: bool = False) -> Index:
        """Read an index that `save` wrote.

        Parameters
        ----------
        path : path
        verify : bool
            Compare the checksums of the vectors too, not only those of the header and the calibration.

        Raises
        ------
        FormatError
            The file is damaged, truncated, not a tqvec index, or of a newer version.
        FileNotFoundError
            There is no such file.
        """
        header, rows, calibration = persistence.load(Path(path), verify=verify)
        index = cls(header.d, header.nbits, header.metric, header.codebook, header.seed)
        index._start(persistence.codec_of(Path(path), header, calibration))
        index._append(rows)
        return index


def _padded(array: NDArray, width: int, value: float) -> NDArray:
    """An array (nq, m) with at least `width` columns; those that were missing hold `value`."""
    missing = max(0, width - array.shape[1])
    return np.pad(array, ((0, 0), (0, missing)), constant_values=value)

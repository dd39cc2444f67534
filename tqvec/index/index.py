"""Index: exhaustive search over compressed vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, overload

from numpy.typing import ArrayLike

from tqvec import _validate
from tqvec._config import num_threads
from tqvec._types import CodebookName, Floats, Ids, MetricName
from tqvec._vectors import Vectors
from tqvec.codec.bands import Width
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError, LossWarning
from tqvec.index.diagnose.diagnosis import Diagnosis, diagnose
from tqvec.index.errors.rerank import search_reranked
from tqvec.index.metrics import METRICS, Metric
from tqvec.index.saved import Saved
from tqvec.index.searching import answer, search, search_range
from tqvec.index.selectors import Filter
from tqvec.index.snapshot import Results
from tqvec.index.training import Samples, fit
from tqvec.index.training_result import Training

_CONFIDENCE = 0.99  # of the shortlist that is reranked


class Index(Saved):
    """Compressed vectors that can be searched without decompressing them.

    No training is needed. `train` fits the codec to the data, for more recall at the same bytes.

    Parameters
    ----------
    d : int
        Dimension, 1 to 65,536.
    nbits : int, float or sequence of (int, int)
        Bits per coordinate, 1 to 8; 2.5, 3.5 or bands as in `TurboQuant`. Searches for a few queries are slow if the
        coordinates of a band are no multiple of 8.
    metric : {"ip", "cosine", "l2"}
        Inner product and cosine: larger is better. l2: squared Euclidean distance, smaller is better; it keeps 4 more
        bytes per vector (the squared length).
    codebook : {"scalar", "trellis"}
        As in `TurboQuant`: ``"trellis"`` has more recall at equal bytes, but is slower to build.
    seed : int
        Seed of the random rotation.

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

    def __init__(
        self,
        d: int,
        nbits: Width = 4,
        metric: MetricName = "ip",
        codebook: CodebookName = "scalar",
        seed: int = 0,
    ):
        kind = Metric(_validate.choice(metric, "metric", METRICS))
        self._start(TurboQuant(d, nbits=nbits, codebook=codebook, seed=seed), kind)

    def __repr__(self) -> str:
        kind = "codebook='trellis', " if self.codec.codebook == "trellis" else ""
        kind += "" if self.codec.calibration is None else "trained, "
        return f"Index(d={self.d}, nbits={self.nbits}, {kind}metric={self.metric!r}, ntotal={self.ntotal})"

    def train(
        self,
        sample: ArrayLike,
        *,
        queries: ArrayLike | None = None,
        vectors: ArrayLike | None = None,
        threads: int | None = None,
    ) -> Training:
        """Fit the codec to the data, at the same bytes per vector, if that helps; see the "Calibration" page.

        A part of the sample is held out. Unless results on it get better, the index stays as it was.

        Parameters
        ----------
        sample : (n, d) float16, float32, float64 or bfloat16
            Vectors like those to be stored, in any order. Use at least 10·d rows. At most 65,536 are used, drawn at
            random.
        queries : (m, d), optional
            Queries like those to come. Default: rows of the sample.
        vectors : (ntotal, d), optional
            The stored vectors in the order of `ids`, if there are any: they are compressed again. Without them the
            codes are recoded, with a `LossWarning`: recall of the stored vectors falls, since their errors add up. That
            only pays if most vectors are still to come. If you turn the warning into an error, the index is not
            changed.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.

        Returns
        -------
        Training
            The decision and its reasons; prints as a table.

        Raises
        ------
        InputError
            Bad vectors, or values above 10¹⁸ in a `sample` or `queries` for ip or l2, with the row; no queries in
            `queries`; not as many `vectors` as are stored; `d` above 8,192.
        """
        rows = Vectors(sample, self._core.codec.d, "sample")
        held_out = None if queries is None else _validate.vectors(queries, self._core.codec.d, "queries")
        stored = None if vectors is None else Vectors(vectors, self._core.codec.d, "vectors")
        if stored is not None:
            stored.check()
        samples, workers = Samples(rows, held_out), num_threads(threads)
        with self._lock:
            if stored is not None and len(stored) != self.ntotal:
                raise InputError(f"vectors must be the {self.ntotal} that were added, got {len(stored)} rows")
            from_codes = stored is None and self.ntotal > 0
            codec, training = fit(self._core.codec, self._metric, samples, workers, from_codes)
            if training.accepted:
                if from_codes:
                    loss = f"{self.ntotal:,} vectors are compressed anew from their codes, which costs {training.loss}"
                    warnings.warn(f"{loss}; hand them over as `vectors` to avoid that", LossWarning, stacklevel=2)
                self._core = self._recoded(codec, stored, workers)._core
        return training

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
        threads: int | None = None,
        return_error: Literal[False] = False,
        confidence: float | None = None,
        rerank: ArrayLike | Callable[[Ids], ArrayLike] | None = None,
        nprobe: int | None = None,
        recall: float | None = None,
    ) -> tuple[Floats, Ids]: ...

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
        threads: int | None = None,
        return_error: Literal[True],
        confidence: float | None = None,
        rerank: ArrayLike | Callable[[Ids], ArrayLike] | None = None,
        nprobe: int | None = None,
        recall: float | None = None,
    ) -> tuple[Floats, Ids, Floats]: ...

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
        threads: int | None = None,
        return_error: bool,
        confidence: float | None = None,
        rerank: ArrayLike | Callable[[Ids], ArrayLike] | None = None,
        nprobe: int | None = None,
        recall: float | None = None,
    ) -> tuple[Floats, Ids] | tuple[Floats, Ids, Floats]: ...

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
        threads: int | None = None,
        return_error: bool = False,
        confidence: float | None = None,
        rerank: ArrayLike | Callable[[Ids], ArrayLike] | None = None,
        nprobe: int | None = None,
        recall: float | None = None,
    ) -> tuple[Floats, Ids] | tuple[Floats, Ids, Floats]:
        """Return the `k` best vectors for each query.

        Queries are rotated once and scored against the codes in integer arithmetic, with an error of about
        1.5·10⁻⁵ ‖query‖‖vector‖. Results do not depend on the batch or the threads. Of equal scores the one whose
        vector is first in `ids` comes first.

        Parameters
        ----------
        queries : (nq, d) or (d,) float16, float32, float64 or bfloat16
            A 1-D query counts as one row.
        k : int
            Results per query, at least 1. Above 2²⁰, at most as many as vectors may be returned.
        filter : optional
            The vectors that may be returned: a boolean array in the order of `ids`, an array of ids, a ``range`` of
            ids, or a selector of `tqvec.selectors`.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.
        return_error : bool
            Return the standard errors of the scores too; see the "Error bars" page.
        confidence : float, optional
            Above 0 and below 1: return as many results as hold all of the true best `k` with this probability. All
            queries return the same number of columns, m. Shorter lists are padded with id −1. In a partitioned index
            these are the best of the lists that were probed.
        rerank : (ntotal, d) array or callable, optional
            The vectors in the order of `ids`, or a function that returns those of ids (m,) int64, called for each
            query. The shortlist of `confidence`, by default 0.99, is ordered by exact scores, and the `k` best are
            returned. Only rows of the shortlist are read, so a memory map will do.
        nprobe : int, optional
            Number of lists of a partitioned index that each query probes. With all of them, or ``recall=1.0``, the
            search is exhaustive. So it is for a query whose lists hold fewer than `k` vectors that may be returned.
        recall : float, optional
            Above 0 and at most 1: each query probes so many lists that, on average, they hold this share of the results
            of an exhaustive search. Default: 0.95 for a partitioned index. Any other is searched exhaustively.

        Returns
        -------
        scores : (nq, k) float32
            Best first; cosines are clipped to ±1. Where there are fewer than `k` vectors: -inf (l2: +inf). With
            `confidence` alone (nq, m), m ≥ k.
        ids : (nq, k) int64
            Where there are fewer than `k` vectors: -1.
        error : (nq, k) float32
            With `return_error`: standard error of each score. It includes selection bias: the best scores are, on
            average, overestimates. It is 0 for exact scores and inf for empty entries.

        Raises
        ------
        InputError
            Bad queries (see `add`), `k` is not a positive integer, `filter` is none of these, `confidence` is not
            between 0 and 1, `rerank` has another shape or type, NaN or Inf in a row that is read, or vectors of other
            rows; a score is beyond float32; `nprobe` for an index that is not partitioned, or beside `recall`.
        """
        k = _validate.integer(k, "k", 1, 2**31 - 1)
        rows = _validate.vectors(queries, self._core.codec.d, "queries")
        snapshot = self._snapshot(filter=filter, threads=threads, probe=self._probe(nprobe, recall))
        if rerank is None:
            return search(snapshot, rows, k, return_error, confidence)
        share = _validate.fraction(_CONFIDENCE if confidence is None else confidence, "confidence")
        results = search_reranked(snapshot, rows, min(snapshot.columns(k), snapshot.ntotal), share, rerank)
        return answer(snapshot, results, k, return_error)

    def range_search(
        self,
        queries: ArrayLike,
        radius: float,
        *,
        filter: Filter | None = None,
        threads: int | None = None,
        nprobe: int | None = None,
        recall: float | None = None,
    ) -> tuple[Ids, Floats, Ids]:
        """Return all vectors with a score above `radius`, or for l2 a squared distance below it.

        Parameters
        ----------
        queries : (nq, d) or (d,) float16, float32, float64 or bfloat16
        radius : float
        filter, nprobe, recall : optional
            As in `search`.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.

        Returns
        -------
        lims : (nq + 1,) int64
            Results of query i are entries ``lims[i]`` to ``lims[i + 1]`` of the other two.
        scores : (lims[-1],) float32
            Best first.
        ids : (lims[-1],) int64
        """
        rows = _validate.vectors(queries, self._core.codec.d, "queries")
        return search_range(
            self._snapshot(filter=filter, threads=threads, probe=self._probe(nprobe, recall)), rows, radius
        )

    def search_by_id(
        self,
        ids: ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
        threads: int | None = None,
        nprobe: int | None = None,
        recall: float | None = None,
    ) -> tuple[Floats, Ids]:
        """Return the `k` best vectors for stored ones, each without itself.

        The queries are decompressed vectors. Other arguments and results are those of `search`.

        Raises
        ------
        InputError
            An id is not in the index; otherwise as `search`.
        """
        k = _validate.integer(k, "k", 1, 2**31 - 2)
        snapshot, rows = self._lookup(ids, filter, threads, self._probe(nprobe, recall))
        k = snapshot.columns(k)
        best = snapshot.best(snapshot.decode(rows), min(k + 1, snapshot.ntotal))
        scores, numbers, _ = Results(*best).padded(k + 1, self._metric.worst)
        own = numbers == rows[:, None]
        own[~own.any(axis=1), -1] = True  # a row that is not among its own results loses the last of them
        shape = rows.size, k
        return scores[~own].reshape(shape), snapshot.ids_of(numbers[~own].reshape(shape))

    def diagnose(
        self,
        *,
        queries: ArrayLike | None = None,
        sample: ArrayLike | None = None,
        k: int = 10,
        threads: int | None = None,
    ) -> Diagnosis:
        """Estimate the recall k@k of this index on these data, its causes and alternatives; see the "Diagnose" page.

        Recall is measured if the `sample` is the stored vectors, or none are stored. Otherwise it is estimated from the
        codes, by the standard errors of scores and their gaps; a sample of other vectors then corrects the estimate.
        It is the recall of an exhaustive search; what the lists of a partitioned index cost is told beside it. The
        index doesn't change.

        Parameters
        ----------
        queries : (nq, d), optional
            Queries like those to come; at most 500 are used, drawn at random. Default: rows of the sample, or stored
            ones, each asking for the others.
        sample : (n, d) float16, float32, float64 or bfloat16, optional
            The vectors that are stored, in the order of `ids`, or that will be, or vectors like them.
        k : int
            At least 1.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.

        Returns
        -------
        Diagnosis
            Prints as a table.

        Raises
        ------
        InputError
            Bad vectors, with the row; no rows; an empty index without a sample; one vector without queries; values
            above 10¹⁸ in a sample, or in queries beside one, for ip or l2.
        """
        k = _validate.integer(k, "k", 1, 2**31 - 1)
        rows = None if sample is None else Vectors(sample, self._core.codec.d, "sample")
        own = None if queries is None else _validate.vectors(queries, self._core.codec.d, "queries")
        return diagnose(self._snapshot(threads=threads, probe=self._probe(None, None)), rows, own, k)

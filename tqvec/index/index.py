"""Index: exhaustive search over compressed vectors."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _validate
from tqvec._config import num_threads
from tqvec._types import Floats, Ids
from tqvec.codec.bands import Width
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError, LossWarning
from tqvec.index import selectors
from tqvec.index.diagnose.diagnosis import Diagnosis, diagnose
from tqvec.index.errors.rerank import search_reranked
from tqvec.index.errors.shortlist import search_shortlist
from tqvec.index.errors.standard_errors import search_with_errors
from tqvec.index.file import io
from tqvec.index.rows import METRICS, empty_rows, encoded
from tqvec.index.scanner import Scanner
from tqvec.index.snapshot import Results, Snapshot
from tqvec.index.store import Blocks, Store, first_id, parts
from tqvec.index.training import Samples, Training, fit, recode

_FIRST_HITS = 64  # that a range search asks for, and four times as many where they do not reach the end of the range


class _Core(NamedTuple):
    """What training replaces, in one assignment: a search takes it once."""

    codec: TurboQuant
    scanner: Scanner
    store: Store


class Index:
    """Compressed vectors that can be searched without decompressing them.

    No training is needed; `train` fits the codec to the data, for more recall at the same bytes.

    Parameters
    ----------
    d : int
        Dimension, 1 to 65,536.
    nbits : int, float or sequence of (int, int)
        Bits a coordinate, 1 to 8; 2.5, 3.5 or bands as in `TurboQuant`. Bands whose coordinates are no multiple of 8
        are searched in full, which is slow for a few queries.
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
        self._lock = threading.RLock()  # held by whatever changes the index
        self._core = self._empty(TurboQuant(d, nbits=nbits, codebook=codebook, seed=seed))
        self.d = self.codec.d
        self.nbits = self.codec.nbits

    def _empty(self, codec: TurboQuant) -> _Core:
        scanner = Scanner(codec, self.metric)
        return _Core(codec, scanner, Store(empty_rows(codec, self.metric), scanner.prefixes, self._lock))

    def _like(self, codec: TurboQuant) -> Index:
        """An empty index of another codec, all else equal."""
        other = object.__new__(Index)
        other.metric, other.d, other.nbits, other._lock = self.metric, self.d, self.nbits, threading.RLock()
        other._core = other._empty(codec)
        return other

    def __copy__(self) -> Index:
        """An index of the same vectors; later changes of either don't show in the other."""
        core = self._core
        other = self._like(core.codec)
        other._core = other._core._replace(store=core.store.copy(other._lock))
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Index:
        return self.__copy__()

    def __getstate__(self) -> dict[str, Any]:
        core = self._core
        blocks, next_id = core.store.snapshot()
        first = first_id(blocks, next_id)
        stored = [(rows, ids if first is None else None) for rows, ids in parts(blocks)]
        settings = {name: getattr(self, name) for name in ("metric", "d", "nbits")}
        return settings | {"codec": core.codec, "parts": stored, "first_id": first, "next_id": next_id}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.metric, self.d, self.nbits = state["metric"], state["d"], state["nbits"]
        self._lock = threading.RLock()
        self._core = self._empty(state["codec"])
        store = self._core.store
        store.next_id = state["first_id"] or 0
        for rows, ids in state["parts"]:
            store.append(rows, ids, False)
        store.next_id = state["next_id"]

    @property
    def codec(self) -> TurboQuant:
        """How vectors are compressed."""
        return self._core.codec

    def __repr__(self) -> str:
        kind = "codebook='trellis', " if self.codec.codebook == "trellis" else ""
        kind += "" if self.codec.calibration is None else "trained, "
        return f"Index(d={self.d}, nbits={self.nbits}, {kind}metric={self.metric!r}, ntotal={self.ntotal})"

    def __len__(self) -> int:
        return self.ntotal

    def __contains__(self, one: object) -> bool:
        if not isinstance(one, (int, np.integer)) or not -(2**63) <= int(one) < 2**63:
            return False
        return bool(self._core.store.find(np.array([one], np.int64))[0] >= 0)

    @property
    def ntotal(self) -> int:
        """Number of vectors."""
        return sum(block.live for block in self._core.store.blocks)

    @property
    def ids(self) -> Ids:
        """Ids of all vectors, (ntotal,), in the order in which they were added; a copy."""
        parts = [block.ids_of(block.live_rows()) for block in self._core.store.blocks]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    @property
    def code_size(self) -> int:
        """Bytes a vector: codes, scale and, for l2, the squared length.

        Ids that don't follow each other take 8 more, and 32 to 64 to find them.
        """
        return self.codec.code_size + (4 if self.metric == "l2" else 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors (``ntotal * code_size``)."""
        return self.ntotal * self.code_size

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
            What the index holds, in the order of `ids`, if it isn't empty: it is compressed anew. Without them that
            is done from the codes, with a `LossWarning`: vectors then have the errors of both codecs, and their recall
            falls. That only pays if most vectors are still to come.
        threads : int, optional

        Returns
        -------
        Training
            What was found and decided; prints as a table.

        Raises
        ------
        InputError
            Bad vectors, or values above 10¹⁸ in a `sample` or `queries` for ip or l2, with the row; no queries in
            `queries`; not as many `vectors` as are stored; `d` above 8,192.
        """
        rows = _validate.vectors(sample, self.d, "sample")
        asked = None if queries is None else _validate.vectors(queries, self.d, "queries")
        stored = None if vectors is None else _validate.vectors(vectors, self.d, "vectors")
        samples, workers = Samples(rows, asked), num_threads(threads)
        with self._lock:
            if stored is not None and stored.shape[0] != self.ntotal:
                raise InputError(f"vectors must be the {self.ntotal} that were added, got {stored.shape[0]} rows")
            from_codes = stored is None and self.ntotal > 0
            codec, training = fit(self.codec, self.metric, samples, workers, from_codes)
            if training.accepted:
                if from_codes:
                    told = f"{self.ntotal:,} vectors are compressed anew from their codes, which costs {training.loss}"
                    warnings.warn(f"{told}; hand them over as `vectors` to avoid that", LossWarning, stacklevel=2)
                trained = self._recoded(codec, stored, workers)._core
                self._core = trained._replace(store=trained.store.copy(self._lock))
        return training

    def _recoded(self, codec: TurboQuant, vectors: Floats | None, threads: int) -> Index:
        """An index of the same vectors and ids in another codec; from their codes, if there are no vectors."""
        other, done = self._like(codec), 0
        for rows, ids in parts(self._core.store.blocks):
            if vectors is None:
                again = recode(rows, self.codec, codec, threads)
            else:
                again = encoded(codec, self.metric, vectors[done : done + ids.size], threads)
            other._core.store.append(again, ids, False)
            done += ids.size
        other._core.store.next_id = self._core.store.next_id
        return other

    def add(
        self, x: ArrayLike, ids: ArrayLike | None = None, *, upsert: bool = False, threads: int | None = None
    ) -> None:
        """Compress vectors and append them.

        Nothing is added if any row or id is bad. Searches of other threads find all of the vectors or none.

        Parameters
        ----------
        x : (n, d) or (d,) float16, float32, float64 or bfloat16
        ids : (n,) int, optional
            Distinct, within int64. Default: consecutive, after the largest that was ever in the index, from 0 on.
        upsert : bool
            Whether vectors replace those with the same ids; otherwise an id that is taken is an error.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.

        Raises
        ------
        InputError
            Wrong type or shape; NaN, Inf or a length beyond float32; an id that is taken or given twice; with the row.
        """
        while True:
            core = self._core
            rows = encoded(core.codec, self.metric, x, threads)
            given = _distinct(ids, rows["scale"].shape[0])
            with self._lock:
                if core is self._core:  # or it was trained in the meantime
                    core.store.append(rows, given, upsert)
                    return

    def update(self, ids: ArrayLike, x: ArrayLike, threads: int | None = None) -> None:
        """Replace vectors: ``add(x, ids, upsert=True)``, but every id must be in the index.

        Raises
        ------
        InputError
            As `add`; an id that is not in the index.
        """
        with self._lock:  # what is there now shall still be there when it is replaced
            self._lookup(ids)
            self.add(x, ids, upsert=True, threads=threads)

    def remove_ids(self, ids: ArrayLike) -> int:
        """Remove vectors; ids that are not in the index are passed over.

        The time does not depend on `ntotal`. Space is used again when more rows were removed than are left.

        Parameters
        ----------
        ids : (n,) int

        Returns
        -------
        int
            How many were removed.
        """
        wanted = np.unique(selectors.integers(ids, "ids"))
        with self._lock:
            return self._core.store.remove(wanted)

    def reset(self) -> None:
        """Remove all vectors; what was learned from a sample stays."""
        with self._lock:
            self._core = self._empty(self.codec)

    def merge_from(self, other: Index) -> None:
        """Append all vectors of another index of the same codec, as if they had been added to this one.

        If the other's ids are 0, 1, 2, … in order, as they come by themselves, its vectors get this index's next ids.
        Otherwise, and once a vector of it was removed, they keep their ids, which must be distinct from those here.

        Raises
        ------
        InputError
            Another metric or another fingerprint, which both are told; an id that both have. Nothing is merged then.
        """
        if not isinstance(other, Index):
            raise InputError(f"other must be an Index, got {type(other).__name__}")
        theirs = other._core
        given = theirs.store.taken()
        with self._lock:
            core = self._core
            mine, its = (self.metric, core.codec.fingerprint), (other.metric, theirs.codec.fingerprint)
            if mine != its:
                raise InputError(f"indexes of different codecs can't be merged: {mine} and {its} (metric, fingerprint)")
            core.store.take_over(*given)

    def reconstruct(self, ids: ArrayLike, threads: int | None = None) -> Floats:
        """Decompressed vectors; for metric cosine their directions.

        Parameters
        ----------
        ids : (n,) int
        threads : int, optional

        Returns
        -------
        (n, d) float32

        Raises
        ------
        InputError
            An id is not in the index.
        """
        snapshot, rows = self._lookup(ids, threads=threads)
        return snapshot.decode(rows)

    def _snapshot(self, core: _Core, blocks: Blocks, filter: Any, threads: int | None) -> Snapshot:
        return Snapshot(
            codec=core.codec,
            metric=self.metric,
            scanner=core.scanner,
            blocks=blocks,
            allowed=selectors.allowed(blocks, filter),
            threads=num_threads(threads),
        )

    def _now(self, filter: Any, threads: int | None) -> Snapshot:
        core = self._core
        return self._snapshot(core, core.store.blocks, filter, threads)

    def _lookup(self, ids: ArrayLike, filter: Any = None, threads: int | None = None) -> tuple[Snapshot, Ids]:
        """Rows of ids that must be there, and the snapshot that they belong to."""
        wanted = selectors.integers(ids, "ids")
        core = self._core
        blocks, rows = core.store.located(wanted)
        if (rows < 0).any():
            at = int(np.argmax(rows < 0))
            raise InputError(f"ids row {at}: {wanted[at]} is not in the index")
        return self._snapshot(core, blocks, filter, threads), rows

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        threads: int | None = None,
        *,
        filter: Any = None,
        return_error: bool = False,
        confidence: float | None = None,
        rerank: ArrayLike | None = None,
    ) -> tuple[Any, ...]:
        """The `k` best vectors for each query.

        Queries are rotated once and scored against the codes in integer arithmetic (kernels/scan/README.md states the
        error: about 1.5·10⁻⁵ ‖query‖‖vector‖). Results do not depend on the batch or the threads; of equal scores the
        vector that was added first comes first.

        Parameters
        ----------
        queries : (nq, d) or (d,) float16, float32, float64 or bfloat16
            A 1-D query counts as one row.
        k : int
            Results a query, at least 1.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.
        filter : optional
            Which vectors may be returned: a boolean array in the order of `ids`, an array of ids, a ``range`` of ids,
            or a selector of `tqvec.selectors`.
        return_error : bool
            Return the standard errors of the scores too (docs/explanation/errors.md).
        confidence : float, optional
            Above 0 and below 1: return as many results as hold all of the true best `k` with this probability. The
            query that needs most decides the number; others are filled up with empty entries.
        rerank : (ntotal, d) array, optional
            The vectors in the order of `ids`; a memory map will do, since only some rows are read: those that
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
            Bad queries (see `add`), `k` is not a positive integer, `filter` is none of these, `confidence` is not
            between 0 and 1, `rerank` has another shape or type, or NaN or Inf in a row that is read.
        """
        k = _validate.integer(k, "k", 1, 2**31 - 1)
        rows = _validate.vectors(queries, self.d, "queries")
        snapshot = self._now(filter, threads)
        n = min(k, snapshot.ntotal)
        if rerank is not None or confidence is not None:
            share = _validate.fraction(0.99 if confidence is None else confidence, "confidence")
            if rerank is not None:
                results = search_reranked(snapshot, rows, n, share, rerank)
            else:
                results = search_shortlist(snapshot, rows, n, share)
        elif return_error:
            results = search_with_errors(snapshot, rows, n)
        else:
            results = Results(*snapshot.best(rows, n))
        worst = np.inf if self.metric == "l2" else -np.inf
        scores, ids = _padded(results.scores, k, worst), _padded(snapshot.ids_of(results.rows), k, -1)
        if return_error and results.error is not None:
            return scores, ids, _padded(results.error, k, np.inf)
        return scores, ids

    def range_search(
        self, queries: ArrayLike, radius: float, threads: int | None = None, *, filter: Any = None
    ) -> tuple[Ids, Floats, Ids]:
        """All vectors with a score above `radius`, or for l2 a squared distance below it.

        Parameters
        ----------
        queries : (nq, d) or (d,) float16, float32, float64 or bfloat16
        radius : float
        threads : int, optional
        filter : optional
            As in `search`.

        Returns
        -------
        lims : (nq + 1,) int64
            Results of query i are entries ``lims[i]`` to ``lims[i + 1]`` of the other two.
        scores : (lims[-1],) float32
            Best first.
        ids : (lims[-1],) int64
        """
        radius = np.float64(_validate.number(radius, "radius"))  # a Python float would be rounded to float32
        rows = _validate.vectors(queries, self.d, "queries")
        snapshot = self._now(filter, threads)
        hits: list[tuple[Floats, Ids]] = [(np.zeros(0, np.float32), np.zeros(0, np.int64))] * rows.shape[0]
        open_, k = np.arange(rows.shape[0]), _FIRST_HITS
        while open_.size and snapshot.ntotal:
            k = min(k, snapshot.ntotal)
            scores, found = snapshot.best(rows[open_], k)
            inside = scores < radius if self.metric == "l2" else scores > radius
            for q, score, row, good in zip(open_, scores, found, inside, strict=True):
                hits[q] = score[good], row[good]
            open_ = open_[inside[:, -1]] if k < snapshot.ntotal else open_[:0]
            k *= 4
        lims = np.cumsum([0, *(score.size for score, _ in hits)])
        ids = snapshot.ids_of(np.concatenate([np.zeros(0, np.int64), *(row for _, row in hits)]))
        return lims, np.concatenate([np.zeros(0, np.float32), *(score for score, _ in hits)]), ids

    def search_by_id(
        self, ids: ArrayLike, k: int = 10, threads: int | None = None, *, filter: Any = None
    ) -> tuple[Floats, Ids]:
        """The `k` best vectors for stored ones, which are not among their own results.

        Their decompressed forms are the queries. Arguments and results are those of `search`.

        Raises
        ------
        InputError
            An id is not in the index; otherwise as `search`.
        """
        k = _validate.integer(k, "k", 1, 2**31 - 2)
        snapshot, rows = self._lookup(ids, filter, threads)
        scores, found = snapshot.best(snapshot.decode(rows), min(k + 1, snapshot.ntotal))
        scores = _padded(scores, k + 1, np.inf if self.metric == "l2" else -np.inf)
        found = _padded(found, k + 1, -1)
        own = found == rows[:, None]
        own[~own.any(axis=1), -1] = True  # a row that does not find itself loses its last result
        shape = rows.size, k
        return scores[~own].reshape(shape), snapshot.ids_of(found[~own].reshape(shape))

    def diagnose(
        self,
        queries: ArrayLike | None = None,
        sample: ArrayLike | None = None,
        k: int = 10,
        threads: int | None = None,
    ) -> Diagnosis:
        """Recall k@k of this index on these data, what limits it and what would help (docs/explanation/diagnose.md).

        With a `sample`, and no vectors or the very same ones stored, recall is measured. Otherwise it is estimated from
        the codes, by the standard errors of scores and their gaps; a sample of other vectors then corrects the
        estimate. The index doesn't change.

        Parameters
        ----------
        queries : (nq, d), optional
            Queries like those to come; of many, 500 are drawn. Default: rows of the sample, or stored ones, each asking
            for the others.
        sample : (n, d) float16, float32, float64 or bfloat16, optional
            What the index holds, in the order of `ids`, or is to hold, or vectors like them.
        k : int
            At least 1.
        threads : int, optional

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
        rows = None if sample is None else _validate.vectors(sample, self.d, "sample")
        asked = None if queries is None else _validate.vectors(queries, self.d, "queries")
        return diagnose(self._now(None, threads), rows, asked, k)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file, which any framework can open (docs/format.md).

        The file appears under its name when it is complete: a crash leaves the old file or none.
        """
        core = self._core
        blocks, next_id = core.store.snapshot()
        first = first_id(blocks, next_id)
        n = sum(block.live for block in blocks)
        stored = (rows if first is not None else rows | {"ids": ids} for rows, ids in parts(blocks))
        io.save(Path(path), core.codec, self.metric, n, stored, first, next_id)

    @classmethod
    def load(cls, path: str | os.PathLike[str], mmap: bool = False, verify: bool = False) -> Index:
        """Read an index that `save` wrote.

        Parameters
        ----------
        path : path
        mmap : bool
            Map the file: codes are read when a search needs them, and processes share them. Vectors can be added to a
            mapped index, and removed; the file stays as it is. It may be replaced meanwhile, but not changed in place.
        verify : bool
            Compare the checksums of the vectors too, not only those of the header, the ids and the calibration.

        Raises
        ------
        FormatError
            The file is damaged, truncated, not a tqvec index, or of a newer version.
        FileNotFoundError
            There is no such file.
        """
        header, rows, calibration = io.load(Path(path), mmap, verify)
        index = cls(header.d, header.nbits, header.metric, header.codebook, header.seed)
        index._core = index._empty(io.codec_of(Path(path), header, calibration))
        ids = rows.pop("ids", header.first_id)
        index._core.store.fill(rows, ids, header.next_id, mmap)
        return index


def _padded(array: NDArray, width: int, value: float) -> NDArray:
    """An array (nq, m) with at least `width` columns; those that were missing hold `value`."""
    missing = width - array.shape[1]
    return np.pad(array, ((0, 0), (0, missing)), constant_values=value) if missing > 0 else array


def _distinct(ids: ArrayLike | None, n: int) -> Ids | None:
    """Checked ids of `n` new rows."""
    if ids is None:
        return None
    found = selectors.integers(ids, "ids")
    if found.size != n:
        raise InputError(f"ids must be as many as the {n} rows of x, got {found.size}")
    if np.all(found[1:] > found[:-1]):  # they are distinct, and often come so
        return found
    order = np.argsort(found, kind="stable")
    twice = order[1:][np.diff(found[order]) == 0]
    if twice.size:
        at = int(twice.min())
        raise InputError(f"ids row {at}: id {found[at]} is given twice")
    return found

"""Use tqvec for the neighbors graph of a pipeline of scikit-learn, in place of its `KNeighborsTransformer`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _validate
from tqvec._present import import_optional
from tqvec._types import CodebookName, Doubles, Ids
from tqvec.codec.bands import Width
from tqvec.exact import normalize
from tqvec.index.index import Index

import_optional("sklearn", "tqvec.integrations.sklearn", "sklearn")

from joblib import effective_n_jobs  # noqa: E402
from scipy.sparse import csr_array, csr_matrix  # noqa: E402
from sklearn import get_config  # noqa: E402
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin  # noqa: E402
from sklearn.utils import gen_batches  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402

__all__ = ["TqvecNeighbors"]

_METRICS = ("euclidean", "sqeuclidean", "cosine")
_MODES = ("distance", "connectivity")
_CONFIDENCE = 0.9999  # of a shortlist; at 0.99 it is shorter by an eighth
_PART = 1 << 25  # entries of a shortlist or of its vectors that are in memory at a time
_FEWEST = 64  # queries that are searched together at least: a batch is much faster than one after the other


class TqvecNeighbors(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Transform vectors into the sparse graph of their nearest neighbors, found in compressed vectors.

    It takes the place of `sklearn.neighbors.KNeighborsTransformer`, and its graphs mean the same. Codes find shortlists
    of neighbors, and exact distances order them. All but about one list in 10,000 hold all true neighbors.

    Parameters
    ----------
    mode : {"distance", "connectivity"}
        Entries of the graph: distances, or ones. With ``"distance"`` a row has n_neighbors + 1 entries, since a
        training sample is its own neighbor.
    n_neighbors : int
        Number of neighbors per row, at least 1.
    metric : {"euclidean", "sqeuclidean", "cosine"}
        Distances as scikit-learn defines them. Cosine is 1 minus the cosine similarity, and 1 for zero vectors.
    nbits : int, float or sequence of (int, int)
        Bits per coordinate, 1 to 8; see `tqvec.Index`.
    codebook : {"scalar", "trellis"}
        See `tqvec.Index`.
    rerank : bool
        Keep the training data beside the codes, for exact distances. Without them distances are estimates from codes,
        which is too rough for a threshold as in DBSCAN, or in few dimensions.
    n_jobs : int, optional
        Number of threads, as in all of scikit-learn: None means 1, and -1 all CPUs.

    Attributes
    ----------
    index_ : tqvec.Index
        The codes: for Euclidean metrics of the data minus its mean, divided by its largest coordinate then.
    n_samples_fit_ : int
        Number of training samples.
    n_features_in_ : int
        Dimension.
    """

    def __init__(
        self,
        *,
        mode: str = "distance",
        n_neighbors: int = 5,
        metric: str = "euclidean",
        nbits: Width = 4,
        codebook: CodebookName = "scalar",
        rerank: bool = True,
        n_jobs: int | None = None,
    ):
        self.mode = mode
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.nbits = nbits
        self.codebook = codebook
        self.rerank = rerank
        self.n_jobs = n_jobs

    def fit(self, X: ArrayLike, y: object = None) -> TqvecNeighbors:
        """Compress the training data.

        Parameters
        ----------
        X : (n_samples, n_features) array_like
        y : ignored

        Returns
        -------
        TqvecNeighbors

        Raises
        ------
        InputError
            A parameter of the estimator is out of its range.
        ValueError, TypeError
            X is sparse, empty, or holds NaN or infinity.
        """
        _validate.choice(self.mode, "mode", _MODES)
        _validate.choice(self.metric, "metric", _METRICS)
        _validate.integer(self.n_neighbors, "n_neighbors", 1, 2**31 - 2)
        _validate.instance(self.rerank, "rerank", bool)
        rows = validate_data(self, X, dtype=[np.float64, np.float32], order="C")
        index = Index(rows.shape[1], self.nbits, "cosine" if self.metric == "cosine" else "l2", self.codebook)
        self._center = rows.mean(axis=0, dtype=np.float64)
        low, high = rows.min(axis=0), rows.max(axis=0)
        self._scale = float(np.maximum(high - self._center, self._center - low).max()) or 1.0
        prepared = np.empty(rows.shape, np.float32)
        for part in gen_batches(rows.shape[0], 4096):
            prepared[part] = self._prepare(rows[part])
        index.add(prepared, threads=effective_n_jobs(self.n_jobs))
        self.index_ = index
        self.n_samples_fit_ = self._n_features_out = rows.shape[0]
        self._fit_X: Any = rows if self.rerank else None
        return self

    def _prepare(self, rows: NDArray) -> Doubles:
        """Return rows that float32 can hold, at distances in proportion: units for cosine, else around the origin."""
        doubles = rows.astype(np.float64)
        return normalize(doubles) if self.metric == "cosine" else (doubles - self._center) / self._scale

    def kneighbors(
        self, X: ArrayLike | None = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[Doubles, Ids] | Ids:
        """Find the nearest training samples of each row.

        Parameters
        ----------
        X : (n_queries, n_features) array_like, optional
            Default: the training samples, of which none is its own neighbor. Without `rerank` these are decompressed.
        n_neighbors : int, optional
            Default: that of the estimator.
        return_distance : bool
            Whether to return distances too.

        Returns
        -------
        distances : (n_queries, n_neighbors) float64
            Ascending. With `return_distance` alone.
        ids : (n_queries, n_neighbors) int64
            Row numbers of training samples.

        Raises
        ------
        InputError
            `n_neighbors` is no positive integer, or a row is too far from the data for float32.
        ValueError
            There are fewer training samples; X has another number of columns, NaN or infinity.
        """
        check_is_fitted(self)
        k = _validate.integer(self.n_neighbors if n_neighbors is None else n_neighbors, "n_neighbors", 1, 2**31 - 2)
        own, n = X is None, self.n_samples_fit_
        rows = None if X is None else validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        nq = n if rows is None else rows.shape[0]
        if k + own > n:
            raise ValueError(
                f"Expected n_neighbors {'<' if own else '<='} n_samples_fit, but n_neighbors = {k}, "
                f"n_samples_fit = {n}, n_samples = {nq}"
            )
        distances, ids = np.empty((nq, k)), np.empty((nq, k), np.int64)
        for part in gen_batches(nq, max(_FEWEST, _PART // max(n, k * self.n_features_in_))):
            if rows is None:
                numbers = np.arange(part.start, part.stop)
                distances[part], ids[part] = _without(numbers, *self._search(self._samples(numbers), k + 1))
            else:
                distances[part], ids[part] = self._search(rows[part], k)
        return (distances, ids) if return_distance else ids

    def _samples(self, ids: Ids) -> NDArray:
        """Return training samples, decompressed if there are codes alone."""
        if self._fit_X is not None:
            return self._fit_X[ids]
        rows = self.index_.reconstruct(ids)
        return rows if self.metric == "cosine" else rows * self._scale + self._center

    def _search(self, rows: NDArray, k: int) -> tuple[Doubles, Ids]:
        """Return the distances and numbers of the `k` nearest training samples of each row."""
        queries, threads = self._prepare(rows), effective_n_jobs(self.n_jobs)
        if self._fit_X is None:
            scores, ids = self.index_.search(queries, k, threads=threads)
            return self._distances(scores.astype(np.float64) * (1 if self.metric == "cosine" else self._scale**2)), ids
        _, ids = self.index_.search(
            queries, k, threads=threads, confidence=_CONFIDENCE, rerank=lambda ids: self._prepare(self._fit_X[ids])
        )
        distances = self._exact_distances(rows, ids)
        order = np.argsort(distances, axis=1, kind="stable")  # the index ordered them in float32
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)

    def _exact_distances(self, rows: NDArray, ids: Ids) -> Doubles:
        """Return the distances of rows (nq, d) to samples (nq, k), without subtracting the mean, which would round."""
        queries, samples = rows.astype(np.float64), self._fit_X[ids].astype(np.float64)
        if self.metric == "cosine":
            units = normalize(samples.reshape(-1, samples.shape[2])).reshape(samples.shape)
            return self._distances(np.einsum("qd,qkd->qk", normalize(queries), units))
        return self._distances(np.square(samples - queries[:, None]).sum(axis=2))

    def _distances(self, values: Doubles) -> Doubles:
        """Return the distances that belong to cosines, or else to squared distances."""
        if self.metric == "cosine":
            return np.clip(1 - values, 0, 2)
        return values if self.metric == "sqeuclidean" else np.sqrt(values)

    def kneighbors_graph(
        self, X: ArrayLike | None = None, n_neighbors: int | None = None, mode: str = "connectivity"
    ) -> csr_matrix | csr_array:
        """Return the graph of the nearest training samples of each row.

        Parameters
        ----------
        X, n_neighbors : optional
            As in `kneighbors`.
        mode : {"connectivity", "distance"}

        Returns
        -------
        (n_queries, n_samples_fit) sparse CSR matrix
            Entries of a row ascend by distance. Distances of 0 are stored too. With
            ``sklearn.set_config(sparse_interface="sparray")`` it is a sparse array.
        """
        _validate.choice(mode, "mode", _MODES)
        distances, ids = self.kneighbors(X, n_neighbors)
        nq, k = ids.shape
        data = distances.ravel() if mode == "distance" else np.ones(nq * k)
        make = csr_array if get_config().get("sparse_interface") == "sparray" else csr_matrix  # from 1.9 on
        return make((data, ids.ravel(), np.arange(0, nq * k + 1, k)), shape=(nq, self.n_samples_fit_))

    def transform(self, X: ArrayLike) -> csr_matrix | csr_array:
        """Return the graph of `kneighbors_graph` for rows (n_queries, n_features), with the estimator's parameters.

        With mode ``"distance"`` there are n_neighbors + 1 entries per row: a training sample is its own neighbor.
        """
        check_is_fitted(self)
        return self.kneighbors_graph(X, self.n_neighbors + (self.mode == "distance"), self.mode)


def _without(own: Ids, distances: Doubles, ids: Ids) -> tuple[Doubles, Ids]:
    """Remove an id from each row of results, or the last result where it is not there: they are all duplicates then."""
    drop = ids == own[:, None]
    drop[~drop.any(axis=1), -1] = True
    shape = ids.shape[0], ids.shape[1] - 1
    return distances[~drop].reshape(shape), ids[~drop].reshape(shape)

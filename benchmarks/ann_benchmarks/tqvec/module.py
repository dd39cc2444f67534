"""tqvec in ann-benchmarks and VIBE; the README beside this folder tells how to run it."""

import tqvec

from ..base.module import BaseANN  # noqa: TID252  # the package has another name in each harness

_METRICS = {"angular": "cosine", "cosine": "cosine", "normalized": "ip", "ip": "ip", "euclidean": "l2"}


class Tqvec(BaseANN):
    """An index of compressed vectors.

    Parameters
    ----------
    metric : str
        As the harness names it.
    nbits : int or float
        Bits per coordinate.
    codebook : {"scalar", "trellis"}
    trained : bool
        Fit the codec to the vectors before they are added.
    partitioned : bool
        Search lists of near vectors; otherwise every search reads all vectors.
    """

    def __init__(self, metric, nbits, codebook, trained, partitioned):
        self._metric, self._trained, self._partitioned = _METRICS[metric], trained, partitioned
        self._settings = {"nbits": nbits, "codebook": codebook}
        self._query_arguments = {}
        self._index = None

    def fit(self, X):
        index = tqvec.Index(X.shape[1], metric=self._metric, **self._settings)
        if self._trained:
            index.train(X)
        index.add(X)
        if self._partitioned:
            index.partition()
        self._index = index

    def set_query_arguments(self, name, value):
        """Set how a partitioned index is searched: ``"nprobe"`` lists, or a ``"recall"`` relative to all lists."""
        self._query_arguments = {name: value}

    def query(self, q, n):
        ids = self._index.search(q, n, **self._query_arguments)[1][0]
        return ids[ids >= 0]

    def batch_query(self, X, n):
        self._results = self._index.search(X, n, **self._query_arguments)[1]

    def get_batch_results(self):
        return [ids[ids >= 0] for ids in self._results]

    def get_memory_usage(self):
        """Return the bytes of the index, in KiB: the harness subtracts what it was before `fit`."""
        return 0.0 if self._index is None else self._index.nbytes / 1024

    def done(self):
        self._index = None

    def __str__(self):
        settings = {**self._settings, "trained": self._trained, "partitioned": self._partitioned}
        return f"tqvec({', '.join(f'{key}={value}' for key, value in {**settings, **self._query_arguments}.items())})"

"""Adapters: how each library builds, searches, saves and loads. Vectors have length 1; scores are inner products."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tqvec import exact
from tqvec._types import Floats, Ids
from tqvec.eval.leaderboard.engines import Engine
from tqvec.index.index import Index

_TRAINED = 65_536  # vectors that trained quantisers and centroids see at most
_SEED = 11  # of the choice of these


class Adapter(Protocol):
    """A library in one configuration."""

    def build(self, x: Floats) -> tuple[float, float]:
        """Add vectors, and return the seconds of training and of all else."""

    def search(self, queries: Floats, k: int) -> Ids:
        """Return the ids of the best `k` for each query."""

    def save(self, path: Path) -> None:
        """Write all that a later search needs."""

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""


def adapter(engine: Engine, d: int, n: int, threads: int, seed: int) -> Adapter:
    """Return the adapter of an engine; only tqvec's rotation takes a `seed`."""
    kinds: dict[str, Any] = {
        "exact": Exact,
        "tqvec": Tqvec,
        "faiss": Faiss,
        "turbovec": Turbovec,
        "rabitqlib": Rabitqlib,
        "usearch": Usearch,
    }
    made: Adapter = kinds[engine.library](engine.settings, d, n, threads, seed)
    return made


def _sample(x: Floats) -> Floats:
    if len(x) <= _TRAINED:
        return x
    return x[np.sort(np.random.default_rng(_SEED).choice(len(x), _TRAINED, replace=False))]


class Exact:
    """Products with the vectors themselves."""

    def __init__(self, settings: dict[str, Any], d: int, n: int, threads: int, seed: int) -> None:
        self._x = np.zeros((0, d), np.float32)

    def build(self, x: Floats) -> tuple[float, float]:
        """Keep the vectors."""
        start = time.perf_counter()
        self._x = np.array(x)
        return 0.0, time.perf_counter() - start

    def search(self, queries: Floats, k: int) -> Ids:
        """Compare all."""
        return exact.best("ip", queries, self._x, k, dtype=np.float32)[1]

    def save(self, path: Path) -> None:
        """Write the vectors."""
        with path.open("wb") as file:
            np.save(file, self._x)

    def load(self, path: Path) -> None:
        """Read them."""
        self._x = np.load(path)


class Tqvec:
    """An `Index`."""

    def __init__(self, settings: dict[str, Any], d: int, n: int, threads: int, seed: int) -> None:
        self._index = Index(d, nbits=settings["nbits"], codebook=settings["codebook"], seed=seed)
        self._train, self._recall, self._threads = settings["train"], settings.get("recall"), threads

    def build(self, x: Floats) -> tuple[float, float]:
        """Train if asked to, add, and make lists if asked to."""
        start = time.perf_counter()
        if self._train:
            self._index.train(_sample(x), threads=self._threads)
        trained = time.perf_counter()
        self._index.add(x, threads=self._threads)
        if self._recall is not None:
            self._index.partition(threads=self._threads)
        return trained - start, time.perf_counter() - trained

    def search(self, queries: Floats, k: int) -> Ids:
        """Search."""
        return self._index.search(queries, k=k, threads=self._threads, recall=self._recall)[1]

    def save(self, path: Path) -> None:
        """Save."""
        self._index.save(path)

    def load(self, path: Path) -> None:
        """Load."""
        self._index = Index.load(path)


class Faiss:
    """An index of FAISS's factory."""

    def __init__(self, settings: dict[str, Any], d: int, n: int, threads: int, seed: int) -> None:
        self._faiss = import_module("faiss")
        self._faiss.omp_set_num_threads(threads)
        self._index = self._faiss.index_factory(d, settings["factory"], self._faiss.METRIC_INNER_PRODUCT)
        self._nprobe = settings.get("nprobe")

    def build(self, x: Floats) -> tuple[float, float]:
        """Train on a sample of the vectors themselves, which favours trained quantisers, and add."""
        start = time.perf_counter()
        self._index.train(_sample(x))
        trained = time.perf_counter()
        self._index.add(x)
        self._set_nprobe()
        return trained - start, time.perf_counter() - trained

    def search(self, queries: Floats, k: int) -> Ids:
        """Search."""
        ids: Ids = self._index.search(queries, k)[1]
        return ids

    def save(self, path: Path) -> None:
        """Write."""
        self._faiss.write_index(self._index, str(path))

    def load(self, path: Path) -> None:
        """Read."""
        self._index = self._faiss.read_index(str(path))
        self._set_nprobe()

    def _set_nprobe(self) -> None:
        if self._nprobe is not None:
            self._faiss.extract_index_ivf(self._index).nprobe = self._nprobe


class Turbovec:
    """turbovec, whose threads its environment sets."""

    def __init__(self, settings: dict[str, Any], d: int, n: int, threads: int, seed: int) -> None:
        self._class = import_module("turbovec").TurboQuantIndex
        self._index, self._calibrate = self._class(d, settings["nbits"]), settings["calibrate"]

    def build(self, x: Floats) -> tuple[float, float]:
        """Calibrate if asked to, and add."""
        start = time.perf_counter()
        if self._calibrate:
            self._index.calibrate(_sample(x))
        trained = time.perf_counter()
        self._index.add(x)
        self._index.prepare()
        return trained - start, time.perf_counter() - trained

    def search(self, queries: Floats, k: int) -> Ids:
        """Search."""
        return np.asarray(self._index.search(np.ascontiguousarray(queries), k)[1]).astype(np.int64)

    def save(self, path: Path) -> None:
        """Write."""
        self._index.write(str(path))

    def load(self, path: Path) -> None:
        """Read."""
        self._index = self._class.load(str(path))
        self._index.prepare()


class Rabitqlib:
    """The IVF index of the authors of RaBitQ, with centroids of FAISS's k-means."""

    def __init__(self, settings: dict[str, Any], d: int, n: int, threads: int, seed: int) -> None:
        self._class, self._threads = import_module("rabitqlib").IvfIndex, threads
        self._index = self._class(d, n, settings["nlist"], settings["nbits"], "ip")
        self._nlist, self._nprobe, self._d = settings["nlist"], settings["nprobe"], d

    def build(self, x: Floats) -> tuple[float, float]:
        """Learn centroids, and add."""
        faiss = import_module("faiss")
        faiss.omp_set_num_threads(self._threads)
        start = time.perf_counter()
        means = faiss.Kmeans(self._d, self._nlist, niter=10, spherical=True, max_points_per_centroid=40)
        means.train(x)
        trained = time.perf_counter()
        nearest = means.index.search(x, 1)[1][:, 0].astype(np.uint32)
        self._index.build(x, means.centroids, nearest, self._threads)
        return trained - start, time.perf_counter() - trained

    def search(self, queries: Floats, k: int) -> Ids:
        """Search."""
        pair = self._index.search(np.ascontiguousarray(queries), k, self._nprobe, num_threads=self._threads)
        ids = next(part for part in pair if np.asarray(part).dtype.kind in "iu")
        return np.asarray(ids).astype(np.int64)

    def save(self, path: Path) -> None:
        """Write."""
        self._index.save(str(path))

    def load(self, path: Path) -> None:
        """Read."""
        self._index = self._class.load(str(path))


class Usearch:
    """usearch's HNSW graph."""

    def __init__(self, settings: dict[str, Any], d: int, n: int, threads: int, seed: int) -> None:
        self._binary, self._threads = settings["dtype"] == "b1", threads
        metric = "hamming" if self._binary else "ip"
        self._index = import_module("usearch.index").Index(ndim=d, metric=metric, dtype=settings["dtype"])

    def build(self, x: Floats) -> tuple[float, float]:
        """Add."""
        start = time.perf_counter()
        self._index.add(np.arange(len(x)), self._coded(x), threads=self._threads)
        return 0.0, time.perf_counter() - start

    def search(self, queries: Floats, k: int) -> Ids:
        """Search."""
        keys = np.asarray(self._index.search(self._coded(queries), k, threads=self._threads).keys)
        return keys.astype(np.int64).reshape(len(queries), -1)

    def save(self, path: Path) -> None:
        """Write."""
        self._index.save(str(path))

    def load(self, path: Path) -> None:
        """Read."""
        self._index.load(str(path))

    def _coded(self, x: Floats) -> Any:
        return np.packbits(x > 0, axis=1) if self._binary else x

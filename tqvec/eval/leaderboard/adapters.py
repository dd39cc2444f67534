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
_GRAPH_SEED = 42


class Adapter(Protocol):
    """A library in one configuration."""

    def build(self, x: Floats) -> tuple[float, float]:
        """Add vectors, and return the seconds of training and of all else."""

    def search(self, queries: Floats, k: int, **options: Any) -> Ids:
        """Return the ids of the best `k` for each query; `options` are those of the engine's searches."""

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
        "hnswlib": Hnswlib,
        "usearch": Usearch,
        "rabitqlib": {"ivf": RabitqIvf, "hnsw": RabitqHnsw, "symqg": Symphony}.get(engine.settings.get("index", "")),
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
        self._train, self._lists, self._threads = settings["train"], settings["lists"], threads

    def build(self, x: Floats) -> tuple[float, float]:
        """Train if asked to, add, and make lists if asked to."""
        start = time.perf_counter()
        if self._train:
            self._index.train(_sample(x), threads=self._threads)
        trained = time.perf_counter()
        self._index.add(x, threads=self._threads)
        if self._lists:
            self._index.partition(threads=self._threads)
        return trained - start, time.perf_counter() - trained

    def search(self, queries: Floats, k: int, recall: float | None = None) -> Ids:
        """Search."""
        return self._index.search(queries, k=k, threads=self._threads, recall=recall)[1]

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

    def build(self, x: Floats) -> tuple[float, float]:
        """Train on a sample of the vectors themselves, which favours trained quantisers, and add."""
        start = time.perf_counter()
        self._index.train(_sample(x))
        trained = time.perf_counter()
        self._index.add(x)
        return trained - start, time.perf_counter() - trained

    def search(self, queries: Floats, k: int, nprobe: int | None = None) -> Ids:
        """Search."""
        if nprobe is not None:
            self._faiss.extract_index_ivf(self._index).nprobe = nprobe
        ids: Ids = self._index.search(queries, k)[1]
        return ids

    def save(self, path: Path) -> None:
        """Write."""
        self._faiss.write_index(self._index, str(path))

    def load(self, path: Path) -> None:
        """Read."""
        self._index = self._faiss.read_index(str(path))


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


class _Rabitq:
    """An index of the authors of RaBitQ; a subclass makes it in `build`, and knows its class."""

    _name = ""

    def __init__(self, settings: dict[str, Any], d: int, n: int, threads: int, seed: int) -> None:
        self._library, self._settings, self._d, self._threads = import_module("rabitqlib"), settings, d, threads
        self._index: Any = None

    def save(self, path: Path) -> None:
        """Write."""
        self._index.save(str(path))

    def load(self, path: Path) -> None:
        """Read."""
        self._index = getattr(self._library, self._name).load(str(path))


class RabitqIvf(_Rabitq):
    """IVF, with centroids of FAISS's k-means."""

    _name = "IvfIndex"

    def __init__(self, settings: dict[str, Any], d: int, n: int, threads: int, seed: int) -> None:
        super().__init__(settings, d, n, threads, seed)
        self._faiss = import_module("faiss")  # here, since the memory of a build is counted

    def build(self, x: Floats) -> tuple[float, float]:
        """Learn centroids, and add."""
        faiss, nlist = self._faiss, self._settings["nlist"]
        faiss.omp_set_num_threads(self._threads)
        start = time.perf_counter()
        means = faiss.Kmeans(self._d, nlist, niter=10, spherical=True, max_points_per_centroid=40)
        means.train(x)
        trained = time.perf_counter()
        nearest = means.index.search(x, 1)[1][:, 0].astype(np.uint32)
        self._index = self._library.IvfIndex(self._d, len(x), nlist, self._settings["nbits"], "ip")
        self._index.build(x, means.centroids, nearest, self._threads)
        return trained - start, time.perf_counter() - trained

    def search(self, queries: Floats, k: int, nprobe: int) -> Ids:
        """Search."""
        ids = self._index.search(np.ascontiguousarray(queries), k, nprobe, num_threads=self._threads)[0]
        return np.asarray(ids).astype(np.int64)


class RabitqHnsw(_Rabitq):
    """HNSW, built as in the authors' benchmarks: M 16, 200 candidates, residuals from 16 centroids."""

    _name = "HnswIndex"

    def build(self, x: Floats) -> tuple[float, float]:
        """Learn centroids, and link all vectors."""
        start = time.perf_counter()
        means = self._library.RaBitQKMeans(
            self._d,
            16,
            niter=10,
            seed=_GRAPH_SEED,
            spherical=True,
            num_threads=self._threads,
            final_assignment=self._library.FinalAssignmentMode.Exact,
        )
        means.train(x)
        trained = time.perf_counter()
        self._index = self._library.HnswIndex(
            self._d,
            len(x),
            M=16,
            ef_construction=200,
            nbits=self._settings["nbits"],
            metric="ip",
            random_seed=_GRAPH_SEED,
        )
        self._index.build(x, means.centroids, means.assignments, self._threads)
        return trained - start, time.perf_counter() - trained

    def search(self, queries: Floats, k: int, ef: int) -> Ids:
        """Search."""
        ids = self._index.search(np.ascontiguousarray(queries), k, max(ef, k), num_threads=self._threads)[0]
        return np.asarray(ids).astype(np.int64)


class Symphony(_Rabitq):
    """SymphonyQG's graph, built as in the authors' benchmarks: degree 32, 200 candidates."""

    _name = "SymqgIndex"

    def build(self, x: Floats) -> tuple[float, float]:
        """Link all vectors."""
        start = time.perf_counter()
        bits = self._settings["nbits"]
        self._index = self._library.SymqgIndex(self._d, max_degree=32, metric="ip", quantization_bits=bits)
        self._index.build(x, 200, num_threads=self._threads)
        return 0.0, time.perf_counter() - start

    def search(self, queries: Floats, k: int, ef: int) -> Ids:
        """Search."""
        ids = self._index.search_batch(np.ascontiguousarray(queries), k, max(ef, k), num_threads=self._threads)[0]
        return np.asarray(ids).astype(np.int64)


class Hnswlib:
    """hnswlib's HNSW graph, with the settings of its own example."""

    def __init__(self, settings: dict[str, Any], d: int, n: int, threads: int, seed: int) -> None:
        self._settings, self._threads = settings, threads
        self._index = import_module("hnswlib").Index(space="ip", dim=d)

    def build(self, x: Floats) -> tuple[float, float]:
        """Add."""
        start = time.perf_counter()
        self._index.init_index(max_elements=len(x), random_seed=_GRAPH_SEED, **self._settings)
        self._index.add_items(x, num_threads=self._threads)
        return 0.0, time.perf_counter() - start

    def search(self, queries: Floats, k: int, ef: int) -> Ids:
        """Search."""
        self._index.set_ef(max(ef, k))
        return np.asarray(self._index.knn_query(queries, k, num_threads=self._threads)[0]).astype(np.int64)

    def save(self, path: Path) -> None:
        """Write."""
        self._index.save_index(str(path))

    def load(self, path: Path) -> None:
        """Read."""
        self._index.load_index(str(path))


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

    def search(self, queries: Floats, k: int, ef: int) -> Ids:
        """Search."""
        self._index.expansion_search = max(ef, k)
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

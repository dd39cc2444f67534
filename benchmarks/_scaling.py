"""One process of `scaling.py`: it times all cells at the number of threads that it was started with, and prints JSON.

Usage: _scaling.py JSON. A cell is the seconds that an item takes with each library: a vector, a query, a step.
"""

from __future__ import annotations

from _common import THREADS, alternate, bytes_read  # isort: skip - sets threads first

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import tqvec
from tqvec.eval.recall import recall

NBITS, K, SMALL = 4, 10, 1_000
LARGE = 200_000  # vectors from which on an index is built once
KV_HEADS, QUERY_HEADS, HEAD_DIM = 8, 32, 128

Floats = NDArray[np.float32]
Cell = dict[str, Any]


class Library(NamedTuple):
    """How a library builds an index of 4 bits per coordinate, and how it searches it; `alone` uses one thread."""

    build: Callable[[Floats], Any]
    search: Callable[[Any, Floats], NDArray[Any]]
    alone: Callable[[Any, Floats], object]


def ours(x: Floats) -> tqvec.Index:
    """An index of tqvec."""
    index = tqvec.Index(x.shape[1], nbits=NBITS)
    index.add(x)
    return index


def turbovec_library(x: Floats) -> Library:
    """turbovec, which learns nothing of `x`; ImportError where it is not installed."""
    import turbovec

    def build(x: Floats) -> Any:
        index = turbovec.TurboQuantIndex(x.shape[1], NBITS)
        index.add(x)
        return index

    def search(index: Any, q: Floats) -> NDArray[Any]:
        return np.asarray(index.search(q, K)[1])

    return Library(build, search, search)


def faiss_library(x: Floats) -> Library:
    """FAISS's fast scan with as many bytes per vector, trained before; ImportError where it is not installed."""
    import faiss

    faiss.omp_set_num_threads(THREADS)
    trained = faiss.index_factory(x.shape[1], f"PQ{x.shape[1]}x4fs", faiss.METRIC_INNER_PRODUCT)
    trained.train(x[:5000])

    def build(x: Floats) -> Any:
        index = faiss.clone_index(trained)
        index.add(x)
        return index

    def search(index: Any, q: Floats) -> NDArray[Any]:
        return np.asarray(index.search(q, K)[1])

    return Library(build, search, search)


RIVALS = {"turbovec": turbovec_library, "faiss": faiss_library}


def libraries(rival: str, x: Floats) -> dict[str, Library]:
    """tqvec and, where it is installed, a rival, for vectors `x`."""
    kept = {
        "tqvec": Library(
            ours,
            lambda index, q: index.search(q, k=K)[1],
            lambda index, q: index.search(q, k=K, threads=1),
        )
    }
    try:
        kept[rival] = RIVALS[rival](x)
    except ImportError:
        print(f"{rival} is not installed: no column for it", file=sys.stderr)
    return kept


def plain_read(size: int, seconds: float) -> float:
    """Bytes per second that all threads read together, each its own part of `size` bytes again and again.

    A thread sums words of 8 bytes (NumPy, which holds no lock meanwhile), and has written its part itself before.
    """
    begin, bounds, done = threading.Barrier(THREADS), [0.0, 0.0], [0] * THREADS

    def read(part: int) -> None:
        words = np.ones(max(1, size // 8 // THREADS), np.uint64)
        words.sum()
        begin.wait()
        bounds[0] = time.perf_counter()
        while time.perf_counter() < bounds[0] + seconds:
            words.sum()
            done[part] += words.nbytes
        bounds[1] = time.perf_counter()

    _in_threads(read)
    return sum(done) / (bounds[1] - bounds[0])


def python_threads(search: Callable[[Any, Floats], object], index: Any, queries: Floats, seconds: float) -> float:
    """Seconds a query where Python threads search at once, each with one thread of the library, one query at a time."""
    counts, end = [0] * THREADS, time.perf_counter() + seconds

    def work(part: int) -> None:
        while time.perf_counter() < end:
            at = (part + counts[part]) % len(queries)
            search(index, queries[at : at + 1])
            counts[part] += 1

    start = time.perf_counter()
    _in_threads(work)
    return (time.perf_counter() - start) / max(1, sum(counts))


def _in_threads(task: Callable[[int], None]) -> None:
    """Call ``task(part)`` in as many Python threads as this process may use, and wait for all."""
    threads = [threading.Thread(target=task, args=(part,)) for part in range(THREADS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def building(x: Floats, kept: dict[str, Library], repeats: int) -> tuple[Cell, dict[str, Any]]:
    """The cell of `add`, and the indexes; kernels are compiled and vectors lie in memory before."""
    indexes: dict[str, Any] = {name: library.build(x[:SMALL]) for name, library in kept.items()}

    def task(name: str) -> None:
        indexes.pop(name, None)
        indexes[name] = kept[name].build(x)

    if len(x) < LARGE:
        seconds = alternate({name: lambda name=name: task(name) for name in kept}, repeats)
    else:
        seconds = {}
        for name in kept:
            start = time.perf_counter()
            task(name)
            seconds[name] = time.perf_counter() - start
    return {"cell": "add"} | {name: value / len(x) for name, value in seconds.items()}, indexes


def searching(
    kept: dict[str, Library], indexes: dict[str, Any], batches: list[Floats], name: str, repeats: int
) -> Cell:
    """The cell of some batches, one after the other."""
    count = sum(map(len, batches))
    tasks = {
        one: lambda search=library.search, index=indexes[one]: [search(index, batch) for batch in batches]
        for one, library in kept.items()
    }
    return {"cell": name} | {one: value / count for one, value in alternate(tasks, repeats).items()}


def index_cells(options: dict[str, Any]) -> dict[str, Any]:
    """Cells of an index: `add`, batches, single queries, Python threads, a small index; recall, and the plain read."""
    folder, repeats, seconds = Path(options["folder"]), options["repeats"], options["seconds"]
    x, queries, truth = (np.load(folder / f"{name}.npy") for name in ("base", "queries", "truth"))
    kept = libraries(options["rival"], x)
    if x.shape[1] % 8:  # turbovec takes no other dimensions
        kept.pop("turbovec", None)
    adding, indexes = building(x, kept, options["builds"])
    cells = [adding]
    for count in options["batches"]:
        batch = np.resize(queries, (count, queries.shape[1]))
        cells.append(searching(kept, indexes, [batch], f"batch of {count:,}", repeats))
    singles = [queries[i : i + 1] for i in range(min(len(queries), options["singles"]))]
    cells.append(searching(kept, indexes, singles, "single", repeats))
    alone = {name: python_threads(one.alone, indexes[name], queries, seconds) for name, one in kept.items()}
    cells.append({"cell": "Python threads, single"} | alone)
    small = {name: library.build(x[:SMALL]) for name, library in kept.items()}
    cells.append(searching(kept, small, singles * 10, f"single of {min(SMALL, len(x)):,}", repeats))
    size = len(singles) and int(bytes_read(indexes["tqvec"], 1))
    results = {name: library.search(indexes[name], queries[: len(truth)]) for name, library in kept.items()}
    return {
        "cells": cells,
        "recall": {name: recall(ids.astype(np.int64), truth, K, K) for name, ids in results.items()},
        "single_bytes": size,
        "read_bytes_per_s": plain_read(size, seconds),
    }


def attention_cells(options: dict[str, Any]) -> dict[str, Any]:
    """Cells of a decode step over caches of some numbers of tokens, 8 KV heads of 128."""
    generator = np.random.default_rng(10_005)
    step = generator.standard_normal((QUERY_HEADS, 1, HEAD_DIM), dtype=np.float32)
    cells = []
    for tokens in options["tokens"]:
        cache = tqvec.kvcache.KVCache(n_layers=1, n_kv_heads=KV_HEADS, head_dim=HEAD_DIM, policy="turbo3")
        cache.append(0, *generator.standard_normal((2, KV_HEADS, tokens, HEAD_DIM), dtype=np.float32))
        seconds = alternate({"tqvec": lambda cache=cache: cache.attend(0, step)}, options["repeats"])
        cells.append({"cell": f"attention, {tokens:,} tokens"} | seconds)
    return {"cells": cells}


def main() -> None:
    """Time what the command line names."""
    options = json.loads(sys.argv[1])
    level = {"threads": THREADS, "level": tqvec.simd_info()["level"]}
    print(json.dumps(level | (attention_cells(options) if "tokens" in options else index_cells(options))))


if __name__ == "__main__":
    main()

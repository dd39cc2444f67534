"""A sharded index on a local Ray cluster: the time that is ours, the time that is Ray's, and a model for larger sets.

Nodes are raylets of one CPU each, on this machine. `alone` is one process with one thread that does the same work
without Ray: it makes the shards one after the other, and searches one index of all. `our share` is its time over that
of all CPUs of the cluster.

The model takes the rates that `rates` measures on this machine, and predicts bytes, nodes and times. It is compared
with the run that was measured.

For figures: `--n 5000000 --d 128`. Needs the extra ray.
"""

from __future__ import annotations

from _common import console, report  # isort: skip - sets threads first

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray
from ray.cluster_utils import Cluster
from rich.table import Table

import tqvec
from tqvec.shards.folder import Folder
from tqvec.shards.making import Plan, make_shard
from tqvec.shards.source import FileSource

SHARDS, NODES, K, SINGLE, BATCH = 16, 2, 10, 30, 1_000
PART = 100_000
Floats = NDArray[np.float32]


class Rates(NamedTuple):
    """What a CPU does, and what a request costs beside it.

    Attributes
    ----------
    build : float
        Vectors a second: read, encoded and written.
    single, batched : float
        Vectors that are scored a second, for one query, and for each of a batch of 1,000.
    overhead : float
        Seconds of a request to all shards, beside the scan.
    """

    build: float
    single: float
    batched: float
    overhead: float


def vectors(first: int, n: int, d: int) -> Floats:
    """Some of the vectors, the same in each call."""
    return np.random.default_rng([3, first]).standard_normal((n, d), np.float32)


def write_source(folder: Path, n: int, d: int) -> None:
    """Write files of vectors."""
    folder.mkdir()
    for first in range(0, n, PART):
        np.save(folder / f"{first:010d}.npy", vectors(first, min(PART, n - first), d))


def seconds(task: Callable[[], object], repeats: int = 1) -> float:
    """Median time of a task."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def search_times(search: Callable[..., Any], queries: Floats, repeats: int) -> tuple[float, float]:
    """Seconds of a single query (median), and of each of a batch."""
    search(queries[:1], K)
    search(queries, K)
    single = statistics.median(seconds(lambda i=i: search(queries[i : i + 1], K)) for i in range(repeats))
    return single, seconds(lambda: search(queries, K), 3) / len(queries)


def measure(folder: Path, n: int, d: int, nbits: float) -> list[dict[str, Any]]:
    """Build and search by the cluster, and alone."""
    source, made = folder / "source", folder / "made"
    write_source(source, n, d)
    np.save(folder / "few.npy", vectors(0, SHARDS * 64, d))
    tqvec.ray.build(folder / "few.npy", folder / "few", d, nbits, shard_rows=64)  # workers start, and load kernels
    rows = -(-n // SHARDS)
    building = seconds(lambda: tqvec.ray.build(source, made, d, nbits, shard_rows=rows))
    alone = seconds(lambda: build_alone(source, folder / "alone", d, nbits, rows))
    same = Folder(made).sizes("shards") == Folder(folder / "alone").sizes("shards")  # their names have digests
    shutil.rmtree(source)
    built = row("build", n, building, alone, same)
    queries = vectors(10**9, BATCH, d)
    with tqvec.ray.ShardedIndex(made, actors=NODES) as sharded:
        single, batched = search_times(sharded.search, queries, SINGLE)
        index = joined(made, sharded.manifest)
        own_single, own_batched = search_times(index.search, queries, SINGLE)
        same = all(np.array_equal(a, b) for a, b in zip(sharded.search(queries), index.search(queries), strict=True))
    searched = [row("single query", n, single, own_single, same), row("query of 1,000", n, batched, own_batched, same)]
    return [built, *searched, overhead(folder, d)]


def row(what: str, n: int, took: float, alone: float, same: bool) -> dict[str, Any]:
    """What a cluster needed, and one process with one thread; `equal`: whether the results are."""
    return {
        "what": what,
        "vectors": n,
        "seconds": took,
        "alone": alone,
        "our share": alone / (took * NODES),
        "equal": same,
    }


def build_alone(source: Path, made: Path, d: int, nbits: float, rows: int) -> None:
    """Make the same shards, one after the other."""
    files = FileSource(source)
    plan = Plan(
        folder=Folder(made),
        source=files,
        source_key="source",
        key="alone",
        vectors="vector",
        schema=files.schema("vector", ()),
        base=0,
        shard_rows=rows,
        threads=1,
    )
    empty = tqvec.Index(d, nbits)
    for start in plan.starts():
        make_shard(plan, empty, start)


def joined(folder: Path, manifest: Any) -> tqvec.Index:
    """One index of all shards."""
    paths = [folder / shard.vectors.name for shard in manifest.shards]
    index = tqvec.Index.load(paths[0])
    for path in paths[1:]:
        index.merge_from(tqvec.Index.load(path, mmap=True))
    return index


def overhead(folder: Path, d: int) -> dict[str, Any]:
    """Time of a single query to shards that have next to nothing to scan: what a fan-out costs."""
    queries = vectors(10**9, 200, d)
    with tqvec.ray.ShardedIndex(folder / "few", actors=NODES) as sharded:
        single, _ = search_times(sharded.search, queries, 200)
        index = joined(folder / "few", sharded.manifest)
        own, _ = search_times(index.search, queries, 200)
    return {"what": f"fan-out to {SHARDS} shards", "vectors": SHARDS * 64, "seconds": single, "alone": own}


def rates(folder: Path, d: int, nbits: float, overhead_seconds: float) -> Rates:
    """Measure what a CPU does, with one thread; files that a build reads are in the cache of the system."""
    n = 100_000
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_source(folder / "source", n, d)
    took = statistics.median(
        seconds(lambda i=i: build_alone(folder / "source", folder / str(i), d, nbits, n)) for i in range(3)
    )
    index = tqvec.Index(d, nbits)
    index.add(vectors(0, n, d))
    single, batched = search_times(index.search, vectors(10**9, BATCH, d), SINGLE)
    shutil.rmtree(folder)
    return Rates(n / took, n / single, n / batched, overhead_seconds)


def predict(n: int, cpus: int, rate: Rates) -> dict[str, float]:
    """Seconds of a build and of searches on so many CPUs."""
    return {
        "build": n / (rate.build * cpus),
        "single query": n / (rate.single * cpus) + rate.overhead,
        "query of 1,000": n / (rate.batched * cpus) + rate.overhead / BATCH,
    }


def model_rows(
    folder: Path, overhead_seconds: float, cores: int, memory: float, disk: float, sizes: Sequence[int]
) -> list[dict[str, Any]]:
    """Bytes, nodes and times of large sets, by the rates of this machine and of a disk that the vectors come from."""
    rows = []
    for nbits in (2, 4):
        rate = rates(folder, 768, nbits, overhead_seconds)
        size = tqvec.Index(768, nbits).code_size
        for n in sizes:
            nodes = max(1, int(np.ceil(n * size / memory)))
            times = predict(n, nodes * cores, rate)
            times["build"] = max(times["build"], 4 * 768 * n / (disk * nodes))
            hours = times["build"] / 3600
            rows.append(
                {"vectors": n, "nbits": nbits, "bytes": n * size, "nodes": nodes, "node_hours": hours * nodes} | times
            )
    return rows


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Print rows as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:,.4g}" if isinstance(value, float) else f"{value}" for value in row.values()))
    console.print(table)


def main() -> None:
    """Measure, predict and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=400_000)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--nbits", type=int, default=4)
    parser.add_argument("--cores", type=int, default=16, help="of a node of the model")
    parser.add_argument("--memory", type=float, default=48e9, help="bytes of a node of the model that codes may take")
    parser.add_argument("--disk", type=float, default=1e9, help="bytes a second that a node of the model reads")
    arguments = parser.parse_args()
    cluster = Cluster()
    for _ in range(NODES):
        cluster.add_node(num_cpus=1, object_store_memory=200 * 2**20, include_dashboard=False)
    ray.init(cluster.address, log_to_driver=False)
    folder = Path(tempfile.mkdtemp(prefix="tqvec-sharded-"))
    try:
        rows = measure(folder, arguments.n, arguments.d, arguments.nbits)
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder)
    fan_out = rows[-1]["seconds"] - rows[-1]["alone"]
    predicted = predict(arguments.n, NODES, rates(folder, arguments.d, arguments.nbits, fan_out))
    for row in rows[:-1]:
        row["predicted"] = predicted[row["what"]]
    show(
        rows[:-1], f"{arguments.n:,} × {arguments.d}, {arguments.nbits} bits, {SHARDS} shards, {NODES} nodes of one CPU"
    )
    show(rows[-1:], "Fan-out")
    model = model_rows(folder, fan_out, arguments.cores, arguments.memory, arguments.disk, [10**8, 10**9, 10**10])
    show(model, f"Model: d=768, nodes of {arguments.cores} cores and {arguments.memory / 1e9:.0f} GB for codes")
    report("sharded", [*rows, *model])


if __name__ == "__main__":
    main()

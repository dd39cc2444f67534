"""A partitioned index beside the exhaustive search of the same codes, and beside IVF of FAISS and RaBitQ.

Data: the embeddings of a folder (datasets/README.md), and above their number mixtures of two of them with noise; by
default the sample of WordNet. One thread in all libraries. A rival is a row where it is installed and `--rivals` is
given: its centroids are those of FAISS's k-means on 40 vectors a list, 10 rounds, as its users make them.

`recall` is recall 10@10 against exact products. `kept` is the share of the exhaustive search's results from the same
codes, which is what ``recall=`` promises. Bytes are all that an index holds in memory, per vector, ids and centroids
included; of rivals, codes and ids alone.

For figures: `--folder FULL_SET --n 1000000 --rivals`. Several numbers are written to one file.
"""

from __future__ import annotations

from _common import console, report  # isort: skip - sets threads first

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tqvec
from tqvec.eval.recall import exact_search
from tqvec.eval.sample import load_sample
from tqvec.exact import normalize

K, QUERIES, SINGLE, REPEATS, PART = 10, 300, 100, 3, 100_000
CODECS = {
    "4 bits": {"nbits": 4},
    "3 bits, trellis, trained": {"nbits": 3, "codebook": "trellis"},
    "4 bits, trellis, trained": {"nbits": 4, "codebook": "trellis"},
}
RECALLS, PROBES, TRAINING_ROWS = (0.9, 0.95, 0.98, 0.99), (8, 16, 32, 64, 128), 12_000

Floats = NDArray[np.float32]
Row = dict[str, Any]
Search = Callable[[Floats], NDArray[np.int64]]


def enlarged(base: Floats, n: int) -> Floats:
    """The first `n` vectors, or all and so many mixtures of two of them."""
    rng, parts, left = np.random.default_rng(7), [base[:n]], n - len(base)
    while left > 0:
        m = min(left, PART)
        one, other = (base[rng.integers(0, len(base), m)] for _ in range(2))
        share = rng.uniform(0.6, 0.95, (m, 1)).astype(np.float32)
        noise = np.float32(0.25 / np.sqrt(base.shape[1])) * rng.standard_normal(one.shape, np.float32)
        parts.append(normalize(share * one + (1 - share) * other + noise))
        left -= m
    return np.concatenate(parts)


def share_found(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    """Mean share of wanted ids among those that were found."""
    pairs = zip(found.tolist(), wanted.tolist(), strict=True)
    return float(np.mean([len(set(one) & set(other)) / K for one, other in pairs]))


def measure(search: Search, queries: Floats) -> Row:
    """Results, and milliseconds a query, alone and in a batch."""
    ids, single, batch = search(queries), [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for q in range(SINGLE):
            search(queries[q : q + 1])
        middle = time.perf_counter()
        search(queries)
        single.append((middle - start) / SINGLE)
        batch.append((time.perf_counter() - middle) / len(queries))
    return {"ids": ids, "single": 1e3 * float(np.median(single)), "batch": 1e3 * float(np.median(batch))}


def ours(name: str, x: Floats, queries: Floats, nlist: int | None) -> Iterator[Row]:
    """Rows of one codec: all lists, and as many as a recall needs."""
    index = tqvec.Index(x.shape[1], metric="ip", **CODECS[name])
    start = time.perf_counter()
    if "trained" in name:
        index.train(x[:: max(1, len(x) // TRAINING_ROWS)], threads=1)
    index.add(x, threads=1)
    added = time.perf_counter() - start
    index.partition(nlist, threads=1)
    build = time.perf_counter() - start
    everything = None
    for recall in (1.0, *RECALLS):
        row = measure(lambda q, recall=recall: index.search(q, k=K, recall=recall, threads=1)[1], queries)
        everything = row["ids"] if everything is None else everything
        kept = share_found(row["ids"], everything)
        options = {"index": f"tqvec {name}", "search": f"recall={recall}", "kept": kept, "nlist": index.nlist}
        yield row | options | {"bytes": index.nbytes / len(x), "build": build, "add": added}


def rivals(x: Floats, queries: Floats, nlist: int) -> Iterator[Row]:
    """Rows of FAISS's IVF with RaBitQ, and of RaBitQ's own library."""
    if importlib.util.find_spec("faiss") is None:
        return
    import faiss

    faiss.omp_set_num_threads(1)
    d, rng = x.shape[1], np.random.default_rng(7)
    start = time.perf_counter()
    index = faiss.index_factory(d, f"RR,IVF{nlist},RaBitQfs4", faiss.METRIC_INNER_PRODUCT)
    index.train(x[rng.choice(len(x), min(len(x), nlist * 40), replace=False)])
    index.add(x)
    build = time.perf_counter() - start
    for nprobe in PROBES:
        faiss.extract_index_ivf(index).nprobe = nprobe
        size = faiss.extract_index_ivf(index).code_size + 8
        row = measure(lambda q: index.search(q, K)[1], queries)
        yield row | {"index": "FAISS IVF RaBitQ 4 bits", "search": f"nprobe={nprobe}", "bytes": size, "build": build}
    if importlib.util.find_spec("rabitqlib") is None:
        return
    import rabitqlib

    start = time.perf_counter()
    means = faiss.Kmeans(d, nlist, niter=10, spherical=True, max_points_per_centroid=40)
    means.train(x)
    near = means.index.search(x, 1)[1][:, 0].astype(np.uint32)
    other = rabitqlib.IvfIndex(d, len(x), nlist, 5, "ip")
    other.build(x, means.centroids, near, 1)
    build = time.perf_counter() - start
    which = 0 if other.search(queries[:1], K, 8)[0].dtype.kind in "iu" else 1
    for nprobe in PROBES:
        row = measure(lambda q, n=nprobe: other.search(q, K, n)[which].astype(np.int64), queries)
        yield row | {"index": "rabitqlib IVF 5 bits", "search": f"nprobe={nprobe}", "build": build}


def compare(x: Floats, queries: Floats, arguments: argparse.Namespace) -> list[Row]:
    """Measure all codecs and rivals on some vectors, and print them."""
    true = exact_search(x, queries, K)[1]
    table = Table(title=f"{len(x):,} vectors of {x.shape[1]} dimensions, {len(queries)} queries, one thread")
    columns = ("index", "search", "recall", "kept", "single, ms", "batch, ms", "build, s", "bytes")
    for name in columns:
        table.add_column(name, justify="left" if name in columns[:2] else "right")

    def measured() -> Iterator[Row]:
        for name in arguments.codecs:
            yield from ours(name, x, queries, arguments.nlist)
        if arguments.rivals:
            yield from rivals(x, queries, arguments.nlist or int(4 * np.sqrt(len(x))))

    rows = []
    for row in measured():
        row["recall"] = share_found(row.pop("ids"), true)
        kept, size = (f"{row[name]:.{digits}f}" if name in row else "" for name, digits in (("kept", 3), ("bytes", 0)))
        numbers = (f"{row['single']:.3f}", f"{row['batch']:.3f}", f"{row['build']:.1f}", size)
        table.add_row(row["index"], row["search"], f"{row['recall']:.4f}", kept, *numbers)
        console.print(f"{row['index']}, {row['search']}: {row['recall']:.4f} {numbers}")
        rows.append(row | {"n": len(x), "d": x.shape[1]})
    console.print(table)
    return rows


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="embeddings; default: the sample of the package")
    parser.add_argument("--n", type=int, nargs="+", help="vectors; default: those of the folder")
    parser.add_argument("--codecs", nargs="+", choices=CODECS, default=list(CODECS))
    parser.add_argument("--nlist", type=int, help="lists; default: that of Index.partition, for rivals 4 sqrt(n)")
    parser.add_argument("--rivals", action="store_true", help="measure FAISS and rabitqlib too")
    arguments = parser.parse_args()
    sample = load_sample(arguments.folder)
    base, queries = (normalize(np.asarray(rows, np.float32)) for rows in (sample.base, sample.queries))
    rows = [row for n in arguments.n or [len(base)] for row in compare(enlarged(base, n), queries[:QUERIES], arguments)]
    report("partition" if len(arguments.n or ()) > 1 else f"partition-{rows[0]['n']}", rows)


if __name__ == "__main__":
    main()

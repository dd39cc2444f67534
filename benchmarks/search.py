"""How fast is an exhaustive search on codes? n = 100,000 unit vectors, 4 bits, k = 10, beside FAISS and turbovec.

One thread by default (TQVEC_BENCH_THREADS). Ratios are rival time over tqvec time: above 1 tqvec is faster. Single
queries are timed as runs of 20 different ones.

Roofline: `reads` is what a query must read at least, and GB/s that over its time. A single query reads all sign planes
and scales; a batch reads all codes once. Beside it stands what one thread gets when it just sums up as many bytes.

`--level avx2` compares what processors without AVX-512 would run: the script starts itself again with Numba's target
and FAISS lowered. turbovec can't be lowered.
"""

from __future__ import annotations

from _common import AVX2, THREADS, alternate, bytes_read, console, report, unit_vectors  # isort: skip - sets threads first

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
import turbovec
from numpy.typing import NDArray
from rich.table import Table

import tqvec
from tqvec.eval.recall import exact_search, recall
from tqvec.eval.sample import load_sample
from tqvec.exact import normalize

NBITS, K, BATCH, SINGLES, REPEATS = 4, 10, 200, 20, 7


Floats = NDArray[np.float32]


def cases(n: int, dims: list[int], folder: Path | None) -> Iterator[tuple[str, Floats, Floats]]:
    """Name, base and queries: isotropic vectors of each dimension, and the embeddings of a folder."""
    if folder is not None:
        sample = load_sample(folder)
        x, queries = (normalize(np.asarray(rows, np.float32)) for rows in (sample.base[:n], sample.queries[:BATCH]))
        yield "WordNet", x, queries
    for d in dims:
        x = unit_vectors(n, d, seed=2)
        yield "isotropic", x, normalize(x[:BATCH] + 0.5 * unit_vectors(BATCH, d, seed=3))


def streaming_rate(size: int) -> float:
    """GB/s at which one thread reads `size` bytes again and again."""
    words = np.ones(size // 8, np.uint64)
    return size / alternate({"read": words.sum}, REPEATS)["read"] / 1e9


def rivals(x: Floats) -> tuple[tqvec.Index, dict[str, Callable[[Floats], NDArray]]]:
    """The index, and a search function of each library that holds `x`."""
    d = x.shape[1]
    index = tqvec.Index(d, nbits=NBITS)
    index.add(x)
    pq = faiss.index_factory(d, f"PQ{d}x4fs", faiss.METRIC_INNER_PRODUCT)
    pq.train(x[:5000])
    pq.add(x)
    flat = faiss.IndexFlatIP(d)
    flat.add(x)
    turbo = turbovec.TurboQuantIndex(d, NBITS)
    turbo.add(x)
    return index, {
        "tqvec": lambda q: index.search(q, k=K)[1],
        "faiss_pq4fs": lambda q: pq.search(q, K)[1],
        "turbovec": lambda q: turbo.search(np.ascontiguousarray(q), K)[1],
        "faiss_flat": lambda q: flat.search(q, K)[1],
    }


def main() -> None:
    """Time batches and single queries of all libraries in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=100_000)
    parser.add_argument("-d", type=int, nargs="*", default=[384, 1536])
    parser.add_argument("--folder", type=Path, help="also search this set of embeddings (datasets/README.md)")
    parser.add_argument("--level", choices=["avx2"], help="hold tqvec and FAISS back to it")
    arguments = parser.parse_args()
    if arguments.level and any(os.environ.get(name) != value for name, value in AVX2.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | AVX2)  # both read them when they load
    faiss.omp_set_num_threads(THREADS)
    held = f"{THREADS} thread(s), FAISS {faiss.SIMDConfig.get_level_name()}"
    table = Table(title=f"search, n={arguments.n:,}, {NBITS} bits, k={K}, {held}: ms a query")
    for column in ("data", "d", "queries", "tqvec", "reads, MB", "GB/s", "stream", "FAISS PQ{d}x4fs", "ratio"):
        table.add_column(column, justify="right")
    for column in ("turbovec", "ratio", "FAISS Flat", "ratio"):
        table.add_column(column, justify="right")
    rows = []
    for name, x, queries in cases(arguments.n, arguments.d, arguments.folder):
        d = x.shape[1]
        index, searches = rivals(x)
        truth = exact_search(x, queries, K)[1]
        found = {
            rival: recall(np.asarray(run(queries)).astype(np.int64), truth, K, K) for rival, run in searches.items()
        }
        for count, per_run in ((BATCH, 1), (1, SINGLES)):
            tasks = {
                rival: lambda run=run, count=count, q=queries, per_run=per_run: [
                    run(q[i : i + count]) for i in range(per_run)
                ]
                for rival, run in searches.items()
            }
            ms = {rival: 1e3 * s / (count * per_run) for rival, s in alternate(tasks, REPEATS).items()}
            size = bytes_read(index, count)
            rates = {"bytes_read": size, "gb_per_s": size / ms["tqvec"] / 1e6}
            rates["streaming_gb_per_s"] = streaming_rate(int(size * count))
            rows.append(
                {"data": name, "d": d, "n": len(x), "queries": count, "ms_per_query": ms, "recall_10_at_10": found}
                | rates
            )
            cells = [f"{ms['tqvec']:.3f}", f"{size / 1e6:.2f}", f"{rates['gb_per_s']:.1f}"]
            cells.append(f"{rates['streaming_gb_per_s']:.1f}")
            for rival in ("faiss_pq4fs", "turbovec", "faiss_flat"):
                cells += [f"{ms[rival]:.3f}", f"{ms[rival] / ms['tqvec']:.2f}"]
            table.add_row(name, str(d), str(count), *cells)
        console.print(f"{name}, d={d}: recall 10@10 " + ", ".join(f"{r} {value:.3f}" for r, value in found.items()))
    console.print(table)
    report("search", rows)


if __name__ == "__main__":
    main()

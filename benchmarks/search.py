"""How fast is an exhaustive search on codes? n = 100,000 unit vectors, 4 bits, k = 10, beside FAISS and turbovec.

One thread by default (TQVEC_BENCH_THREADS). Ratios are rival time over tqvec time: above 1 tqvec is faster.
"""

from __future__ import annotations

from _common import THREADS, alternate, console, report, unit_vectors  # isort: skip - sets threads first

import argparse

import faiss
import numpy as np
import turbovec
from rich.table import Table

import tqvec
from tqvec.eval.recall import exact_search, recall

NBITS, K, BATCH, REPEATS = 4, 10, 200, 7


def main() -> None:
    """Time batches and single queries of all libraries in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=100_000)
    parser.add_argument("-d", type=int, nargs="+", default=[384, 1536])
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(THREADS)
    table = Table(title=f"search, n={arguments.n:,}, {NBITS} bits, k={K}, {THREADS} thread(s): ms a query")
    for column in ("d", "queries", "tqvec", "FAISS PQ{d}x4fs", "ratio", "turbovec", "ratio", "FAISS Flat", "ratio"):
        table.add_column(column, justify="right")
    rows = []
    for d in arguments.d:
        x = unit_vectors(arguments.n, d, seed=2)
        queries = x[:BATCH] + 0.5 * unit_vectors(BATCH, d, seed=3)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        index = tqvec.Index(d, nbits=NBITS)
        index.add(x)
        pq = faiss.index_factory(d, f"PQ{d}x4fs", faiss.METRIC_INNER_PRODUCT)
        pq.train(x[:5000])
        pq.add(x)
        flat = faiss.IndexFlatIP(d)
        flat.add(x)
        turbo = turbovec.TurboQuantIndex(d, NBITS)
        turbo.add(x)
        truth = exact_search(x, queries, K)[1]
        searches = {
            "tqvec": lambda q, index=index: index.search(q, k=K)[1],
            "faiss_pq4fs": lambda q, pq=pq: pq.search(q, K)[1],
            "turbovec": lambda q, turbo=turbo: turbo.search(np.ascontiguousarray(q), K)[1],
            "faiss_flat": lambda q, flat=flat: flat.search(q, K)[1],
        }
        found = {name: recall(np.asarray(run(queries)).astype(np.int64), truth, K, K) for name, run in searches.items()}
        for count in (BATCH, 1):
            tasks = {name: lambda run=run, count=count, q=queries: run(q[:count]) for name, run in searches.items()}
            ms = {name: 1e3 * s / count for name, s in alternate(tasks, REPEATS).items()}
            rows.append({"d": d, "n": arguments.n, "queries": count, "ms_per_query": ms, "recall_10_at_10": found})
            cells = [f"{ms['tqvec']:.3f}"]
            for rival in ("faiss_pq4fs", "turbovec", "faiss_flat"):
                cells += [f"{ms[rival]:.3f}", f"{ms[rival] / ms['tqvec']:.2f}"]
            table.add_row(str(d), str(count), *cells)
        console.print(f"d={d}: recall 10@10 " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    console.print(table)
    report("search", rows)


if __name__ == "__main__":
    main()

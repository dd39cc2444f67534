"""What recall do equal bytes buy on real embeddings? All WordNet glosses with MiniLM (datasets/README.md builds them).

FAISS indexes are trained on the base vectors themselves, which favours them. tqvec is averaged over rotation seeds.
"""

from __future__ import annotations

from _common import THREADS, console, report  # isort: skip - sets threads first

import argparse
import time
from pathlib import Path

import numpy as np
from rich.table import Table

import tqvec
from tqvec.eval.baselines import build_faiss
from tqvec.eval.recall import exact_search, normalized, recall
from tqvec.eval.sample import load_sample

K = 10


def main() -> None:
    """Index the set at several widths with tqvec and FAISS and print recall against exact search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="the full set; default: the sample")
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--faiss", nargs="*", default=["PQ96x8np", "PQ192x4fs"], help="factory strings (np: no polysemous training)"
    )
    arguments = parser.parse_args()
    sample = load_sample(arguments.folder)
    x = normalized(np.asarray(sample.base, np.float32))
    queries = normalized(np.asarray(sample.queries, np.float32))
    truth = exact_search(x, queries, K)[1]
    table = Table(title=f"recall on {len(x):,} x {x.shape[1]}, {len(queries)} queries")
    for column in ("index", "bytes", "1@1", "1@10", "10@10", "10@10 by seed", "build s"):
        table.add_column(column, justify="right")
    rows = []
    for nbits in arguments.bits:
        values, seconds = [], 0.0
        for seed in range(arguments.seeds):
            index = tqvec.Index(x.shape[1], nbits=nbits, metric="cosine", seed=seed)
            start = time.perf_counter()
            index.add(x)
            seconds = time.perf_counter() - start
            ids = index.search(queries, k=K)[1]
            values.append([recall(ids, truth, n, m) for n, m in ((1, 1), (1, 10), (10, 10))])
        by_seed = [v[2] for v in values]
        rows.append({"index": f"tqvec {nbits} bits", "bytes": index.code_size, "recall": values, "build_s": seconds})
        mean = np.mean(values, axis=0)
        table.add_row(
            f"tqvec {nbits} bits",
            str(index.code_size),
            *(f"{v:.4f}" for v in mean),
            " ".join(f"{v:.4f}" for v in by_seed),
            f"{seconds:.1f}",
        )
    for factory in arguments.faiss:
        built = build_faiss(factory, x, threads=THREADS)
        ids = built.index.search(queries, K)[1]
        found = [recall(ids, truth, n, m) for n, m in ((1, 1), (1, 10), (10, 10))]
        rows.append({"index": factory, "bytes": built.code_size, "recall": [found], "build_s": built.build_s})
        table.add_row(
            f"FAISS {factory}", str(built.code_size), *(f"{v:.4f}" for v in found), "", f"{built.build_s:.1f}"
        )
    console.print(table)
    report("recall", rows)


if __name__ == "__main__":
    main()

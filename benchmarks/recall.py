"""What recall do equal bytes buy? On all WordNet glosses with MiniLM (datasets/README.md builds them), or on noise.

FAISS indexes are trained on the base vectors themselves, which favours them. tqvec is averaged over rotation seeds.
`--isotropic 768` takes 100,000 Gaussian vectors and independent Gaussian queries instead, by inner product: there is
nothing to learn there, and nothing that makes neighbours stand out.
"""

from __future__ import annotations

from _common import THREADS, console, report  # isort: skip - sets threads first

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tqvec
from tqvec.eval.baselines import build_faiss
from tqvec.eval.recall import exact_search, recall
from tqvec.eval.sample import load_sample
from tqvec.exact import normalize

K = 10

Floats = NDArray[np.float32]


def measured(ids: NDArray, truth: NDArray) -> list[float]:
    """Recall 1@1, 1@10 and 10@10."""
    return [recall(ids, truth, n, m) for n, m in ((1, 1), (1, 10), (10, 10))]


def data(arguments: argparse.Namespace) -> tuple[str, str, Floats, Floats]:
    """Name, metric, base and queries."""
    if arguments.isotropic:
        rng = np.random.default_rng(10_007)
        x = rng.standard_normal((arguments.n, arguments.isotropic), np.float32)
        return "isotropic Gaussian", "ip", x, rng.standard_normal((1000, arguments.isotropic), np.float32)
    sample = load_sample(arguments.folder)
    base, queries = (normalize(np.asarray(rows, np.float32)) for rows in (sample.base, sample.queries))
    return "WordNet", "cosine", base, queries


def main() -> None:
    """Index the set at several widths with tqvec and FAISS and print recall against exact search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="the full set; default: the sample")
    parser.add_argument("--isotropic", type=int, metavar="D", help="Gaussian vectors of this dimension instead")
    parser.add_argument("-n", type=int, default=100_000, help="of them")
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--faiss", nargs="*", default=["PQ96x8np", "PQ192x4fs"], help="factory strings (np: no polysemous training)"
    )
    arguments = parser.parse_args()
    name, metric, x, queries = data(arguments)
    truth = exact_search(x, queries, K)[1]
    table = Table(title=f"recall on {name}, {len(x):,} x {x.shape[1]}, {len(queries)} queries")
    for column in ("index", "bytes", "1@1", "1@10", "10@10", "10@10 by seed", "build s"):
        table.add_column(column, justify="right")
    rows = []
    for nbits, codebook in itertools.product(arguments.bits, ("scalar", "trellis")):
        values, seconds = [], 0.0
        for seed in range(arguments.seeds):
            index = tqvec.Index(x.shape[1], nbits=nbits, metric=metric, codebook=codebook, seed=seed)
            start = time.perf_counter()
            index.add(x)
            seconds = time.perf_counter() - start
            values.append(measured(index.search(queries, k=K)[1], truth))
        title = f"tqvec {nbits} bits, {codebook}"
        rows.append({"data": name, "index": title, "bytes": index.code_size, "recall": values, "build_s": seconds})
        table.add_row(
            title,
            str(index.code_size),
            *(f"{v:.4f}" for v in np.mean(values, axis=0)),
            " ".join(f"{v[2]:.4f}" for v in values),
            f"{seconds:.1f}",
        )
    for factory in arguments.faiss:
        built = build_faiss(factory, x, threads=THREADS)
        found = measured(built.index.search(queries, K)[1], truth)
        rows.append(
            {"data": name, "index": factory, "bytes": built.code_size, "recall": [found], "build_s": built.build_s}
        )
        table.add_row(
            f"FAISS {factory}", str(built.code_size), *(f"{v:.4f}" for v in found), "", f"{built.build_s:.1f}"
        )
    console.print(table)
    report("recall-isotropic" if arguments.isotropic else "recall", rows)


if __name__ == "__main__":
    main()

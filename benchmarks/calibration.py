"""What does training buy at equal bytes? Untrained and trained indexes of both codebooks beside FAISS and turbovec.

The sample to train on is drawn from the base vectors, 8,000 of them unless told otherwise. FAISS trains on all base
vectors, which favours it. Seconds of training and of adding are apart.
"""

from __future__ import annotations

from _common import THREADS, console, report  # isort: skip - sets threads first

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tqvec
from tqvec.eval.baselines import build_faiss
from tqvec.eval.recall import exact_search, normalized, recall
from tqvec.eval.sample import load_sample

K = 10
DATA_SEED = 20_000  # of the sample, not of a rotation

Floats = NDArray[np.float32]
Row = tuple[str, int, float, float, NDArray[np.int64]]  # index, bytes, seconds to train and to add, results


def ours(x: Floats, queries: Floats, sample: Floats, nbits: int, codebook: str, seed: int) -> Iterator[Row]:
    """Without training and with it."""
    for trained in (False, True):
        index = tqvec.Index(x.shape[1], nbits=nbits, metric="cosine", codebook=codebook, seed=seed)
        start = time.perf_counter()
        if trained:
            console.print(str(index.train(sample)))
        middle = time.perf_counter()
        index.add(x)
        times = middle - start, time.perf_counter() - middle
        name = f"tqvec {codebook}" + (", trained" if trained else "")
        yield name, index.code_size, *times, index.search(queries, k=K)[1]


def rivals(x: Floats, queries: Floats, sample: Floats, nbits: int, opq: bool) -> Iterator[Row]:
    """FAISS product quantisation and RaBitQ; turbovec where it has the width."""
    parts = x.shape[1] * nbits // 8
    factories = [f"PQ{parts}x8np", f"RR,RaBitQfs{nbits if nbits > 1 else ''}"]
    if opq:
        factories.insert(1, f"OPQ{parts},PQ{parts}x8np")
    for factory in factories:
        built = build_faiss(factory, x, threads=THREADS)
        yield f"FAISS {factory}", built.code_size, built.build_s, 0.0, built.index.search(queries, K)[1]
    if nbits in (2, 4):
        import turbovec

        for calibrated in (False, True):
            index = turbovec.TurboQuantIndex(x.shape[1], nbits)
            start = time.perf_counter()
            if calibrated:
                index.calibrate(sample)
            middle = time.perf_counter()
            index.add(x)
            times = middle - start, time.perf_counter() - middle
            name = "turbovec" + (", calibrated" if calibrated else "")
            yield name, parts + 4, *times, index.search(queries, K)[1].astype(np.int64)


def main() -> None:
    """Index the set and print recall 10@10 against exact search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="the full set; default: the sample")
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--train", type=int, default=8000, help="rows to train on")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--no-rivals", action="store_true")
    parser.add_argument("--opq", action="store_true", help="FAISS OPQ too, which trains for minutes")
    arguments = parser.parse_args()
    given = load_sample(arguments.folder)
    x, queries = (normalized(np.asarray(rows, np.float32)) for rows in (given.base, given.queries))
    chosen = np.random.default_rng(DATA_SEED).choice(len(x), min(arguments.train, len(x)), replace=False)
    truth = exact_search(x, queries, K)[1]
    table = Table(title=f"recall 10@10 on {len(x):,} x {x.shape[1]}, {len(queries)} queries")
    for column in ("bits", "index", "bytes", "10@10", "train s", "add s"):
        table.add_column(column, justify="right")
    rows: list[dict[str, Any]] = []

    def note(nbits: int, found: Row) -> None:
        name, size, train_s, add_s, ids = found
        value = recall(ids, truth, K, K)
        rows.append({"nbits": nbits, "index": name, "bytes": size, "recall": value, "train_s": train_s, "add_s": add_s})
        table.add_row(str(nbits), name, str(size), f"{value:.4f}", f"{train_s:.1f}", f"{add_s:.1f}")
        console.print(f"{nbits} bits, {name}: {value:.4f}")

    for nbits in arguments.bits:
        for codebook in ("scalar", "trellis"):
            for seed in range(arguments.seeds):
                for found in ours(x, queries, x[chosen], nbits, codebook, seed):
                    note(nbits, found)
        if not arguments.no_rivals:
            for found in rivals(x, queries, x[chosen], nbits, arguments.opq):
                note(nbits, found)
    console.print(table)
    report("calibration", rows)


if __name__ == "__main__":
    main()

"""What does training buy at equal bytes? Untrained and trained indexes of both codebooks beside FAISS and turbovec.

Each seed draws a rotation and a sample to train on from the base vectors, by default 8,000 of them. "from codes" is the
untrained index, trained after adding without its vectors. FAISS trains on all base vectors, which favours it. OPQ
trains for long, so results are written before it starts, and again at the end. `--isotropic 128` takes Gaussian vectors
instead, in which there is nothing to learn: training must not cost anything there. Similarity is the cosine. Seconds
are processor time, so a run of hours doesn't need the machine for itself. datasets/README.md lists the folders.
"""

from __future__ import annotations

from _common import THREADS, console, report  # isort: skip - sets threads first

import argparse
import itertools
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tqvec
from tqvec.errors import LossWarning
from tqvec.eval.baselines import build_faiss
from tqvec.eval.readers import read_vectors
from tqvec.eval.recall import exact_search, recall
from tqvec.eval.sample import sample_folder
from tqvec.exact import normalize

K = 10
DATA_SEED = 20_000  # of samples to train on; those of rotations start at 0

Floats = NDArray[np.float32]
Row = tuple[str, int, float, float, NDArray[np.int64]]  # index, bytes, seconds to train and to add, results


def ours(x: Floats, queries: Floats, sample: Floats, nbits: int, codebook: str, seed: int) -> Iterator[Row]:
    """Yield an untrained index, one trained before adding, and the untrained one trained from its codes."""
    name = f"tqvec {codebook}"
    indexes = [tqvec.Index(x.shape[1], nbits, "cosine", codebook, seed) for _ in range(2)]
    for index, trained in zip(indexes, ("", ", trained"), strict=True):
        start = time.process_time()
        if trained:
            console.print(f"seed {seed}, {index.train(sample)}")
        middle = time.process_time()
        index.add(x)
        end = time.process_time()
        yield name + trained, index.code_size, middle - start, end - middle, index.search(queries, k=K)[1]
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LossWarning)
        indexes[0].train(sample)
    seconds = time.process_time() - start
    yield f"{name}, from codes", indexes[0].code_size, seconds, 0.0, indexes[0].search(queries, k=K)[1]


def product_quantizer(d: int, nbits: int, rotated: bool = False) -> str:
    """Return the factory string of the product quantiser with d·nbits bits per vector, 8 per part where `d` allows."""
    part = next(b for b in (8, 10, 6, 12, 4) if d * nbits % b == 0 and d % (d * nbits // b) == 0)
    parts = d * nbits // part
    return (f"OPQ{parts}," if rotated else "") + f"PQ{parts}x{part}np"


def faiss(factory: str, x: Floats, queries: Floats) -> Row:
    """Build and search a FAISS index."""
    built = build_faiss(factory, x, threads=THREADS, clock=time.process_time)
    ids = built.index.search(queries, K)[1]
    return f"FAISS {factory}", built.code_size, built.train_s, built.build_s - built.train_s, ids


def factories(d: int, nbits: int) -> Iterator[str]:
    """Yield factory strings of FAISS indexes with these bits per coordinate that train within minutes."""
    yield product_quantizer(d, nbits)
    if d * nbits % 4 == 0 and d % (d * nbits // 4) == 0:
        yield f"PQ{d * nbits // 4}x4fs"
    yield f"RR,RaBitQfs{nbits if nbits > 1 else ''}"
    yield f"RR,EDEN{nbits}"
    if nbits in (2, 4):
        yield "RR,SQtqmse2" if nbits == 2 else "SQ4"


def rivals(x: Floats, queries: Floats, sample: Floats, nbits: int) -> Iterator[Row]:
    """Build and search FAISS indexes, and turbovec where it has the width and the dimension."""
    d = x.shape[1]
    for factory in factories(d, nbits):
        yield faiss(factory, x, queries)
    if nbits in (2, 4) and d % 8 == 0:
        import turbovec

        for calibrated in (False, True):
            index = turbovec.TurboQuantIndex(d, nbits)
            start = time.process_time()
            if calibrated:
                index.calibrate(sample)
            middle = time.process_time()
            index.add(x)
            times = middle - start, time.process_time() - middle
            name = "turbovec" + (", calibrated" if calibrated else "")
            yield name, d * nbits // 8 + 4, *times, index.search(queries, K)[1].astype(np.int64)


def data(arguments: argparse.Namespace) -> tuple[str, Floats, Floats]:
    """Return the name of the data, base vectors and queries of length one."""
    if arguments.isotropic:
        rng = np.random.default_rng(10_007)
        rows = [rng.standard_normal((n, arguments.isotropic), np.float32) for n in (arguments.n, 1000)]
        return f"isotropic-{arguments.isotropic}", normalize(rows[0]), normalize(rows[1])
    folder = arguments.folder or sample_folder()
    base, queries = (read_vectors(folder / f"{name}_f16.npy") for name in ("base", "queries"))
    return folder.resolve().name, normalize(base.astype(np.float32)), normalize(queries.astype(np.float32))


def stages(x: Floats, queries: Floats, arguments: argparse.Namespace) -> Iterator[Iterator[tuple[int, Row]]]:
    """Yield bits and results in three stages: ours, rivals that train fast, rivals that train for long."""
    samples = [
        x[np.random.default_rng(DATA_SEED + seed).choice(len(x), min(arguments.train, len(x)), replace=False)]
        for seed in range(arguments.seeds)
    ]
    yield (
        (nbits, row)
        for nbits, codebook in itertools.product(arguments.bits, ("scalar", "trellis"))
        for seed, sample in enumerate(samples)
        for row in ours(x, queries, sample, nbits, codebook, seed)
    )
    if not arguments.no_rivals:
        yield ((nbits, row) for nbits in arguments.bits for row in rivals(x, queries, samples[0], nbits))
        yield ((nbits, faiss(product_quantizer(x.shape[1], nbits, True), x, queries)) for nbits in arguments.bits)


def summary(runs: dict[tuple[int, str], list[tuple[int, float, float, float]]], title: str) -> list[dict[str, Any]]:
    """Print a table of bytes, recall and seconds of all runs, and return it for the record."""
    table = Table(title=title)
    for column in ("bits", "index", "bytes", "mean", "from … to", "train s", "add s"):
        table.add_column(column, justify="right")
    rows = []
    for (nbits, index), results in sorted(runs.items()):
        sizes, values, train_s, add_s = (list(column) for column in zip(*results, strict=True))
        times = {"train_s": statistics.median(train_s), "add_s": statistics.median(add_s)}
        rows.append({"nbits": nbits, "index": index, "bytes": sizes[0], "recall": values, **times})
        numbers = f"{statistics.mean(values):.4f}", f"{min(values):.4f} … {max(values):.4f}"
        table.add_row(str(nbits), index, str(sizes[0]), *numbers, *(f"{seconds:.1f}" for seconds in times.values()))
    console.print(table)
    return rows


def main() -> None:
    """Index the set and print recall 10@10 against exact search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, nargs="?", help="with base_f16.npy and queries_f16.npy; default: the sample"
    )
    parser.add_argument("--isotropic", type=int, metavar="D", help="Gaussian vectors of this dimension instead")
    parser.add_argument("-n", type=int, default=100_000, help="of them")
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--train", type=int, default=8000, help="rows to train on")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--no-rivals", action="store_true", help="tqvec alone")
    arguments = parser.parse_args()
    name, x, queries = data(arguments)
    truth = exact_search(x, queries, K)[1]
    title = f"recall 10@10 on {name}, {len(x):,} x {x.shape[1]}, {len(queries)} queries"
    runs: dict[tuple[int, str], list[tuple[int, float, float, float]]] = {}
    for stage in stages(x, queries, arguments):
        for nbits, (index, size, train_s, add_s, ids) in stage:
            value = recall(ids, truth, K, K)
            runs.setdefault((nbits, index), []).append((size, value, train_s, add_s))
            console.print(f"{nbits} bits, {index}: {value:.4f}, {train_s:.1f} s to train, {add_s:.1f} s to add")
        report(f"calibration-{name}", summary(runs, title))


if __name__ == "__main__":
    main()

"""The search experiment of the TurboQuant paper (arXiv 2504.19874) as one command: recall 1@k, k = 1 to 64.

100,000 vectors and 1,000 queries are drawn at random from each data set: by default those of the paper, GloVe with 200
dimensions and DBpedia with 1,536 and 3,072. Only sets that are here are measured; `tqvec datasets get NAME` downloads
one. `--files` takes your vectors and queries instead.

Methods, at equal code bits: the paper's Algorithm 1 (`mse`) and Algorithm 2 (`prod`), the default of `Index`, and
FAISS's product quantizer and RaBitQ. Recall of the first three is the mean over rotations. FAISS's quantizers are
trained on the vectors themselves, which favours them.

The paper gives its recall as plots alone, so its figures can't stand in the table. Its theorems can: distortion of
`mse` and `prod` is measured beside their limits. `--times` also times training and encoding, on a quiet machine.

A script, not an option of `tqvec bench`: it repeats one experiment, with a mode that no index has; `bench` compares
indexes on your vectors.
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
from tqvec.eval import datasets
from tqvec.eval.baselines import build_faiss, has_faiss
from tqvec.eval.leaderboard.measure import DEPTHS
from tqvec.eval.readers import read_vectors
from tqvec.eval.recall import exact_search, recall
from tqvec.exact import normalize

SETS = ("glove-200-angular", "dbpedia-openai-1536", "dbpedia-openai-3072")  # of the paper
N, QUERIES, WIDTHS, SEED = 100_000, 1_000, (1, 2, 3, 4), 20_000  # the seed is never that of a rotation
PAIRED, ASKED = 10_000, 100  # vectors and queries that distortion is measured on
MSE, PROD, DEFAULT = "TurboQuant mse", "TurboQuant prod", "tqvec, default"
UPPER = {MSE: 3**0.5 * np.pi / 2, PROD: 3**0.5 * np.pi**2}  # times 4^-bits (Theorems 1, 2); the least is 4^-bits (3)

Floats = NDArray[np.float32]
Row = dict[str, Any]


def sampled(n: int, most: int) -> NDArray[np.int64]:
    """Row numbers of a random sample, ascending."""
    return np.sort(np.random.default_rng(SEED).choice(n, min(n, most), replace=False))


def data_sets(arguments: argparse.Namespace) -> Iterator[tuple[str, Floats, Floats]]:
    """Name, base and queries of each set that is here, as unit vectors."""
    if arguments.files:
        base, queries = (read_vectors(path) for path in arguments.files)
        pairs = [(arguments.files[0].stem, base[sampled(len(base), arguments.n)], queries)]
    else:
        pairs = []
        for name in arguments.data:
            entry = datasets.find(name)
            if entry.missing:
                console.print(f"{name}: not here; `tqvec datasets get {name}` downloads it from {entry.page}")
                continue
            data = datasets.load(name)
            pairs.append((name, data.base.take(sampled(data.base.n, arguments.n)), data.queries))
    for name, base, queries in pairs:
        chosen = queries[sampled(len(queries), QUERIES)]
        yield name, normalize(np.asarray(base, np.float32)), normalize(np.asarray(chosen, np.float32))


def distortion(method: str, tq: tqvec.TurboQuant, x: Floats, queries: Floats) -> Row:
    """Error of Algorithm 1's vectors, or d times that of Algorithm 2's products; slope of the products' error."""
    codes, true = tq.encode(x), queries @ x.T
    error = tq.inner_product(queries, codes) - true
    slope = float(np.sum(error * true, dtype=np.float64) / np.sum(true * true, dtype=np.float64))
    if method == PROD:
        return {"D": tq.d * float(np.mean(np.square(error, dtype=np.float64))), "slope": slope}
    return {"D": float(np.mean(np.sum((tq.decode(codes) - x) ** 2, axis=1, dtype=np.float64))), "slope": slope}


def ours(method: str, nbits: int, x: Floats, queries: Floats, truth: NDArray[np.int64], seeds: int) -> Row:
    """Recall of one of the methods of tqvec, averaged over rotations."""
    d, k, rows = x.shape[1], truth.shape[1], []
    for seed in range(seeds):
        if method == DEFAULT:
            index = tqvec.Index(d, nbits=nbits, seed=seed)
            start = time.perf_counter()
            index.add(x)
            seconds = time.perf_counter() - start
            rows.append(recalls(index.search(queries, k=k)[1], truth) | {"seconds": seconds})
            size = index.code_size
        else:
            options = {"mode": "prod"} if method == PROD else {"scale": "norm"}
            tq = tqvec.TurboQuant(d, nbits=nbits, seed=seed, **options)
            start = time.perf_counter()
            codes = tq.encode(x)
            seconds = time.perf_counter() - start
            rows.append(recalls(exact_search(tq.decode(codes), queries, k)[1], truth) | {"seconds": seconds})
            rows[-1] |= distortion(method, tq, x[sampled(len(x), PAIRED)], queries[:ASKED])
            size = tq.code_size
    return {"bytes": size, "train_s": 0.0} | {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def faiss_factories(nbits: int, d: int) -> dict[str, str]:
    """FAISS's product quantizer of as many bits, with codebooks of 256 entries (64 at 3 bits), and RaBitQ."""
    per_codebook = 6 if nbits == 3 else 8
    factories = {} if d * nbits % per_codebook else {"FAISS PQ": f"PQ{d * nbits // per_codebook}x{per_codebook}np"}
    return factories | {"FAISS RaBitQ": f"RR,RaBitQfs{nbits if nbits > 1 else ''}"}


def recalls(ids: NDArray[np.int64], truth: NDArray[np.int64]) -> dict[str, float]:
    """Recall 1@k by names of columns."""
    return {f"1@{k}": recall(ids, truth, 1, k) for k in DEPTHS}


def measure(name: str, x: Floats, queries: Floats, arguments: argparse.Namespace) -> list[Row]:
    """Measure all methods and widths on a set."""
    truth = exact_search(x, queries, DEPTHS[-1])[1]
    rows = []
    for nbits in arguments.bits:
        cells: dict[str, Row] = {}
        for method in (MSE, PROD, DEFAULT):
            cells[method] = ours(method, nbits, x, queries, truth, arguments.seeds)
        for method, factory in faiss_factories(nbits, x.shape[1]).items() if has_faiss() else ():
            built = build_faiss(factory, x, threads=THREADS)
            found = recalls(built.index.search(queries, DEPTHS[-1])[1], truth)
            cells[method] = found | {
                "factory": factory,
                "bytes": built.code_size,
                "train_s": built.train_s,
                "seconds": built.build_s - built.train_s,
            }
        for method, cell in cells.items():
            about = {"data": name, "n": len(x), "d": x.shape[1], "queries": len(queries)}
            rows.append(about | {"method": method, "nbits": nbits, "seeds": arguments.seeds} | cell)
            console.print(f"{name}, {nbits} bits, {method}: 1@1 {cell['1@1']:.3f}")
    if not arguments.times:
        rows = [{key: value for key, value in row.items() if key not in ("train_s", "seconds")} for row in rows]
    return rows


def show(name: str, rows: list[Row]) -> None:
    """Print recall, and distortion between the limits of the theorems; Markdown too."""
    times = ["train_s", "seconds"] if "seconds" in rows[0] else []
    columns = ["nbits", "method", "bytes", *(f"1@{k}" for k in DEPTHS), *times]
    table = Table(title=f"{name}, {rows[0]['n']:,} x {rows[0]['d']}, {rows[0]['queries']:,} queries: recall 1@k")
    for column in columns:
        table.add_column(column, justify="right")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        named = row | {"method": ", ".join([row["method"], *([row["factory"]] if "factory" in row else [])])}
        cells = [f"{named[c]:.3f}" if isinstance(named[c], float) else str(named[c]) for c in columns]
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    console.print(table)
    console.print("\n".join(lines), soft_wrap=True)
    limits = Table(title="distortion (of prod: d times) between the theorems' limits; slope of the products' error")
    for column in ("nbits", "method", "at least", "measured", "at most", "slope"):
        limits.add_column(column, justify="right")
    for row in rows:
        if "D" in row:
            least = 4.0 ** -row["nbits"]
            ends = f"{least:.4g}", f"{row['D']:.4g}", f"{UPPER[row['method']] * least:.4g}"
            limits.add_row(str(row["nbits"]), row["method"], *ends, f"{row['slope']:+.4f}")
    console.print(limits)


def draw(name: str, rows: list[Row], path: str) -> None:
    """Draw recall 1@k by k, a panel for each width."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    widths = sorted({row["nbits"] for row in rows})
    figure, axes = pyplot.subplots(1, len(widths), figsize=(4 * len(widths), 4), squeeze=False, layout="constrained")
    for axis, nbits in zip(axes[0], widths, strict=True):
        for row in rows:
            if row["nbits"] == nbits:
                axis.plot(DEPTHS, [row[f"1@{k}"] for k in DEPTHS], "o-", markersize=4, label=row["method"])
        axis.set(title=f"{nbits} bits", xlabel="k", ylabel="recall 1@k", xscale="log")
        axis.set_xticks(DEPTHS, map(str, DEPTHS))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.suptitle(f"{name}: {rows[0]['n']:,} × {rows[0]['d']}")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure each set that is here, print its tables, and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=SETS, help=f"names of data sets; default: {', '.join(SETS)}")
    parser.add_argument("--files", nargs=2, type=Path, metavar=("BASE", "QUERIES"), help="instead of data sets")
    parser.add_argument("-n", type=int, default=N, help="vectors that are drawn")
    parser.add_argument("--bits", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--seeds", type=int, default=3, help="rotations of tqvec")
    parser.add_argument("--times", action="store_true", help="also time training and encoding")
    parser.add_argument("--plot", type=Path, help="folder of plots, paper-NAME.png")
    arguments = parser.parse_args()
    for name, x, queries in data_sets(arguments):
        rows = measure(name, x, queries, arguments)
        show(name, rows)
        if arguments.plot:
            draw(name, rows, str(arguments.plot / f"paper-{name}.png"))
        report(f"paper-{name}", rows)


if __name__ == "__main__":
    main()

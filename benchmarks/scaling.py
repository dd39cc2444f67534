"""How much do more threads gain? add, batches, single queries, Python threads and attention, beside turbovec.

Every number of threads is a process of its own, in which all libraries may use as many. turbovec is a column where it
is installed. Data: the embeddings of a folder (datasets/README.md), vectors with the falling spectrum of embeddings
(`--synthetic`), or uniform ones (`--isotropic`); by default the sample of WordNet. Batches larger than the set of
queries repeat them.

A cell holds the µs of an item (a vector, a query, a step), the speed-up against the fewest threads, and in brackets
turbovec's time over tqvec's: above 1 tqvec is faster. Cells in which more threads are slower by over 5 % are listed.

`plain read` is the rate at which as many Python threads together read what a single query must read at least (all sign
planes and scales): each sums its own part of so many bytes with NumPy, again and again, as the searches do. So both
have the same part of it in caches. The share is that of the bytes per second of a single query in this rate.

`--faiss` compares with FAISS's fast scan instead, both libraries held back to AVX2 where the processor has more. FAISS
is trained before `add` is timed.

For figures: `--folder FULL_SET --synthetic 1000000x768 --isotropic 100000x384`.
"""

from __future__ import annotations

from _common import AVX2, console, report, unit_vectors  # isort: skip - sets threads first

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tqvec
from tqvec.eval.recall import exact_search
from tqvec.eval.sample import load_sample
from tqvec.exact import normalize

K, QUERIES, TRUE_QUERIES, PART = 10, 2_000, 200, 50_000
SLOWER = 1.05  # times the time with fewer threads
RANK, DECAY, NOISE = 256, -0.7, 0.02  # of the falling spectrum: axes, exponent of their deviations, and all others'

Floats = NDArray[np.float32]
Row = dict[str, Any]


def synthetic(n: int, d: int) -> tuple[Floats, Floats]:
    """Base and queries with a spectrum that falls as that of embeddings does."""
    rng = np.random.default_rng(10_005)
    rank = min(d, RANK)
    axes = np.linalg.qr(rng.standard_normal((d, rank)))[0].T * np.arange(1, rank + 1)[:, None] ** DECAY
    x = np.empty((n + QUERIES, d), np.float32)
    for start in range(0, n + QUERIES, PART):
        rows = x[start : start + PART]
        rows[:] = rng.standard_normal((len(rows), rank), np.float32) @ axes.astype(np.float32)
        rows += np.float32(NOISE) * rng.standard_normal(rows.shape, np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return x[:n], x[n:]


def isotropic(n: int, d: int) -> tuple[Floats, Floats]:
    """Base and queries that are uniform on the sphere."""
    return unit_vectors(n, d, seed=2), unit_vectors(QUERIES, d, seed=3)


def data_sets(arguments: argparse.Namespace) -> Iterator[tuple[str, Floats, Floats]]:
    """Name, base and queries of each set."""
    if arguments.folder is not None or not (arguments.synthetic or arguments.isotropic):
        sample = load_sample(arguments.folder)
        x, queries = (normalize(np.asarray(rows, np.float32)) for rows in (sample.base, sample.queries))
        yield "embeddings", x[: arguments.most], queries
    for n, d in arguments.synthetic:
        yield "synthetic", *synthetic(n, d)
    for n, d in arguments.isotropic:
        yield "isotropic", *isotropic(n, d)


def measured(options: Row, threads: int, lowered: bool = False) -> Row:
    """What a process prints that measures with so many threads; both libraries at AVX2 if `lowered`."""
    environment = os.environ | {"TQVEC_BENCH_THREADS": str(threads)} | (AVX2 if lowered else {})
    command = [sys.executable, str(Path(__file__).with_name("_scaling.py")), json.dumps(options)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def rows_of(name: str, x: Floats, queries: Floats, arguments: argparse.Namespace) -> list[Row]:
    """What processes of all numbers of threads measure on a set."""
    quick = arguments.quick
    lowered = arguments.faiss and tqvec.simd_info()["level"] in ("avx512", "amx")  # others keep the compiler's target
    options = {
        "rival": "faiss" if arguments.faiss else "turbovec",
        "batches": [20, 200] if quick else [20, 200, 2000],
        "singles": 20 if quick else 50,
        "repeats": 2 if quick else 5,
        "builds": 1 if quick or arguments.faiss else 5,  # FAISS takes seconds
        "seconds": 0.3 if quick else 1.5,
    }
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        truth = exact_search(x, queries[:TRUE_QUERIES], K)[1]
        for part, array in (("base", x), ("queries", queries), ("truth", truth)):
            np.save(Path(folder) / f"{part}.npy", array)
        rows = []
        for threads in arguments.threads:
            row = measured(options | {"folder": folder}, threads, lowered)
            rows.append({"data": name, "n": len(x), "d": x.shape[1], "rival": options["rival"]} | row)
    return rows


def attention_rows(arguments: argparse.Namespace) -> list[Row]:
    """What processes of all numbers of threads measure of attention."""
    options = {"tokens": arguments.tokens, "repeats": 2 if arguments.quick else 7}
    return [{"data": "attention"} | measured(options, threads) for threads in arguments.threads]


def by_cell(rows: list[Row]) -> dict[str, dict[int, Row]]:
    """The cells of the rows of a set, by their names and numbers of threads."""
    cells: dict[str, dict[int, Row]] = {}
    for row in rows:
        for cell in row["cells"]:
            cells.setdefault(cell["cell"], {})[row["threads"]] = cell
    return cells


def slower_cells(rows: list[Row]) -> Iterator[str]:
    """A line for each cell in which more threads are slower than fewer, by over 5 %."""
    for name, cells in by_cell(rows).items():
        for threads, cell in cells.items():
            fewer, seconds = min(((few, cells[few]["tqvec"]) for few in cells if few <= threads), key=lambda p: p[1])
            if cell["tqvec"] > SLOWER * seconds:
                yield f"{name}: {threads} threads take {cell['tqvec'] / seconds:.2f} times as long as {fewer}"


def show(title: str, rows: list[Row]) -> None:
    """Print the cells of a set, recall, and shares of the plain read."""
    first, rival = rows[0]["threads"], rows[0].get("rival", "")
    meaning = "µs an item, speed-up" + (rf", \[{rival} / tqvec]" if rival in rows[0].get("recall", {}) else "")
    table = Table(title=f"{title}, level {rows[0]['level']}: {meaning}")
    table.add_column("")
    for row in rows:
        table.add_column(f"{row['threads']} thread(s)", justify="right")
    for name, cells in by_cell(rows).items():
        texts = []
        for cell in cells.values():
            ratio = rf" \[{cell[rival] / cell['tqvec']:.2f}]" if rival in cell else ""
            time = cell["tqvec"] * 1e6
            shown = f"{time:,.0f}" if time >= 1000 else f"{time:.3g}"
            texts.append(f"{shown} {cells[first]['tqvec'] / cell['tqvec']:.1f}x{ratio}")
        table.add_row(name, *texts)
    if "read_bytes_per_s" in rows[0]:
        singles = by_cell(rows)["single"]
        rates = [(row, row["single_bytes"] / singles[row["threads"]]["tqvec"]) for row in rows]
        table.add_row("plain read, GB/s", *(f"{row['read_bytes_per_s'] / 1e9:.1f}" for row in rows))
        table.add_row("share of a single query", *(f"{r / row['read_bytes_per_s']:.0%}" for row, r in rates))
    console.print(table)
    if "recall" in rows[0]:
        console.print("recall 10@10: " + ", ".join(f"{name} {value:.3f}" for name, value in rows[0]["recall"].items()))
    for line in slower_cells(rows):
        console.print(f"slower: {line}")


def draw(sets: dict[str, list[Row]], path: str) -> None:
    """Draw the speed-up of every cell by the number of threads, a panel for each set."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(sets), figsize=(5 * len(sets), 4.4), squeeze=False, layout="constrained")
    for axis, (title, rows) in zip(axes[0], sets.items(), strict=True):
        threads = [row["threads"] for row in rows]
        axis.plot(threads, threads, "k--", linewidth=1, label="linear")
        for name, cells in by_cell(rows).items():
            first = cells[threads[0]]["tqvec"]
            axis.plot(threads, [first / cells[t]["tqvec"] for t in threads], "o-", markersize=4, label=name)
        axis.set(title=title, xlabel="threads", ylabel="speed-up", xscale="log", yscale="log")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=150)


def size(text: str) -> tuple[int, int]:
    """100000x384 as numbers."""
    n, d = text.split("x")
    return int(n), int(d)


def options() -> argparse.Namespace:
    """The command line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    powers = [2**i for i in range(cores.bit_length()) if 2**i <= min(cores, 16)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a set of embeddings (datasets/README.md)")
    parser.add_argument("--most", type=int, help="vectors of it that are used; default: all")
    parser.add_argument("--synthetic", type=size, nargs="*", default=[], metavar="NxD", help="a falling spectrum")
    parser.add_argument("--isotropic", type=size, nargs="*", default=[], metavar="NxD", help="uniform on the sphere")
    parser.add_argument("--threads", type=int, nargs="+", default=powers, help="ascending; default: 1, 2, 4, 8, 16")
    parser.add_argument("--tokens", type=int, nargs="*", help="of attention, 65536 131072; none: skip it")
    parser.add_argument("--faiss", action="store_true", help="FAISS's fast scan, both at AVX2")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no batch of 2,000, 8,192 tokens")
    parser.add_argument("--scratch", type=Path, help="where vectors are written; default: the one for temporary files")
    parser.add_argument("--plot", metavar="FILE", help="also draw the speed-ups; needs matplotlib")
    arguments = parser.parse_args()
    if arguments.tokens is None:
        arguments.tokens = [8_192] if arguments.quick else [65_536, 131_072]
    if arguments.faiss:
        arguments.tokens = []
    return arguments


def main() -> None:
    """Measure all sets and attention."""
    arguments = options()
    sets: dict[str, list[Row]] = {}
    for name, x, queries in data_sets(arguments):
        title = f"{name}, {len(x):,} x {x.shape[1]}"
        sets[title] = rows_of(name, x, queries, arguments)
        show(title, sets[title])
    if arguments.tokens:
        sets["attention"] = attention_rows(arguments)
        show("attention", sets["attention"])
    if arguments.plot:
        draw(sets, arguments.plot)
    kind = f"scaling-{'faiss-' if arguments.faiss else ''}{os.cpu_count()}cores"
    report(kind, [row for rows in sets.values() for row in rows])


if __name__ == "__main__":
    main()

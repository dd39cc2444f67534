"""Where does a search suddenly cost more? Sweeps of d, k, n, codecs, metrics, filters, options and batch sizes.

Each sweep changes one setting and keeps the others: 4 bits, scalar, d = 384, n = 50,000, k = 10, one query, no filter.
A *step* is the time of a setting over that of its neighbour before it, or of the setting that it is held against. It is
above its limit if it still is when the two alone are measured again, in turn. Limits: 1.3; d against the next multiple
of 8: 1.1; twice k: 1.5; error bars against a plain search: 1.3; n against the n before it: 1.3 times as many times as
there are rows. Times are per query; batches are listed from the largest on, since a query of a larger one never costs
more. Vectors are random, with a spectrum that decays like that of embeddings.
"""

from __future__ import annotations

from _common import THREADS, alternate, console, report_parts  # isort: skip - sets threads first

import argparse
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

import tqvec

D, N, K, BATCH = 384, 50_000, 10, 50
SINGLES = 8  # queries that are searched for one at a time, in turn
AGAIN = 2  # times that a step above its limit is measured again


class Setting(NamedTuple):
    """A search to time; `queries` of them in one call."""

    label: str
    x: float  # where it is drawn
    search: Callable[[], object]
    queries: int = 1
    against: str | None = None  # label of the setting that it is held against; default: the one before
    limit: float = 1.3


class Sweep(NamedTuple):
    """Settings of which one thing differs, in an order in which the cost should not jump up."""

    name: str
    line: str  # what stays the same, where a name has several sweeps
    settings: list[Setting]


@cache
def vectors(n: int, d: int, seed: int) -> NDArray[np.float32]:
    """Random vectors whose variance falls as 1 / (1 + axis / 8)."""
    x = np.random.default_rng(seed + 10_000).standard_normal((n, d), np.float32)
    return x / np.sqrt(1 + np.arange(d, dtype=np.float32) / 8)


def index_of(n: int = N, d: int = D, **options: Any) -> tqvec.Index:
    """An index of `n` vectors, whose first search is done."""
    index = tqvec.Index(d, **{"nbits": 4, **options})
    for start in range(0, n, 100_000):
        index.add(vectors(min(100_000, n - start), d, start))
    index.search(vectors(1, d, -1), k=1)
    return index


def search(index: tqvec.Index, k: int = K, queries: int = 1, **options: Any) -> Callable[[], object]:
    """A call to time; one query alone is another one each time, since at small d single ones differ by half."""
    parts = SINGLES if queries == 1 else 1
    batches = cycle(np.split(vectors(parts * queries, index.d, -1), parts))
    return lambda: index.search(next(batches), k=k, threads=THREADS, **options)


def sweeps_of_small_d(quick: bool) -> Iterator[Sweep]:
    """Every d up to 32 or 128."""
    return sweeps_of_d(range(8, 33 if quick else 129, 8), quick)


def sweeps_of_large_d(quick: bool) -> Iterator[Sweep]:
    """All residues of 8 below some multiples of it."""
    return sweeps_of_d([104, 304] if quick else [256, 304, 512, 768, 1024, 1536, 3072], quick)


def sweeps_of_d(ends: Iterable[int], quick: bool) -> Iterator[Sweep]:
    """Each d that has to be filled up to one of some multiples of 8."""
    codecs = [("scalar", 4), ("trellis", 2)] if quick else [("scalar", 1), ("scalar", 4), ("scalar", 8), ("trellis", 3)]
    for codebook, nbits in codecs:
        for end in ends:
            first = max(end - 7, 16 if codebook == "trellis" else 1)
            if first < end:
                built = {d: index_of(10_000, d, codebook=codebook, nbits=nbits) for d in range(end, first - 1, -1)}
                settings = [Setting(str(d), d, search(one), against=str(end), limit=1.1) for d, one in built.items()]
                yield Sweep("d", f"{codebook}, {nbits} bits", settings)


def sweeps_of_k(quick: bool) -> Iterator[Sweep]:
    """Twice as many results each time, up to all."""
    for n in (2_000, N):
        index = index_of(n)
        for queries in (1, 20):
            ks = [2**i for i in range(30) if 2**i < n] + [n]
            if quick and queries > 1:
                ks = [k for k in ks if k <= 1024]
            settings = [Setting(str(k), k, search(index, k, queries), queries, limit=1.5) for k in ks]
            yield Sweep("k", f"n = {n:,}, {queries} queries", settings)


def sweeps_of_n(quick: bool) -> Iterator[Sweep]:
    """From 10 to a million vectors."""
    counts = [10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, *([] if quick else [300_000, 1_000_000])]
    built = {n: index_of(n) for n in counts}
    for queries in (1, BATCH):
        settings = []
        for before, n in zip([counts[0], *counts], counts, strict=False):
            task = search(built[n], K, queries)
            settings.append(Setting(f"{n:,}", n, task, queries, limit=1.3 * n / before))
        yield Sweep("n", f"{queries} queries", settings)


def sweeps_of_codecs(quick: bool) -> Iterator[Sweep]:
    """Widths of both codebooks, metrics, and bands against one band of the same bytes."""
    for queries in (1, BATCH):
        for codebook, widths in (("scalar", (1, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8)), ("trellis", (1, 2, 2.5, 3, 4, 5))):
            built = {nbits: index_of(codebook=codebook, nbits=nbits) for nbits in widths}
            settings = [Setting(str(b), b, search(one, K, queries), queries) for b, one in built.items()]
            yield Sweep("width", f"{codebook}, {queries} queries", settings)
        settings = [
            Setting(metric, i, search(index_of(metric=metric), K, queries), queries, against="ip")
            for i, metric in enumerate(("ip", "cosine", "l2"))
        ]
        yield Sweep("metric", f"{queries} queries", settings)
        bands: dict[str, Any] = {"384×4": 4, "192×5, 192×3": [(192, 5), (192, 3)], "191×5, 193×3": [(191, 5), (193, 3)]}
        bands["129×5, 126×4, 129×3"] = [(129, 5), (126, 4), (129, 3)]
        settings = [
            Setting(name, i, search(index_of(nbits=nbits), K, queries), queries, against="384×4")
            for i, (name, nbits) in enumerate(bands.items())
        ]
        yield Sweep("bands", f"{queries} queries", settings)


def sweeps_of_filters(quick: bool) -> Iterator[Sweep]:
    """Fewer and fewer vectors, at random or in a run."""
    index, rng = index_of(), np.random.default_rng(30_000)
    shares = (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001)
    masks = {share: rng.random(N) < share for share in shares}
    kinds: dict[str, Callable[[float], Any]] = {
        "mask": lambda share: masks[share],
        "ids": lambda share: np.flatnonzero(masks[share]),
        "range": lambda share: range(N // 20, N // 20 + int(share * N)),
    }
    for queries in (1, BATCH):
        for kind, make in kinds.items():
            settings = [Setting("all", 1, search(index, K, queries), queries)]
            for share in shares:
                options = {"filter": make(share), "queries": queries}
                settings.append(Setting(f"{share:.1%}", share, search(index, K, **options), queries, against="all"))
            yield Sweep("share kept", f"{kind}, {queries} queries", settings)


def sweeps_of_calls(quick: bool) -> Iterator[Sweep]:
    """Options against a plain search, and batches."""
    plain, options = {}, {"return_error": {"return_error": True}, "confidence": {"confidence": 0.99}}
    for n in (1_000, N):
        index = index_of(n)
        for queries in (1, BATCH):
            plain = {"plain": Setting("plain", 0, search(index, K, queries), queries)}
            for i, (name, one) in enumerate(options.items()):
                task = search(index, K, queries, **one)
                plain[name] = Setting(name, i + 1, task, queries, against="plain")
            yield Sweep("options", f"n = {n:,}, {queries} queries", list(plain.values()))
    index = index_of()
    sizes = (1, 2, 4, 8, 9, 12, 16, 24, 32, 48, 64, 100, 200)
    settings = [Setting(str(size), size, search(index, K, size), size) for size in sizes]
    yield Sweep("batch", "", settings)


def measure(sweep: Sweep, repeats: int) -> list[dict[str, Any]]:
    """Times of all settings, and their steps."""
    seconds = alternate({one.label: one.search for one in sweep.settings}, repeats)
    by_label = {one.label: one for one in sweep.settings}
    rows = []
    for before, one in zip([sweep.settings[0], *sweep.settings], sweep.settings, strict=False):
        other = by_label[one.against or before.label]
        times = {label: seconds[label] / by_label[label].queries for label in (one.label, other.label)}
        step = times[one.label] / times[other.label]
        for _ in range(AGAIN):
            if step > one.limit:
                pair = alternate({label: by_label[label].search for label in times}, 2 * repeats + 1)
                step = min(step, pair[one.label] / one.queries / (pair[other.label] / other.queries))
        row = {"sweep": sweep.name, "line": sweep.line, "setting": one.label, "x": one.x, "ms": times[one.label] * 1e3}
        rows.append(row | {"against": other.label, "step": step, "limit": one.limit, "above": step > one.limit})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print a line per sweep, then the steps above their limits."""
    table = Table(title=f"4 bits, d = {D}, n = {N:,}, k = {K} unless swept; ms a query")
    for column in ("sweep", "with", "settings", "fastest ms", "slowest ms", "largest step", "limit", "above"):
        table.add_column(column, justify="left" if column in ("sweep", "with") else "right")
    for name, line in dict.fromkeys((row["sweep"], row["line"]) for row in rows):
        mine = [row for row in rows if (row["sweep"], row["line"]) == (name, line)]
        times, worst = [row["ms"] for row in mine], max(mine, key=lambda row: row["step"] / row["limit"])
        figures = f"{min(times):.3f}", f"{max(times):.3f}", f"{worst['step']:.2f}", f"{worst['limit']:.2f}"
        table.add_row(name, line, str(len(mine)), *figures, str(sum(row["above"] for row in mine)))
    console.print(table)
    steps = Table(title="steps above their limits")
    for column in ("sweep", "with", "setting", "against", "ms", "step", "limit"):
        steps.add_column(column)
    for row in rows:
        if row["above"]:
            figures = f"{row['ms']:.3f}", f"{row['step']:.2f}", f"{row['limit']:.2f}"
            steps.add_row(row["sweep"], row["line"], row["setting"], row["against"], *figures)
    console.print(steps if steps.row_count else "no step is above its limit")


def draw(rows: list[dict[str, Any]], path: str) -> None:
    """A panel per sweep."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["sweep"] for row in rows))
    figure, panels = pyplot.subplots(3, 3, figsize=(14, 10), layout="constrained")
    for name, axis in zip(names, panels.flat, strict=False):
        for line in dict.fromkeys(row["line"] for row in rows if row["sweep"] == name):
            mine = sorted(
                (row for row in rows if (row["sweep"], row["line"]) == (name, line)), key=lambda row: row["x"]
            )
            axis.plot([row["x"] for row in mine], [row["ms"] for row in mine], ".-", linewidth=1, label=line)
        above = [row for row in rows if row["sweep"] == name and row["above"]]
        axis.plot([row["x"] for row in above], [row["ms"] for row in above], "ro", fillstyle="none")
        axis.set(title=name, ylabel="ms a query", yscale="log")
        if name in ("metric", "bands", "options"):
            ticks = {row["x"]: row["setting"] for row in rows if row["sweep"] == name}
            axis.set_xticks(list(ticks), list(ticks.values()), fontsize=6)
        elif name not in ("width",):
            axis.set_xscale("log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6)
    figure.savefig(path, dpi=90)
    console.print(f"written: {path}")


def main() -> None:
    """Measure all sweeps, or those named."""
    kinds = {
        "small-d": sweeps_of_small_d, "large-d": sweeps_of_large_d, "k": sweeps_of_k, "n": sweeps_of_n,
        "codecs": sweeps_of_codecs, "filters": sweeps_of_filters, "calls": sweeps_of_calls,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=kinds, default=list(kinds), help="some, in a file of their own")
    parser.add_argument("--repeats", type=int, default=25, help="times that a setting is measured")
    parser.add_argument("--quick", action="store_true", help="fewer settings")
    parser.add_argument("--plot", metavar="FILE", help="also draw them; needs matplotlib")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in track(arguments.only, description="measuring", transient=True):
        for sweep in kinds[name](arguments.quick):
            rows += measure(sweep, arguments.repeats)
    show(rows)
    if arguments.plot:
        draw(rows, arguments.plot)
    report_parts("cliffs-quick" if arguments.quick else "cliffs", rows, arguments.only, list(kinds))


if __name__ == "__main__":
    main()

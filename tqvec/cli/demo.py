"""``tqvec demo``: real embeddings compressed, searched and compared, in under a minute."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from tqvec._config import num_threads
from tqvec._output import Output
from tqvec._types import CodebookName
from tqvec.cli._console import console, progress
from tqvec.cli._output import with_force
from tqvec.cli._plot import plan_plot, pyplot, save_plot
from tqvec.cli.page.comparing import TRAINED_ON
from tqvec.cli.page.server import HOST, PORT, require_page, serve
from tqvec.cli.warmup import compile_with_progress
from tqvec.errors import InputError
from tqvec.eval.baselines import build_faiss, has_faiss
from tqvec.eval.recall import exact_search, recall
from tqvec.eval.sample import Sample, load_sample
from tqvec.exact import normalize
from tqvec.index.index import Index
from tqvec.kernels.features import level

K = 10
NEEDED = "encode", "train", "encode, trellis", "search, many queries", "search, one query"  # steps of a warm-up
INDEXES: tuple[tuple[int, CodebookName, bool], ...] = (  # width, codebook, and whether it is trained
    (1, "scalar", False),
    (1, "trellis", True),
    (2, "scalar", False),
    (2, "trellis", False),
    (2, "trellis", True),
    (4, "scalar", False),
    (4, "trellis", True),
)
SHOWN = (0, 1, 2)  # queries whose texts are printed

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]


class Row(NamedTuple):
    """One line of the table."""

    name: str
    trained_on: int
    code_size: float
    build_s: float
    batch_ms: float
    single_ms: float
    ids: NDArray[np.int64]


@with_force
def demo(
    plot: Annotated[Path | None, typer.Option(help="Also draw recall against bytes: .png, .svg or .pdf")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the full WordNet set")] = None,
    threads: Annotated[int | None, typer.Option(help="Default: all CPUs")] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Serve a page in place of the table: type a query, click")
    ] = False,
    host: Annotated[
        str | None, typer.Option(help=f"Interface of the page; default: {HOST}, this machine alone")
    ] = None,
    port: Annotated[int | None, typer.Option(help=f"Port of the page; default: {PORT}", min=0, max=65535)] = None,
) -> None:
    """Index real text embeddings at 1, 2 and 4 bits and compare with exact search and FAISS PQ."""
    if not page and (host, port) != (None, None):
        raise InputError("--host and --port are those of the page: add --page")
    if page and plot is not None:
        raise InputError("--plot draws the table, which --page replaces: choose one of the two")
    target = None if plot is None else plan_plot(plot, [])
    workers = num_threads(threads)
    if page:
        require_page()
    sample = load_sample(data)
    start = time.perf_counter()
    compile_with_progress(NEEDED)
    compile_s = time.perf_counter() - start
    if page:
        serve(sample, workers, HOST if host is None else host, PORT if port is None else port)
        return
    x = normalize(np.asarray(sample.base, np.float32))
    queries = normalize(np.asarray(sample.queries, np.float32))
    console.print(
        f"{len(x):,} WordNet glosses embedded with all-MiniLM-L6-v2, d={x.shape[1]}; {len(queries)} queries; "
        f"{workers} threads, SIMD level {level()}; kernels compiled or loaded in {compile_s:.1f} s (not counted below)",
        highlight=False,
    )
    rows, index = _measure(x, queries, workers)
    console.print(_table(rows, x.shape[1]))
    console.print(
        "bytes: a vector, scale included. trained on: vectors, drawn from those that are indexed, which favours all "
        "that are trained. build s: training included."
    )
    if not has_faiss():
        console.print("FAISS is not installed; to see it beside: pip install faiss-cpu", highlight=False)
    _show_texts(sample, rows[0].ids, index, queries)
    if target is not None:
        _draw(rows, target)
        console.print(f"written: {plot}", highlight=False)


def _measure(x: NDArray[np.float32], queries: NDArray[np.float32], threads: int) -> tuple[list[Row], Index]:
    """All rows of the table, the exact search first, and the index whose results are printed."""
    rows = [_time("exact float32", 0, 4.0 * x.shape[1], 0.0, lambda q: exact_search(x, q, K)[1], queries)]
    sample = x[np.random.default_rng(0).permutation(len(x))[:TRAINED_ON]]
    # np: without polysemous training, which changes no distance and would take minutes
    factories = [f"PQ{x.shape[1] // 2}x4fs", f"PQ{x.shape[1] // 4}x8np"] if has_faiss() else []
    with progress() as bar:
        task = bar.add_task("", total=len(INDEXES) + len(factories))
        for nbits, codebook, trained in INDEXES:
            name = f"tqvec {nbits} bit{'s' * (nbits > 1)}{' trellis' * (codebook == 'trellis')}{' trained' * trained}"
            bar.update(task, description=name)
            index = Index(x.shape[1], nbits=nbits, metric="cosine", codebook=codebook)
            start = time.perf_counter()
            if trained:
                index.train(sample, threads=threads)
            index.add(x, threads=threads)
            build_s = time.perf_counter() - start
            count = trained * len(sample)
            rows.append(_time(name, count, index.code_size, build_s, _searcher(index, threads), queries))
            bar.advance(task)
        for factory in factories:
            bar.update(task, description=f"FAISS {factory}: training")
            built = build_faiss(factory, x, train=sample, threads=threads, train_threads=1)
            search = _faiss_searcher(built.index)
            rows.append(_time(f"FAISS {factory}", len(sample), built.code_size, built.build_s, search, queries))
            bar.advance(task)
    return rows, index


def _searcher(index: Index, threads: int) -> Search:
    return lambda q: index.search(q, k=K, threads=threads)[1]


def _faiss_searcher(index: Any) -> Search:
    return lambda q: index.search(q, K)[1]


def _time(
    name: str, trained_on: int, code_size: float, build_s: float, search: Search, queries: NDArray[np.float32]
) -> Row:
    """Median of five batches, and of 20 single queries."""
    batches = []
    for _ in range(5):
        start = time.perf_counter()
        ids = search(queries)
        batches.append((time.perf_counter() - start) / len(queries))
    singles = []
    for query in queries[:20]:
        start = time.perf_counter()
        search(query[None, :])
        singles.append(time.perf_counter() - start)
    return Row(
        name=name,
        trained_on=trained_on,
        code_size=code_size,
        build_s=build_s,
        batch_ms=1e3 * float(np.median(batches)),
        single_ms=1e3 * float(np.median(singles)),
        ids=ids,
    )


def _table(rows: list[Row], d: int) -> Table:
    table = Table(
        box=None, pad_edge=False, title="recall against exact search; ms a query: all in one batch, and one at a time"
    )
    table.add_column("index", no_wrap=True)
    for name in ("trained on", "bytes", "smaller", "1@1", "1@10", "10@10", "build s", "batch", "single"):
        table.add_column(name, justify="right")
    truth = rows[0].ids
    for row in rows:
        table.add_row(
            row.name,
            f"{row.trained_on:,}" if row.trained_on else "-",
            f"{row.code_size:.0f}",
            f"{4 * d / row.code_size:.1f}",
            *(f"{recall(row.ids, truth, n, m):.3f}" for n, m in ((1, 1), (1, 10), (10, 10))),
            f"{row.build_s:.2f}",
            f"{row.batch_ms:.3f}",
            f"{row.single_ms:.2f}",
        )
    return table


def _show_texts(sample: Sample, truth: NDArray[np.int64], index: Index, queries: NDArray[np.float32]) -> None:
    _, ids = index.search(queries[list(SHOWN)], k=3)
    for row, q in enumerate(SHOWN):
        table = Table(title=f"query: {sample.query_texts[q]}", title_justify="left", show_lines=False)
        table.add_column("exact", ratio=1)
        table.add_column(f"compressed, {index.nbits} bits", ratio=1)
        for rank in range(3):
            table.add_row(sample.base_texts[truth[q, rank]], sample.base_texts[ids[row, rank]])
        console.print(table)


def _draw(rows: list[Row], output: Output) -> None:
    """Recall 10@10 against bytes per vector."""
    figure, axes = pyplot().subplots(figsize=(7, 4.5), layout="constrained")
    truth = rows[0].ids
    for kind in ("", " trellis", " trellis trained"):
        ours = [row for row in rows if re.fullmatch(f"tqvec . bits?{kind}", row.name)]
        values = [recall(row.ids, truth, 10, 10) for row in ours]
        axes.plot([row.code_size for row in ours], values, "o-", label=f"tqvec{kind}")
    for row in rows:
        if row.name.startswith("FAISS"):
            axes.plot([row.code_size], [recall(row.ids, truth, 10, 10)], "s", label=row.name)
    axes.set(xlabel="bytes per vector, scale included", ylabel="recall 10@10", title="WordNet glosses, MiniLM, d=384")
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.legend()
    save_plot(figure, output)

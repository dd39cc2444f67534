"""``tqvec diagnose``: the recall of an index before it is deployed, what limits it and what would help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from tqvec.cli._console import console, progress
from tqvec.cli._plot import pyplot
from tqvec.cli.build import width
from tqvec.errors import InputError
from tqvec.eval.readers import HDF5, float_rows, read_vectors, split_name
from tqvec.eval.streams import Stream, open_vectors
from tqvec.index.diagnose.diagnosis import Diagnosis
from tqvec.index.index import Index

_VECTORS = (".npy", ".fvecs", ".bvecs", ".parquet", *HDF5)  # anything else is an index file
_NUMBERS = 1 << 29  # of vectors that are looked at as a whole; of more,
_DRAWN = 65536  # these rows
_ROWS = 16384  # read and compressed at a time
_DRAW = 0x64726F77  # seed of their choice


def diagnose(
    file: Annotated[Path, typer.Argument(help="Vectors, as `tqvec build` takes them, or an index file")],
    sample: Annotated[Path | None, typer.Option(help="Vectors of the index file, or such as it is to hold")] = None,
    queries: Annotated[Path | None, typer.Option(help="Like those to come; default: vectors ask for others")] = None,
    k: Annotated[int, typer.Option("-k", help="Results a query")] = 10,
    nbits: Annotated[
        float | None, typer.Option(parser=width, metavar="BITS", help="Of vectors: 1 to 8, 2.5 or 3.5; default: 4")
    ] = None,
    codebook: Annotated[str | None, typer.Option(help="scalar or trellis; default: scalar")] = None,
    metric: Annotated[str | None, typer.Option(help="ip, cosine or l2; default: ip")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw recall and gaps: .png, .svg or .pdf")] = None,
) -> None:
    """Tell the recall of an index on its data, what limits it and what would help.

    Of vectors, an index is built in memory, and its recall measured; of more than 2^29 numbers, estimated and corrected
    by a part. Of an index file, recall is estimated from its codes, or measured if --sample is what it holds.
    """
    if plot is not None:
        pyplot()
    given = {"nbits": nbits, "codebook": codebook, "metric": metric}
    settings = {name: value for name, value in given.items() if value is not None}
    asked = None if queries is None else float_rows(read_vectors(queries, "test"))
    if split_name(file)[0].suffix in _VECTORS:
        if sample is not None:
            raise InputError(f"--sample goes with an index file; {file} holds vectors")
        index, rows = _built(open_vectors(file), settings)
        found = index.diagnose(queries=asked, sample=rows, k=k)
    else:
        if settings:
            raise InputError(f"{file}: an index file has its settings; those given go with a file of vectors")
        index = Index.load(file, mmap=True)
        found = index.diagnose(queries=asked, sample=None if sample is None else _sample(open_vectors(sample)), k=k)
    _show(found, str(file))
    if plot is not None:
        _draw(found, file.name, plot)
        console.print(f"written: {plot}", highlight=False)


def _built(stream: Stream, settings: dict[str, Any]) -> tuple[Index, NDArray[Any]]:
    """An index of all vectors of a file, and all or some of them."""
    if stream.n == 0:
        raise InputError(f"{stream.path}: holds no vectors")
    index = Index(stream.d, **settings)
    rows = _sample(stream)
    with progress() as bar:
        task = bar.add_task("compressing", total=stream.n)
        for x in stream.parts(0, _ROWS):
            try:
                index.add(float_rows(x))
            except InputError as error:
                raise InputError(f"{stream.path}, rows from {index.ntotal}: {error}") from error
            bar.advance(task, len(x))
    return index, rows


def _sample(stream: Stream) -> NDArray[Any]:
    """All vectors of a file, or some from everywhere in it."""
    if stream.n * stream.d <= _NUMBERS:
        return float_rows(np.concatenate(list(stream.parts(0, _ROWS)) or [np.empty((0, stream.d), np.float32)]))
    drawn = np.random.default_rng(_DRAW).choice(stream.n, min(stream.n, _DRAWN), replace=False)
    return float_rows(stream.drawn(np.sort(drawn)))


def _show(found: Diagnosis, name: str) -> None:
    low, high = found.interval
    told = f"recall {found.k}@{found.k}: {found.recall:.3f} ({low:.3f} to {high:.3f})"
    console.print(f"{name}: [bold]{told}[/bold]\n{found.way}", highlight=False)
    limits = Table(title="what limits it", title_justify="left")
    limits.add_column("limit")
    limits.add_column("recall it costs", justify="right")
    limits.add_column("why")
    for limit in found.limits:
        limits.add_row(limit.name, f"{limit.cost:.3f}" if limit.cost > 0 else "", limit.text)
    options = Table(title="what would help", title_justify="left", caption=found.rerank, caption_justify="left")
    options.add_column("index")
    for heading in ("recall", "bytes a vector"):
        options.add_column(heading, justify="right")
    for option in found.options:
        options.add_row(option.name, f"{option.recall:.3f}", f"{option.code_size:,}")
    for table in (limits, options):
        if table.row_count:
            console.print(table)


def _draw(found: Diagnosis, name: str, path: Path) -> None:
    """Recall against bytes a vector, and the share of queries by their gaps."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    low, high = found.interval
    now, *others = found.options
    error = [[max(0.0, found.recall - low)], [max(0.0, high - found.recall)]]
    left.errorbar([now.code_size], [now.recall], error, fmt="o", capsize=4)
    left.plot([option.code_size for option in others], [option.recall for option in others], "s")
    for option in found.options:
        left.annotate(option.name, (option.code_size, option.recall), (6, -10), textcoords="offset points", fontsize=8)
    left.set(xlabel="bytes a vector", ylabel=f"recall {found.k}@{found.k}", title=f"{name}, {found.ntotal:,} vectors")
    left.margins(0.25, 0.12)
    gaps = np.sort(found.gaps[np.isfinite(found.gaps)])
    right.plot(gaps, np.arange(1, gaps.size + 1) / found.gaps.size)
    right.axvline(1, linestyle=":", color="gray")
    limit = max(2.0, float(np.quantile(gaps, 0.98))) if gaps.size else 2.0
    right.set(xlabel="gap behind the true k-th row, standard errors", ylabel="share of queries with less")
    right.set(xlim=(0, limit), ylim=(0, 1), title="near-ties: left of the line")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)

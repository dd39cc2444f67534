"""``tqvec diagnose``: the recall of an index before it is deployed, the causes of lost recall, and alternatives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from tqvec._output import Output
from tqvec._random import generator
from tqvec.cli._console import console, progress
from tqvec.cli._output import with_force
from tqvec.cli._plot import plan_plot, pyplot, save_plot
from tqvec.cli.build import parse_width
from tqvec.errors import InputError
from tqvec.eval.readers import HDF5, float_rows, read_vectors, split_name
from tqvec.eval.streams import Stream, open_vectors
from tqvec.index.diagnose.diagnosis import Diagnosis
from tqvec.index.index import Index

_VECTORS = (".npy", ".fvecs", ".bvecs", ".parquet", *HDF5)  # anything else is an index file
_NUMBERS = 1 << 29  # numbers of vectors that are read as a whole; of more,
_DRAWN = 65536  # rows are drawn at random
_ROWS = 16384  # read and compressed at a time


@with_force
def diagnose(
    file: Annotated[Path, typer.Argument(help="Vectors, as `tqvec build` takes them, or an index file")],
    sample: Annotated[Path | None, typer.Option(help="Vectors of the index file, or vectors like them")] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Queries; default: some vectors, which search for the others")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Results per query")] = 10,
    nbits: Annotated[
        float | None,
        typer.Option(parser=parse_width, metavar="BITS", help="Bits per coordinate: 1 to 8, 2.5 or 3.5; default: 4"),
    ] = None,
    codebook: Annotated[str | None, typer.Option(help="scalar or trellis; default: scalar")] = None,
    metric: Annotated[str | None, typer.Option(help="ip, cosine or l2; default: ip")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw recall and gaps: .png, .svg or .pdf")] = None,
) -> None:
    """Diagnose the recall of an index on its data, the causes of lost recall, and alternatives.

    From vectors, an index is built in memory and its recall is measured; with more than 2^29 numbers, it is estimated,
    and corrected by measuring a part. The recall of an index file is estimated from its codes, or measured if --sample
    holds the same vectors.
    """
    inputs = [split_name(path)[0] for path in (file, sample, queries) if path is not None]
    target = None if plot is None else plan_plot(plot, inputs)
    options = {"nbits": nbits, "codebook": codebook, "metric": metric}
    settings = {name: value for name, value in options.items() if value is not None}
    asking = None if queries is None else float_rows(read_vectors(queries, "test"))
    if split_name(file)[0].suffix in _VECTORS:
        if sample is not None:
            raise InputError(f"--sample goes with an index file; {file} holds vectors")
        index, rows = _build(open_vectors(file), settings)
        diagnosis = index.diagnose(queries=asking, sample=rows, k=k)
    else:
        if settings:
            raise InputError(
                f"{file}: an index file has its settings; --nbits, --codebook and --metric go with vectors"
            )
        index = Index.load(file, mmap=True)
        others = None if sample is None else _sample(open_vectors(sample))
        diagnosis = index.diagnose(queries=asking, sample=others, k=k)
    _show(diagnosis, str(file))
    if target is not None:
        _draw(diagnosis, file.name, target)
        console.print(f"written: {plot}", highlight=False)


def _build(stream: Stream, settings: dict[str, Any]) -> tuple[Index, NDArray[Any]]:
    """Build an index of all vectors of a file; return it with all or some of them."""
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
    """Read all vectors of a file, or a random part if it is large."""
    if stream.n * stream.d <= _NUMBERS:
        return float_rows(np.concatenate(list(stream.parts(0, _ROWS)) or [np.empty((0, stream.d), np.float32)]))
    drawn = generator(None, "command: diagnosed rows").choice(stream.n, min(stream.n, _DRAWN), replace=False)
    return float_rows(stream.take(np.sort(drawn)))


def _show(diagnosis: Diagnosis, name: str) -> None:
    low, high = diagnosis.interval
    line = f"recall {diagnosis.k}@{diagnosis.k}: {diagnosis.recall:.3f} ({low:.3f} to {high:.3f})"
    console.print(f"{name}: [bold]{line}[/bold]\n{diagnosis.method}", highlight=False)
    causes = Table(title="causes of lost recall", title_justify="left")
    causes.add_column("cause")
    causes.add_column("recall it costs", justify="right")
    causes.add_column("why")
    for cause in diagnosis.causes:
        causes.add_row(cause.name, f"{cause.cost:.3f}" if cause.cost > 0 else "", cause.text)
    others = Table(title="alternatives", title_justify="left", caption=diagnosis.rerank, caption_justify="left")
    others.add_column("index")
    for heading in ("recall", "bytes per vector"):
        others.add_column(heading, justify="right")
    for other in diagnosis.alternatives:
        others.add_row(other.name, f"{other.recall:.3f}", f"{other.code_size:,}")
    for table in (causes, others):
        if table.row_count:
            console.print(table)


def _draw(diagnosis: Diagnosis, name: str, output: Output) -> None:
    """Plot recall against bytes per vector, and the share of queries by their gaps."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    low, high = diagnosis.interval
    now, *others = diagnosis.alternatives
    error = [[max(0.0, diagnosis.recall - low)], [max(0.0, high - diagnosis.recall)]]
    left.errorbar([now.code_size], [now.recall], error, fmt="o", capsize=4)
    left.plot([other.code_size for other in others], [other.recall for other in others], "s")
    for each in diagnosis.alternatives:
        left.annotate(each.name, (each.code_size, each.recall), (6, -10), textcoords="offset points", fontsize=8)
    title = f"{name}, {diagnosis.ntotal:,} vectors"
    left.set(xlabel="bytes per vector", ylabel=f"recall {diagnosis.k}@{diagnosis.k}", title=title)
    left.margins(0.25, 0.12)
    gaps = np.sort(diagnosis.gaps[np.isfinite(diagnosis.gaps)])
    right.plot(gaps, np.arange(1, gaps.size + 1) / diagnosis.gaps.size)
    right.axvline(1, linestyle=":", color="gray")
    widest = max(2.0, float(np.quantile(gaps, 0.98))) if gaps.size else 2.0
    right.set(xlabel="gap behind the true k-th row, standard errors", ylabel="share of queries with less")
    right.set(xlim=(0, widest), ylim=(0, 1), title="near-ties: left of the line")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_plot(figure, output)

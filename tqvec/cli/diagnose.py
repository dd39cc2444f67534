"""``tqvec diagnose``: the recall of an index before it is deployed, the causes of lost recall, and alternatives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from tqvec._random import generator
from tqvec.cli._console import Json, progress, show, show_json, show_table
from tqvec.cli._output import with_force
from tqvec.cli._plot import plan_plot, save_plot
from tqvec.cli.build import parse_width
from tqvec.cli.search import read_queries
from tqvec.errors import InputError
from tqvec.eval.readers import HDF5, float_rows, split_name
from tqvec.eval.streams import Stream, open_vectors
from tqvec.index.diagnose.diagnosis import Diagnosis
from tqvec.index.index import Index

_VECTORS = (".npy", ".fvecs", ".bvecs", ".parquet", *HDF5)  # anything else is an index file
_NUMBERS = 1 << 29  # numbers of vectors that are read as a whole; of more,
_DRAWN = 65536  # rows are drawn at random
_ROWS = 16384  # read and compressed at a time


class Settings(NamedTuple):
    """Options of `diagnose` that make an index of vectors."""

    nbits: Annotated[
        float | None,
        typer.Option(parser=parse_width, metavar="BITS", help="Bits per coordinate: 1 to 8, 2.5 or 3.5; default: 4"),
    ] = None
    codebook: Annotated[str | None, typer.Option(help="scalar or trellis; default: scalar")] = None
    metric: Annotated[str | None, typer.Option(help="ip, cosine or l2; default: ip")] = None


@with_force
def diagnose(
    file: Annotated[Path, typer.Argument(help="Vectors, as `tqvec build` takes them, or an index file")],
    sample: Annotated[Path | None, typer.Option(help="Vectors of the index file, or vectors like them")] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Queries; default: some vectors, which search for the others")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Results per query")] = 10,
    plot: Annotated[Path | None, typer.Option(help="Also draw recall and gaps: .png, .svg or .pdf")] = None,
    json: Json = False,
    settings: Settings = Settings(),  # noqa: B008 (a named tuple never changes)
) -> None:
    """Diagnose the recall of an index on its data, the causes of lost recall, and alternatives.

    From vectors, an index is built in memory and its recall is measured; with more than 2^29 numbers, it is estimated,
    and corrected by measuring a part. The recall of an index file is estimated from its codes, or measured if --sample
    holds the same vectors.
    """
    inputs = [split_name(path)[0] for path in (file, sample, queries) if path is not None]
    target = None if plot is None else plan_plot(plot, inputs)
    given = {name: value for name, value in settings._asdict().items() if value is not None}
    asking = None if queries is None else read_queries(queries)
    if split_name(file)[0].suffix.lower() in _VECTORS:
        if sample is not None:
            raise InputError(f"--sample goes with an index file; {file} holds vectors")
        index, rows = _build(open_vectors(file), given)
        diagnosis = index.diagnose(queries=asking, sample=rows, k=k)
    else:
        if given:
            raise InputError(
                f"{file}: an index file has its settings; --nbits, --codebook and --metric go with vectors"
            )
        index = Index.load(file, mmap=True)
        others = None if sample is None else _sample(open_vectors(sample))
        diagnosis = index.diagnose(queries=asking, sample=others, k=k)
    if target is not None:
        axes = diagnosis.plot()
        axes[0].set_title(f"{file.name}, {axes[0].get_title()}", parse_math=False)
        save_plot(axes[0].figure, target)
    if json:
        show_json("diagnose", {"file": file} | diagnosis.to_dict() | {"plot": plot})
        return
    _show(diagnosis, str(file))
    if plot is not None:
        show(f"written: {plot}")


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
    show(f"{name}: {diagnosis.headline}\n{diagnosis.method}")
    if diagnosis.causes:
        causes = [[cause.name, f"{cause.cost:.3f}" if cause.cost > 0 else "", cause.text] for cause in diagnosis.causes]
        show_table(["cause", "recall it costs", "why"], causes, title="causes of lost recall", right="recall it costs")
    others = [[other.name, f"{other.recall:.3f}", f"{other.code_size:,}"] for other in diagnosis.alternatives]
    headings = ["index", "recall", "bytes per vector"]
    show_table(headings, others, title="alternatives", right="recall, bytes per vector")
    show(diagnosis.rerank)

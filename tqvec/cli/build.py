"""``tqvec build``: compress a file of vectors into an index file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import typer

from tqvec._output import Output
from tqvec._random import generator
from tqvec._types import CodebookName, MetricName
from tqvec.cli._console import Json, console, note, notes, progress, show, show_json
from tqvec.cli._ids import Numbering, number, read_array, read_id_column
from tqvec.cli._output import plan_output, with_force
from tqvec.errors import InputError
from tqvec.eval.readers import float_rows, split_name
from tqvec.eval.streams import Stream, open_vectors
from tqvec.index.file.header import KIND, Header
from tqvec.index.file.io import Writer
from tqvec.index.file.resume import Journal
from tqvec.index.index import Index
from tqvec.index.rows import encode_rows
from tqvec.index.training_result import Training

_ROWS = 16384  # rows that are read and compressed at a time,
_NUMBERS = 1 << 23  # but at most these coordinates
_SAMPLE = 16384  # rows to train on
_SECONDS = 5.0  # between notes in the journal


def parse_width(text: object) -> float:
    """Return "4" as an integer, and "2.5" as a float."""
    return float(str(text)) if "." in str(text) else int(str(text))


def parse_lists(text: object) -> int:
    """Return a number of lists; 0, or "auto", stands for the default number."""
    return 0 if str(text) == "auto" else int(str(text))


class Extras(NamedTuple):
    """Options of `build` beside the settings of the index."""

    train: Annotated[bool, typer.Option("--train", help="Fit the codec to a sample first, if that helps")] = False
    ids: Annotated[Path | None, typer.Option(help="Ids of the vectors: a .npy of integers; default: 0, 1, 2, …")] = None
    id_column: Annotated[str | None, typer.Option(help="Ids of the vectors: a column of the Parquet file")] = None
    nlist: Annotated[
        int | None,
        typer.Option(parser=parse_lists, metavar="LISTS", help="Partition the index: a number of lists, or auto"),
    ] = None
    json: Json = False


_NO_EXTRAS = Extras()


@with_force
def build(
    vectors: Annotated[Path, typer.Argument(help=".npy, .fvecs, .bvecs, .hdf5:NAME (default: train), .parquet:COLUMN")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Index file to write")],
    nbits: Annotated[
        float, typer.Option(parser=parse_width, metavar="BITS", help="Bits per coordinate: 1 to 8, 2.5, 3.5")
    ] = 4,
    codebook: Annotated[str, typer.Option(help="scalar or trellis")] = "scalar",
    metric: Annotated[str, typer.Option(help="ip, cosine or l2")] = "ip",
    seed: Annotated[int, typer.Option(help="Seed of the rotation")] = 0,
    threads: Annotated[int | None, typer.Option(help="Default: all CPUs")] = None,
    extras: Extras = _NO_EXTRAS,
) -> None:
    """Compress a file of vectors into an index file; it may be larger than memory.

    If the command is killed, the same command goes on where it stopped.
    """
    target = plan_output(output, KIND, [split_name(vectors)[0], *([extras.ids] if extras.ids else [])])
    stream = open_vectors(vectors)
    if stream.n == 0:
        raise InputError(f"{vectors}: holds no vectors")
    if extras.nlist is not None:
        _check_lists(extras.nlist, stream.n, target)
    codes, scores = cast(CodebookName, codebook), cast(MetricName, metric)
    index = Index(stream.d, nbits=nbits, metric=scores, codebook=codes, seed=seed)
    settings = {"nbits": nbits, "codebook": codebook, "metric": metric, "seed": seed, "train": extras.train}
    numbering, origin = _number(stream, extras)
    start = time.perf_counter()
    nlist = None
    with Journal(target, _describe_source(stream) | settings | origin) as journal:
        header, training, resumed = _fill(index, stream, journal, numbering, extras, output, threads)
        if extras.nlist is not None:
            nlist = _partition(target, extras.nlist, threads)
    result = {
        "output": output,
        "ntotal": stream.n,
        "d": stream.d,
        "nbits": nbits,
        "code_size": header.row_bytes,
        "nlist": nlist,
        "file_bytes": header.file_bytes if nlist is None else target.target.stat().st_size,
        "seconds": time.perf_counter() - start,
        "resumed": resumed,
        "training": training,
    }
    if extras.json:
        show_json("build", result)
    else:
        _show(result)


def _fill(
    index: Index,
    stream: Stream,
    journal: Journal,
    numbering: Numbering,
    extras: Extras,
    output: Path,
    threads: int | None,
) -> tuple[Header, Training | None, int]:
    """Write the file, or what it lacks; return its header, the training, and the vectors that were there before."""
    training, done = None, journal.completed()
    writer = journal.resume() if done is None else None
    resumed = done.ntotal if done is not None else 0 if writer is None else writer.rows
    if resumed:
        kept = f"{output}: goes on behind the {resumed:,} vectors of a run that was stopped"
        note(kept, notes if extras.json else console)
    if done is not None:
        return done, training, resumed
    if writer is None:
        if extras.train:
            with progress() as bar:
                bar.add_task("training", total=None)
                training = _train(index, stream, threads)
        writer = journal.start(index.codec, index.metric, stream.n, numbering.first_id, numbering.next_id)
    _compress(stream, writer, journal, numbering, threads)
    journal.complete(writer)
    return writer.header, training, resumed


def _check_lists(nlist: int, n: int, target: Output) -> None:
    """Raise InputError for what would fail after all vectors are compressed."""
    if not 0 <= nlist <= n:
        raise InputError(f"--nlist must be auto, or from 1 to {n}, the number of vectors, got {nlist}")
    if target.is_stream:
        raise InputError(f"{target.path}: --nlist writes the file twice, so it can't be a device or FIFO; name a file")


def _partition(target: Output, nlist: int, threads: int | None) -> int:
    """Partition a complete file, which stays as it is until the new one is complete; return the number of lists."""
    index = Index.load(target.target, mmap=True, verify=True)
    try:
        with progress() as bar:
            task = bar.add_task("partitioning", total=None)
            index.partition(
                nlist or None,
                threads=threads,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        index.save(target.target, overwrite=target.overwrite)
    except KeyboardInterrupt:
        note(f"{target.path}: complete, but without lists: the same command goes on with them")
        raise
    if index.nlist is None:
        raise TypeError("this index has no lists")
    return index.nlist


def _show(result: dict[str, Any]) -> None:
    if result["training"] is not None:
        show(str(result["training"]))
    lists = "" if result["nlist"] is None else f" in {result['nlist']:,} lists"
    show(
        "{output}: {ntotal:,} vectors of d={d} at {nbits} bits{lists}, {code_size} bytes each ({times:.1f} times "
        "smaller than float32), {file_bytes:,} bytes, {seconds:.1f} s".format(
            lists=lists, times=result["d"] * 4 / result["code_size"], **result
        )
    )


def _number(stream: Stream, extras: Extras) -> tuple[Numbering, dict[str, object]]:
    """Read the ids of the vectors; return them with facts by which their source is known again."""
    if extras.ids is not None and extras.id_column is not None:
        raise InputError("--ids and --id-column exclude each other")
    if extras.ids is not None:
        ids = number(read_array(extras.ids, "integers"), stream.n, str(extras.ids))
        return ids, {"ids": _describe_file(extras.ids)}
    if extras.id_column is not None:
        if stream.path.suffix.lower() != ".parquet":
            raise InputError(f"--id-column goes with a Parquet file; with {stream.path.name} use --ids")
        column = read_id_column(stream.path, extras.id_column)
        return number(column, stream.n, f"{stream.path}:{extras.id_column}"), {"id_column": extras.id_column}
    return number(None, stream.n, ""), {}


def _train(index: Index, stream: Stream, threads: int | None) -> Training:
    """Train on rows from the whole file, without NaN and Inf: compressing will say which rows have them."""
    rows = generator(None, "command: training sample").choice(stream.n, min(stream.n, _SAMPLE), replace=False)
    sample = float_rows(stream.take(np.sort(rows)))
    try:
        return index.train(sample[np.isfinite(sample).all(axis=1)], threads=threads)
    except InputError as error:
        raise InputError(f"{stream.path}: {error}") from error


def _describe_source(stream: Stream) -> dict[str, object]:
    """Return facts in which a file of vectors differs from others, and from itself after a change."""
    return {"name": stream.name, "shape": [stream.n, stream.d], "vectors": _describe_file(stream.path)}


def _describe_file(path: Path) -> dict[str, object]:
    state = path.stat()
    return {"path": str(path.resolve()), "size": state.st_size, "mtime_ns": state.st_mtime_ns}


def _compress(stream: Stream, writer: Writer, journal: Journal, numbering: Numbering, threads: int | None) -> None:
    """Write the rows that the writer lacks, and say after Ctrl-C how many are kept."""
    noted, time_noted, writing = writer.rows, time.monotonic(), False
    try:
        with progress() as bar:
            task = bar.add_task("compressing", total=stream.n, completed=writer.rows)
            for x in stream.parts(writer.rows, max(1, min(_ROWS, _NUMBERS // stream.d))):
                try:
                    rows = encode_rows(writer.codec, writer.header.metric, float_rows(x), threads)
                except InputError as error:
                    raise InputError(f"{stream.path}, rows from {writer.rows}: {error}") from error
                writing = True
                writer.write(rows | numbering.of_rows(writer.rows, len(x)))
                writing = False
                if time.monotonic() - time_noted >= _SECONDS:
                    journal.note(writer)
                    noted, time_noted = writer.rows, time.monotonic()
                bar.update(task, completed=writer.rows)
    except KeyboardInterrupt:
        if not writing:  # or the checksums may count rows that are not written
            journal.note(writer)
            noted = writer.rows
        if noted:
            note(f"{noted:,} of {stream.n:,} vectors are kept: the same command goes on behind them")
        raise

"""``tqvec build``: compress a file of vectors into an index file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer

from tqvec._random import generator
from tqvec._types import CodebookName, MetricName
from tqvec.cli._console import console, progress
from tqvec.cli._output import plan_output, with_force
from tqvec.errors import InputError
from tqvec.eval.readers import float_rows, split_name
from tqvec.eval.streams import Stream, open_vectors
from tqvec.index.file.header import KIND
from tqvec.index.file.io import Writer
from tqvec.index.file.resume import Journal
from tqvec.index.index import Index
from tqvec.index.metrics import Metric
from tqvec.index.rows import encode_rows
from tqvec.index.training import Training

_ROWS = 16384  # rows that are read and compressed at a time,
_NUMBERS = 1 << 23  # but at most these coordinates
_SAMPLE = 16384  # rows to train on
_SECONDS = 5.0  # between notes in the journal


def parse_width(text: object) -> float:
    """Return "4" as an integer, and "2.5" as a float."""
    return float(str(text)) if "." in str(text) else int(str(text))


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
    train: Annotated[bool, typer.Option("--train", help="Fit the codec to a sample first, if that helps")] = False,
    threads: Annotated[int | None, typer.Option(help="Default: all CPUs")] = None,
) -> None:
    """Compress a file of vectors into an index file; it may be larger than memory.

    If the command is killed, the same command goes on where it stopped.
    """
    target = plan_output(output, KIND, [split_name(vectors)[0]])
    stream = open_vectors(vectors)
    if stream.n == 0:
        raise InputError(f"{vectors}: holds no vectors")
    codes, scores = cast(CodebookName, codebook), cast(MetricName, metric)
    index = Index(stream.d, nbits=nbits, metric=scores, codebook=codes, seed=seed)
    settings = {"nbits": nbits, "codebook": codebook, "metric": metric, "seed": seed, "train": train}
    request = _describe_source(stream) | settings
    start = time.perf_counter()
    with Journal(target, request) as journal:
        writer = journal.resume()
        if writer is None:
            if train:
                console.print(str(_train(index, stream, threads)), highlight=False)
            writer = journal.start(index.codec, metric, stream.n)
        elif writer.rows:
            console.print(
                f"{output}: goes on behind the {writer.rows:,} vectors of a run that was stopped", highlight=False
            )
        with progress() as bar:
            task = bar.add_task("compressing", total=stream.n, completed=writer.rows)
            _compress(stream, writer, journal, threads, lambda: bar.update(task, completed=writer.rows))
        writer.close()
    seconds = time.perf_counter() - start
    code_size = writer.codec.code_size + Metric(metric).extra_bytes
    console.print(
        f"{output}: {stream.n:,} vectors of d={stream.d} at {nbits} bits, {code_size} bytes each "
        f"({stream.d * 4 / code_size:.1f} times smaller than float32), {writer.header.file_bytes:,} bytes, "
        f"{seconds:.1f} s",
        highlight=False,
    )


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
    state = stream.path.stat()
    return {
        "vectors": str(stream.path.resolve()),
        "name": stream.name,
        "shape": [stream.n, stream.d],
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
    }


def _compress(
    stream: Stream, writer: Writer, journal: Journal, threads: int | None, progress: Callable[[], None]
) -> None:
    """Write the rows that the writer lacks; `progress` is called after each part."""
    noted = time.monotonic()
    for x in stream.parts(writer.rows, max(1, min(_ROWS, _NUMBERS // stream.d))):
        try:
            writer.write(encode_rows(writer.codec, writer.header.metric, float_rows(x), threads))
        except InputError as error:
            raise InputError(f"{stream.path}, rows from {writer.rows}: {error}") from error
        if time.monotonic() - noted >= _SECONDS:
            journal.note(writer)
            noted = time.monotonic()
        progress()

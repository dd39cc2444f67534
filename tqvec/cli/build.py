"""``tqvec build``: vectors in, index file out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tqvec.cli._console import console, progress
from tqvec.errors import InputError
from tqvec.eval.readers import float_rows, read_vectors
from tqvec.index.flat import Index

_ROWS = 16384  # read and compressed at a time


def _width(text: object) -> float:
    """4 as an integer, 2.5 as it is."""
    return float(str(text)) if "." in str(text) else int(str(text))


def build(
    vectors: Annotated[Path, typer.Argument(help=".npy, .fvecs, .bvecs or .hdf5")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Index file to write")],
    nbits: Annotated[float, typer.Option(parser=_width, metavar="BITS", help="A coordinate: 1 to 8, 2.5 or 3.5")] = 4,
    codebook: Annotated[str, typer.Option(help="scalar or trellis")] = "scalar",
    metric: Annotated[str, typer.Option(help="ip, cosine or l2")] = "ip",
    seed: Annotated[int, typer.Option(help="Of the rotation")] = 0,
    dataset: Annotated[str, typer.Option(help="Name inside an HDF5 file")] = "train",
    threads: Annotated[int | None, typer.Option(help="Default: all CPUs")] = None,
) -> None:
    """Compress a file of vectors into an index file."""
    x = read_vectors(vectors, dataset)
    if x.shape[0] == 0:
        raise InputError(f"{vectors}: holds no vectors")
    if not output.resolve().parent.is_dir():
        raise InputError(f"{output}: its folder does not exist")
    index = Index(x.shape[1], nbits=nbits, metric=metric, codebook=codebook, seed=seed)
    start = time.perf_counter()
    with progress() as bar:
        task = bar.add_task("compressing", total=x.shape[0])
        for row in range(0, x.shape[0], _ROWS):
            try:
                index.add(float_rows(x[row : row + _ROWS]), threads=threads)
            except InputError as error:
                raise InputError(f"{vectors}, rows from {row}: {error}") from error
            bar.update(task, completed=index.ntotal)
    index.save(output)
    seconds = time.perf_counter() - start
    console.print(
        f"{output}: {index.ntotal:,} vectors of d={index.d} at {nbits} bits, {index.code_size} bytes each "
        f"({x.shape[1] * 4 / index.code_size:.1f} times smaller than float32), {output.stat().st_size:,} bytes, "
        f"{seconds:.1f} s",
        highlight=False,
    )

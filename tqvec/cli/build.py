"""``tqvec build``: vectors in, index file out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from tqvec.cli._console import console, progress
from tqvec.errors import InputError
from tqvec.eval.readers import float_rows, read_vectors
from tqvec.index.flat import Index
from tqvec.index.training import Training

_ROWS = 16384  # read and compressed at a time
_SAMPLE = 16384  # rows to train on
_DRAW = 0x73616D70  # seed of their choice


def _width(text: object) -> float:
    """4 as an integer, 2.5 as it is."""
    return float(str(text)) if "." in str(text) else int(str(text))


def build(
    vectors: Annotated[Path, typer.Argument(help=".npy, .fvecs, .bvecs, or .hdf5:NAME (default: train)")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Index file to write")],
    nbits: Annotated[float, typer.Option(parser=_width, metavar="BITS", help="A coordinate: 1 to 8, 2.5 or 3.5")] = 4,
    codebook: Annotated[str, typer.Option(help="scalar or trellis")] = "scalar",
    metric: Annotated[str, typer.Option(help="ip, cosine or l2")] = "ip",
    seed: Annotated[int, typer.Option(help="Of the rotation")] = 0,
    train: Annotated[bool, typer.Option("--train", help="Fit the codec to a sample of the rows first")] = False,
    threads: Annotated[int | None, typer.Option(help="Default: all CPUs")] = None,
) -> None:
    """Compress a file of vectors into an index file."""
    x = read_vectors(vectors)
    if x.shape[0] == 0:
        raise InputError(f"{vectors}: holds no vectors")
    if not output.resolve().parent.is_dir():
        raise InputError(f"{output}: its folder does not exist")
    index = Index(x.shape[1], nbits=nbits, metric=metric, codebook=codebook, seed=seed)
    start = time.perf_counter()
    with progress() as bar:
        task = bar.add_task("training" if train else "compressing", total=x.shape[0])
        found = _trained(index, x, vectors, threads) if train else None
        bar.update(task, description="compressing")
        for row in range(0, x.shape[0], _ROWS):
            try:
                index.add(float_rows(x[row : row + _ROWS]), threads=threads)
            except InputError as error:
                raise InputError(f"{vectors}, rows from {row}: {error}") from error
            bar.update(task, completed=index.ntotal)
    index.save(output)
    if found is not None:
        console.print(str(found), highlight=False)
    seconds = time.perf_counter() - start
    console.print(
        f"{output}: {index.ntotal:,} vectors of d={index.d} at {nbits} bits, {index.code_size} bytes each "
        f"({x.shape[1] * 4 / index.code_size:.1f} times smaller than float32), {output.stat().st_size:,} bytes, "
        f"{seconds:.1f} s",
        highlight=False,
    )


def _trained(index: Index, x: NDArray[Any], vectors: Path, threads: int | None) -> Training:
    """Train on rows drawn from the whole file, without those that aren't finite: adding will say which they are."""
    n = x.shape[0]
    drawn = np.sort(np.random.default_rng(_DRAW).choice(n, min(n, _SAMPLE), replace=False))
    sample = float_rows(x[drawn])
    try:
        return index.train(sample[np.isfinite(sample).all(axis=1)], threads=threads)
    except InputError as error:
        raise InputError(f"{vectors}: {error}") from error

"""``tqvec search``: index and queries in, scores and ids out."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from tqvec._output import Kind
from tqvec.cli._console import console
from tqvec.cli._output import plan_output, with_force
from tqvec.errors import InputError
from tqvec.eval.readers import float_rows, read_vectors, split_name
from tqvec.index.index import Index

_SHOWN = 5  # queries in the table
_KIND = Kind("results of `tqvec search`", re.compile(rb"\APK\x03\x04.{26}(scores|ids|error)\.npy", re.DOTALL))


@with_force
def search(
    index_file: Annotated[Path, typer.Argument(metavar="INDEX", help="File that `tqvec build` wrote")],
    queries: Annotated[Path, typer.Argument(help=".npy, .fvecs, .bvecs, or .hdf5:NAME (default: test)")],
    k: Annotated[int, typer.Option("-k", help="Results per query")] = 10,
    errors: Annotated[bool, typer.Option(help="Print standard errors of the scores too")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write scores, ids and error: .npz")] = None,
    threads: Annotated[int | None, typer.Option(help="Default: all CPUs")] = None,
) -> None:
    """Search an index file; print the first results, and write all of them with -o."""
    target = None
    if output is not None:
        target = plan_output(output, _KIND, [index_file, split_name(queries)[0]])
        if output.suffix != ".npz" and not target.is_stream:
            raise InputError(f"{output}: the results are a .npz file; name it so")
    index = Index.load(index_file)
    rows = float_rows(read_vectors(queries, "test"))
    start = time.perf_counter()
    scores, ids, *error = index.search(rows, k=k, threads=threads, return_error=errors)
    seconds = time.perf_counter() - start
    table = Table(title=f"best ids (scores), {index.metric}; first {min(_SHOWN, len(ids))} of {len(ids)} queries")
    table.add_column("query", justify="right")
    table.add_column("results")
    for q in range(min(_SHOWN, len(ids))):
        after = [f" ± {value:.4f}" for value in error[0][q]] if errors else [""] * k
        best = [f"{ids[q, r]} ({scores[q, r]:.4f}{after[r]})" for r in range(min(_SHOWN, k))]
        table.add_row(str(q), "  ".join(best))
    console.print(table)
    console.print(f"{len(ids):,} queries on {index.ntotal:,} vectors in {seconds:.3f} s", highlight=False)
    if target is not None:
        named: dict[str, Any] = {"error": error[0]} if errors else {}
        with target.open() as file:
            np.savez(file, scores=scores, ids=ids, **named)
        console.print(f"written: {output}", highlight=False)

"""``tqvec bench``: tqvec beside other libraries, on your vectors or on the sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tqvec import _validate
from tqvec.cli._console import Json, progress, show, show_json
from tqvec.cli._output import with_force
from tqvec.cli._plot import plan_plot, save_plot
from tqvec.cli.search import read_queries
from tqvec.errors import InputError
from tqvec.eval.leaderboard.engines import LIBRARIES, engines
from tqvec.eval.leaderboard.environment import describe_machine
from tqvec.eval.leaderboard.measure import Plan, measure
from tqvec.eval.leaderboard.result import Leaderboard
from tqvec.eval.readers import split_name
from tqvec.eval.sample import load_sample

_WIDTHS = (2, 4)


@with_force
def bench(
    vectors: Annotated[
        Path | None, typer.Argument(help="Vectors, as `tqvec build` reads them; default: the sample")
    ] = None,
    queries: Annotated[Path | None, typer.Argument(help="Queries, as `tqvec search` reads them")] = None,
    bits: Annotated[list[int] | None, typer.Option(help="1 to 4; may be repeated; default: 2 and 4")] = None,
    library: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(LIBRARIES)}; may be repeated; default: all that are installed")
    ] = None,
    threads: Annotated[list[int] | None, typer.Option(help="Of all libraries; may be repeated; default: 1")] = None,
    seeds: Annotated[int, typer.Option(help="Rotations of tqvec whose recall is averaged")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Also draw recall and speed: .png, .svg or .pdf")] = None,
    json: Json = False,
) -> None:
    """Compare recall, bytes and speed with other libraries, each in a process of its own, timed in turn."""
    if (vectors is None) != (queries is None):
        raise InputError("name vectors and queries, or neither for the sample")
    inputs = [split_name(path)[0] for path in (vectors, queries) if path is not None]
    target = None if plot is None else plan_plot(plot, inputs)
    counts = tuple(_validate.integer(count, "--threads", 1, 2**31 - 1) for count in threads or (1,))
    if vectors is None or queries is None:
        sample, name = load_sample(), "WordNet sample"
        given = sample.base, sample.queries
    else:
        given, name = (read_queries(vectors), read_queries(queries)), vectors.name
    base, asked = (np.asarray(rows, np.float32) for rows in given)
    if base.shape[1] != asked.shape[1]:
        raise InputError(f"{queries}: has dimension {asked.shape[1]}, {vectors} {base.shape[1]}")
    chosen = engines(base.shape[1], len(base), bits or _WIDTHS, library or LIBRARIES)
    plan = Plan(threads=counts, seeds=_validate.integer(seeds, "--seeds", 1, 1000))
    with progress() as bar:
        task = bar.add_task("starting", total=len(chosen) + len(counts))
        rows = measure(base, asked, chosen, plan, lambda text: bar.update(task, description=text, advance=1))
    board = Leaderboard(
        data=name,
        n=len(base),
        d=base.shape[1],
        queries=len(asked),
        machine=describe_machine(),
        rows=tuple(rows),
    )
    if target is not None:
        save_plot(board.plot(), target)
    if json:
        show_json("bench", board.to_dict() | {"plot": plot})
        return
    show(str(board))
    if plot is not None:
        show(f"written: {plot}")

"""``tqvec bench``: tqvec beside other libraries, on your vectors, on a data set, or on the sample."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer

from tqvec import _validate
from tqvec._types import Floats
from tqvec.cli._console import Json, progress, show, show_json
from tqvec.cli._output import with_force
from tqvec.cli._plot import plan_plot, save_plot
from tqvec.cli.search import read_queries
from tqvec.errors import InputError
from tqvec.eval import datasets
from tqvec.eval.leaderboard.engines import LIBRARIES, engines
from tqvec.eval.leaderboard.environment import describe_machine
from tqvec.eval.leaderboard.measure import DEPTHS, Plan, count_steps, measure
from tqvec.eval.leaderboard.result import Leaderboard, Row
from tqvec.eval.readers import split_name

_WIDTHS = (2, 4)
_SAMPLE = "wordnet-sample"
_SIZE = re.compile(r"([1-9]\d*)([kM]?)")
_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000}


class Options(NamedTuple):
    """What is compared, and how."""

    n: Annotated[
        str | None,
        typer.Option("--n", help="Only the first vectors, in one or more numbers: 10k,100k,1M; default: all"),
    ] = None
    bits: Annotated[list[int] | None, typer.Option(help="1 to 4; may be repeated; default: 2 and 4")] = None
    library: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(LIBRARIES)}; may be repeated; default: all that are installed")
    ] = None
    threads: Annotated[list[int] | None, typer.Option(help="Of all libraries; may be repeated; default: 1")] = None
    seeds: Annotated[int, typer.Option(help="Rotations of tqvec whose recall is averaged")] = 1


_DEFAULTS = Options()


@with_force
def bench(
    vectors: Annotated[
        str, typer.Argument(help="Vectors, as `tqvec build` reads them, or the name of a data set")
    ] = _SAMPLE,
    queries: Annotated[Path | None, typer.Argument(help="Queries, as `tqvec search` reads them")] = None,
    options: Options = _DEFAULTS,
    plot: Annotated[Path | None, typer.Option(help="Also draw recall and speed: .png, .svg or .pdf")] = None,
    json: Json = False,
) -> None:
    """Compare recall, bytes, memory and speed with other libraries, each in a process of its own, timed in turn."""
    inputs = [] if queries is None else [split_name(path)[0] for path in (vectors, queries)]
    target = None if plot is None else plan_plot(plot, inputs)
    counts = tuple(_validate.integer(count, "--threads", 1, 2**31 - 1) for count in options.threads or (1,))
    plan = Plan(threads=counts, seeds=_validate.integer(options.seeds, "--seeds", 1, 1000))
    wanted = [] if options.n is None else _parse_sizes(options.n)
    base, asked = _read(vectors, queries, max(wanted, default=None))
    sizes, d = wanted or [len(base)], base.shape[1]
    chosen = {size: engines(d, size, options.bits or _WIDTHS, options.library or LIBRARIES) for size in sizes}
    rows: list[Row] = []
    with progress() as bar:
        task = bar.add_task("starting", total=sum(count_steps(each, plan) for each in chosen.values()))
        for size, each in chosen.items():
            rows += measure(base[:size], asked, each, plan, lambda text: bar.update(task, description=text, advance=1))
    board = Leaderboard(
        data=Path(vectors).name,
        n=sizes[-1],
        d=d,
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


def _read(vectors: str, queries: Path | None, most: int | None) -> tuple[Floats, Floats]:
    """Return the vectors, at most so many, and the queries."""
    if queries is None:
        base, asked = _read_set(vectors, most)
    else:
        base, asked = read_queries(Path(vectors))[:most], read_queries(queries)
    if most is not None and len(base) < most:
        raise InputError(f"--n must be at most the {len(base):,} vectors of {vectors}, got {most:,}")
    if base.shape[1] != asked.shape[1]:
        raise InputError(f"{queries}: has dimension {asked.shape[1]}, {vectors} {base.shape[1]}")
    return np.asarray(base, np.float32), np.asarray(asked, np.float32)


def _read_set(name: str, most: int | None) -> tuple[Floats, Floats]:
    """Return vectors and queries of a data set that is here, and compared by direction."""
    if name not in [entry.name for entry in datasets.iter_entries()]:
        raise InputError(
            f"name vectors and queries, or a data set that `tqvec datasets list` shows, got {name!r} alone"
        )
    entry = datasets.find(name)
    if entry.metric != "cosine":
        raise InputError(
            f"{name} is compared by {entry.metric}; bench compares directions, so its metric must be cosine"
        )
    if entry.missing:
        raise InputError(f"{name} is not here: run `tqvec datasets get {name}`")
    data = datasets.load(name)
    rows = np.arange(data.base.n if most is None else min(most, data.base.n))
    return data.base.take(rows), data.queries


def _parse_sizes(text: str) -> list[int]:
    """Return numbers of vectors, ascending: 10k,1M is 10,000 and 1,000,000."""
    matches = [_SIZE.fullmatch(part.strip()) for part in text.split(",")]
    sizes = {int(match[1]) * _FACTORS[match[2]] for match in matches if match is not None}
    if None in matches or min(sizes) < DEPTHS[-1]:
        raise InputError(f"--n must be numbers from {DEPTHS[-1]}, such as 10k,100k,1M, got {text!r}")
    return sorted(sizes)

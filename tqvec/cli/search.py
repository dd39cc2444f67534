"""``tqvec search``: index and queries in, scores and ids out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from tqvec._output import Kind
from tqvec.cli._console import Json, show, show_json, show_table
from tqvec.cli._ids import read_array
from tqvec.cli._output import plan_output, with_force
from tqvec.errors import InputError
from tqvec.eval.readers import float_rows, read_vectors, split_name
from tqvec.eval.streams import Stream, open_vectors
from tqvec.index.index import Index
from tqvec.index.selectors import Filter, Ids, Mask, Selector

_SHOWN = 5  # queries in the table
_KIND = Kind("results of `tqvec search`", re.compile(rb"\APK\x03\x04.{26}(scores|ids|error)\.npy", re.DOTALL))


class Choice(NamedTuple):
    """Options of `search` that choose among the vectors."""

    filter: Annotated[
        Path | None, typer.Option(help="Vectors that may be found: a .npy of ids, or of a boolean for each vector")
    ] = None
    exclude: Annotated[Path | None, typer.Option(help="Vectors that may not be found: a .npy as for --filter")] = None
    rerank: Annotated[
        Path | None, typer.Option(help="The file that was built from: order a shortlist by exact scores")
    ] = None
    confidence: Annotated[
        float | None, typer.Option(help="Above 0 and below 1: find all of the best with this probability")
    ] = None
    nprobe: Annotated[int | None, typer.Option(help="Lists of a partitioned index that each query probes")] = None
    recall: Annotated[
        float | None, typer.Option(help="Probe lists that hold this share of the best; default: 0.95; 1 for all lists")
    ] = None


@with_force
def search(
    index_file: Annotated[Path, typer.Argument(metavar="INDEX", help="File that `tqvec build` wrote")],
    queries: Annotated[
        Path,
        typer.Argument(help=".npy (of one query or more), .fvecs, .bvecs, .hdf5:NAME (default: test), .parquet:COLUMN"),
    ],
    k: Annotated[int, typer.Option("-k", help="Results per query")] = 10,
    errors: Annotated[bool, typer.Option(help="Print standard errors of the scores too")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write scores, ids and error: .npz")] = None,
    threads: Annotated[int | None, typer.Option(help="Default: all CPUs")] = None,
    json: Json = False,
    choice: Choice = Choice(),  # noqa: B008 (a named tuple never changes)
) -> None:
    """Search an index file; print the first results, and write all of them with -o. --json prints all of them."""
    target = None
    if output is not None:
        inputs = [queries, *(path for path in (choice.filter, choice.exclude, choice.rerank) if path is not None)]
        target = plan_output(output, _KIND, [index_file, *(split_name(path)[0] for path in inputs)])
        if output.suffix != ".npz" and not target.is_stream:
            raise InputError(f"{output}: the results are a .npz file; name it so")
    index = Index.load(index_file)
    rows = read_queries(queries)
    options: dict[str, Any] = {"filter": _selection(choice, index), "confidence": choice.confidence}
    options |= {"nprobe": choice.nprobe, "recall": choice.recall}
    if choice.rerank is not None:
        options["rerank"] = _vectors_of(_read_stored(choice.rerank), index)
    start = time.perf_counter()
    scores, ids, *error = index.search(rows, k=k, threads=threads, return_error=errors, **options)
    seconds = time.perf_counter() - start
    results: dict[str, NDArray[Any]] = {"scores": scores, "ids": ids}
    if error:
        results["error"] = error[0]
    if target is not None:
        with target.open() as file:
            np.savez(file, **results)  # type: ignore[arg-type]
    if json:
        facts = {"metric": index.metric, "ntotal": index.ntotal, "k": k, "seconds": seconds, "output": output}
        show_json("search", facts | results)
        return
    show_results(results, index.metric)
    show(f"{len(ids):,} queries on {index.ntotal:,} vectors in {seconds:.3f} s")
    if output is not None:
        show(f"written: {output}")


def show_results(results: dict[str, NDArray[Any]], metric: str) -> None:
    """Print the first results of the first queries."""
    scores, ids, error = results["scores"], results["ids"], results.get("error")
    table = []
    for q in range(min(_SHOWN, len(ids))):
        after = [""] * ids.shape[1] if error is None else [f" ± {value:.4f}" for value in error[q]]
        best = [f"{one} ({scores[q, r]:.4f}{after[r]})" for r, one in enumerate(ids[q, :_SHOWN]) if one >= 0]
        table.append([str(q), "  ".join(best)])
    title = f"best ids (scores), {metric}; first {min(_SHOWN, len(ids))} of {len(ids):,} queries"
    show_table(["query", "results"], table, title=title, right="query")


def read_queries(path: Path) -> NDArray[Any]:
    """Read all queries of a file."""
    stream = open_vectors(path, "test", one_row=True)
    return float_rows(_join(stream))


def _read_stored(path: Path) -> NDArray[Any]:
    """Return the vectors of a file in which `search` reads some rows: mapped, if the format allows."""
    if split_name(path)[0].suffix.lower() == ".parquet":
        return float_rows(_join(open_vectors(path)))
    return float_rows(read_vectors(path))


def _join(stream: Stream) -> NDArray[Any]:
    parts = list(stream.parts(0, max(1, stream.n)))
    return np.concatenate(parts) if parts else np.empty((0, stream.d), np.float32)


def _vectors_of(stored: NDArray[Any], index: Index) -> NDArray[Any] | Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the vectors of the file that was built from as `Index.search` takes them; lists have another order."""
    if index.nlist is None or stored.shape != (index.ntotal, index.d):
        return stored  # `Index.search` says what is wrong with the shape
    first = _first_id(index)
    return lambda ids: stored[ids - first]


def _selection(choice: Choice, index: Index) -> Filter | None:
    """Return the filter of --filter and --exclude."""
    allowed = None if choice.filter is None else _read_selector(choice.filter, index)
    if choice.exclude is None:
        return allowed
    others = ~_read_selector(choice.exclude, index)
    return others if allowed is None else allowed & others


def _read_selector(path: Path, index: Index) -> Selector:
    array = read_array(path, "ids or booleans")
    if array.dtype != np.bool_:
        return Ids(array)
    if index.nlist is None or array.size != index.ntotal:
        return Mask(array)
    return Ids(np.flatnonzero(array) + _first_id(index))


def _first_id(index: Index) -> int:
    """Return the id of the first row of the file that a partitioned index was built from, where ids tell its order.

    Raises
    ------
    InputError
        They don't: only consecutive ids, as a build gives them, do.
    """
    ids = index.ids
    first = int(ids.min()) if ids.size else 0
    if ids.size and int(ids.max()) - first >= ids.size:
        raise InputError(
            "the index is partitioned, and its ids don't tell in which order its vectors were added; use a filter of "
            "ids, or in Python `rerank` with a function of ids"
        )
    return first

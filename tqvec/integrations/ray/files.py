"""Searches for the queries of files, batch by batch, through Ray Data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tqvec._present import import_optional
from tqvec._types import Flags
from tqvec.errors import InputError
from tqvec.shards.folder import Folder

if TYPE_CHECKING:
    from tqvec.integrations.ray.sharded_index import ShardedIndex

_ARRAYS = ".npy"
_ARRAY = "data"  # the column that Ray gives them


class FileSearch(NamedTuple):
    """What is done with each batch of queries.

    Attributes
    ----------
    index : ShardedIndex
    column : str
        Of the vectors.
    options : dict
        Arguments of its `search`.
    """

    index: ShardedIndex
    column: str
    options: dict[str, Any]

    def __call__(self, batch: Any) -> Any:
        """Return the table of a batch with its results, or of an array the results alone."""
        pa = import_optional("pyarrow", "search_file", "ray")
        is_array = isinstance(batch, dict)
        names = ("scores", "ids", "error")
        found = dict(zip(names, self.index.search(batch[self.column], **self.options), strict=False))
        there = found["ids"] >= 0
        table = pa.table({}) if is_array else batch
        for name in ("ids", "scores", "error"):
            if name in found:
                table = table.append_column(name, _lists(pa, found[name], there))
        return table


def _lists(pa: Any, values: Any, there: Flags) -> Any:
    """A column of lists: in each row the values that are there."""
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[there]))


def search_file(
    search: FileSearch, queries: Any, output: str | os.PathLike[str], batch: int, progress: bool, filesystem: Any
) -> None:
    """Do what `ShardedIndex.search_file` says."""
    data = import_optional("ray.data", "search_file", "ray")
    target = Folder(output, filesystem)
    if target.sizes():
        raise InputError(f"{target}: there are files; output must be a folder that is empty or not there")
    paths = [os.fspath(path) for path in ([queries] if isinstance(queries, (str, os.PathLike)) else queries)]
    with _settings(data, progress):
        if all(path.endswith(_ARRAYS) for path in paths):
            search, kind = search._replace(column=_ARRAY), "numpy"
            rows = data.read_numpy(paths, filesystem=filesystem)
        else:
            kind, rows = "pyarrow", data.read_parquet(paths, filesystem=filesystem)
            names = rows.schema().names
            if search.column not in names:
                raise InputError(f"column must be one of {', '.join(names)}, got {search.column!r}")
            if taken := {"ids", "scores", "error"} & {*names}:
                raise InputError(f"queries have a column {min(taken)!r}, which is the name of a result: rename it")
        results = rows.map_batches(search, batch_size=batch, batch_format=kind)
        try:
            results.write_parquet(target.path, filesystem=target.filesystem)
        except BaseException:
            target.delete_below("")
            raise


@contextmanager
def _settings(data: Any, progress: bool) -> Iterator[None]:
    """Let Ray Data keep the order of rows, and show its bars or not."""
    context = data.DataContext.get_current()
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, progress
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before

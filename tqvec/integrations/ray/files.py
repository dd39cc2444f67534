"""Searches for the queries of files, batch by batch, through Ray Data."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from tqvec import errors
from tqvec._present import import_optional
from tqvec._types import Flags
from tqvec.errors import InputError
from tqvec.shards.folder import Folder
from tqvec.shards.sharded import Sharded

_RESULTS = ("ids", "scores", "error")  # columns
_ERROR = re.compile(rf"tqvec\.errors\.({'|'.join(name for name in errors.__all__ if name.endswith('Error'))}): (.*)")
_ARRAYS = ".npy"
_ARRAY = "data"  # the column that Ray gives them


class FileSearch(NamedTuple):
    """What is done with each batch of queries.

    Attributes
    ----------
    sharded : Sharded
    column : str
        Of the vectors.
    options : dict
        Arguments of its `search`.
    """

    sharded: Sharded
    column: str
    options: dict[str, Any]

    def __call__(self, batch: Any) -> Any:
        """Return the table of a batch with its results, or of an array the results alone."""
        pa = import_optional("pyarrow", "search_file", "ray")
        try:
            results = self.sharded.search(batch[self.column], **self.options)
        except InputError as error:
            raise InputError(f"a batch of {len(batch[self.column])} queries: {error}") from None
        found = dict(zip(("scores", "ids", "error"), results, strict=False))
        there = found["ids"] >= 0
        own = {} if isinstance(batch, dict) else dict(zip(batch.column_names, batch.columns, strict=True))
        names = [name for name in _RESULTS if name in found]
        return pa.table({**own, **{name: _lists(pa, found[name], there) for name in names}})


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
    given = [queries] if isinstance(queries, (str, os.PathLike)) else queries
    if not given:
        raise InputError("queries must name at least one file")
    sources = [Folder(path, filesystem) for path in given]  # or files
    paths, store = [source.path for source in sources], sources[0].filesystem
    if any(source.filesystem != store for source in sources):
        raise InputError("queries must be files of one file system")
    with _settings(data, progress):
        if all(path.endswith(_ARRAYS) for path in paths):
            search, kind = search._replace(column=_ARRAY), "numpy"
            rows = data.read_numpy(paths, filesystem=store)
        else:
            kind, rows = "pyarrow", data.read_parquet(paths, filesystem=store)
            names = rows.schema().names
            if search.column not in names:
                raise InputError(f"vectors must be one of {', '.join(names)}, got {search.column!r}")
            if taken := {*_RESULTS} & {*names}:
                raise InputError(f"queries have a column {min(taken)!r}, which is the name of a result: rename it")
        results = rows.map_batches(search, batch_size=batch, batch_format=kind)
        try:
            results.write_parquet(target.path, filesystem=target.filesystem)
        except BaseException as error:
            for name in target.sizes():
                target.delete(name)
            raise _cause(error) from None


def _cause(error: BaseException) -> BaseException:
    """The error of tqvec that made a task fail, of which Ray Data passes on the text alone; or the error itself."""
    matches = _ERROR.findall(str(error))
    return getattr(errors, matches[-1][0])(matches[-1][1]) if matches else error


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

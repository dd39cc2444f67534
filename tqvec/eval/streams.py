"""Files of vectors that are read part by part: they may be larger than memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._mmap import release_pages
from tqvec._types import Ids
from tqvec.errors import FormatError, InputError, UnsupportedError
from tqvec.eval.readers import HDF5, open_hdf5, read_vectors, split_name

_PART = 65536  # vectors that are read at a time, to take some of them
_BUFFER = 1 << 20  # bytes of a Parquet column that are read at a time

Parts = Iterator[NDArray[Any]]


class Stream(NamedTuple):
    """The vectors of a file.

    Attributes
    ----------
    path : Path
    name : str or None
        The dataset or column in the file.
    n, d : int
        Number of vectors, and their dimension.
    parts : callable
        ``parts(start, rows)`` iterates over arrays of at most `rows` vectors, from number `start` to the last one.
    """

    path: Path
    name: str | None
    n: int
    d: int
    parts: Callable[[int, int], Parts]

    def take(self, rows: Ids) -> NDArray[Any]:
        """Return the vectors of ascending row numbers; a file that can't be mapped is read up to the last of them."""
        vectors, first = [], 0
        for part in self.parts(0, _PART):
            inside = rows[(rows >= first) & (rows < first + len(part))] - first
            vectors.append(np.asarray(part[inside]))
            first += len(part)
            if not rows.size or first > rows[-1]:
                break
        return np.concatenate(vectors)


def open_vectors(path: str | os.PathLike[str], dataset: str = "train", *, one_row: bool = False) -> Stream:
    """Open a file of vectors.

    Parameters
    ----------
    path : path
        A file that `read_vectors` takes, or ``file.parquet:COLUMN``, a column of lists of floats of one length.
    dataset, one_row
        As for `read_vectors`.

    Returns
    -------
    Stream
        Its parts raise `InputError` for a row of Parquet that is missing or has another length; the message names it.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    InputError
        Unknown extension; no such column or dataset.
    FormatError
        The file is damaged, or of another kind than its extension says.
    UnsupportedError
        Parquet without pyarrow, or HDF5 without h5py.
    """
    file, name = split_name(path)
    if file.suffix.lower() == ".parquet":
        column = _Column(file, name)
        return Stream(path=file, name=name, n=column.n, d=column.d, parts=column.parts)
    if file.suffix.lower() in HDF5:
        return _hdf5(file, name or dataset)
    x = read_vectors(file, one_row=one_row)
    n, d = x.shape

    def parts(start: int, rows: int) -> Parts:
        for row in range(start, n, rows):
            yield x[row : row + rows]
            release_pages(x)

    return Stream(path=file, name=None, n=n, d=d, parts=parts)


def _hdf5(path: Path, name: str) -> Stream:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    with open_hdf5(path, name) as x:
        n, d = x.shape

    def parts(start: int, rows: int) -> Parts:
        with open_hdf5(path, name) as x:
            for row in range(start, n, rows):
                yield x[row : row + rows]

    return Stream(path=path, name=name, n=n, d=d, parts=parts)


class _Column:
    """A column of lists of floats in a Parquet file: `n` rows, of which the first has length `d`."""

    def __init__(self, path: Path, name: str | None):
        try:
            import pyarrow as pa
            from pyarrow.parquet import ParquetFile
        except ModuleNotFoundError as error:
            raise UnsupportedError("reading Parquet needs pyarrow: pip install 'tqvec[parquet]'") from error
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        self._path, self._name = path, name
        self._damage = (pa.ArrowException, OSError)
        try:
            # Absolute: a relative path with a colon is read as a URI. pre_buffer would hold whole groups of rows.
            self._file = ParquetFile(path.absolute(), buffer_size=_BUFFER, pre_buffer=False)
        except self._damage as error:
            raise FormatError(f"{path}: not a Parquet file, or damaged ({error})") from error
        schema = self._file.schema_arrow
        if name not in schema.names:
            fault = "name a column, FILE:COLUMN" if name is None else f"no column {name!r}"
            raise InputError(f"{path}: {fault}; it has {', '.join(schema.names)}")
        kind, types = schema.field(name).type, pa.types
        lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        exact = lists and types.is_integer(kind.value_type) and kind.value_type.bit_width <= 16  # as float32
        if not exact and not (lists and types.is_floating(kind.value_type)):
            raise InputError(f"{path}: column {name!r} holds {kind}, not lists of floats")
        self.n = self._file.metadata.num_rows
        self.d = len(next(self._lists(0, 1))[1][0].as_py() or ()) if self.n else 0

    def parts(self, start: int, rows: int) -> Parts:
        """Iterate over arrays as the parts of a `Stream` do."""
        for row, lists in self._lists(start, rows):
            yield self._matrix(row, lists)

    def _lists(self, start: int, rows: int) -> Iterator[tuple[int, Any]]:
        """Iterate over the numbers of first rows and Arrow arrays of lists; row groups before `start` aren't read."""
        groups = range(self._file.num_row_groups)
        ends = np.cumsum([self._file.metadata.row_group(group).num_rows for group in groups])
        first = int(np.searchsorted(ends, start, side="right"))
        row = int(ends[first - 1]) if first else 0
        try:
            for batch in self._file.iter_batches(rows, groups[first:], [self._name]):
                lists = batch.column(0)[max(0, start - row) :]
                row += batch.num_rows
                if len(lists):
                    yield row - len(lists), lists
        except self._damage as error:
            raise FormatError(f"{self._path}: damaged ({error})") from error

    def _matrix(self, row: int, lists: Any) -> NDArray[Any]:
        """Return lists, of which the first is number `row`, as an (n, d) array."""
        lengths = np.asarray(lists.value_lengths().fill_null(0))
        wrong = np.flatnonzero((lengths != self.d) | (lengths == 0))
        if wrong.size:
            bad = int(wrong[0])
            raise InputError(
                f"{self._path}: {self._name} of row {row + bad} "
                + (f"has length {lengths[bad]}, of row 0 {self.d}" if lengths[bad] else "is null or empty")
            )
        numbers = lists.flatten()
        if numbers.null_count:
            bad = int(np.flatnonzero(np.asarray(numbers.is_null()))[0]) // self.d
            raise InputError(f"{self._path}: {self._name} of row {row + bad} holds a null")
        matrix: NDArray[Any] = numbers.to_numpy(zero_copy_only=False).reshape(-1, self.d)
        return matrix

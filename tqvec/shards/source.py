"""Source: the rows of files, in one order, of which any range can be read on any machine."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np

from tqvec._present import import_optional
from tqvec.errors import FormatError, InputError
from tqvec.shards.folder import Folder

_BATCH = 1 << 23  # bytes of vectors that are read at a time
_MAX_BATCH_ROWS = 16_384
NUMPY, PARQUET = ".npy", ".parquet"


class Source(Protocol):
    """Rows with a vector each."""

    @property
    def n(self) -> int:
        """Number of rows."""

    def describe(self) -> str:
        """Return a text that differs for other rows, or rows in another order."""

    def schema(self, vectors: str, columns: Sequence[str]) -> Any:
        """Return the pyarrow schema of the records; InputError if a column is not there, or has two types."""

    def tables(self, start: int, stop: int, vectors: str, columns: Sequence[str]) -> Iterator[tuple[Any, Any]]:
        """Yield the vectors of some rows, and a pyarrow table of their records, part by part."""


class _Part(NamedTuple):
    """A file: its place in a file system, its rows, and what tells it from what it was before a change."""

    folder: Folder
    name: str
    rows: int
    state: tuple[int, str]

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"


class FileSource:
    """The rows of Parquet files, or of NumPy's, one file after the other.

    Parameters
    ----------
    places : path, str or sequence of these
        Files, URIs such as ``s3://bucket/part-0.parquet``, or folders, whose files count in the order of their names.
    filesystem : pyarrow.fs.FileSystem, optional
        `places` are then paths in it.

    Raises
    ------
    InputError
        There are no files, or other ones.
    FormatError
        A file is damaged.
    """

    def __init__(self, places: Any, filesystem: Any = None) -> None:
        given = [places] if isinstance(places, (str, os.PathLike)) else list(places)
        found = [file for place in given for file in _files_at(place, filesystem)]
        if not found:
            raise InputError(f"source must be files that end in {PARQUET} or {NUMPY}, or folders of them: got none")
        self._parts = [_open_part(folder, name) for folder, name in found]
        self._starts = list(accumulate((part.rows for part in self._parts), initial=0))

    @property
    def n(self) -> int:
        """Number of rows."""
        return self._starts[-1]

    def describe(self) -> str:
        """Return names, sizes and times of all files."""
        return json.dumps([[str(part), part.rows, *part.state] for part in self._parts])

    def schema(self, vectors: str, columns: Sequence[str]) -> Any:
        """Return the pyarrow schema of the records; InputError if a column is not there, or has two types."""
        pa = import_optional("pyarrow", "shards", "ray")
        schema = None
        for part in self._parts:
            found = pa.schema([]) if part.name.endswith(NUMPY) else _parquet_schema(part)
            needed = columns if part.name.endswith(NUMPY) else (vectors, *columns)
            schema = same_schema(str(part), found, needed, columns, schema)
        return schema

    def tables(self, start: int, stop: int, vectors: str, columns: Sequence[str]) -> Iterator[tuple[Any, Any]]:
        """Yield the vectors of some rows, and a pyarrow table of their records, part by part."""
        while start < stop:
            number = bisect_right(self._starts, start) - 1
            part, base = self._parts[number], self._starts[number]
            end = min(stop, base + part.rows)
            read = _read_numpy if part.name.endswith(NUMPY) else _read_parquet
            yield from read(part, start - base, end - base, vectors, columns)
            start = end


def same_schema(where: str, found: Any, needed: Sequence[str], columns: Sequence[str], before: Any) -> Any:
    """Return the fields of some columns of a schema; InputError if one is missing, or is not as it was before."""
    pa = import_optional("pyarrow", "shards", "ray")
    missing = [name for name in needed if name not in found.names]
    if missing:
        has = f"it has {', '.join(found.names)}" if found.names else "it has no columns with names"
        raise InputError(f"{where}: there is no column {missing[0]!r}; {has}")
    types = {name: found.field(name).type for name in columns}
    for name in columns if before is not None else ():
        known = before.field(name).type
        if pa.types.is_null(types[name]):  # of a column without any value
            types[name] = known
        elif types[name] != known and not pa.types.is_null(known):
            raise InputError(f"{where}: column {name!r} is {types[name]}, elsewhere {known}; records need one type")
    return pa.schema(types)


def _parquet_schema(part: _Part) -> Any:
    parquet = import_optional("pyarrow.parquet", "shards", "ray")
    with part.folder.filesystem.open_input_file(part.folder.at(part.name)) as file:
        return parquet.read_schema(file)


def _files_at(place: str | os.PathLike[str], filesystem: Any) -> list[tuple[Folder, str]]:
    """Return the files of a place, each as a folder and a name in it."""
    whole = Folder(place, filesystem)
    if whole.path.endswith((PARQUET, NUMPY)):
        parent, _, name = whole.path.rpartition("/")
        return [(Folder(parent or "/", whole.filesystem), name)]
    return [(whole, name) for name in sorted(whole.sizes()) if name.endswith((PARQUET, NUMPY))]


def _open_part(folder: Folder, name: str) -> _Part:
    info = folder.filesystem.get_file_info(folder.at(name))
    if not info.is_file:
        raise FileNotFoundError(f"no such file: {folder}/{name}")
    part = _Part(folder, name, 0, (info.size, str(info.mtime)))
    if name.endswith(NUMPY):
        return part._replace(rows=_numpy_header(part)[0][0])
    parquet, pa = (import_optional(module, "shards", "ray") for module in ("pyarrow.parquet", "pyarrow"))
    try:
        with folder.filesystem.open_input_file(folder.at(name)) as file:
            return part._replace(rows=parquet.read_metadata(file).num_rows)
    except pa.ArrowException as error:
        raise FormatError(f"{part}: not a Parquet file, or damaged ({error})") from error


def _numpy_header(part: _Part) -> tuple[tuple[int, int], np.dtype[Any], int]:
    """Return shape, type and first byte of the rows of a NumPy file."""
    with part.folder.filesystem.open_input_file(part.folder.at(part.name)) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, in_columns, dtype = read(file)
        except ValueError as error:
            raise FormatError(f"{part}: not a NumPy file, or damaged ({error})") from error
        start = file.tell()
    if len(shape) != 2 or in_columns or dtype.hasobject:
        raise InputError(f"{part}: must hold rows of numbers in C order, got shape {shape} of {dtype}")
    if part.state[0] != start + shape[0] * shape[1] * dtype.itemsize:
        raise FormatError(f"{part}: truncated, or followed by other bytes")
    return (int(shape[0]), int(shape[1])), dtype, start


def _read_numpy(part: _Part, start: int, stop: int, vectors: str, columns: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    (_, d), dtype, first = _numpy_header(part)
    pa = import_optional("pyarrow", "shards", "ray")
    size = d * dtype.itemsize
    step = max(1, min(_MAX_BATCH_ROWS, _BATCH // max(1, size)))
    with part.folder.filesystem.open_input_file(part.folder.at(part.name)) as file:
        file.seek(first + start * size)
        for row in range(start, stop, step):
            rows = min(step, stop - row)
            yield np.frombuffer(file.read(rows * size), dtype).reshape(rows, d), pa.table({})


def _read_parquet(
    part: _Part, start: int, stop: int, vectors: str, columns: Sequence[str]
) -> Iterator[tuple[Any, Any]]:
    parquet, pa = (import_optional(module, "shards", "ray") for module in ("pyarrow.parquet", "pyarrow"))
    with part.folder.filesystem.open_input_file(part.folder.at(part.name)) as stream:
        try:
            file = parquet.ParquetFile(stream, pre_buffer=False)
            ends = list(accumulate(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)))
            first, last = bisect_right(ends, start), bisect_right(ends, stop - 1)
            row = ends[first - 1] if first else 0
            names = list(dict.fromkeys([vectors, *columns]))
            for batch in file.iter_batches(_MAX_BATCH_ROWS, list(range(first, last + 1)), names):
                inside = batch.slice(max(0, start - row), max(0, min(stop, row + len(batch)) - max(start, row)))
                row += len(batch)
                if len(inside):
                    yield inside.column(vectors), pa.Table.from_batches([inside]).select(list(columns))
        except pa.ArrowException as error:
            raise FormatError(f"{part}: damaged ({error})") from error

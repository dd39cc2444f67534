"""Sharding: the records of a collection, as of one commit, as a sharded index."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tqvec._present import import_optional
from tqvec._types import Ids
from tqvec.errors import FormatError, InputError
from tqvec.index.rows import Rows
from tqvec.index.saved import iter_rows
from tqvec.shards.folder import Folder
from tqvec.shards.manifest import Shard, first_manifest, manifest_names, write_manifest
from tqvec.shards.writing import put_records, write_codec, write_vectors
from tqvec.store.settings import Settings
from tqvec.store.state import State
from tqvec.store.where import Condition, json_path

_PART = 5_000  # records that are written at once
_COLUMNS = ("id", "document", "metadata")
# Types of JSON in SQLite's words, and the names of the columns that hold them alone.
_TYPES = {"integer": "int64", "real": "float64", "text": "string"}
_TYPES |= dict.fromkeys(("false", "true", "false true"), "bool_")


def write_shards(
    connection: sqlite3.Connection,
    state: State,
    settings: Settings,
    folder: Folder,
    condition: Condition,
    shard_rows: int,
    progress: Callable[[int], None] | None,
) -> int:
    """Write the records of a condition, as of the transaction of a connection, and return their number.

    The manifest is written last. `Collection.shard` describes the files.

    Raises
    ------
    InputError
        The folder has a sharded index, or there are no records.
    """
    if manifest_names(folder):
        raise InputError(f"destination: {folder} has a sharded index already; name another folder")
    schema = _make_schema(connection, settings, condition)
    shards: list[Shard] = []
    done = last = 0
    with tempfile.TemporaryDirectory(prefix="tqvec-") as workspace:
        path = Path(workspace, "records.parquet")
        while (rows := _write_records(connection, condition, last, shard_rows, schema, path)).size:
            parts = _count(_iter_codes(state, rows), done, progress)
            vectors = write_vectors(folder, state.empty.codec, state.empty.metric, done, rows.size, parts)
            shards.append(Shard(done, int(rows.size), vectors, put_records(folder, path, done)))
            done, last = done + int(rows.size), int(rows[-1])
    if not shards:
        raise InputError("there are no records to shard: the collection, or `where`, has none")
    codec = write_codec(folder, state.empty)
    write_manifest(folder, first_manifest(state.empty, codec, schema.names, shards))
    return done


def _make_schema(connection: sqlite3.Connection, settings: Settings, condition: Condition) -> Any:
    """Return the Arrow schema of records: a column for each indexed field whose values have one type."""
    arrow = import_optional("pyarrow", "a sharded index", "ray")
    columns = dict.fromkeys(_COLUMNS, "string")
    for name in settings.indexed:
        sql = f"SELECT DISTINCT json_type(metadata, ?) FROM records WHERE {condition.sql}"
        found = {kind for (kind,) in connection.execute(sql, (json_path(name), *condition.parameters))}
        kind = _TYPES.get(" ".join(sorted(found - {None})))
        if kind is not None and name not in _COLUMNS:
            columns[name] = kind
    return arrow.schema({name: getattr(arrow, kind)() for name, kind in columns.items()})


def _write_records(
    connection: sqlite3.Connection, condition: Condition, after: int, most: int, schema: Any, path: Path
) -> Ids:
    """Write the next records behind a row to a file of Parquet, and return their rows, (m,) int64."""
    arrow = import_optional("pyarrow", "a sharded index", "ray")
    parquet = import_optional("pyarrow.parquet", "a sharded index", "ray")
    sql = f"SELECT row, id, document, metadata FROM records WHERE row > ? AND {condition.sql} ORDER BY row LIMIT ?"
    rows = [np.zeros(0, np.int64)]
    left = most
    with parquet.ParquetWriter(path, schema) as writer:
        while left:
            some = connection.execute(sql, (after, *condition.parameters, min(left, _PART))).fetchall()
            if not some:
                break
            numbers, *columns = zip(*some, strict=True)
            fields = [json.loads(text) for text in columns[-1]]
            own = [list(column) for column in columns]
            own += [[each.get(name) for each in fields] for name in schema.names[len(_COLUMNS) :]]
            arrays = [arrow.array(values, kind) for values, kind in zip(own, schema.types, strict=True)]
            writer.write_batch(arrow.record_batch(arrays, schema=schema))
            rows.append(np.array(numbers, np.int64))
            left, after = left - len(some), numbers[-1]
    return np.concatenate(rows)


def _iter_codes(state: State, rows: Ids) -> Iterator[Rows]:
    """Yield the codes of rising rows, some at a time."""
    sources = []
    for segment in state.segments:
        mine = segment.entry.spans(rows)
        sources.append((segment.index, rows[mine]))
        rows = rows[~mine]
    for index, some in (*sources, (state.tail, rows)):
        with _blame_catalog():
            yield from iter_rows(index, some)


@contextmanager
def _blame_catalog() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise FormatError(f"a record has no vector ({error}): the catalog is damaged; see check()") from error


def _count(parts: Iterable[Rows], done: int, progress: Callable[[int], None] | None) -> Iterator[Rows]:
    """Yield all parts, and tell how many rows are done, of which some were before."""
    for part in parts:
        yield part
        done += len(part["scale"])
        if progress is not None:
            progress(done)

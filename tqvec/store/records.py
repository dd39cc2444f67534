"""Records: what users hand over to be stored, read into ids, vectors, documents and metadata of one form."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tqvec import _validate
from tqvec.errors import InputError
from tqvec.store.tables import Part, is_table, iter_parquet, iter_table
from tqvec.store.where import check_field

_COLUMNS = {"id", "vector", "document"}
_BATCH = 10_000  # records of a file or table that are in memory at once
_LONGEST_ID = 1024
_LARGEST = 2**63

Metadata = Mapping[str, Any]


class Batch(NamedTuple):
    """Records column by column; a column that was not given is None.

    Attributes
    ----------
    ids : list of str
    vectors : (n, d) array_like or None
    documents : list of (str or None), or None
    metadatas : list of str, or None
        JSON objects without nulls.
    first : int
        Number of the first record, for messages.
    """

    ids: list[str]
    vectors: ArrayLike | None = None
    documents: list[str | None] | None = None
    metadatas: list[str] | None = None
    first: int = 0

    def __len__(self) -> int:
        return len(self.ids)


def read_columns(
    ids: Iterable[str],
    vectors: ArrayLike | None,
    documents: Iterable[str | None] | None,
    metadatas: Iterable[Metadata | None] | None,
    first: int = 0,
) -> Batch:
    """Check columns of records, of which the first has a number for messages.

    Raises
    ------
    InputError
        An id is no text, or given twice; columns differ in length; a document or value of the metadata has a type that
        can't be stored. The message names the column, the row and the field.
    """
    names = read_ids(ids, first)
    seen: dict[str, int] = {}
    for row, name in enumerate(names, first):
        if name in seen:
            raise InputError(f"ids row {row} is {name!r}, as row {seen[name]}: each id may be given once")
        seen[name] = row
    texts = dicts = None
    if documents is not None:
        texts = [_read_document(text, row) for row, text in _rows(documents, "documents", first)]
    if metadatas is not None:
        dicts = [write_metadata(entry, row) for row, entry in _rows(metadatas, "metadatas", first)]
    for name, column in (("documents", texts), ("metadatas", dicts)):
        if column is not None and len(column) != len(names):
            raise InputError(f"{name} must have an entry for each of the {len(names)} ids, got {len(column)}")
    return Batch(ids=names, vectors=vectors, documents=texts, metadatas=dicts, first=first)


def read_ids(ids: Iterable[str] | str, first: int = 0) -> list[str]:
    """Return ids as a list; a single one counts as a list of one. The first has a number for messages."""
    if isinstance(ids, str):
        return [_read_id(ids, 0)]
    if isinstance(ids, (bytes, Mapping)) or not hasattr(ids, "__iter__"):
        raise InputError(f"ids must be a list of str, got a {type(ids).__name__}")
    return [_read_id(name, row) for row, name in _rows(ids, "ids", first)]


def _rows(column: object, name: str, first: int) -> Iterable[tuple[int, Any]]:
    return enumerate(_validate.entries(column, name), first)


def _read_id(name: object, row: int) -> str:
    if not isinstance(name, str):
        remedy = "; make text of it with str()" if isinstance(name, (int, np.integer)) or hasattr(name, "hex") else ""
        raise InputError(f"ids row {row} must be a str, got {name!r}{remedy}")
    _check_text(name, f"ids row {row}")
    if not name or len(name) > _LONGEST_ID:
        raise InputError(f"ids row {row} must have 1 to {_LONGEST_ID:,} characters, got {len(name):,}")
    return str(name)


def _read_document(text: object, row: int) -> str | None:
    if not isinstance(text, str):
        if _is_missing(text):
            return None
        raise InputError(f"documents row {row} must be a str or None, got a {type(text).__name__}")
    _check_text(text, f"documents row {row}")
    return str(text)


def _check_text(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{place} is no valid Unicode text: {error}") from None


def write_metadata(entry: Metadata | None, row: int) -> str:
    """Return metadata as JSON; None, and NaN of a table's missing entry, mean that there is no such field."""
    if entry is None:
        return "{}"
    if not isinstance(entry, Mapping):
        raise InputError(f"metadatas row {row} must be a dict or None, got a {type(entry).__name__}")
    place = f"metadatas row {row}"
    fields = {}
    for name, value in entry.items():
        if not isinstance(name, str):
            raise InputError(f"{place} must have str as names of fields, got {name!r}")
        check_field(name, place)
        if not _is_missing(value):
            fields[str(name)] = _plain(value, f"{place}: field {name!r}", 0)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)) or repr(value) == "<NA>"


def _plain(value: Any, place: str, depth: int) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        if not -_LARGEST <= value < _LARGEST:
            raise InputError(f"{place} must be within int64, got {value}; store it as a str")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{place} must be finite, got {value}")
        return float(value)
    if isinstance(value, str):
        _check_text(value, place)
        return str(value)
    if depth < 20 and isinstance(value, (list, tuple)):
        return [_plain(entry, f"{place}[{i}]", depth + 1) for i, entry in enumerate(value)]
    if depth < 20 and isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {str(name): _plain(entry, f"{place}.{name}", depth + 1) for name, entry in value.items()}
    remedy = "; use isoformat()" if hasattr(value, "isoformat") else ""
    raise InputError(
        f"{place} must be a str, int, float, bool, or a list or dict of these, got a {type(value).__name__}{remedy}"
    )


def iter_batches(records: object) -> Iterator[Batch]:
    """Yield the records of a list of dictionaries, a table, a file, or an iterator of these, some at a time.

    Fields ``id``, ``vector``, ``document`` and ``metadata`` are read as such, and all others are metadata.

    Parameters
    ----------
    records : list of dict, table, path, or iterator
        A table is one that `is_table` knows. A path is that of a file of Parquet (``.parquet``) or of JSON lines
        (``.jsonl``). An iterator yields dictionaries, lists of these, or tables.

    Raises
    ------
    InputError
        It is none of these, or has no ids; as `read_columns`, with the row.
    """
    first = 0
    for part in _iter_parts(records):
        batch = _from_rows(part, first) if isinstance(part, list) else _from_table(part, first)
        yield batch
        first += len(batch)


def _from_table(part: Part, first: int) -> Batch:
    names = part.names
    if "id" not in names:
        raise InputError(f"records have no column 'id', only {', '.join(map(repr, names)) or 'none'}")
    if len(set(names)) < len(names):
        raise InputError(f"records have columns of the same name: {', '.join(map(repr, names))}")
    others = [name for name in names if name not in _COLUMNS]
    rows = part.records(others) if others else []
    return read_columns(
        part.values("id"),
        part.column("vector") if "vector" in names else None,
        part.values("document") if "document" in names else None,
        [_metadata_of(record, row) for row, record in enumerate(rows, first)] if others else None,
        first,
    )


def _from_rows(rows: Sequence[Mapping[str, Any]], first: int) -> Batch:
    for row, record in enumerate(rows, first):
        if not isinstance(record, Mapping):
            raise InputError(f"records row {row} must be a dict, got a {type(record).__name__}")
        if "id" not in record:
            raise InputError(f"records row {row} has no 'id', only {', '.join(map(repr, record)) or 'nothing'}")
    given = {name for record in rows for name in record}
    vectors: Any = [record.get("vector") for record in rows] if "vector" in given else None
    if vectors is not None:
        _check_vectors(vectors, first)
    return read_columns(
        [record["id"] for record in rows],
        vectors,
        [record.get("document") for record in rows] if "document" in given else None,
        [_metadata_of(record, row) for row, record in enumerate(rows, first)] if given - _COLUMNS else None,
        first,
    )


def _check_vectors(vectors: list[Any], first: int) -> None:
    """Refuse records of which some have no vector, or one of another shape than the first one's."""
    expected = np.shape(vectors[0])
    for row, vector in enumerate(vectors, first):
        if vector is None:
            raise InputError(f"records row {row} has no 'vector', but others have one")
        shape = np.shape(vector)
        if shape != expected:
            raise InputError(f"the vector of records row {row} has the shape {shape}, that of row {first} {expected}")


def _metadata_of(record: Mapping[str, Any], row: int) -> dict[str, Any]:
    own = record.get("metadata")
    if isinstance(own, str):  # as `export` writes it
        try:
            own = json.loads(own)
        except ValueError as error:
            raise InputError(f"records row {row}: 'metadata' is a str, but no JSON ({error})") from None
    if own is not None and not isinstance(own, Mapping):
        raise InputError(f"records row {row}: 'metadata' must be a dict, got a {type(own).__name__}")
    return {**(own or {}), **{name: value for name, value in record.items() if name not in {*_COLUMNS, "metadata"}}}


def _iter_parts(records: Any) -> Iterator[Any]:
    """Yield lists of dictionaries, or parts of tables."""
    if isinstance(records, (str, Path)):
        yield from _iter_file(Path(records))
    elif is_table(records):
        yield from iter_table(records, _BATCH)
    elif isinstance(records, Iterable) and not isinstance(records, (bytes, Mapping)):
        yield from _iter_records(records)
    else:
        remedy = "; convert it with collect()" if hasattr(records, "collect") else ""
        raise InputError(
            f"records must be a list of dicts, a table, an iterator of these, or a path, got a "
            f"{type(records).__name__}{remedy}"
        )


def _iter_records(records: Iterable[Any]) -> Iterator[Any]:
    """Yield what comes one by one, in lists, and in tables; rows are gathered to lists of equal lengths."""
    rows: list[Any] = []
    for some in records:
        if is_table(some):
            if rows:
                yield rows
            rows = []
            yield from iter_table(some, _BATCH)
            continue
        rows += some if isinstance(some, list) else [some]
        while len(rows) >= _BATCH:
            yield rows[:_BATCH]
            rows = rows[_BATCH:]
    if rows:
        yield rows


def _iter_file(path: Path) -> Iterator[Any]:
    if path.suffix == ".parquet":
        yield from iter_parquet(path, _BATCH)
    elif path.suffix in (".jsonl", ".ndjson"):
        yield from _iter_json_lines(path)
    else:
        raise InputError(f"{path}: records are read from files with the ending .parquet, .jsonl or .ndjson")


def _iter_json_lines(path: Path) -> Iterator[list[Mapping[str, Any]]]:
    rows: list[Mapping[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{path}, line {number}: no JSON ({error})") from None
                if not isinstance(record, dict) or "id" not in record:
                    raise InputError(f"{path}, line {number}: must be an object with an 'id'")
                rows.append(record)
                if len(rows) == _BATCH:
                    yield rows
                    rows = []
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: no UTF-8 text ({error})") from None
    if rows:
        yield rows

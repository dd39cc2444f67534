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
from tqvec.store.arrow import iter_parquet, matrix_of
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
    """

    ids: list[str]
    vectors: ArrayLike | None = None
    documents: list[str | None] | None = None
    metadatas: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)


def read_columns(
    ids: Iterable[str],
    vectors: ArrayLike | None,
    documents: Iterable[str | None] | None,
    metadatas: Iterable[Metadata | None] | None,
) -> Batch:
    """Check columns of records.

    Raises
    ------
    InputError
        An id is no text, or given twice; columns differ in length; a document or value of the metadata has a type that
        can't be stored. The message names the column, the row and the field.
    """
    names = read_ids(ids)
    seen: dict[str, int] = {}
    for row, name in enumerate(names):
        if name in seen:
            raise InputError(f"ids row {row} is {name!r}, as row {seen[name]}: each id may be given once")
        seen[name] = row
    texts = None if documents is None else [_read_document(text, row) for row, text in _rows(documents, "documents")]
    dicts = None if metadatas is None else [write_metadata(entry, row) for row, entry in _rows(metadatas, "metadatas")]
    for name, column in (("documents", texts), ("metadatas", dicts)):
        if column is not None and len(column) != len(names):
            raise InputError(f"{name} must have an entry for each of the {len(names)} ids, got {len(column)}")
    return Batch(names, vectors, texts, dicts)


def read_ids(ids: Iterable[str] | str) -> list[str]:
    """Return ids as a list; a single one counts as a list of one."""
    if isinstance(ids, str):
        return [_read_id(ids, 0)]
    if isinstance(ids, (bytes, Mapping)) or not hasattr(ids, "__iter__"):
        raise InputError(f"ids must be a list of str, got a {type(ids).__name__}")
    return [_read_id(name, row) for row, name in _rows(ids, "ids")]


def _rows(column: object, name: str) -> Iterable[tuple[int, Any]]:
    return enumerate(_validate.entries(column, name))


def _read_id(name: object, row: int) -> str:
    if not isinstance(name, str):
        remedy = "; make text of it with str()" if isinstance(name, (int, np.integer)) or hasattr(name, "hex") else ""
        raise InputError(f"ids row {row} must be a str, got {name!r}{remedy}")
    _check_text(name, f"ids row {row}")
    if not name or len(name) > _LONGEST_ID:
        raise InputError(f"ids row {row} must have 1 to {_LONGEST_ID:,} characters, got {len(name):,}")
    return str(name)


def _read_document(text: object, row: int) -> str | None:
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return None
    if not isinstance(text, str):
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
    """Yield the records of a list of dictionaries, a table, or a file, some at a time.

    Fields ``id``, ``vector``, ``document`` and ``metadata`` are read as such, and all others are metadata.

    Parameters
    ----------
    records : list of dict, DataFrame, Arrow table, Hugging Face dataset, or path
        A path is that of a file of Parquet (``.parquet``) or of JSON lines (``.jsonl``).

    Raises
    ------
    InputError
        It is none of these, or has no ids; as `read_columns`, with rows of the batch.
    """
    for part in _iter_parts(records):
        yield _from_rows(part) if isinstance(part, list) else _from_arrow(part)


def _from_arrow(part: Any) -> Batch:
    names = part.schema.names
    if "id" not in names:
        raise InputError(f"records have no column 'id', only {', '.join(map(repr, names)) or 'none'}")
    others = [name for name in names if name not in _COLUMNS]
    rows = part.select(others).to_pylist()
    return read_columns(
        part.column("id").to_pylist(),
        matrix_of(part.column("vector")) if "vector" in names else None,
        part.column("document").to_pylist() if "document" in names else None,
        [_metadata_of(record, row) for row, record in enumerate(rows)] if others else None,
    )


def _from_rows(rows: Sequence[Mapping[str, Any]]) -> Batch:
    for row, record in enumerate(rows):
        if not isinstance(record, Mapping):
            raise InputError(f"records row {row} must be a dict, got a {type(record).__name__}")
        if "id" not in record:
            raise InputError(f"records row {row} has no 'id', only {', '.join(map(repr, record)) or 'nothing'}")
    given = {name for record in rows for name in record}
    vectors = [record.get("vector") for record in rows] if "vector" in given else None
    for row, vector in enumerate(vectors or ()):
        if vector is None:
            raise InputError(f"records row {row} has no 'vector', but others have one")
    return read_columns(
        [record["id"] for record in rows],
        None if vectors is None else _stack(vectors),
        [record.get("document") for record in rows] if "document" in given else None,
        [_metadata_of(record, row) for row, record in enumerate(rows)] if given - _COLUMNS else None,
    )


def _stack(vectors: list[Any]) -> ArrayLike:
    lengths = {np.shape(vector) for vector in vectors}
    if len(lengths) > 1:
        shapes = sorted(map(str, lengths))
        raise InputError(f"records have vectors of different shapes: {', '.join(shapes[:5])}")
    return np.asarray(vectors)


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
    """Yield lists of dictionaries, or record batches of Arrow."""
    if isinstance(records, (str, Path)):
        yield from _iter_file(Path(records))
    elif hasattr(records, "to_batches"):  # an Arrow table
        yield from records.to_batches(max_chunksize=_BATCH)
    elif hasattr(records, "to_dict") and hasattr(records, "iloc"):  # pandas
        for first in range(0, len(records), _BATCH):
            yield records.iloc[first : first + _BATCH].to_dict("records")
    elif hasattr(records, "iter_slices") and hasattr(records, "to_dicts"):  # Polars
        for part in records.iter_slices(_BATCH):
            yield part.to_dicts()
    elif isinstance(records, Iterable) and not isinstance(records, (bytes, Mapping)):
        rows: list[Mapping[str, Any]] = []
        for record in records:
            rows.append(record)
            if len(rows) == _BATCH:
                yield rows
                rows = []
        if rows:
            yield rows
    else:
        raise InputError(
            f"records must be a list of dicts, a DataFrame, an Arrow table or a path, got a {type(records).__name__}"
        )


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

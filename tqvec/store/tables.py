"""Tables of records: files of Parquet, and tables of Arrow, pandas, Polars and Hugging Face, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqvec._arrays import is_a
from tqvec._present import import_optional
from tqvec.errors import InputError


class Part(NamedTuple):
    """Some rows of a table.

    Attributes
    ----------
    names : list of str
        Of the columns.
    column : callable
        Returns a column by name, as vectors are read from.
    values : callable
        Returns a column by name, as a list of Python's objects.
    records : callable
        Returns a dictionary for each row, of the named columns.
    """

    names: Sequence[str]
    column: Callable[[str], Any]
    values: Callable[[str], list[Any]]
    records: Callable[[Sequence[str]], list[dict[str, Any]]]


def is_table(records: object) -> bool:
    """Return whether `iter_table` takes it."""
    return (
        is_a(records, "pyarrow", "Table", "RecordBatch", "RecordBatchReader")
        or is_a(records, "pandas", "DataFrame")
        or is_a(records, "polars", "DataFrame")
        or is_plain_dataset(records)
    )


def is_plain_dataset(records: Any) -> bool:
    """Return whether something is a Hugging Face dataset whose rows have no format that its owner chose."""
    return is_a(records, "datasets", "Dataset") and records.format["type"] is None


def iter_table(records: Any, batch: int) -> Iterator[Part]:
    """Yield the rows of a table, so many at a time at most."""
    if is_a(records, "pyarrow", "RecordBatchReader"):
        for some in records:
            yield from iter_table(some, batch)
    elif is_plain_dataset(records):
        for some in records.with_format(**{**records.format, "type": "arrow"}).iter(batch):
            yield _of_arrow(some)
    else:
        for first in range(0, len(records), batch):
            if is_a(records, "pandas", "DataFrame"):
                yield _of_pandas(records.iloc[first : first + batch])
            elif is_a(records, "polars", "DataFrame"):
                yield _of_polars(records.slice(first, batch))
            else:
                yield _of_arrow(records.slice(first, batch))


def iter_parquet(path: Path, batch: int) -> Iterator[Part]:
    """Yield the rows of a file, so many at a time at most."""
    arrow = import_optional("pyarrow", "a file of Parquet", "parquet")
    parquet = import_optional("pyarrow.parquet", "a file of Parquet", "parquet")
    try:
        with parquet.ParquetFile(path) as file:
            for some in file.iter_batches(batch_size=batch):
                yield _of_arrow(some)
    except arrow.ArrowInvalid as error:
        raise InputError(f"{path}: no file of Parquet ({error})") from None


def _of_arrow(table: Any) -> Part:
    return Part(
        names=table.schema.names,
        column=table.column,
        values=lambda name: table.column(name).to_pylist(),
        records=lambda names: table.select(names).to_pylist(),
    )


def _of_pandas(frame: Any) -> Part:
    return Part(
        names=list(frame.columns),
        column=frame.__getitem__,
        values=lambda name: frame[name].tolist(),
        records=lambda names: frame[names].to_dict("records"),
    )


def _of_polars(frame: Any) -> Part:
    return Part(
        names=frame.columns,
        column=frame.get_column,
        values=lambda name: frame.get_column(name).to_list(),
        records=lambda names: frame.select(names).to_dicts(),
    )

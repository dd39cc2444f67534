"""Arrow: columns of record batches, and files of Parquet, by PyArrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec._present import import_optional
from tqvec.errors import InputError


def iter_parquet(path: Path, batch: int) -> Iterator[Any]:
    """Yield the record batches of a file, of so many rows."""
    arrow = import_optional("pyarrow", "a file of Parquet", "parquet")
    parquet = import_optional("pyarrow.parquet", "a file of Parquet", "parquet")
    try:
        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=batch)
    except arrow.ArrowInvalid as error:
        raise InputError(f"{path}: no file of Parquet ({error})") from None


def matrix_of(column: Any) -> NDArray[Any]:
    """Return a column of lists of numbers as (n, d)."""
    if column.null_count:
        raise InputError(f"records have {column.null_count} rows without a vector; all of them need one, or none")
    try:
        lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
        numbers = column.flatten().to_numpy(zero_copy_only=False)
    except AttributeError:
        raise InputError(f"the column 'vector' must have lists of numbers, got {column.type}") from None
    if lengths.size > 1:
        raise InputError(f"records have vectors of different lengths: {', '.join(map(str, lengths[:5]))}")
    return np.asarray(numbers).reshape(len(column), -1)

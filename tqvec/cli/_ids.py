"""Ids of vectors, and filters by them, from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._present import import_optional
from tqvec._types import Ids
from tqvec.errors import FormatError, InputError


class Numbering(NamedTuple):
    """The ids of a file's rows.

    Attributes
    ----------
    first_id : int or None
        The first of consecutive ids; None: any others.
    next_id : int
        The id after the largest one.
    ids : (n,) int64 or None
        Ids that are not consecutive.
    """

    first_id: int | None
    next_id: int
    ids: Ids | None

    def of_rows(self, start: int, count: int) -> dict[str, Ids]:
        """Return the ids of some rows as a part of an index has them: nothing where they are consecutive."""
        return {} if self.ids is None else {"ids": self.ids[start : start + count]}


def number(ids: NDArray[Any] | None, n: int, source: str) -> Numbering:
    """Check the ids of `n` rows; None numbers them from 0.

    Raises
    ------
    InputError
        They are not `n` distinct integers from 0 to 2^63 - 2; the message names `source` and the row.
    """
    if ids is None:
        return Numbering(0, n, None)
    if not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"{source}: ids must be integers, got {ids.dtype}; number the rows and keep names beside")
    if ids.shape != (n,):
        raise InputError(f"{source}: ids must be as many as the {n} vectors, got shape {ids.shape}")
    wrong = np.flatnonzero((ids < 0) | (ids >= 2**63 - 1))
    if wrong.size:
        raise InputError(f"{source}: id of row {wrong[0]} must be from 0 to 2^63 - 2, got {ids[wrong[0]]}")
    own = ids.astype(np.int64)
    steps = np.diff(own)
    if not (steps > 0).all():
        order = np.argsort(own, kind="stable")
        twice = order[1:][np.diff(own[order]) == 0]
        if twice.size:
            raise InputError(f"{source}: id of row {twice.min()}, {own[twice.min()]}, is given twice")
    if n == 0 or (steps == 1).all():
        first = int(own[0]) if n else 0
        return Numbering(first, first + n, None)
    return Numbering(None, int(own.max()) + 1, own)


def read_array(path: Path, content: str) -> NDArray[Any]:
    """Read a 1-D .npy file; `content` says in messages what it should hold."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {path}") from None
    except (ValueError, EOFError) as error:
        raise FormatError(f"{path}: not a .npy file, or damaged ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim != 1:
        raise InputError(f"{path}: expected a 1-D .npy array of {content}")
    return array


def read_id_column(path: Path, name: str) -> NDArray[Any]:
    """Read a column of integers of a Parquet file.

    Raises
    ------
    InputError
        It has no such column, or that holds something else, or nulls.
    """
    file = import_optional("pyarrow.parquet", "--id-column", "parquet").ParquetFile(path.absolute())
    if name not in file.schema_arrow.names:
        raise InputError(f"{path}: no column {name!r}; it has {', '.join(file.schema_arrow.names)}")
    column = file.read([name]).column(0)
    if column.null_count:
        row = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise InputError(f"{path}: {name} of row {row} is null")
    array: NDArray[Any] = column.to_numpy()
    return array

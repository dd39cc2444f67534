"""Arrays, columns and tables of other libraries, and lists, as NumPy reads them; no such library is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec.errors import InputError

_SLICED = ("h5py", "zarr")  # packages whose arrays lie in files
_READABLE = {1, 3, 11, 13}  # devices of DLPack whose memory is the host's: CPU, pinned and managed memory


def is_a(x: object, library: str, *names: str) -> bool:
    """Return whether `x` is of a class of a library, which is loaded then."""
    module = sys.modules.get(library)
    return module is not None and isinstance(x, tuple(getattr(module, name, ()) for name in names))


def as_array(x: ArrayLike, name: str, first: int = 0) -> NDArray:
    """Return `x` as NumPy reads it.

    Tensors lose their gradients and leave their device, bfloat16 ones become float32. A column of lists becomes a
    matrix, and a missing number NaN.

    Parameters
    ----------
    x : array_like, tensor, table or column of pandas, Polars or Arrow
    name : str
        Name of the argument, for messages.
    first : int
        Number of the first row, for messages.

    Raises
    ------
    InputError
        It is a masked array with masked entries, has rows of unequal lengths or missing ones, or can't be read.
    """
    if type(x) is np.ndarray:
        return x if x.dtype != object else _stacked(x, name, first)
    if isinstance(x, np.ndarray):
        _refuse_masked(x, name, first)
        return np.asarray(x)
    if isinstance(x, (list, tuple)) and any(_is_foreign(kind) for kind in set(map(type, x))):
        x = [as_array(row, f"{name} row {first + i}") for i, row in enumerate(x)]
    try:
        array = _read(x, name, first)
        if array.dtype != object:
            return array
        return _stacked(array, name, first) if array.ndim else array
    except InputError:
        raise
    except Exception as error:  # of any library, and also warnings that are errors
        raise InputError(f"{name} can't be read as an array: {error}") from error


class Pieces(NamedTuple):
    """Rows that are read some at a time: they lie in a file, or would all be copied at once.

    Attributes
    ----------
    n : int
        Number of rows.
    read : callable
        ``read(start, stop)`` returns some of them, as `as_array` takes them.
    """

    n: int
    read: Callable[[int, int], Any]


def pieces(x: Any) -> Pieces | None:
    """Return how rows are read some at a time; None for arrays, and for all else that is read at once."""
    if type(x) is np.ndarray:
        return _sliced(x) if x.dtype == object and x.ndim == 1 and _is_column(x) else None
    if type(x).__module__.partition(".")[0] in _SLICED or (_is_tensor(x) and _is_copied(x)):
        return _sliced(x) if len(x.shape or ()) == 2 else None
    if is_a(x, "pyarrow", "Table", "RecordBatch") or _is_arrow_lists(x):
        return _sliced(x)
    if is_a(x, "polars", "DataFrame"):
        column = pieces(x.to_series(0)) if x.width == 1 else None
        return _sliced(x) if column is None else column
    if _is_polars_lists(x):
        return _sliced(x)
    if is_a(x, "pandas", "DataFrame"):
        column = pieces(x.iloc[:, 0]) if x.shape[1] == 1 else None
        return Pieces(len(x), lambda start, stop: x.iloc[start:stop]) if column is None else column
    if is_a(x, "pandas", "Series"):
        return pieces(x.array.__arrow_array__() if hasattr(x.dtype, "pyarrow_dtype") else np.asarray(x))
    if is_a(x, "datasets", "Dataset") and len(x.column_names) == 1:
        return pieces(x[x.column_names[0]])
    if is_a(x, "datasets.arrow_dataset", "Column"):
        return _sliced(_plain_as_arrow(x))
    return None


def _sliced(x: Any) -> Pieces:
    return Pieces(len(x), lambda start, stop: x[start:stop])


def _is_copied(tensor: Any) -> bool:
    """Return whether NumPy can't read a tensor where it lies."""
    return _is_bfloat16(tensor) or tensor.device.type != "cpu"


def _plain_as_arrow(column: Any) -> Any:
    """Return a column of a Hugging Face dataset as Arrow, which is fast, unless its format is the user's choice."""
    source = column.source
    if not is_a(source, "datasets", "Dataset") or source.format["type"] is not None:
        return column
    return source.select_columns([column.column_name]).with_format("arrow")


def _read(x: Any, name: str, first: int) -> NDArray[Any]:
    """Return `x` as an array, without a copy where its library allows."""
    if _is_tensor(x):
        return _from_tensor(x)
    if is_a(x, "datasets", "Dataset") or is_a(x, "datasets.arrow_dataset", "Column"):
        rows = pieces(x)
        if rows is None:
            raise InputError(f"{name} has the columns {', '.join(x.column_names)}: hand over one of them")
        return as_array(rows.read(0, rows.n), name, first)
    if is_a(x, "pyarrow", "Table", "RecordBatch"):
        return _from_arrow_table(x, name, first)
    if _is_arrow_lists(x):
        return _from_arrow(x, name, first)
    if _is_polars_lists(x):
        return _from_polars(x, name, first)
    if hasattr(type(x), "__dlpack__") and not hasattr(type(x), "__array__"):
        return _from_dlpack(x, name)
    array: NDArray[Any] = x.to_numpy(np.float64, na_value=np.nan) if _may_lack_floats(x) else np.asarray(x)
    return array


def _from_arrow_table(table: Any, name: str, first: int) -> NDArray[Any]:
    """Return a table of one column of lists, or of columns of numbers, as a matrix."""
    columns = [_from_arrow(column, name, first) for column in table.columns]
    if len(columns) == 1 and columns[0].ndim == 2:
        return columns[0]
    if any(column.ndim > 1 for column in columns):
        raise InputError(f"{name} has the columns {', '.join(table.schema.names)}: hand over one of them")
    return np.column_stack(columns) if columns else np.zeros((len(table), 0))


def _is_arrow_lists(x: Any) -> bool:
    if not is_a(x, "pyarrow", "Array", "ChunkedArray"):
        return False
    return getattr(x.type, "storage_type", x.type).num_fields == 1


def _from_arrow(column: Any, name: str, first: int) -> NDArray[Any]:
    """Return a column of Arrow: a matrix if it has lists of numbers, of one length."""
    if is_a(column, "pyarrow", "ChunkedArray"):
        return _join_chunks(column, name, first)
    if len(getattr(column.type, "shape", ())) > 1:
        raise InputError(f"{name} must hold vectors, got tensors of shape {tuple(column.type.shape)}")
    column = getattr(column, "storage", column)  # of an extension
    if not hasattr(column, "value_lengths"):
        return np.asarray(column)
    _refuse_missing(np.asarray(column.is_null()), name, first)
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    _check_lengths(lengths, name, first)
    numbers: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    return numbers.reshape(len(column), lengths[0] if lengths.size else getattr(column.type, "list_size", 0))


def _join_chunks(column: Any, name: str, first: int) -> NDArray[Any]:
    chunks, row = [], first
    for chunk in column.chunks:
        if len(chunk):
            chunks.append(_from_arrow(chunk, name, row))
            row += len(chunk)
    if not chunks:
        return _from_arrow(column.slice(0, 0).combine_chunks(), name, first)
    if chunks[0].ndim == 2:
        _check_lengths(np.repeat([chunk.shape[1] for chunk in chunks], list(map(len, chunks))), name, first)
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def _is_polars_lists(x: Any) -> bool:
    return is_a(x, "polars", "Series") and hasattr(x.dtype, "inner")


def _from_polars(column: Any, name: str, first: int) -> NDArray[Any]:
    """Return a column of lists of numbers as a matrix; `to_numpy` of a slice gives other rows in Polars 1.0."""
    _refuse_missing(column.is_null().to_numpy(), name, first)
    lists = column.arr.to_list() if hasattr(column.dtype, "shape") else column
    lengths = lists.list.len().to_numpy()
    _check_lengths(lengths, name, first)
    length = int(lengths[0]) if lengths.size else 0
    numbers: NDArray[Any] = lists.explode().to_numpy() if length else np.zeros(0)
    return numbers.reshape(len(column), length)


def _refuse_missing(missing: NDArray[Any], name: str, first: int) -> None:
    """Refuse a column of lists of which some are missing."""
    if missing.any():
        raise InputError(f"{name} row {first + int(np.argmax(missing))} is missing, or no list of numbers: None")


def _check_lengths(lengths: NDArray[Any], name: str, first: int) -> None:
    """Refuse rows of another length than the first one's."""
    wrong = np.flatnonzero(lengths != lengths[:1])
    if wrong.size:
        row = int(wrong[0])
        raise InputError(f"{name} row {first + row} has length {lengths[row]}, row {first} {lengths[0]}")


def _from_dlpack(x: Any, name: str) -> NDArray[Any]:
    """Return the memory of an array of another library that lies where NumPy can read it."""
    device = x.__dlpack_device__()[0] if hasattr(x, "__dlpack_device__") else 1
    if int(device) not in _READABLE:
        raise InputError(f"{name} lies on a device that can't be read ({device!s}): copy it to the CPU first")
    return np.from_dlpack(x)


def _refuse_masked(x: NDArray[Any], name: str, first: int) -> None:
    """Refuse a masked array, whose mask NumPy would drop, unless nothing is masked."""
    masked = sys.modules.get("numpy.ma")
    if masked is None or not isinstance(x, masked.MaskedArray):
        return
    mask = masked.getmaskarray(x)
    if mask.dtype == np.bool_ and mask.any():
        row = f" row {first + np.argwhere(mask)[0][0]}" if mask.ndim else ""
        raise InputError(f"{name}{row} is masked: fill it, {name}.filled(...), or take {name}.data to drop the mask")


def _is_foreign(kind: type) -> bool:
    """Return whether NumPy may read a list of such rows in another way than the rows themselves."""
    plain = (int, float, complex, str, bytes, list, tuple, np.generic, type(None))
    return kind is not np.ndarray and not issubclass(kind, plain)


def _is_tensor(x: object) -> bool:
    return is_a(x, "torch", "Tensor")


def _is_bfloat16(tensor: Any) -> bool:
    return str(tensor.dtype) == "torch.bfloat16"


def _from_tensor(tensor: Any) -> NDArray[Any]:
    """Return a tensor in NumPy's memory; NumPy has no bfloat16."""
    array: NDArray[Any] = (tensor.float() if _is_bfloat16(tensor) else tensor).numpy(force=True)
    return array


def _may_lack_floats(x: Any) -> bool:
    """Return whether these are pandas' floats that may be missing, which NumPy would read as objects."""
    if not is_a(x, "pandas", "DataFrame", "Series"):
        return False
    dtypes = np.atleast_1d(np.asarray(x.dtypes, object))
    return all(dtype.kind == "f" for dtype in dtypes) and not all(isinstance(dtype, np.dtype) for dtype in dtypes)


def _is_column(objects: NDArray[Any]) -> bool:
    return any(isinstance(row, (list, tuple, np.ndarray)) for row in objects)


def _is_missing(row: object) -> bool:
    return row is None or (isinstance(row, float) and row != row)


def _stacked(array: NDArray[Any], name: str, first: int) -> NDArray[Any]:
    """Return a column of rows as a matrix; other arrays of objects stay."""
    column = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if column.ndim != 1 or not (_is_column(column) or (column.size and all(map(_is_missing, column)))):
        return array
    rows = [np.asarray(as_array(row, f"{name} row {first + i}")) for i, row in enumerate(column)]
    for i, row in enumerate(rows):
        if row.ndim == 0:
            raise InputError(f"{name} row {first + i} is missing, or no list of numbers: {column[i]!r}")
        if row.shape != rows[0].shape:
            raise InputError(f"{name} row {first + i} has length {row.shape[0]}, row {first} {rows[0].shape[0]}")
    return np.stack(rows)

"""Arrays of other libraries, and lists, as NumPy reads them; none of those libraries is imported."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec.errors import InputError

_SLICED = ("h5py", "zarr")  # packages whose arrays lie in files, and are read by slices


def as_array(x: ArrayLike, name: str) -> NDArray:
    """Return `x` as NumPy reads it.

    Tensors lose their gradients and leave their device, bfloat16 ones become float32. A column of lists becomes a
    matrix, and a missing number NaN.

    Parameters
    ----------
    x : array_like, tensor, table or column of pandas, Polars or Arrow
    name : str
        Name of the argument, for messages.

    Raises
    ------
    InputError
        It is a masked array with masked entries, has rows of unequal lengths or missing ones, or can't be read.
    """
    if type(x) is np.ndarray:
        return x if x.dtype != object else _stacked(x, name)
    if isinstance(x, np.ndarray):
        _refuse_masked(x, name)
        return np.asarray(x)
    if isinstance(x, (list, tuple)) and any(_is_foreign(kind) for kind in set(map(type, x))):
        x = [as_array(row, f"{name} row {i}") for i, row in enumerate(x)]
    try:
        array = _from_tensor(x) if _is_tensor(x) else np.asarray(x)
        if array.dtype != object:
            return array
        return _stacked(_with_nan(x, array), name) if array.ndim else array
    except InputError:
        raise
    except Exception as error:  # of any library, and also warnings that are errors
        raise InputError(f"{name} can't be read as an array: {error}") from error


def is_sliced(x: object) -> bool:
    """Return whether `x` has two axes and shall be read by slices: it lies in a file, or each slice is converted."""
    sliced: Any = x
    if type(x) is np.ndarray:
        return False
    if type(x).__module__.partition(".")[0] in _SLICED or (_is_tensor(x) and _is_bfloat16(x)):
        return len(sliced.shape or ()) == 2
    return False


def _refuse_masked(x: NDArray[Any], name: str) -> None:
    """Refuse a masked array, whose mask NumPy would drop, unless nothing is masked."""
    masked = sys.modules.get("numpy.ma")
    if masked is None or not isinstance(x, masked.MaskedArray):
        return
    mask = masked.getmaskarray(x)
    if mask.dtype == np.bool_ and mask.any():
        row = f" row {np.argwhere(mask)[0][0]}" if mask.ndim else ""
        raise InputError(f"{name}{row} is masked: fill it, {name}.filled(...), or take {name}.data to drop the mask")


def _is_foreign(kind: type) -> bool:
    """Return whether NumPy may read a list of such rows in another way than the rows themselves."""
    plain = (int, float, complex, str, bytes, list, tuple, np.generic, type(None))
    return kind is not np.ndarray and not issubclass(kind, plain)


def _is_tensor(x: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, getattr(torch, "Tensor", ()))


def _is_bfloat16(tensor: Any) -> bool:
    return str(tensor.dtype) == "torch.bfloat16"


def _from_tensor(tensor: Any) -> NDArray[Any]:
    """Return a tensor in NumPy's memory; NumPy has no bfloat16."""
    array: NDArray[Any] = (tensor.float() if _is_bfloat16(tensor) else tensor).numpy(force=True)
    return array


def _with_nan(x: Any, array: NDArray[Any]) -> NDArray[Any]:
    """Return pandas' floats that may be missing, which NumPy reads as objects, with NaN where they are."""
    dtypes = np.atleast_1d(np.asarray(getattr(x, "dtypes", None), object))
    if not dtypes.size or any(getattr(dtype, "kind", None) != "f" for dtype in dtypes):
        return array
    numbers: NDArray[Any] = x.to_numpy(np.float64, na_value=np.nan)
    return numbers


def _stacked(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Return a column of rows as a matrix; other arrays of objects stay."""
    column = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if column.ndim != 1 or not any(isinstance(row, (list, tuple, np.ndarray)) for row in column):
        return array
    rows = [np.asarray(as_array(row, f"{name} row {i}")) for i, row in enumerate(column)]
    for i, row in enumerate(rows):
        if row.ndim == 0:
            raise InputError(f"{name} row {i} is missing, or no list of numbers: {column[i]!r}")
        if row.shape != rows[0].shape:
            raise InputError(f"{name} row {i} has length {row.shape[0]}, row 0 {rows[0].shape[0]}")
    return np.stack(rows)

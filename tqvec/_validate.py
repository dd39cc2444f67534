"""Checks at the public door: everything below may trust its arguments."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec._arrays import as_array
from tqvec.errors import InputError

Name = TypeVar("Name", bound=str)
Kind = TypeVar("Kind")


def numbers(x: ArrayLike, name: str, first: int = 0) -> NDArray:
    """Read `x` as floating-point numbers, or integers that are exact as float32, in its own type and memory.

    Integers of up to 16 bits are exact, and so are those of a list that float32 can hold. Other integers are refused:
    they are ids or tokens more often than vectors.

    Parameters
    ----------
    x : array_like
        As `as_array` takes it.
    name : str
        Name of the argument, for messages.
    first : int
        Number of the first row, for messages.

    Raises
    ------
    InputError
        It can't be read, or holds anything else.
    """
    array = as_array(x, name, first)
    kind, whole = array.dtype.kind, array.dtype.kind in "iu"
    if kind == "f" or array.dtype.name == "bfloat16" or (whole and array.dtype.itemsize <= 2):
        return array
    if whole and _is_list(x):
        single = array.astype(np.float32)
        if (single == array).all():
            return single
    raise InputError(f"{name} must hold floating-point numbers, got {_describe(x, array)}; {_remedy(x, array)}")


def _is_list(x: object) -> bool:
    """Return whether integers in `x` have the type that NumPy chose, not their owner."""
    return isinstance(x, (list, tuple)) or str(getattr(x, "dtype", "")) == "object"


def _describe(x: object, array: NDArray) -> str:
    """Return what was given, for messages."""
    if array.dtype != object or isinstance(x, (np.ndarray, list, tuple)):
        return f"dtype {array.dtype}"
    return "None" if x is None else f"a {type(x).__name__}"


def _remedy(x: object, array: NDArray) -> str:
    """Return what to do with something that holds no floating-point numbers."""
    kind = array.dtype.kind
    if kind in "SU":
        return "make vectors of text with an embedding model"
    if kind == "c":
        return "take its real part, or the real and the imaginary parts side by side"
    if array.dtype.names:
        return "convert it with numpy.lib.recfunctions.structured_to_unstructured"
    if kind == "O" and array.ndim == 2 and hasattr(x, "columns"):
        return "hand over one of its columns"
    if kind != "O" or array.ndim:
        return "convert it with astype(np.float32), if it holds numbers"
    if hasattr(x, "toarray"):
        return "convert it with toarray()"
    if hasattr(x, "read_all"):
        return "convert it with read_all()"
    if hasattr(x, "collect"):
        return "convert it with collect()"
    if hasattr(x, "values"):
        return "convert it with np.array(list(x.values()))"
    return "convert it with np.array(list(x))" if isinstance(x, Iterable) else "hand over an array of them"


def check_shape(shape: tuple[int, ...], d: int, name: str) -> None:
    """Refuse the shape of what are neither rows of `d` numbers nor one of them."""
    if len(shape) not in (1, 2) or shape[-1] != d:
        hint = f"; no vectors at all are np.zeros((0, {d}))" if shape == (0,) else ""
        raise InputError(f"{name} must have shape (n, {d}) or ({d},), got {shape}{hint}")


def floating(x: ArrayLike, d: int, name: str) -> NDArray:
    """Read `x` as rows of `numbers`, in its own type and memory where possible.

    Parameters
    ----------
    x : (n, d) or (d,) array_like
    d : int
        Expected dimension.
    name : str
        Name of the argument, for messages.

    Returns
    -------
    (n, d) array
        One row where `x` was 1-D.

    Raises
    ------
    InputError
        Wrong type or shape.
    """
    array = numbers(x, name)
    check_shape(array.shape, d, name)
    return array[None, :] if array.ndim == 1 else array


def as_float32(array: NDArray) -> NDArray[np.float32]:
    """Return C-contiguous float32 that may be written to; NaN and infinity pass."""
    if array.dtype != np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(np.float32)
    rows: NDArray[np.float32] = np.ascontiguousarray(array)
    return rows if rows.flags.carray else rows.copy()  # Numba would compile anew for a read-only or unaligned array


def row_error(row: NDArray, where: str) -> InputError:
    """Return the error for a row that is not finite as float32, as it was before its conversion."""
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(row.astype(np.float64)).all()
    return InputError(f"{where} holds {'a value too large for float32' if finite else 'NaN or Inf'}")


def first_bad_row(rows: NDArray[np.float32]) -> int | None:
    """Return the number of the first row that holds NaN or infinity."""
    if math.isfinite(np.vdot(rows, rows)):  # squares don't cancel: every value is finite, as nearly always
        return None  # at half the cost of `dot`, whose overflow is a warning that has to be turned off
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(rows.sum(axis=1)))
    return next((int(row) for row in suspects if not np.isfinite(rows[row]).all()), None)  # a sound sum may overflow


def vectors(x: ArrayLike, d: int, name: str) -> NDArray[np.float32]:
    """Return `floating` as C-contiguous float32, with every value checked.

    Raises
    ------
    InputError
        Wrong type or shape, NaN, infinity, or a value that float32 can't hold; the message names the first such row.
    """
    array = floating(x, d, name)
    rows = as_float32(array)
    bad = first_bad_row(rows)
    if bad is not None:
        raise row_error(array[bad], f"{name} row {bad}")
    return rows


def integer(value: object, name: str, low: int, high: int) -> int:
    """Return `value` as an int from `low` to `high`, both included; bool is refused."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{name} must be an integer, got {value!r}") from None
    if not low <= number <= high:
        raise InputError(f"{name} must be an integer from {low} to {high}, got {value!r}")
    return number


def number(value: object, name: str) -> float:
    """Return `value` as a float that is not NaN; infinities pass, bool is refused."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f"{name} must be a number, got {value!r}")
    try:
        result = float(value)
    except OverflowError:
        raise InputError(f"{name} must be a number that fits float64") from None
    if np.isnan(result):
        raise InputError(f"{name} must not be NaN")
    return result


def fraction(value: object, name: str) -> float:
    """Return `value` as a float above 0 and below 1."""
    if not isinstance(value, (float, np.floating)) or not 0 < value < 1:
        raise InputError(f"{name} must be a number above 0 and below 1, got {value!r}")
    return float(value)


def choice(value: object, name: str, allowed: Iterable[Name]) -> Name:
    """Return `value` if it is one of the `allowed` strings."""
    names = list(allowed)
    if not isinstance(value, str) or value not in names:
        raise InputError(f"{name} must be one of {', '.join(map(repr, names))}, got {value!r}")
    return value


def instance(value: object, name: str, kind: type[Kind]) -> Kind:
    """Return `value` if it is of this kind."""
    if not isinstance(value, kind):
        raise InputError(f"{name} must be a {kind.__name__}, got {'None' if value is None else type(value).__name__}")
    return value


def function(value: object, name: str) -> None:
    """Check that something optional can be called."""
    if value is not None and not callable(value):
        raise InputError(f"{name} must be a function, or None, got {value!r}")


def entries(value: object, name: str) -> list[Any]:
    """Return the entries of a list, or of anything else that has some."""
    try:
        return list(value)  # type: ignore[call-overload,no-any-return]
    except (TypeError, OverflowError):  # a range may be longer than any list
        raise InputError(f"{name} must be a list, got {value!r}") from None


def sequence(value: object, name: str, kind: type[Kind]) -> list[Kind]:
    """Return `entries`, all of which must be of this kind."""
    return [instance(entry, f"{name}[{i}]", kind) for i, entry in enumerate(entries(value, name))]


def json_parameters(text: str, name: str, kind: type, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of a JSON object that has some of the parameters of a class, by their names in JSON."""
    try:
        values = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{name} is no JSON: {error}") from None
    if not isinstance(values, dict) or not values.keys() <= set(names):
        raise InputError(f"{name} must have the parameters of {kind.__name__}, got {str(values)[:80]}")
    return values

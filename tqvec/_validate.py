"""Checks at the public door: everything below may trust its arguments."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec.errors import InputError

Name = TypeVar("Name", bound=str)


def floating(x: ArrayLike, d: int, name: str) -> NDArray:
    """Read `x` as rows of floating-point numbers, in its own type and memory where possible.

    Parameters
    ----------
    x : (n, d) or (d,) float16, float32, float64 or bfloat16
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
    array = as_array(x, name)
    if not (array.dtype.kind == "f" or array.dtype.name == "bfloat16"):
        raise InputError(f"{name} must hold floating-point numbers, got dtype {array.dtype}; convert it with astype")
    if array.ndim == 1:
        array = array[None, :]
    if array.ndim != 2 or array.shape[1] != d:
        raise InputError(f"{name} must have shape (n, {d}) or ({d},), got {np.shape(x)}")
    return array


def shaped(x: ArrayLike, d: int, name: str) -> NDArray[np.float32]:
    """Return `floating` as C-contiguous float32; NaN and infinity pass."""
    array = floating(x, d, name)
    if array.dtype != np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(np.float32)
    rows: NDArray[np.float32] = np.ascontiguousarray(array)
    return rows if rows.flags.carray else rows.copy()  # Numba would compile anew for a read-only or unaligned array


def as_array(x: ArrayLike, name: str) -> NDArray:
    """Return `x` as NumPy reads it.

    Raises
    ------
    InputError
        It is a list of lists of unequal lengths.
    """
    try:
        return np.asarray(x)
    except ValueError as error:
        raise InputError(f"{name} can't be read as an array: {error}") from error


def bad_row(x: ArrayLike, row: int, name: str) -> InputError:
    """Return the error for a row of `x` that is not finite as float32; the row is read anew, to say why."""
    values = np.atleast_2d(np.asarray(x))[row].astype(np.float64)
    fault = "a value too large for float32" if np.isfinite(values).all() else "NaN or Inf"
    return InputError(f"{name} row {row} holds {fault}")


def vectors(x: ArrayLike, d: int, name: str) -> NDArray[np.float32]:
    """Return `shaped`, with every value checked.

    Raises
    ------
    InputError
        Wrong type or shape, NaN, infinity, or a value that float32 can't hold; the message names the first such row.
    """
    rows = shaped(x, d, name)
    numbers = rows.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(np.dot(numbers, numbers)):  # squares don't cancel: every value is finite, as nearly always
            return rows
        suspects = np.flatnonzero(~np.isfinite(rows.sum(axis=1)))
    for row in suspects:  # the sum of a sound row may overflow too
        if not np.isfinite(rows[row]).all():
            raise bad_row(x, int(row), name)
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

"""What a computation loses to rounding, element by element: arrays that know the variance of their own error.

A stage that gets `Rounded` arrays gives `Rounded` arrays. So the error that a port may have in an element follows from
the operations that lead to this element, for every stage of every profile. Errors of single roundings count as
independent, each spread evenly over half a unit in the last place (Higham and Mary 2019, "A new approach to
probabilistic rounding error analysis").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec._types import Doubles

EVEN = 1 / 12  # variance of a number that is spread evenly over an interval of length 1
SPREAD = 1 / (8 * math.log(2))
"""Mean square of a rounding error over (u|x|)², where the logarithms of |x| are spread evenly: 1/3 · 3/(8 ln 2)."""

WANDERING = 2.0
COHERENT = 1 / 64  # a sixteenth of the bound of equal roundings counts as a standard deviation


def unit(dtype: DTypeLike) -> float:
    """Return the unit roundoff u of a type."""
    return float(np.finfo(np.dtype(dtype)).eps) / 2


def spacing(value: Doubles, dtype: DTypeLike) -> Doubles:
    """Return the distance of neighbouring numbers of a type at `value`; infinity where the type overflows."""
    info = np.finfo(np.dtype(dtype))
    exponent = np.frexp(value)[1] - 1 - int(info.nmant)
    found = np.ldexp(1.0, np.maximum(exponent, int(info.minexp) - int(info.nmant)))
    return np.where(np.abs(value) > float(info.max), np.inf, found)


class Rounded(np.lib.mixins.NDArrayOperatorsMixin):
    """Exact values, and the variance of what a computation of them in `dtype` loses.

    Attributes
    ----------
    value, variance : arrays of float64
    dtype : numpy dtype
        The type of the array that is computed.
    """

    def __init__(self, value: NDArray, variance: NDArray | float, dtype: DTypeLike) -> None:
        self.value = np.asarray(value, np.float64)
        self.variance = np.broadcast_to(np.asarray(variance, np.float64), self.value.shape)
        self.dtype = np.dtype(dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape."""
        return self.value.shape

    @property
    def T(self) -> Rounded:
        """Return the transpose."""
        return self._each(np.transpose)

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: Any) -> Rounded:
        return self._each(lambda part: part[index])

    def __setitem__(self, index: Any, new: Rounded) -> None:
        self.value[index] = new.value
        self.variance = self.variance.copy()
        self.variance[index] = new.variance

    def _each(self, function: Callable[[NDArray], NDArray]) -> Rounded:
        return Rounded(function(self.value), function(self.variance), self.dtype)

    def reshape(self, *shape: Any) -> Rounded:
        """Return the array in another shape."""
        return self._each(lambda part: part.reshape(*shape))

    def astype(self, dtype: DTypeLike, order: str = "K") -> Rounded:
        """Convert: to a narrower type, values are rounded once more."""
        narrower = unit(dtype) > unit(self.dtype)
        return _round(self.value, self.variance, dtype) if narrower else Rounded(self.value, self.variance, dtype)

    def max(self, axis: int, keepdims: bool = False) -> Rounded:
        """Return the largest values."""
        at = np.expand_dims(self.value.argmax(axis), axis)
        found = self._each(lambda part: np.take_along_axis(part, at, axis))
        return found if keepdims else found._each(lambda part: part.squeeze(axis))

    def min(self, axis: int) -> Rounded:
        """Return the least values."""
        return -(-self).max(axis)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, where: Any = True) -> Any:
        """Apply an elementwise function to values, and carry variances along."""
        if method != "__call__":
            return NotImplemented
        values, variances = [_value(a) for a in inputs], [_variance(a) for a in inputs]
        with np.errstate(all="ignore"):
            value = ufunc(*values)
            if value.dtype == bool:
                return value
            variance = _PROPAGATED[ufunc](value, values, variances)
            dtype = np.result_type(*(getattr(a, "dtype", a) for a in inputs))
            result = Rounded(value, variance, dtype) if ufunc in _EXACT else _round(value, variance, dtype)
        if out is None:
            return result
        value, variance = (np.where(where, of(result), of(out[0])) for of in (_value, _variance))
        return Rounded(value, variance, dtype)

    def __array_function__(self, function: Callable, types: Any, arguments: Any, options: Any) -> Any:
        """Move elements around."""
        if function in (np.concatenate, np.stack):
            value, variance = (function(of(arguments[0]), *arguments[1:], **options) for of in (_values, _variances))
            return Rounded(value, variance, arguments[0][0].dtype)
        if function in (np.zeros_like, np.ones_like, np.empty_like):
            return Rounded(function(self.value), 0.0, self.dtype)
        if function is np.repeat:
            return self._each(lambda part: np.repeat(part, *arguments[1:], **options))
        return NotImplemented


def _value(a: Any) -> Any:
    return a.value if isinstance(a, Rounded) else np.asarray(a, np.float64)


def _variance(a: Any) -> Any:
    return a.variance if isinstance(a, Rounded) else 0.0


def _values(arrays: Any) -> list[NDArray]:
    return [a.value for a in arrays]


def _variances(arrays: Any) -> list[NDArray]:
    return [a.variance for a in arrays]


def _round(value: Doubles, variance: Any, dtype: DTypeLike) -> Rounded:
    """Add the variance of one rounding, but not where the value is known to be a number of the type."""
    with np.errstate(over="ignore"):
        exact = (np.asarray(variance) == 0) & (value.astype(dtype) == value)
    return Rounded(value, variance + np.where(exact, 0.0, EVEN * spacing(value, dtype) ** 2), dtype)


def _of_product(value: NDArray, values: list[NDArray], variances: list[Any]) -> NDArray:
    (a, b), (va, vb) = values, variances
    return np.asarray(a * a * vb + b * b * va + va * vb)


def _of_quotient(value: NDArray, values: list[NDArray], variances: list[Any]) -> NDArray:
    return np.asarray((variances[0] + value * value * variances[1]) / values[1] ** 2)


_PROPAGATED: dict[np.ufunc, Callable[[NDArray, list[NDArray], list[Any]], NDArray]] = {
    np.add: lambda _, __, variances: variances[0] + variances[1],
    np.subtract: lambda _, __, variances: variances[0] + variances[1],
    np.multiply: _of_product,
    np.divide: _of_quotient,
    np.square: lambda _, values, variances: 4 * values[0] ** 2 * variances[0],
    np.power: lambda value, values, variances: (values[1] * value / values[0]) ** 2 * variances[0],
    np.sqrt: lambda value, _, variances: np.divide(variances[0], 4 * value**2, out=0 * value, where=value > 0),
    np.exp: lambda value, _, variances: value**2 * variances[0],
    np.negative: lambda _, __, variances: variances[0],
    np.absolute: lambda _, __, variances: variances[0],
    np.maximum: lambda _, values, variances: np.where(values[0] >= values[1], variances[0], variances[1]),
}
_EXACT = (np.negative, np.absolute, np.maximum)


def _of_sums(sums: Doubles, squares: Doubles, sizes: Doubles, n: int, dtype: DTypeLike) -> Doubles:
    """Return the variance that adding `n` terms gives, in an order that is not known.

    In random order the mean squares of partial sums add up to n/6 Σt² + n/3 (Σt)². `WANDERING` is for orders whose sums
    go farther. Underflow adds a term. A sum that may overflow on its way may have any value.
    """
    info = np.finfo(np.dtype(dtype))
    lost = WANDERING * SPREAD * unit(dtype) ** 2 * (squares * n / 6 + sums**2 * n / 3)
    lost += np.where(sizes > 0, n * EVEN * float(info.smallest_subnormal) ** 2, 0.0)
    return np.where(sizes > float(info.max), np.inf, lost)


def total(terms: Rounded) -> Rounded:
    """Sum each row. Where all terms are equal, roundings are too: their sum is at most u/4 · n Σ|t|."""
    value, squares = terms.value.sum(axis=1), (terms.value**2).sum(axis=1)
    n, sizes = terms.shape[1], np.abs(terms.value).sum(axis=1)
    lost = _of_sums(value, squares, sizes, n, terms.dtype) + (COHERENT * unit(terms.dtype) * n * sizes) ** 2
    return Rounded(value, terms.variance.sum(axis=1) + lost, terms.dtype)


def product(left: Any, right: Any, dtype: DTypeLike) -> Rounded:
    """Return the matrix product, its terms and sums in `dtype`."""
    (a, va), (b, vb) = ((part.value, part.variance) for part in (to_rounded(m).astype(dtype) for m in (left, right)))
    with np.errstate(all="ignore"):
        value, squares = a @ b, (a * a) @ (b * b)
        variance = va @ (b * b) + (a * a) @ vb + va @ vb + SPREAD * unit(dtype) ** 2 * squares
        variance = variance + _of_sums(value, squares, np.abs(a) @ np.abs(b), len(b), dtype)
    return Rounded(value, variance, dtype)


def to_rounded(a: Any) -> Rounded:
    """Return the array, if need be as one without errors."""
    return a if isinstance(a, Rounded) else Rounded(a, 0.0, a.dtype)


def track(a: Any, dtype: DTypeLike | None = None) -> Any:
    """Begin to track the errors of floats (or of what counts as `dtype`), each of a tuple; other arrays stay."""
    if isinstance(a, tuple):
        return tuple(map(track, a))
    is_new = not isinstance(a, Rounded) and (dtype is not None or np.issubdtype(a.dtype, np.floating))
    return Rounded(a, 0.0, dtype or a.dtype) if is_new else a


def weighted_mean(weights: Rounded, rows: Any, dtype: DTypeLike) -> Rounded:
    """Return the means of rows by `weights`: of an error in a weight, only what it does to the mean counts."""
    sums, lengths = product(weights, rows, dtype), total(weights)
    mean = sums / lengths[:, None]
    w, b, by = weights.variance, to_rounded(rows).value, lengths.value[:, None] ** 2
    alone = (w @ (b * b) + mean.value**2 * w.sum(axis=1)[:, None]) / by
    moved = (w @ (b * b) - 2 * mean.value * (w @ b) + mean.value**2 * w.sum(axis=1)[:, None]) / by
    return Rounded(mean.value, np.maximum(mean.variance - alone + moved, 0.0), mean.dtype)

"""Sums and products in a given type, in a stated order: no BLAS, no pairwise sums, no exp of the system.

In float64 the bits are the same on every machine. In float32 and float16 the order is the plainest one. `Rounded`
arrays tell what a computation in any order may lose.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle import rounding
from tqvec.reference import quantize


def total(terms: Any) -> Any:
    """Sum each row: float64 in the lanes of the "File format" page, section 3, other types from left to right."""
    if isinstance(terms, rounding.Rounded):
        return rounding.total(terms)
    if terms.dtype == np.float64:
        return quantize.lane_sum(terms)
    return np.asarray(np.add.accumulate(terms, axis=1, dtype=terms.dtype)[:, -1])


def product(a: Any, b: Any, dtype: DTypeLike) -> Any:
    """Return the matrix product Σ_j a[:, j] b[j], added up in order of j in `dtype`."""
    if isinstance(a, rounding.Rounded) or isinstance(b, rounding.Rounded):
        return rounding.product(a, b, dtype)
    left, right = a.astype(dtype), b.astype(dtype, order="C")  # rows of b one after the other
    sums = np.zeros((len(left), right.shape[1]), dtype)
    for j in range(len(right)):
        sums += left[:, j, None] * right[j]
    return sums


def norms(x: NDArray, dtype: DTypeLike) -> Any:
    """Return ‖x‖ of each row, squares and sum in `dtype`."""
    values = x.astype(dtype)
    return np.sqrt(total(values * values))


def at_least_single(dtype: DTypeLike) -> np.dtype:
    """Return `dtype`, but float32 for float16: scalars of a row and their sums are never in half precision."""
    return np.promote_types(dtype, np.float32)


def scale_rows(rows: NDArray, factors: NDArray, dtype: DTypeLike) -> NDArray:
    """Multiply each row by its scalar, which is never rounded to half precision; the products are of `dtype`."""
    wide = at_least_single(dtype)
    with np.errstate(over="ignore"):
        return (rows.astype(wide) * factors.astype(wide)[:, None]).astype(dtype)


def exponential(x: NDArray) -> Any:
    """Return eˣ. In float64 it is correctly rounded by decimal arithmetic, since systems differ in the last bit."""
    if x.dtype != np.float64 or isinstance(x, rounding.Rounded):
        return np.exp(x)
    with localcontext() as context:
        context.prec = 40
        return np.array([float(Decimal(value).exp()) for value in x.ravel().tolist()]).reshape(x.shape)


def softmax_weights(logits: Any) -> Any:
    """Return e^(x − max x) of each row. An error of the maximum is one of all weights, and so of no mean."""
    largest = logits.max(axis=1, keepdims=True)
    if isinstance(largest, rounding.Rounded):
        largest = rounding.Rounded(largest.value, 0.0, largest.dtype)
    return exponential(logits - largest)


def weighted_mean(weights: Any, rows: Any, dtype: DTypeLike) -> Any:
    """Return the means of rows by `weights`, which need not add up to 1."""
    if isinstance(weights, rounding.Rounded):
        return rounding.weighted_mean(weights, rows, dtype)
    return product(weights, rows, dtype) / total(weights)[:, None]

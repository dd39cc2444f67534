"""Sums and products in a given type, in a stated order: no BLAS, no pairwise sums, no exp of the system.

In float64 the bits are the same on every machine. In float32 and float16 the order is the plainest one, and its error
is the yardstick for ports.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.reference import quantize


def total(terms: NDArray) -> NDArray:
    """Sum each row: float64 in the lanes of the "File format" page, section 3, other types from left to right."""
    if terms.dtype == np.float64:
        return quantize.lane_sum(terms)
    return np.asarray(np.add.accumulate(terms, axis=1, dtype=terms.dtype)[:, -1])


def product(a: NDArray, b: NDArray, dtype: DTypeLike) -> NDArray:
    """Return the matrix product Σ_j a[:, j] b[j], added up in order of j in `dtype`."""
    left, right = a.astype(dtype), b.astype(dtype, order="C")  # rows of b one after the other
    sums = np.zeros((len(left), right.shape[1]), dtype)
    for j in range(len(right)):
        sums += left[:, j, None] * right[j]
    return sums


def norms(x: NDArray, dtype: DTypeLike) -> NDArray:
    """Return ‖x‖ of each row, squares and sum in `dtype`."""
    values = x.astype(dtype)
    return np.asarray(np.sqrt(total(values * values)))


def at_least_single(dtype: DTypeLike) -> np.dtype:
    """Return `dtype`, but float32 for float16: scalars of a row and their sums are never in half precision."""
    return np.promote_types(dtype, np.float32)


def scale_rows(rows: NDArray, factors: NDArray, dtype: DTypeLike) -> NDArray:
    """Multiply each row by its scalar, which is never rounded to half precision; the products are of `dtype`."""
    wide = at_least_single(dtype)
    with np.errstate(over="ignore"):
        return (rows.astype(wide) * factors.astype(wide)[:, None]).astype(dtype)


def exponential(x: NDArray) -> NDArray:
    """Return eˣ. In float64 it is correctly rounded by decimal arithmetic, since systems differ in the last bit."""
    if x.dtype != np.float64:
        return np.asarray(np.exp(x))
    with localcontext() as context:
        context.prec = 40
        return np.array([float(Decimal(value).exp()) for value in x.ravel().tolist()]).reshape(x.shape)

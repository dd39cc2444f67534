"""Copies between arrays. Numba compiles a message about shapes for each assignment of arrays, a second at a time."""

from __future__ import annotations

from tqvec.kernels._jit import jit


@jit
def copy_values(source, out):
    """``out[:] = source``, for arrays with one axis that do not overlap."""
    for i in range(out.size):
        out[i] = source[i]


@jit
def copy_table(source, out):
    """``out[:] = source``, for arrays with two axes that do not overlap."""
    for i in range(out.shape[0]):
        copy_values(source[i], out[i])

"""The full score of one row, band by band."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.simd.integers import sum_i32x16
from tqvec.kernels.simd.memory import load_u64, zero_i32x16
from tqvec.kernels.tables import LAYOUT_FIELDS, TABLE_BYTES

add_dots = kernel("add_dots")


@jit
def _field(layout, band, field):
    return np.int64(load_u64(layout + 8 * (LAYOUT_FIELDS * band + field)))


@jit
def row_dot(row, layout, n_bands, table, query):
    """Return the integer sum that `dot_tiles` gives for a row.

    All but `n_bands` are addresses: of the row's codes, of `StageTables.layout` and `level_bytes`, and of the query's
    integers. Arrays are not passed on for single rows: that updates their reference counts, which takes longer than the
    arithmetic.
    """
    sums = zero_i32x16()
    for b in range(n_bands):
        sums = add_dots(
            sums, 8 * row + _field(layout, b, 0), _field(layout, b, 1), _field(layout, b, 2), _field(layout, b, 3),
            table + TABLE_BYTES * b, query + 2 * _field(layout, b, 4), _field(layout, b, 5),
        )  # fmt: skip
    return sum_i32x16(sums)

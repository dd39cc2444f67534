"""Queries as the searches take them, turned with AVX-512."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.fwht.avx512 import rotate_rows_avx512
from tqvec.kernels.scan.queries import unit_queries


@jit
def query_directions_avx512(queries, tables, directions, weight, unit):
    """`query_directions_portable`, to the last bit."""
    rows = np.empty(queries.shape, np.float32)
    unit_queries(queries, tables, rows, weight, unit)
    rotate_rows_avx512(rows, tables.rotation, 0, rows.shape[0], directions)

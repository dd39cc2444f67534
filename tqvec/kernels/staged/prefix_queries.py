"""Queries as batches by prefixes take them, in ranges of a batch, so that threads can share them."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.copying import copy_table, copy_values
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.staged.query import fill_query, query_at, staged_queries

plane_query = kernel("plane_query")


@jit
def prefix_queries(directions, weight, unit, bands, stages, first, stop, out):
    """Prepare queries ``first .. stop`` of a batch for `search_prefixes`.

    Parameters
    ----------
    directions : (nq, d) float32
    weight, unit
        All three are results of `query_directions_portable`.
    bands : (n_bands, 3) int64
    stages : StageTables
    first, stop : int
    out : PrefixQueries
        These queries are filled.
    """
    staged = staged_queries(1, stages)
    for q in range(first, stop):
        fill_query(directions[q], bands, stages, weight[q], unit[q], staged, 0)
        query = query_at(staged, 0)
        length = np.float32(query.length)
        copy_table(query.table, out.table[q])
        out.slope[q] = np.float32(query.table_step) * length
        out.shift[q] = np.float32(-query.table_zero) * length
        out.slack[q] = np.float32(query.slack) * length
        copy_values(query.integers, out.integers[q])
        out.unit[q] = unit[q]
        bit = np.float32(stages.second_level * query.byte_unit) * length
        copy_values(plane_query(query.bytes_), out.bytes_[q])
        out.bit_unit[q] = bit
        out.bit_shift[q] = np.float32(stages.second_slack) * length - np.float32(query.byte_sum) * bit

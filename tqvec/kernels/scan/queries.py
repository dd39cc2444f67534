"""Queries as the searches take them. Every search calls these kernels, so that scores agree to the last bit."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.fwht.portable import rotate_rows_portable

QUERY_LENGTH = 32767  # of an integer query


# Values of `score_scale`: the factor of the scores of a query, whose direction has length 1.
NORM = 0
UNIT = 1
TWICE_NORM = 2


@jit
def unit_queries(queries, tables, rows, weight, unit):
    """Fill `rows` (nq, d) float32 with the directions of queries; the rest is that of `query_directions_portable`."""
    _, _, score_scale, level_unit = tables
    nq, d = queries.shape
    for q in range(nq):
        total = 0.0
        for j in range(d):
            total += np.float64(queries[q, j]) * np.float64(queries[q, j])
        length = np.sqrt(total)
        inverse = 1.0 / length if length > 0.0 else 0.0
        for j in range(d):
            rows[q, j] = np.float32(np.float64(queries[q, j]) * inverse)
        if score_scale == UNIT:
            weight[q] = 1.0 if length > 0.0 else 0.0
        else:
            weight[q] = 2.0 * length if score_scale == TWICE_NORM else length
        unit[q] = np.float32(weight[q] / QUERY_LENGTH * level_unit)


@jit
def query_directions_portable(queries, tables, directions, weight, unit):
    """Rotate the directions of queries, and compute the factors of their scores.

    Parameters
    ----------
    queries : (nq, d) float32
    tables : QueryTables
    directions : (nq, d) float32
        Filled: rotated queries of length 1, or 0 for a zero query.
    weight : (nq,) float64
        Filled: the factor that `score_scale` names, 1, the norm or twice the norm; 0 for a zero query.
    unit : (nq,) float32
        Filled: score of 1 in the integer dot product, for a row of scale 1.
    """
    rows = np.empty(queries.shape, np.float32)
    unit_queries(queries, tables, rows, weight, unit)
    rotate_rows_portable(rows, tables.rotation, 0, rows.shape[0], directions)


@jit
def integer_queries_portable(directions, bands, unit, integers):
    """Round queries of length 1 to steps of 1/32767.

    Parameters
    ----------
    directions : (nq, d) float32
    bands : (n_bands, 3) int64
    unit : int
        Each band is filled up with zeros to a multiple of it: 8 for tiles, 64 for the staged search.
    integers : (nq, ≥ d) int16
        Filled; zeros follow the last band too.
    """
    for q in range(directions.shape[0]):
        row = integers[q]
        row[:] = 0
        at = 0
        for b in range(bands.shape[0]):
            first = bands[b, 0]
            n = bands[b, 1] - first
            for j in range(n):
                row[at + j] = np.int16(np.rint(directions[q, first + j] * np.float32(QUERY_LENGTH)))
            at += (n + unit - 1) // unit * unit

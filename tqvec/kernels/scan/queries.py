"""Queries as the searches take them: every search goes through here, so their scores agree to the last bit."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.fwht.portable import rotate_rows_portable

QUERY_LENGTH = 32767  # of an integer query


# What a score is multiplied by, the query being of length 1.
BY_LENGTH = 0
BY_NOTHING = 1
BY_TWICE_THE_LENGTH = 2


@jit
def query_directions_portable(queries, rotation, form, level_unit, directions, worth, unit):
    """Rotated queries of length 1 (or 0), and what their scores are multiplied by.

    Parameters
    ----------
    queries : (nq, d) float32
    rotation : RotationTables
    form : int
        `BY_LENGTH`, `BY_NOTHING` or `BY_TWICE_THE_LENGTH`.
    level_unit : float
        What an integer level of 1 stands for.
    directions : (nq, d) float32
        Filled.
    worth : (nq,) float64
        Filled: the factor that `form` names; 0 for a zero query.
    unit : (nq,) float32
        Filled: what one unit of an integer product is worth, `worth` included.
    """
    nq, d = queries.shape
    rows = np.empty((nq, d), np.float32)
    for q in range(nq):
        total = 0.0
        for j in range(d):
            total += np.float64(queries[q, j]) * np.float64(queries[q, j])
        length = np.sqrt(total)
        inverse = 1.0 / length if length > 0.0 else 0.0
        for j in range(d):
            rows[q, j] = np.float32(np.float64(queries[q, j]) * inverse)
        if form == BY_NOTHING:
            worth[q] = 1.0 if length > 0.0 else 0.0
        else:
            worth[q] = 2.0 * length if form == BY_TWICE_THE_LENGTH else length
        unit[q] = np.float32(worth[q] / QUERY_LENGTH * level_unit)
    rotate_rows_portable(rows, rotation, 0, nq, directions)


@jit
def integer_queries_portable(directions, bands, unit, integers):
    """Queries of length 1 in steps of 1/32767.

    Parameters
    ----------
    directions : (nq, d) float32
    bands : (n_bands, 3) int64
    unit : int
        Coordinates that each band is filled up to a multiple of, with zeros: 8 for tiles, 64 for the staged search.
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

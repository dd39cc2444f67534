"""Queries of attention as integers, in the order in which a level with vector instructions has its levels."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit

WORD_REACH = 65000.0  # bound of a query's length times the square root of its entries; README.md has the proof


@jit
def byte_queries(queries, coordinates, level_unit, packed, unit):
    """Round queries to int8.

    Parameters
    ----------
    queries : (g, d) float32
    coordinates : (width,) int64
        Coordinate of each entry, or -1 where it is 0.
    level_unit : float
        Step of the levels.
    packed : (g, width) int8
        Filled.
    unit : (g,) float32
        Filled: score of 1 in a product.
    """
    for q in range(queries.shape[0]):
        largest = np.float32(1e-30)
        for j in range(queries.shape[1]):
            largest = max(largest, abs(queries[q, j]))
        step = largest / np.float32(127.0)
        for k in range(packed.shape[1]):
            j = coordinates[k]
            packed[q, k] = np.int8(np.rint(queries[q, j] / step)) if j >= 0 else np.int8(0)
        unit[q] = np.float32(np.float64(step) * level_unit)


@jit
def word_queries(queries, coordinates, level_unit, packed, unit):
    """Round queries to int16; the rest as in `byte_queries`."""
    d = queries.shape[1]
    root = np.sqrt(max(d, 4))  # the entries of shorter rows would not fit int16
    for q in range(queries.shape[0]):
        square = 0.0
        for j in range(d):
            square += np.float64(queries[q, j]) * np.float64(queries[q, j])
        step = max(np.sqrt(square), 1e-30) / (WORD_REACH / root - root / 2)
        for k in range(packed.shape[1]):
            j = coordinates[k]
            packed[q, k] = np.int16(np.rint(queries[q, j] / step)) if j >= 0 else np.int16(0)
        unit[q] = np.float32(step * level_unit)

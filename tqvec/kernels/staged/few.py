"""Search of a few queries, each alone and in stages, in one call: between short searches Python's time would show."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.scan.queries import integer_queries_portable, query_directions_portable
from tqvec.kernels.staged.single import search_staged_avx2
from tqvec.kernels.tables import BYTE_STEPS, TABLE_STEPS, StagedQuery

TINY = np.float32(1e-30)


@jit
def sign_table(direction, groups):
    """Table of `StagedQuery` and its step; `direction` (32 * groups,) float32."""
    largest = TINY
    for j in range(0, direction.size, 4):
        four = np.abs(direction[j]) + np.abs(direction[j + 1]) + np.abs(direction[j + 2]) + np.abs(direction[j + 3])
        largest = max(largest, four)
    step = largest / np.float32(TABLE_STEPS)
    table = np.empty((groups, 128), np.uint8)
    sums = np.empty(16, np.float32)
    for nibble in range(8 * groups):
        sums[0] = np.float32(0.0)
        for bit in range(4):
            half = 1 << bit
            value = direction[4 * nibble + bit] / step
            for entry in range(half):
                sums[half + entry] = sums[entry] + value
                sums[entry] -= value
        at = 64 * (nibble & 1) + 16 * (nibble % 8 // 2)  # even nibbles first
        for entry in range(16):
            table[nibble // 8, at + entry] = np.uint8(np.rint(sums[entry]) + np.float32(TABLE_STEPS + 1))
    return table, step


@jit
def staged_query(direction, bands, length, unit):
    """The forms of one rotated query of length 1 that the stages take; `unit` is that of its integer products."""
    d = direction.size
    words = (d + 63) // 64
    groups = (d + 31) // 32
    padded = np.zeros(64 * words, np.float32)
    padded[:d] = direction
    table, step = sign_table(padded[: 32 * groups], groups)
    largest = TINY
    for j in range(d):
        largest = max(largest, np.abs(padded[j]))
    byte_unit = largest / np.float32(BYTE_STEPS)
    bytes_ = np.empty(64 * words, np.int8)
    total = 0
    for j in range(64 * words):
        bytes_[j] = np.int8(np.rint(padded[j] / byte_unit))
        total += bytes_[j]
    integers = np.empty((1, 64 * words), np.int16)
    integer_queries_portable(direction.reshape(1, d), bands, integers)
    zero = (TABLE_STEPS + 1) * 8 * groups * np.float64(step)
    return StagedQuery(length, table, np.float64(step), zero, bytes_, np.float64(byte_unit), total, integers[0], unit)


@jit
def search_few_avx2(
    data,
    factor,
    bias,
    bands,
    levels,
    spread,
    signs,
    queries,
    rotation,
    form,
    level_unit,
    stages,
    room,
    start,
    stop,
    scores,
    ids,
):
    """Offer rows ``start .. stop`` to the heaps of a few queries.

    Parameters
    ----------
    data, factor, bias, bands, levels, spread, signs, stages, room, start, stop
        As in `search_staged_avx2`.
    queries, rotation, form, level_unit
        As in `query_directions_portable`.
    scores, ids : (nq, k) float32 and int64
        Heaps.
    """
    nq = queries.shape[0]
    directions = np.empty(queries.shape, np.float32)
    worth = np.empty(nq)
    unit = np.empty(nq, np.float32)
    query_directions_portable(queries, rotation, form, level_unit, directions, worth, unit)
    for q in range(nq):
        query = staged_query(directions[q], bands, worth[q], unit[q])
        search_staged_avx2(
            data, factor, bias, bands, levels, spread, signs, query, stages, room, start, stop, scores[q], ids[q]
        )

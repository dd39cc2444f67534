"""Search of a few queries, one after the other and in stages, in one call: Python between them would cost time."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.arguments import Heap, RowBlocks
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.scan.allowed import WORD, allowed_blocks, word_of
from tqvec.kernels.scan.queries import integer_queries_portable
from tqvec.kernels.simd.bits import count_bits, find_lowest_bit
from tqvec.kernels.staged.one_query import offer_rows, search_one_query
from tqvec.kernels.tables import BYTE_STEPS, TABLE_STEPS, StagedQuery, Z

_query_directions = kernel("query_directions")
TINY = np.float32(1e-30)
ROW_COST = 8  # of the full score of a row on its own, in prefixes of rows in blocks of 16


@jit
def prefix_table(weights):
    """Table of `StagedQuery` for bits of these weights, (32 * groups,) float32, and its step."""
    groups = weights.size // 32
    largest = TINY
    for j in range(0, weights.size, 4):
        four = np.abs(weights[j]) + np.abs(weights[j + 1]) + np.abs(weights[j + 2]) + np.abs(weights[j + 3])
        largest = max(largest, four)
    step = largest / np.float32(TABLE_STEPS)
    table = np.empty((groups, 128), np.uint8)
    sums = np.empty(16, np.float32)
    for nibble in range(8 * groups):
        sums[0] = np.float32(0.0)
        for bit in range(4):
            half = 1 << bit
            value = weights[4 * nibble + bit] / step
            for entry in range(half):
                sums[half + entry] = sums[entry] + value
                sums[entry] -= value
        at = 64 * (nibble & 1) + 16 * (nibble % 8 // 2)  # even nibbles first
        for entry in range(16):
            table[nibble // 8, at + entry] = np.uint8(np.rint(sums[entry]) + np.float32(TABLE_STEPS + 1))
    return table, step


@jit
def _prefix_weights(direction, bands, stages):
    """Weight of each bit of the prefix for a query of length 1, and the variance of estimates.

    In a band that the prefix skips, a row is assumed to have the share of its score that the query has of its length.
    """
    seen = 0.0
    skipped = 0.0
    error = 0.0
    scores = 0.0
    beside = 0.0
    for b in range(bands.shape[0]):
        energy = 0.0
        for j in range(bands[b, 0], bands[b, 1]):
            energy += np.float64(direction[j]) * np.float64(direction[j])
        if stages.skipped[b]:
            skipped += energy
            beside += energy * stages.scores[b]
        else:
            seen += energy
            error += energy * stages.unknown[b]
            scores += energy * stages.scores[b]
    whole = (seen + skipped) / max(seen, 1e-6 * (seen + skipped) + 1e-30)
    weights = np.empty(stages.prefix_source.size, np.float32)
    for i in range(weights.size):
        weights[i] = direction[stages.prefix_source[i]] * stages.prefix_level[i] * np.float32(whole)
    return weights, whole * whole * error + (whole - 1.0) * (whole - 1.0) * scores + beside


@jit
def staged_query(direction, bands, stages, length, unit):
    """Make a `StagedQuery` of a rotated query of length 1; `unit` is that of its integer products."""
    weights, variance = _prefix_weights(direction, bands, stages)
    table, step = prefix_table(weights)
    # Entries are rounded, a quarter as many as bits.
    variance += np.float64(step) * np.float64(step) / 12.0 * (weights.size // 4)
    n = bands[0, 1]
    largest = TINY
    for j in range(n):
        largest = max(largest, np.abs(direction[j]))
    byte_unit = largest / np.float32(BYTE_STEPS)
    bytes_ = np.zeros((n + 63) // 64 * 64, np.int8)
    total = 0
    for j in range(n):
        bytes_[j] = np.int8(np.rint(direction[j] / byte_unit))
        total += bytes_[j]
    return StagedQuery(
        length=length,
        table=table,
        table_step=np.float64(step),
        table_zero=(TABLE_STEPS + 1) * (weights.size // 4) * np.float64(step),
        slack=Z * np.sqrt(variance),
        bytes_=bytes_,
        byte_unit=np.float64(byte_unit),
        byte_sum=total,
        integers=_integers(direction, bands, stages),
        unit=unit,
    )


@jit
def _integers(direction, bands, stages):
    """The integers of a query of length 1 that full scores take."""
    last = stages.layout.shape[0] - 1
    integers = np.empty((1, stages.layout[last, 4] + 64 * stages.layout[last, 5]), np.int16)
    integer_queries_portable(direction.reshape(1, direction.size), bands, 64, integers)
    return integers[0]


@jit
def _scattered_rows(where):
    """Numbers of the allowed rows of a `RowRange`, if they are few and far between; otherwise none."""
    allowed, start, stop = where
    rows = 0
    blocks = 0
    for w in range(start // WORD, (stop + WORD - 1) // WORD):
        word = word_of(allowed, w, start, stop)
        rows += count_bits(word)
        for part in range(0, WORD if word != 0 else 0, LANES):
            blocks += (word >> np.uint64(part) & np.uint64(0xFFFF)) != 0
    if ROW_COST * rows >= LANES * blocks:
        return np.empty(0, np.int32)
    row_numbers = np.empty(rows, np.int32)
    rows = 0
    for w in range(start // WORD, (stop + WORD - 1) // WORD):
        word = word_of(allowed, w, start, stop)
        while word != 0:
            row_numbers[rows] = WORD * w + find_lowest_bit(word)
            word &= word - np.uint64(1)
            rows += 1
    return row_numbers


@jit
def search_few(rows, prefixes, queries, tables, stages, workspace, where, heaps):
    """Offer rows of a block to the heaps of a few queries.

    Parameters
    ----------
    rows, prefixes, stages
        As in `search_one_query`.
    queries : (nq, d) float32
    tables : QueryTables
    workspace : (≥ 21/16 (stop - start) + 192,) float32
    where : RowRange
        `start` is a multiple of 64.
    heaps : Heap
        Of `nq` queries.
    """
    nq = queries.shape[0]
    bands = tables.bands
    directions = np.empty(queries.shape, np.float32)
    weight = np.empty(nq)
    unit = np.empty(nq, np.float32)
    _query_directions(queries, tables, directions, weight, unit)
    allowed, start, stop = where
    if allowed.size > 0:
        row_numbers = _scattered_rows(where)
        if row_numbers.size > 0:
            for q in range(nq):
                integers = _integers(directions[q], bands, stages)
                heap = Heap(heaps.scores[q], heaps.ids[q])
                offer_rows(rows, row_numbers, row_numbers.size, stages, integers, unit[q], heap)
            return
    starts = workspace[: (stop - start) // LANES + 4 if allowed.size > 0 else 0].view(np.int32)
    n = stop - start if allowed.size == 0 else allowed_blocks(allowed, start, stop, starts)
    if n == 0:
        return
    blocks = RowBlocks(allowed, starts, start, (n + LANES - 1) // LANES)
    for q in range(nq):
        query = staged_query(directions[q], bands, stages, weight[q], unit[q])
        heap = Heap(heaps.scores[q], heaps.ids[q])
        search_one_query(rows, prefixes, query, stages, blocks, n, workspace[starts.size :], heap)

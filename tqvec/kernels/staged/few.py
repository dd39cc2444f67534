"""Search of a few queries, each alone and in stages, in one call: between short searches Python's time would show."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.scan.allowed import WORD, allowed_blocks, word_of
from tqvec.kernels.scan.queries import integer_queries_portable, query_directions_portable
from tqvec.kernels.simd.bits import count_bits, find_lowest_bit
from tqvec.kernels.staged.single import offer_rows, search_staged_avx2
from tqvec.kernels.tables import BYTE_STEPS, TABLE_STEPS, StagedQuery, Z

TINY = np.float32(1e-30)
ROW_COST = 8  # of the full score of a row on its own, in prefixes of rows in blocks of 16


@jit
def prefix_table(worth):
    """Table of `StagedQuery` for bits of some worth, (32 * groups,) float32, and its step."""
    groups = worth.size // 32
    largest = TINY
    for j in range(0, worth.size, 4):
        four = np.abs(worth[j]) + np.abs(worth[j + 1]) + np.abs(worth[j + 2]) + np.abs(worth[j + 3])
        largest = max(largest, four)
    step = largest / np.float32(TABLE_STEPS)
    table = np.empty((groups, 128), np.uint8)
    sums = np.empty(16, np.float32)
    for nibble in range(8 * groups):
        sums[0] = np.float32(0.0)
        for bit in range(4):
            half = 1 << bit
            value = worth[4 * nibble + bit] / step
            for entry in range(half):
                sums[half + entry] = sums[entry] + value
                sums[entry] -= value
        at = 64 * (nibble & 1) + 16 * (nibble % 8 // 2)  # even nibbles first
        for entry in range(16):
            table[nibble // 8, at + entry] = np.uint8(np.rint(sums[entry]) + np.float32(TABLE_STEPS + 1))
    return table, step


@jit
def _worth_of_prefix(direction, bands, stages):
    """What each bit of the prefix is worth to a query of length 1, and the variance of estimates.

    Of a band that the prefix skips, a row is taken to have as much of a score as the query has of its length there.
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
    all_of_it = (seen + skipped) / max(seen, 1e-6 * (seen + skipped) + 1e-30)
    worth = np.empty(stages.prefix_source.size, np.float32)
    for i in range(worth.size):
        worth[i] = direction[stages.prefix_source[i]] * stages.prefix_level[i] * np.float32(all_of_it)
    return worth, all_of_it * all_of_it * error + (all_of_it - 1.0) * (all_of_it - 1.0) * scores + beside


@jit
def staged_query(direction, bands, stages, length, unit):
    """The forms of one rotated query of length 1 that the stages take; `unit` is that of its integer products."""
    worth, variance = _worth_of_prefix(direction, bands, stages)
    table, step = prefix_table(worth)
    # Entries are rounded, a quarter as many as bits.
    variance += np.float64(step) * np.float64(step) / 12.0 * (worth.size // 4)
    zero = (TABLE_STEPS + 1) * (worth.size // 4) * np.float64(step)
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
        length, table, np.float64(step), zero, Z * np.sqrt(variance), bytes_, np.float64(byte_unit), total,
        _integers(direction, bands, stages), unit,
    )  # fmt: skip


@jit
def _integers(direction, bands, stages):
    """The form of a query of length 1 that full scores take."""
    last = stages.layout.shape[0] - 1
    integers = np.empty((1, stages.layout[last, 4] + 64 * stages.layout[last, 5]), np.int16)
    integer_queries_portable(direction.reshape(1, direction.size), bands, 64, integers)
    return integers[0]


@jit
def _scattered_rows(allowed, start, stop):
    """The allowed ones of rows ``start .. stop``, if they are few and far between; otherwise none."""
    rows = 0
    blocks = 0
    for w in range(start // WORD, (stop + WORD - 1) // WORD):
        word = word_of(allowed, w, start, stop)
        rows += count_bits(word)
        for part in range(0, WORD if word != 0 else 0, LANES):
            blocks += (word >> np.uint64(part) & np.uint64(0xFFFF)) != 0
    if ROW_COST * rows >= LANES * blocks:
        return np.empty(0, np.int32)
    found = np.empty(rows, np.int32)
    rows = 0
    for w in range(start // WORD, (stop + WORD - 1) // WORD):
        word = word_of(allowed, w, start, stop)
        while word != 0:
            found[rows] = WORD * w + find_lowest_bit(word)
            word &= word - np.uint64(1)
            rows += 1
    return found


@jit
def search_few_avx2(
    data,
    factor,
    bias,
    bands,
    prefixes,
    queries,
    rotation,
    form,
    level_unit,
    stages,
    room,
    allowed,
    base,
    start,
    stop,
    scores,
    ids,
):
    """Offer the allowed ones of rows ``start .. stop`` to the heaps of a few queries.

    Parameters
    ----------
    data, factor, bias, prefixes, stages, allowed, base
        As in `search_staged_avx2`.
    bands : (n_bands, 3) int64
    queries, rotation, form, level_unit
        As in `query_directions_portable`.
    room : (≥ 21/16 (stop - start) + 192,) float32
    start, stop : int
        `start` is a multiple of 64.
    scores, ids : (nq, k) float32 and int64
        Heaps.
    """
    nq = queries.shape[0]
    directions = np.empty(queries.shape, np.float32)
    worth = np.empty(nq)
    unit = np.empty(nq, np.float32)
    query_directions_portable(queries, rotation, form, level_unit, directions, worth, unit)
    if allowed.size > 0:
        rows = _scattered_rows(allowed, start, stop)
        if rows.size > 0:
            for q in range(nq):
                integers = _integers(directions[q], bands, stages)
                offer_rows(data, rows, rows.size, stages, integers, unit[q], factor, bias, base, scores[q], ids[q])
            return
    places = room[: (stop - start) // LANES + 4 if allowed.size > 0 else 0].view(np.int32)
    n = stop - start if allowed.size == 0 else allowed_blocks(allowed, start, stop, places)
    if n == 0:
        return
    for q in range(nq):
        query = staged_query(directions[q], bands, stages, worth[q], unit[q])
        search_staged_avx2(
            data, factor, bias, prefixes, query, stages, allowed, places, start, n, room[places.size :], base,
            scores[q], ids[q],
        )  # fmt: skip

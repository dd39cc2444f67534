"""Steps of a batch search by prefixes: which rows all queries meet next, and those whose estimates are high enough."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.scan.allowed import WORD, word_of
from tqvec.kernels.simd.floats import (
    add_f32x16,
    convert_f32x16,
    greater_equal_f32x16,
    mul_f32x16,
    multiply_add_f32x16,
)
from tqvec.kernels.simd.memory import load_f32x16, load_i32x16, load_u64, splat_f32x16, store_u64
from tqvec.kernels.topk.portable import EMPTY_ID, topk_push_portable

WORDS = 16  # of 64 rows, that all queries meet before the next: their prefixes and totals stay in the nearest caches
ROWS = WORDS * WORD
ALL = ~np.uint64(0)


class Step(NamedTuple):
    """Words of 64 rows that all queries of a group meet.

    Attributes
    ----------
    first : (WORDS,) int64
        First row of each.
    bits : (WORDS,) uint64
        Rows that may be returned.
    count : int
        Number of words.
    """

    first: np.ndarray
    bits: np.ndarray
    count: int


@jit
def count_steps(where):
    """Number of steps in which all words of a range are scanned."""
    return (where.stop - where.start + ROWS - 1) // ROWS


@jit
def list_step(where, number, first, bits):
    """List the words of a step that have allowed rows; return their number.

    Its words are spread over the range, so that every step is a sample of all rows, in whatever order these came.
    """
    allowed, start, stop = where
    count = 0
    for word in range(start // WORD + number, (stop + WORD - 1) // WORD, count_steps(where)):
        if allowed.size > 0:
            here = word_of(allowed, word, start, stop)
        else:
            here = ALL >> np.uint64(WORD - min(WORD, stop - WORD * word))
        first[count] = WORD * word
        bits[count] = here
        count += here != 0
    return count


@jit
def passing_words(step, left, totals, line, rows_at, passing):
    """Find rows with ``(total slope + shift) scale + bias >= least``; return a mask of the words that have any.

    `step` is the number of words and the address of their first rows. `line` is slope, shift and least, `rows_at` the
    addresses of all scales and biases, 0 for none. The rest are addresses: of the bits that count, one word each, of
    the totals of one query, and of the words of bits, which are filled.
    """
    count, firsts = step
    slope, shift, least = splat_f32x16(line[0]), splat_f32x16(line[1]), splat_f32x16(line[2])
    words = np.uint64(0)
    for w in range(count):
        at = 4 * np.int64(load_u64(firsts + 8 * w))
        bits = np.uint64(0)
        for part in range(4):
            x = convert_f32x16(load_i32x16(totals + 4 * WORD * w + 64 * part))
            x = mul_f32x16(multiply_add_f32x16(x, slope, shift), load_f32x16(rows_at[0] + at + 64 * part))
            if rows_at[1] != 0:
                x = add_f32x16(x, load_f32x16(rows_at[1] + at + 64 * part))
            bits |= greater_equal_f32x16(x, least) << np.uint64(LANES * part)
        bits &= load_u64(left + 8 * w)
        store_u64(passing + 8 * w, bits)
        words |= np.uint64(bits != 0) << np.uint64(w)
    return words


@jit
def list_probes(rows, step, totals, line, left):
    """List rows with high estimates, and take them off the bits `left`.

    `totals` (rows,) are those of one query, `line` its slope, its shift and the number of rows to list at most.
    """
    slope, shift, most = line
    best = np.full(most, -np.inf, np.float32)
    entries = np.full(most, EMPTY_ID, np.int64)
    for v in range(WORD * step.count):
        if left[v // WORD] >> np.uint64(v % WORD) & np.uint64(1):
            i = step.first[v // WORD] + v % WORD
            x = (np.float32(totals[v]) * slope + shift) * rows.scale[i]
            if rows.bias.size > 0:
                x += rows.bias[i]
            if x >= best[0]:
                topk_push_portable(x, v, best, entries)
    row_numbers = np.empty(most, np.int32)
    count = 0
    for v in entries:
        if v != EMPTY_ID:
            left[v // WORD] &= ~(np.uint64(1) << np.uint64(v % WORD))
            row_numbers[count] = step.first[v // WORD] + v % WORD
            count += 1
    return row_numbers[:count]

"""Lists of the rows that a filter lets in."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.simd.bits import count_bits

WORD = 64  # rows whose bits a word of a filter holds
SPARE = WORD + 8  # entries that `allowed_rows` may write past the last one it lists
# The set bits of each byte, lowest first.
POSITIONS = np.array([sorted(range(8), key=lambda bit: (not byte >> bit & 1, bit)) for byte in range(256)], np.uint8)
COUNTS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


@jit
def bits_between(bits, first, stop):
    """Return a word of bits without those below `first` and from `stop` on; both may be beyond the word."""
    if first > 0:
        bits = bits >> np.uint64(first) << np.uint64(first)
    if stop < WORD:
        bits &= (np.uint64(1) << np.uint64(stop)) - np.uint64(1)
    return bits


@jit
def word_of(allowed, word, first, stop):
    """Return a word of a filter without the bits of rows below `first` and from `stop` on."""
    return bits_between(allowed[word], first - WORD * word, stop - WORD * word)


@jit
def count_allowed(allowed, start, stop):
    """Count the allowed rows of ``start .. stop``, and the blocks of 16 that have any; `start` is a multiple of 64."""
    if allowed.size == 0:
        return stop - start, (stop - start + LANES - 1) // LANES
    rows = 0
    blocks = 0
    for w in range(start // WORD, (stop + WORD - 1) // WORD):
        word = word_of(allowed, w, start, stop)
        rows += count_bits(word)
        for part in range(0, WORD, LANES):
            blocks += (word >> np.uint64(part) & np.uint64(0xFFFF)) != 0
    return rows, blocks


@jit
def allowed_rows(allowed, first, stop, most, row_numbers):
    """List the first allowed rows of ``first .. stop``, in order.

    Parameters
    ----------
    allowed : (⌈n / 64⌉,) or (0,) uint64
        Bit i % 64 of word i // 64 is set if row i is allowed; empty allows all.
    first, stop : int
    most : int
        Rows to list at most.
    row_numbers : (≥ most + SPARE,) int32
        Filled.

    Returns
    -------
    count : int
        Rows listed.
    next : int
        Where to go on: no row before it is left.
    """
    if allowed.size == 0:
        count = min(most, stop - first)
        for r in range(count):
            row_numbers[r] = first + r
        return count, first + count
    count = 0
    for w in range(first // WORD, (stop + WORD - 1) // WORD):
        word = word_of(allowed, w, first, stop)
        if word == 0:
            continue
        for part in range(0, WORD, 8):
            eight = np.int64(word >> np.uint64(part) & np.uint64(255))
            for p in range(8):  # without a branch, which would be hard to predict
                row_numbers[count + p] = WORD * w + part + POSITIONS[eight, p]
            count += COUNTS[eight]
        if count > most:
            return most, np.int64(row_numbers[most])
        if count == most:
            return most, min(WORD * w + WORD, stop)
    return count, stop


@jit
def allowed_blocks(allowed, start, stop, starts):
    """List the blocks of 16 rows that have allowed rows in ``start .. stop``.

    Parameters
    ----------
    allowed : (⌈n / 64⌉,) uint64
    start, stop : int
        `start` is a multiple of 16.
    starts : (≥ (stop - start) / 16 + 4,) int32
        Filled with the first rows of the blocks, rising; the last one again up to a multiple of four.

    Returns
    -------
    int
        Rows of the blocks below `stop`.
    """
    count = 0
    for w in range(start // WORD, (stop + WORD - 1) // WORD):
        word = word_of(allowed, w, start, stop)
        if word == 0:
            continue
        for part in range(0, WORD, LANES):
            starts[count] = WORD * w + part
            count += (word >> np.uint64(part) & np.uint64(0xFFFF)) != 0
    if count == 0:
        return 0
    last = starts[count - 1]
    for r in range(count, (count + 3) // 4 * 4):
        starts[r] = last
    return LANES * (count - 1) + min(LANES, stop - last)

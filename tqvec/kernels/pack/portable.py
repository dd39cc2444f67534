"""The canonical layout of codes: bit planes, most significant plane first, band after band, no padding inside a row.

Bit ``i`` of a row is bit ``i % 8`` (least significant first) of byte ``i // 8``. Eight codes are handled at a time as
one 64-bit word, one code per byte. The "File format" page is normative.
"""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit

_ONES = np.uint64(0x0101010101010101)
_GATHER = np.uint64(0x0102040810204080)  # moves bit 8i to bit 56 + i
_ONE = np.uint64(1)
_EIGHT = np.uint64(8)


def _spread_table() -> np.ndarray:
    """Word whose byte i is bit i of the index, for all 256 bytes."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.ascontiguousarray(bits).view(np.uint64).reshape(256)


SPREAD = _spread_table()


@jit
def padded_words(bands):
    """Number of 64-bit words that hold one vector's codes, one per byte, each band starting a new word."""
    total = 0
    for b in range(bands.shape[0]):
        total += (bands[b, 1] - bands[b, 0] + 7) // 8
    return total


@jit
def place_codes(codes, bands, flat):
    """Write the codes of a tile to the bytes of padded rows.

    Parameters
    ----------
    codes : (d, lanes) uint8
    bands : (n_bands, 3) int64
    flat : (count, 8 * padded_words) uint8
        Filled for the first lanes, but for the bytes past the end of each band.
    """
    first = 0
    for b in range(bands.shape[0]):
        lo = bands[b, 0]
        for lane in range(flat.shape[0]):
            for j in range(lo, bands[b, 1]):
                flat[lane, first + j - lo] = codes[j, lane]
        first += (bands[b, 1] - lo + 7) // 8 * 8


@jit
def pack_row_portable(words, bands, row):
    """Pack one vector's codes.

    Parameters
    ----------
    words : (padded_words,) uint64
        Codes, one per byte; the bytes past the end of a band are 0.
    bands : (n_bands, 3) int64
        First coordinate, end and width of each band.
    row : (code bytes,) uint8
        Filled.
    """
    acc = np.uint64(0)
    fill = 0
    at = 0
    first = 0
    for b in range(bands.shape[0]):
        d = bands[b, 1] - bands[b, 0]
        for plane in range(bands[b, 2] - 1, -1, -1):
            shift = np.uint64(plane)
            done = 0
            if fill == 0:  # whole bytes: no need to carry bits over
                done = d // 8
                for g in range(done):
                    row[at + g] = (((words[first + g] >> shift) & _ONES) * _GATHER) >> np.uint64(56)
                at += done
            for g in range(done, (d + 7) // 8):
                bits = (((words[first + g] >> shift) & _ONES) * _GATHER) >> np.uint64(56)
                acc |= bits << np.uint64(fill)
                fill += min(8, d - 8 * g)
                if fill >= 8:
                    row[at] = acc & np.uint64(255)
                    at += 1
                    acc >>= _EIGHT
                    fill -= 8
        first += (d + 7) // 8
    if fill > 0:
        row[at] = acc & np.uint64(255)


@jit
def unpack_row_portable(row, bands, spread, words):
    """Inverse of `pack_row_portable`; `spread` is `SPREAD`. Bytes of `words` past the end of a band become 0."""
    bit = 0
    first = 0
    last = row.size - 1
    for b in range(bands.shape[0]):
        d = bands[b, 1] - bands[b, 0]
        nbits = bands[b, 2]
        n_words = (d + 7) // 8
        if (bit | d) & 7 == 0:  # all planes start at a byte
            at = bit >> 3
            for g in range(n_words):
                word = spread[row[at + g]]
                for plane in range(1, nbits):
                    word = (word << _ONE) | spread[row[at + plane * n_words + g]]
                words[first + g] = word
        else:
            for g in range(n_words):
                word = np.uint64(0)
                for plane in range(nbits):
                    start = bit + plane * d + 8 * g
                    at = start >> 3
                    pair = np.int64(row[at])
                    if at < last:
                        pair |= np.int64(row[at + 1]) << 8
                    word = (word << _ONE) | spread[(pair >> (start & 7)) & 255]
                words[first + g] = word
            if d & 7 != 0:
                keep = (_ONE << np.uint64(8 * (d & 7))) - _ONE
                words[first + n_words - 1] &= keep
        bit += nbits * d
        first += n_words


@jit
def pack_rows_portable(codes, bands, start, stop, data):
    """Pack rows ``start .. stop`` of `codes` (n, d) uint8 into `data` (n, code bytes) uint8."""
    words = np.zeros(padded_words(bands), np.uint64)
    flat = words.view(np.uint8)
    for i in range(start, stop):
        at = 0
        for b in range(bands.shape[0]):
            for j in range(bands[b, 0], bands[b, 1]):
                flat[at + j - bands[b, 0]] = codes[i, j]
            at += (bands[b, 1] - bands[b, 0] + 7) // 8 * 8
        pack_row_portable(words, bands, data[i])


@jit
def unpack_rows_portable(data, bands, spread, start, stop, codes):
    """Inverse of `pack_rows_portable`."""
    words = np.zeros(padded_words(bands), np.uint64)
    flat = words.view(np.uint8)
    for i in range(start, stop):
        unpack_row_portable(data[i], bands, spread, words)
        at = 0
        for b in range(bands.shape[0]):
            for j in range(bands[b, 0], bands[b, 1]):
                codes[i, j] = flat[at + j - bands[b, 0]]
            at += (bands[b, 1] - bands[b, 0] + 7) // 8 * 8

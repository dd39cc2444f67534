"""The tables that a codec hands to the kernels of attention, as a named tuple (which Numba takes as it is)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STRIP_FIELDS = 11  # of `AttentionTables.strips`


class AttentionTables(NamedTuple):
    """The tables of a codec for attention on codes.

    AVX-512 looks up a *run* of 64 coordinates at a time, AVX2 a *strip* of up to 128 coordinates of one band.

    Attributes
    ----------
    bands, windows, centroids
        As in `QuantizerTables`.
    source : (runs, 64) uint8
        Byte of a row, filled up by `filler`, that goes to each byte of a run's eight 64-bit numbers. There are no runs
        if the layout has no vector kernel.
    fields : (runs, 64) uint8
        First of the eight bits that each byte then takes from its 64-bit number.
    filler : (128,) uint8
        Bytes that follow a row in its registers: zeros, and 255 as the last byte of each register.
    coordinates : (64 * runs,) int64
        Coordinate of each column, or -1 where it only fills up a run.
    levels : (runs, 32) float32
        Level of each index of at most 5 bits, repeated.
    level_bytes : (runs, 256) uint8
        Levels in steps of `byte_unit`, plus 128.
    level_words : (runs, 512) uint8
        Levels in steps of `word_unit`: low bytes of 256 int16, then high bytes.
    registers : int
        Registers of 64 bytes that a row fills.
    whole : bool
        Whether `fields` are whole bytes in order, so that the step is left out.
    index_bits : int
        Bits of the largest index of all runs.
    strips : (strips, 11) int32
        Of each strip: bits of an index; windows, as in `QuantizerTables`; the byte of a row that comes before the path;
        then the first bit in a row of each plane, the last plane first. There are no strips if AVX2 has no kernel.
    strip_coordinates : (128 * strips,) int64
        Coordinate of entry ``16 k + m`` of a strip, which is number k of the eight of column m, or -1.
    strip_bytes : (strips, 256) uint8
        Levels in steps of `byte_unit`, as int8.
    strip_words : (strips, 512) uint8
        As `level_words`.
    byte_unit, word_unit : float
        Steps of the levels; `byte_unit` is 0 if products take words.
    """

    bands: np.ndarray
    windows: np.ndarray
    centroids: np.ndarray
    source: np.ndarray
    fields: np.ndarray
    filler: np.ndarray
    coordinates: np.ndarray
    levels: np.ndarray
    level_bytes: np.ndarray
    level_words: np.ndarray
    registers: int
    whole: bool
    index_bits: int
    strips: np.ndarray
    strip_coordinates: np.ndarray
    strip_bytes: np.ndarray
    strip_words: np.ndarray
    byte_unit: float
    word_unit: float

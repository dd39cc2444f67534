"""Levels of the codes of pairs of rows, a strip at a time, with AVX2."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.attend.tables import STRIP_FIELDS
from tqvec.kernels.simd.bits import and_i8x32, append_high_bits_i8x32, funnel_shift_i64x4, select_negative_i8x32
from tqvec.kernels.simd.integers import add_i8x32
from tqvec.kernels.simd.memory import (
    load_halves_i8x32,
    load_halves_i64x4,
    load_i8x32,
    load_i32,
    load_u8,
    prefetch,
    splat_i8x32,
    store_i8x32,
    store_i16x16,
    store_i64x4,
)
from tqvec.kernels.simd.shuffles import (
    interleave_even_quarters_i16x16,
    interleave_odd_quarters_i16x16,
    prepend_halves_i8x32,
)
from tqvec.kernels.simd.tuples import transpose_bits_8
from tqvec.kernels.simd.x86 import load_table_128, lookup_128_i8x32, lookup_i8x32

ROWS = 32  # that are unpacked together
STRIP = 128  # coordinates
AHEAD = 4096  # bytes
NARROW = 4  # bits of an index up to which a table of bytes is one half of a register
_BEYOND = 32  # bytes that may be read after the end of a row
_PLANE = 32  # bytes of a plane of two rows


class StripPlan(NamedTuple):
    """Addresses of the tables of `AttentionTables` that strips need, and of `planes`, a workspace of 8 registers."""

    strips: int
    fields: int
    level_bytes: int
    level_words: int
    planes: int


class RowPlaces(NamedTuple):
    """Addresses of rows, and of copies of the last ones.

    Attributes
    ----------
    codes, row_bytes : int
        Address of the first row, and bytes of each.
    first, tail : int
        The first row that is copied, and the address of its copy. Memory after a copy can be read.
    """

    codes: int
    row_bytes: int
    first: int
    tail: int


@jit
def strip_plan(tables, planes):
    """Make the plan; `tables` and `planes` (8, 32) uint8 must live as long."""
    return StripPlan(
        strips=tables.strips.shape[0],
        fields=tables.strips.ctypes.data,
        level_bytes=tables.strip_bytes.ctypes.data,
        level_words=tables.strip_words.ctypes.data,
        planes=np.int64(planes.ctypes.data),  # as all sums of addresses: Numba unites uint64 and int64 to float64
    )


@jit
def copy_tail(codes):
    """Copy the last rows, from whose ends memory beyond the last row is less than `_BEYOND` bytes away."""
    n, row_bytes = codes.shape
    count = min(n, _BEYOND // row_bytes + 1)
    tail = np.zeros(count * row_bytes + _BEYOND, np.uint8)
    for i in range(count):
        for j in range(row_bytes):
            tail[i * row_bytes + j] = codes[n - count + i, j]
    return tail


@jit
def row_places(codes, tail):
    """Make the places of rows with the `tail` of `copy_tail`; both arrays must live as long."""
    n, row_bytes = codes.shape
    return RowPlaces(codes.ctypes.data, row_bytes, n - (tail.size - _BEYOND) // row_bytes, tail.ctypes.data)


@jit
def row_address(places, t):
    """Return an address of row `t` with readable memory behind."""
    if t < places.first:
        return places.codes + t * places.row_bytes
    return places.tail + (t - places.first) * places.row_bytes


@jit
def ask_ahead(places, t):
    """Ask for rows `AHEAD` bytes after `ROWS` rows from `t` on: the processor looks no further than the page's end."""
    row = places.codes + t * places.row_bytes + AHEAD
    for at in range(row, row + ROWS * places.row_bytes, 64):
        prefetch(at)


@jit
def _gather_planes(strip, a, b, planes):
    """Write each bit of the indices as a plane; `strip` is the address of its fields, `a` and `b` those of two rows."""
    to, end = planes, planes + _PLANE * load_i32(strip)
    windows, before, field = load_i32(strip + 4), load_i32(strip + 8), strip + 12
    if windows > 0:
        byte = load_i32(field) >> 3
        path = load_halves_i8x32(a + byte, b + byte)
        previous = prepend_halves_i8x32(load_u8(a + before), load_u8(b + before), path)
        for _ in range(windows):  # bit k of a state window is the path bit k coordinates before
            store_i8x32(to, path)
            path = append_high_bits_i8x32(path, previous)
            previous = add_i8x32(previous, previous)
            to += _PLANE
        field += 4
    while to < end:
        byte, shift = load_i32(field) >> 3, load_i32(field) & 7
        plane = load_halves_i64x4(a + byte, b + byte)
        if shift > 0:
            plane = funnel_shift_i64x4(load_halves_i64x4(a + byte + 8, b + byte + 8), plane, 64 - shift)
        store_i64x4(to, plane)
        field += 4
        to += _PLANE


@jit
def _narrow_indices(planes):
    """Indices of up to 4 bits: register k has number k of the eight coordinates of each column."""
    zero = splat_i8x32(np.int8(0))
    a, b, c, d = (load_i8x32(planes), load_i8x32(planes + 32), load_i8x32(planes + 64), load_i8x32(planes + 96))
    return transpose_bits_8((a, b, c, d, zero, zero, zero, zero))


@jit
def _wide_indices(planes):
    """Indices of up to 8 bits; the rest as in `_narrow_indices`."""
    a, b, c, d = (load_i8x32(planes), load_i8x32(planes + 32), load_i8x32(planes + 64), load_i8x32(planes + 96))
    planes += 128
    e, f, g, h = (load_i8x32(planes), load_i8x32(planes + 32), load_i8x32(planes + 64), load_i8x32(planes + 96))
    return transpose_bits_8((a, b, c, d, e, f, g, h))


@jit
def unpack_bytes(plan, rows, pairs, to):
    """Write byte levels of indices of at most 7 bits to address `to`: 32 bytes for each coordinate of a column.

    The first half of 32 bytes belongs to the first row of a pair. `rows` int64 are addresses of twice `pairs` rows.
    """
    for s in range(plan.strips):
        strip, table = plan.fields + 4 * STRIP_FIELDS * s, plan.level_bytes + 256 * s
        out = to + 2 * STRIP * s
        if load_i32(strip) <= NARROW:
            levels = load_halves_i8x32(table, table)
            for p in range(pairs):
                _gather_planes(strip, rows[2 * p], rows[2 * p + 1], plan.planes)
                at = out + 2 * STRIP * plan.strips * p
                for index in _narrow_indices(plan.planes):
                    store_i8x32(at, lookup_i8x32(levels, index))
                    at += 32
        else:
            many, seven = load_table_128(table), splat_i8x32(np.int8(127))
            for p in range(pairs):
                _gather_planes(strip, rows[2 * p], rows[2 * p + 1], plan.planes)
                at = out + 2 * STRIP * plan.strips * p
                for index in _wide_indices(plan.planes):
                    store_i8x32(at, lookup_128_i8x32(many, and_i8x32(index, seven)))
                    at += 32


@jit
def _store_words(to, low, high):
    """Store int16 of 16 columns of two rows: the first eight columns of both, then the others."""
    store_i16x16(to, interleave_even_quarters_i16x16(low, high))
    store_i16x16(to + 32, interleave_odd_quarters_i16x16(low, high))


@jit
def _look_up_wide(table, index, bits):
    """Look up bytes in a table of 256 at an address, whose entries repeat after ``2**bits``."""
    rest = and_i8x32(index, splat_i8x32(np.int8(127)))
    low = lookup_128_i8x32(load_table_128(table), rest)
    if bits <= 7:
        return low
    return select_negative_i8x32(index, lookup_128_i8x32(load_table_128(table + 128), rest), low)


@jit
def unpack_words(plan, rows, pairs, to):
    """Levels as int16, 64 bytes for each coordinate of a column; the rest as in `unpack_bytes`."""
    for s in range(plan.strips):
        strip, table = plan.fields + 4 * STRIP_FIELDS * s, plan.level_words + 512 * s
        out, bits = to + 4 * STRIP * s, load_i32(strip)
        if bits <= NARROW:
            low, high = load_halves_i8x32(table, table), load_halves_i8x32(table + 256, table + 256)
            for p in range(pairs):
                _gather_planes(strip, rows[2 * p], rows[2 * p + 1], plan.planes)
                at = out + 4 * STRIP * plan.strips * p
                for index in _narrow_indices(plan.planes):
                    _store_words(at, lookup_i8x32(low, index), lookup_i8x32(high, index))
                    at += 64
        else:
            for p in range(pairs):
                _gather_planes(strip, rows[2 * p], rows[2 * p + 1], plan.planes)
                at = out + 4 * STRIP * plan.strips * p
                for index in _wide_indices(plan.planes):
                    _store_words(at, _look_up_wide(table, index, bits), _look_up_wide(table + 256, index, bits))
                    at += 64

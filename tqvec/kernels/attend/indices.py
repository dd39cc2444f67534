"""Indices of the codes of 64 coordinates in one register, and their levels, with AVX-512 VBMI and GFNI."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.bits import select_negative_i8x64
from tqvec.kernels.simd.memory import load_i8x64, load_where_i8x64
from tqvec.kernels.simd.x86 import (
    multishift_i8x64,
    permute_i8x64,
    permute_two_i8x64,
    transpose_bits_i8x64,
)

ONE_REGISTER = 6  # bits of an index up to which a table of bytes is one register


class RowPlan(NamedTuple):
    """`AttentionTables` as numbers and addresses: arrays are not passed on for single rows (see `row_dot`)."""

    row_bytes: int
    registers: int
    whole: bool
    runs: int
    bits: int
    filler: int
    source: int
    fields: int
    levels: int
    level_bytes: int
    level_words: int


@jit
def row_plan(tables, row_bytes):
    """Make the plan of rows of `row_bytes` bytes; `tables` must live as long as the plan."""
    return RowPlan(
        row_bytes=row_bytes,
        registers=tables.registers,
        whole=tables.whole,
        runs=tables.source.shape[0],
        bits=tables.index_bits,
        filler=tables.filler.ctypes.data,
        source=tables.source.ctypes.data,
        fields=tables.fields.ctypes.data,
        levels=tables.levels.ctypes.data,
        level_bytes=tables.level_bytes.ctypes.data,
        level_words=tables.level_words.ctypes.data,
    )


@jit
def aligned_bytes(rows, width):
    """Allocate zeros (rows, width) uint8 that begin with a cache line."""
    flat = np.zeros(rows * width + 64, np.uint8)
    first = -flat.ctypes.data % 64
    return flat[first : first + rows * width].reshape(rows, width)


@jit
def bytes_kept(count):
    """Return a mask of the first `count` of 64 bytes, or of all if `count` is larger."""
    return np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(max(0, 64 - count))


@jit
def indices_of_run(plan, row, source, fields):
    """Return the indices of a run of the row at an address; the two registers are those of `AttentionTables`."""
    if plan.registers == 1:
        first = (
            load_i8x64(row)
            if plan.row_bytes == 64
            else load_where_i8x64(bytes_kept(plan.row_bytes), row, load_i8x64(plan.filler))
        )
        chosen = permute_i8x64(first, source)
    else:
        rest = load_where_i8x64(bytes_kept(plan.row_bytes - 64), row + 64, load_i8x64(plan.filler + 64))
        chosen = permute_two_i8x64(load_i8x64(row), rest, source)
    if not plan.whole:
        chosen = multishift_i8x64(chosen, fields)
    return transpose_bits_i8x64(chosen)


@jit
def look_up(table, index, bits):
    """Look up bytes in a table of 256 at an address, whose entries repeat after ``2**bits``."""
    if bits <= ONE_REGISTER:
        return permute_i8x64(load_i8x64(table), index)
    low = permute_two_i8x64(load_i8x64(table), load_i8x64(table + 64), index)
    if bits == 7:
        return low
    return select_negative_i8x64(index, permute_two_i8x64(load_i8x64(table + 128), load_i8x64(table + 192), index), low)

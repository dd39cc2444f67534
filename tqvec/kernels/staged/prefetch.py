"""Prefetching of rows, where the processor does not see which one comes next."""

from __future__ import annotations

from typing import NamedTuple

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.memory import load_i32, prefetch

AHEAD = 16  # rows whose codes are on their way to the cache


class RowList(NamedTuple):
    """Addresses of listed rows.

    Attributes
    ----------
    first, stride : int
        Address of row 0, and bytes from one row to the next.
    numbers : int
        Address of `count` row numbers, int32.
    count : int
    """

    first: int
    stride: int
    numbers: int
    count: int


@jit
def prefetch_row(address, size):
    """Ask for `size` bytes."""
    for line in range(0, size, 64):
        prefetch(address + line)
    prefetch(address + size - 1)


@jit
def listed_row(rows, i, size):
    """Return the address of the row that entry `i` of a `RowList` names; ask for `size` bytes of a later one."""
    later = load_i32(rows.numbers + 4 * min(i + AHEAD, rows.count - 1))
    prefetch_row(rows.first + later * rows.stride, size)
    return rows.first + load_i32(rows.numbers + 4 * i) * rows.stride

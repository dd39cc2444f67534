"""Asking for what will be read soon, where the processor does not see it coming."""

from __future__ import annotations

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.memory import load_i32, prefetch

AHEAD = 16  # rows whose codes are on their way to the cache


@jit
def prefetch_row(address, size):
    """Ask for `size` bytes."""
    for line in range(0, size, 64):
        prefetch(address + line)
    prefetch(address + size - 1)


@jit
def listed_row(rows, stride, places, i, count, size):
    """Address of the row that entry `i` of a list names; asks for `size` bytes of a later one.

    `rows` is the address of row 0, whose next is `stride` bytes on; `places` that of `count` row numbers, int32.
    """
    later = load_i32(places + 4 * min(i + AHEAD, count - 1))
    prefetch_row(rows + later * stride, size)
    return rows + load_i32(places + 4 * i) * stride

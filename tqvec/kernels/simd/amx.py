"""AMX: eight tile registers of 16 rows x 64 bytes, and the product of two of them.

A thread must load a configuration before it touches a tile and release it afterwards; the process must have asked Linux
for permission (`tqvec.kernels.features` does). Tile numbers are part of an instruction, so each operation is made for
fixed tiles.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types

from tqvec.kernels.simd.vector import call, operation

_BYTE = ir.IntType(8)
_VOID = ir.VoidType()


def tile_config() -> np.ndarray:
    """Return the configuration for `load_config`: palette 1, all tiles 16 rows of 64 bytes; (64,) uint8."""
    config = np.zeros(64, np.uint8)
    config[0] = 1
    config[16:32:2] = 64
    config[48:56] = 16
    return config


@operation(types.void, (types.intp,))
def load_config(builder, address):
    """``ldtilecfg``: make the tiles of this thread usable."""
    call(builder, "llvm.x86.ldtilecfg", _VOID, builder.inttoptr(address, _BYTE.as_pointer()))


@operation(types.void, ())
def release_tiles(builder):
    """``tilerelease``: give the tiles back."""
    call(builder, "llvm.x86.tilerelease", _VOID)


def make_zero(tile: int):
    """Make ``zero()``: all bytes of the tile become 0."""

    @operation(types.void, ())
    def zero(builder):
        call(builder, "llvm.x86.tilezero", _VOID, _BYTE(tile))

    return zero


def _make_transfer(tile: int, name: str):
    @operation(types.void, (types.intp, types.int64))
    def transfer(builder, address, stride):
        pointer = builder.inttoptr(address, _BYTE.as_pointer())
        call(builder, f"llvm.x86.{name}", _VOID, _BYTE(tile), pointer, stride)

    return transfer


def make_load(tile: int):
    """Make ``load(address, stride)``: rows of 64 bytes, `stride` bytes apart."""
    return _make_transfer(tile, "tileloadd64")


def make_store(tile: int):
    """Make ``store(address, stride)``, the inverse of `make_load`."""
    return _make_transfer(tile, "tilestored64")


def make_dot(sums: int, a: int, b: int):
    """Make ``dot()``: ``sums[m, n] += Σ a[m, k] b[k // 4, 4 n + k % 4]``, unsigned by signed bytes (``tdpbusd``)."""

    @operation(types.void, ())
    def dot(builder):
        call(builder, "llvm.x86.tdpbusd", _VOID, *(_BYTE(tile) for tile in (sums, a, b)))

    return dot

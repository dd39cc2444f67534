"""AMX: eight tile registers of 16 rows x 64 bytes, and the product of two of them.

A thread must load a configuration before it touches a tile and release it afterwards; the process must have asked Linux
for permission (`tqvec.kernels.features` does). Tile numbers are part of an instruction, so each operation is made for
fixed tiles.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_BYTE = ir.IntType(8)
_ADDRESS = ir.IntType(8).as_pointer()


def tile_config() -> np.ndarray:
    """Configuration for `load_config`: palette 1, all tiles 16 rows of 64 bytes; (64,) uint8."""
    config = np.zeros(64, np.uint8)
    config[0] = 1
    config[16:32:2] = 64
    config[48:56] = 16
    return config


def _call(context, builder, name, arguments):
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)
    return context.get_dummy_value()


@intrinsic
def load_config(typingctx, address):
    """``ldtilecfg``: make the tiles of this thread usable."""

    def codegen(context, builder, signature, args):
        return _call(context, builder, "ldtilecfg", [builder.inttoptr(args[0], _ADDRESS)])

    return types.void(types.intp), codegen


@intrinsic
def release_tiles(typingctx):
    """``tilerelease``: give the tiles back."""

    def codegen(context, builder, signature, args):
        return _call(context, builder, "tilerelease", [])

    return types.void(), codegen


def make_zero(tile: int):
    """``zero()``: all bytes of the tile become 0."""

    @intrinsic
    def zero(typingctx):
        def codegen(context, builder, signature, args):
            return _call(context, builder, "tilezero", [ir.Constant(_BYTE, tile)])

        return types.void(), codegen

    return zero


def _make_transfer(tile: int, name: str):
    @intrinsic
    def transfer(typingctx, address, stride):
        def codegen(context, builder, signature, args):
            place = [builder.inttoptr(args[0], _ADDRESS), args[1]]
            return _call(context, builder, name, [ir.Constant(_BYTE, tile), *place])

        return types.void(types.intp, types.int64), codegen

    return transfer


def make_load(tile: int):
    """``load(address, stride)``: rows of 64 bytes, `stride` bytes apart."""
    return _make_transfer(tile, "tileloadd64")


def make_store(tile: int):
    """``store(address, stride)``: the inverse of `make_load`."""
    return _make_transfer(tile, "tilestored64")


def make_dot(sums: int, a: int, b: int):
    """``dot()``: ``sums[m, n] += Σ a[m, k] b[k // 4, 4 n + k % 4]``, unsigned by signed bytes (``tdpbusd``)."""

    @intrinsic
    def dot(typingctx):
        def codegen(context, builder, signature, args):
            return _call(context, builder, "tdpbusd", [ir.Constant(_BYTE, t) for t in (sums, a, b)])

        return types.void(), codegen

    return dot

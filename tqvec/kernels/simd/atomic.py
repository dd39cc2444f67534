"""Atomic operations on 64-bit integers in memory, each in one total order with all others (sequentially consistent)."""

from __future__ import annotations

import platform

from llvmlite import ir
from numba.core import types

from tqvec.kernels.simd.vector import call, operation

_I64 = ir.IntType(64)
_ORDER = "seq_cst"


def _pointer(builder, address):
    return builder.inttoptr(address, _I64.as_pointer())


@operation(types.int64, (types.intp,))
def atomic_load(builder, address):
    """Return the integer at an address, a multiple of 8."""
    return builder.load_atomic(_pointer(builder, address), _ORDER, 8)


@operation(types.void, (types.intp, types.int64))
def atomic_store(builder, address, value):
    """Store an integer."""
    builder.store_atomic(value, _pointer(builder, address), _ORDER, 8)


@operation(types.int64, (types.intp, types.int64))
def atomic_add(builder, address, value):
    """Add to an integer and return what it was before."""
    return builder.atomic_rmw("add", _pointer(builder, address), value, _ORDER)


@operation(types.boolean, (types.intp, types.int64, types.int64))
def atomic_replace(builder, address, expected, value):
    """Store `value` if the integer is `expected`; return whether it was."""
    pair = builder.cmpxchg(_pointer(builder, address), expected, value, _ORDER, _ORDER)
    return builder.extract_value(pair, 1)


@operation(types.void, ())
def pause(builder):
    """Tell the processor that this is a loop that waits."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        call(builder, "llvm.x86.sse2.pause", ir.VoidType())
    elif platform.machine().lower() in ("aarch64", "arm64"):
        call(builder, "llvm.aarch64.hint", ir.VoidType(), ir.IntType(32)(1))

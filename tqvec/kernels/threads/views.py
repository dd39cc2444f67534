"""Arrays at addresses, which other code keeps alive."""

from __future__ import annotations

import ctypes

import numpy as np
from numba import carray
from numba.core import config, types
from numba.extending import intrinsic

from tqvec.kernels._jit import jit


def _make_pointer(number: types.Type):
    @intrinsic
    def pointer(typing_context, address):
        kind = types.CPointer(number)

        def lower(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(kind))

        return kind(types.intp), lower

    return pointer


_bytes_at, _halves_at, _floats_at, _words_at = (
    _make_pointer(number) for number in (types.uint8, types.uint16, types.float32, types.uint64)
)


@jit
def bytes_at(address, shape):
    """Return the uint8 array of a shape at an address."""
    return carray(_bytes_at(address), shape)


@jit
def halves_at(address, shape):
    """Return the uint16 array of a shape at an address."""
    return carray(_halves_at(address), shape)


@jit
def floats_at(address, shape):
    """Return the float32 array of a shape at an address."""
    return carray(_floats_at(address), shape)


@jit
def words_at(address, shape):
    """Return the uint64 array of a shape at an address."""
    return carray(_words_at(address), shape)


if config.DISABLE_JIT:

    def _make_view(dtype):
        def at(address, shape):
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            memory = (ctypes.c_uint8 * size).from_address(int(address)) if size else b""
            return np.frombuffer(memory, dtype).reshape(shape)

        return at

    bytes_at, halves_at, floats_at, words_at = (
        _make_view(dtype) for dtype in (np.uint8, np.uint16, np.float32, np.uint64)
    )

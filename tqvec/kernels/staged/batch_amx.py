"""Byte products of 32 rows and 32 queries with AMX: two tiles by two tiles, whose sums fill four more."""

from __future__ import annotations

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.simd.amx import load_config, make_dot, make_load, make_store, make_zero, release_tiles

_zero_0, _zero_1, _zero_2, _zero_3 = (make_zero(tile) for tile in range(4))
_store_0, _store_1, _store_2, _store_3 = (make_store(tile) for tile in range(4))
_load_4, _load_5, _load_6, _load_7 = (make_load(tile) for tile in range(4, 8))
_dot_046, _dot_047 = make_dot(0, 4, 6), make_dot(1, 4, 7)
_dot_156, _dot_157 = make_dot(2, 5, 6), make_dot(3, 5, 7)


PRODUCT_STEPS = (127, 127)


@jit
def begin_products_amx(config):
    """Configure the tiles of this thread."""
    load_config(config.ctypes.data)


@jit
def end_products_amx():
    """Release the tiles of this thread."""
    release_tiles()


@jit
def pair_products_amx(levels, queries, words, out):
    """Compute the dot products of 32 rows with 32 queries.

    `levels` is the address of 32 rows of 64 * words unsigned bytes, `queries` that of two times `words` packed tiles,
    `out` that of (32, 32) int32.
    """
    stride = 64 * words
    low = levels
    high = levels + LANES * stride
    more = queries + words * 1024
    _zero_0()
    _zero_1()
    _zero_2()
    _zero_3()
    for w in range(words):
        _load_4(low + 64 * w, stride)
        _load_5(high + 64 * w, stride)
        _load_6(queries + 1024 * w, 64)
        _load_7(more + 1024 * w, 64)
        _dot_046()
        _dot_047()
        _dot_156()
        _dot_157()
    _store_0(out, 8 * LANES)
    _store_1(out + 64, 8 * LANES)
    _store_2(out + 8 * LANES * LANES, 8 * LANES)
    _store_3(out + 8 * LANES * LANES + 64, 8 * LANES)

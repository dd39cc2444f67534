"""`dot_tiles` with AVX2: one tile (two registers) by four queries at a time, eight sums in registers."""

from __future__ import annotations

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.memory import load_i32x8, splat_load_i32x8, store_i32x8, zero_i32x8
from tqvec.kernels.simd.x86 import dot_pairs_i32x8


@jit
def _one_by_four(tile, query, query_bytes, pairs, out, out_bytes):
    a0 = zero_i32x8()
    a1 = zero_i32x8()
    b0 = zero_i32x8()
    b1 = zero_i32x8()
    c0 = zero_i32x8()
    c1 = zero_i32x8()
    d0 = zero_i32x8()
    d1 = zero_i32x8()
    for p in range(pairs):
        at = tile + 64 * p
        low = load_i32x8(at)
        high = load_i32x8(at + 32)
        w = query + 4 * p
        x = splat_load_i32x8(w)
        a0 = dot_pairs_i32x8(a0, low, x)
        a1 = dot_pairs_i32x8(a1, high, x)
        x = splat_load_i32x8(w + query_bytes)
        b0 = dot_pairs_i32x8(b0, low, x)
        b1 = dot_pairs_i32x8(b1, high, x)
        x = splat_load_i32x8(w + 2 * query_bytes)
        c0 = dot_pairs_i32x8(c0, low, x)
        c1 = dot_pairs_i32x8(c1, high, x)
        x = splat_load_i32x8(w + 3 * query_bytes)
        d0 = dot_pairs_i32x8(d0, low, x)
        d1 = dot_pairs_i32x8(d1, high, x)
    store_i32x8(out, a0)
    store_i32x8(out + 32, a1)
    out += out_bytes
    store_i32x8(out, b0)
    store_i32x8(out + 32, b1)
    out += out_bytes
    store_i32x8(out, c0)
    store_i32x8(out + 32, c1)
    out += out_bytes
    store_i32x8(out, d0)
    store_i32x8(out + 32, d1)


@jit
def _one_by_one(tile, query, pairs, out):
    low = zero_i32x8()
    high = zero_i32x8()
    for p in range(pairs):
        x = splat_load_i32x8(query + 4 * p)
        low = dot_pairs_i32x8(low, load_i32x8(tile + 64 * p), x)
        high = dot_pairs_i32x8(high, load_i32x8(tile + 64 * p + 32), x)
    store_i32x8(out, low)
    store_i32x8(out + 32, high)


@jit
def dot_tiles_avx2(tiles, queries, acc):
    """See `dot_tiles_portable`; all three arrays are C-contiguous."""
    n_tiles = tiles.shape[0]
    pairs = tiles.shape[1]
    nq = queries.shape[0]
    tile_bytes = pairs * 64
    query_bytes = pairs * 4
    out_bytes = acc.shape[1] * 4
    tile0 = tiles.ctypes.data
    query0 = queries.ctypes.data
    out0 = acc.ctypes.data
    whole = nq // 4 * 4
    for t in range(n_tiles):
        tile = tile0 + t * tile_bytes
        out = out0 + t * 64
        for q in range(0, whole, 4):
            _one_by_four(tile, query0 + q * query_bytes, query_bytes, pairs, out + q * out_bytes, out_bytes)
        for q in range(whole, nq):
            _one_by_one(tile, query0 + q * query_bytes, pairs, out + q * out_bytes)

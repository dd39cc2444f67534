"""`dot_tiles` with NEON: one tile by four queries at a time, sixteen sums in registers.

The even and the odd coordinates are parted once a tile, for all four queries: then each `smlal` multiplies four vectors
and adds, where the pairs as they lie would take two products and two additions for as much.
"""

from __future__ import annotations

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.integers import multiply_add_high_i32x4, multiply_add_low_i32x4
from tqvec.kernels.simd.memory import load_i16x8, splat_load_i16x8, store_i32x4, zero_i32x4
from tqvec.kernels.simd.shuffles import join_evens_i16x8, join_odds_i16x8


@jit
def _one_by_four(tile, query, query_bytes, pairs, out, out_bytes):
    a0 = zero_i32x4()
    a1 = zero_i32x4()
    a2 = zero_i32x4()
    a3 = zero_i32x4()
    b0 = zero_i32x4()
    b1 = zero_i32x4()
    b2 = zero_i32x4()
    b3 = zero_i32x4()
    c0 = zero_i32x4()
    c1 = zero_i32x4()
    c2 = zero_i32x4()
    c3 = zero_i32x4()
    d0 = zero_i32x4()
    d1 = zero_i32x4()
    d2 = zero_i32x4()
    d3 = zero_i32x4()
    for p in range(pairs):
        at = tile + 64 * p
        r0 = load_i16x8(at)
        r1 = load_i16x8(at + 16)
        r2 = load_i16x8(at + 32)
        r3 = load_i16x8(at + 48)
        even0 = join_evens_i16x8(r0, r1)
        odd0 = join_odds_i16x8(r0, r1)
        even1 = join_evens_i16x8(r2, r3)
        odd1 = join_odds_i16x8(r2, r3)
        w = query + 4 * p
        x = splat_load_i16x8(w)
        y = splat_load_i16x8(w + 2)
        a0 = multiply_add_low_i32x4(multiply_add_low_i32x4(a0, even0, x), odd0, y)
        a1 = multiply_add_high_i32x4(multiply_add_high_i32x4(a1, even0, x), odd0, y)
        a2 = multiply_add_low_i32x4(multiply_add_low_i32x4(a2, even1, x), odd1, y)
        a3 = multiply_add_high_i32x4(multiply_add_high_i32x4(a3, even1, x), odd1, y)
        x = splat_load_i16x8(w + query_bytes)
        y = splat_load_i16x8(w + query_bytes + 2)
        b0 = multiply_add_low_i32x4(multiply_add_low_i32x4(b0, even0, x), odd0, y)
        b1 = multiply_add_high_i32x4(multiply_add_high_i32x4(b1, even0, x), odd0, y)
        b2 = multiply_add_low_i32x4(multiply_add_low_i32x4(b2, even1, x), odd1, y)
        b3 = multiply_add_high_i32x4(multiply_add_high_i32x4(b3, even1, x), odd1, y)
        x = splat_load_i16x8(w + 2 * query_bytes)
        y = splat_load_i16x8(w + 2 * query_bytes + 2)
        c0 = multiply_add_low_i32x4(multiply_add_low_i32x4(c0, even0, x), odd0, y)
        c1 = multiply_add_high_i32x4(multiply_add_high_i32x4(c1, even0, x), odd0, y)
        c2 = multiply_add_low_i32x4(multiply_add_low_i32x4(c2, even1, x), odd1, y)
        c3 = multiply_add_high_i32x4(multiply_add_high_i32x4(c3, even1, x), odd1, y)
        x = splat_load_i16x8(w + 3 * query_bytes)
        y = splat_load_i16x8(w + 3 * query_bytes + 2)
        d0 = multiply_add_low_i32x4(multiply_add_low_i32x4(d0, even0, x), odd0, y)
        d1 = multiply_add_high_i32x4(multiply_add_high_i32x4(d1, even0, x), odd0, y)
        d2 = multiply_add_low_i32x4(multiply_add_low_i32x4(d2, even1, x), odd1, y)
        d3 = multiply_add_high_i32x4(multiply_add_high_i32x4(d3, even1, x), odd1, y)
    store_i32x4(out, a0)
    store_i32x4(out + 16, a1)
    store_i32x4(out + 32, a2)
    store_i32x4(out + 48, a3)
    out += out_bytes
    store_i32x4(out, b0)
    store_i32x4(out + 16, b1)
    store_i32x4(out + 32, b2)
    store_i32x4(out + 48, b3)
    out += out_bytes
    store_i32x4(out, c0)
    store_i32x4(out + 16, c1)
    store_i32x4(out + 32, c2)
    store_i32x4(out + 48, c3)
    out += out_bytes
    store_i32x4(out, d0)
    store_i32x4(out + 16, d1)
    store_i32x4(out + 32, d2)
    store_i32x4(out + 48, d3)


@jit
def _one_by_one(tile, query, pairs, out):
    a0 = zero_i32x4()
    a1 = zero_i32x4()
    a2 = zero_i32x4()
    a3 = zero_i32x4()
    for p in range(pairs):
        at = tile + 64 * p
        r0 = load_i16x8(at)
        r1 = load_i16x8(at + 16)
        r2 = load_i16x8(at + 32)
        r3 = load_i16x8(at + 48)
        even0 = join_evens_i16x8(r0, r1)
        odd0 = join_odds_i16x8(r0, r1)
        even1 = join_evens_i16x8(r2, r3)
        odd1 = join_odds_i16x8(r2, r3)
        w = query + 4 * p
        x = splat_load_i16x8(w)
        y = splat_load_i16x8(w + 2)
        a0 = multiply_add_low_i32x4(multiply_add_low_i32x4(a0, even0, x), odd0, y)
        a1 = multiply_add_high_i32x4(multiply_add_high_i32x4(a1, even0, x), odd0, y)
        a2 = multiply_add_low_i32x4(multiply_add_low_i32x4(a2, even1, x), odd1, y)
        a3 = multiply_add_high_i32x4(multiply_add_high_i32x4(a3, even1, x), odd1, y)
    store_i32x4(out, a0)
    store_i32x4(out + 16, a1)
    store_i32x4(out + 32, a2)
    store_i32x4(out + 48, a3)


@jit
def dot_tiles_neon(tiles, queries, acc):
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

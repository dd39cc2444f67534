"""`dot_tiles` with AVX-512 VNNI: three tiles by four queries at a time, twelve sums in registers."""

from __future__ import annotations

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.integers import add_i32x16
from tqvec.kernels.simd.memory import load_i32x16, splat_load_i32x16, store_i32x16, zero_i32x16
from tqvec.kernels.simd.x86 import dot_pairs_i32x16


@jit
def _three_by_four(tile, tile_bytes, query, query_bytes, pairs, out, out_bytes):
    a0 = zero_i32x16()
    a1 = zero_i32x16()
    a2 = zero_i32x16()
    b0 = zero_i32x16()
    b1 = zero_i32x16()
    b2 = zero_i32x16()
    c0 = zero_i32x16()
    c1 = zero_i32x16()
    c2 = zero_i32x16()
    d0 = zero_i32x16()
    d1 = zero_i32x16()
    d2 = zero_i32x16()
    for p in range(pairs):
        at = tile + 64 * p
        v0 = load_i32x16(at)
        v1 = load_i32x16(at + tile_bytes)
        v2 = load_i32x16(at + 2 * tile_bytes)
        w = query + 4 * p
        x = splat_load_i32x16(w)
        a0 = dot_pairs_i32x16(a0, v0, x)
        a1 = dot_pairs_i32x16(a1, v1, x)
        a2 = dot_pairs_i32x16(a2, v2, x)
        x = splat_load_i32x16(w + query_bytes)
        b0 = dot_pairs_i32x16(b0, v0, x)
        b1 = dot_pairs_i32x16(b1, v1, x)
        b2 = dot_pairs_i32x16(b2, v2, x)
        x = splat_load_i32x16(w + 2 * query_bytes)
        c0 = dot_pairs_i32x16(c0, v0, x)
        c1 = dot_pairs_i32x16(c1, v1, x)
        c2 = dot_pairs_i32x16(c2, v2, x)
        x = splat_load_i32x16(w + 3 * query_bytes)
        d0 = dot_pairs_i32x16(d0, v0, x)
        d1 = dot_pairs_i32x16(d1, v1, x)
        d2 = dot_pairs_i32x16(d2, v2, x)
    store_i32x16(out, a0)
    store_i32x16(out + 64, a1)
    store_i32x16(out + 128, a2)
    out += out_bytes
    store_i32x16(out, b0)
    store_i32x16(out + 64, b1)
    store_i32x16(out + 128, b2)
    out += out_bytes
    store_i32x16(out, c0)
    store_i32x16(out + 64, c1)
    store_i32x16(out + 128, c2)
    out += out_bytes
    store_i32x16(out, d0)
    store_i32x16(out + 64, d1)
    store_i32x16(out + 128, d2)


@jit
def _one_by_one(tile, query, pairs, out):
    # Four sums, since one alone would wait for its own last addition in every step.
    a0 = zero_i32x16()
    a1 = zero_i32x16()
    a2 = zero_i32x16()
    a3 = zero_i32x16()
    whole = pairs // 4 * 4
    for p in range(0, whole, 4):
        at = tile + 64 * p
        w = query + 4 * p
        a0 = dot_pairs_i32x16(a0, load_i32x16(at), splat_load_i32x16(w))
        a1 = dot_pairs_i32x16(a1, load_i32x16(at + 64), splat_load_i32x16(w + 4))
        a2 = dot_pairs_i32x16(a2, load_i32x16(at + 128), splat_load_i32x16(w + 8))
        a3 = dot_pairs_i32x16(a3, load_i32x16(at + 192), splat_load_i32x16(w + 12))
    for p in range(whole, pairs):
        a0 = dot_pairs_i32x16(a0, load_i32x16(tile + 64 * p), splat_load_i32x16(query + 4 * p))
    store_i32x16(out, add_i32x16(add_i32x16(a0, a1), add_i32x16(a2, a3)))


@jit
def dot_tiles_avx512(tiles, queries, acc):
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
    for q in range(0, nq, 4):
        query = query0 + q * query_bytes
        t = 0
        if q + 4 <= nq:
            while t + 3 <= n_tiles:
                out = out0 + q * out_bytes + t * 64
                _three_by_four(tile0 + t * tile_bytes, tile_bytes, query, query_bytes, pairs, out, out_bytes)
                t += 3
        for rest in range(t, n_tiles):
            for r in range(min(4, nq - q)):
                out = out0 + (q + r) * out_bytes + rest * 64
                _one_by_one(tile0 + rest * tile_bytes, query + r * query_bytes, pairs, out)

"""`dot_tiles` with AVX-512 VNNI: three tiles by four queries at a time, twelve sums in registers."""

from __future__ import annotations

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.integers import add_i32x16
from tqvec.kernels.simd.memory import load_i32x16, splat_load_i32x16, store_i32x16, zero_i32x16
from tqvec.kernels.simd.x86 import dot_pairs_i32x16


@jit
def _add(sums, values, x):
    """Add the products of three registers with the same pairs of a query."""
    return (
        dot_pairs_i32x16(sums[0], values[0], x),
        dot_pairs_i32x16(sums[1], values[1], x),
        dot_pairs_i32x16(sums[2], values[2], x),
    )


@jit
def _store(out, sums):
    store_i32x16(out, sums[0])
    store_i32x16(out + 64, sums[1])
    store_i32x16(out + 128, sums[2])


@jit
def _three_by_four(tile, tile_bytes, query, query_bytes, pairs, out, out_bytes):
    a = b = c = d = zero_i32x16(), zero_i32x16(), zero_i32x16()
    for p in range(pairs):
        at = tile + 64 * p
        values = load_i32x16(at), load_i32x16(at + tile_bytes), load_i32x16(at + 2 * tile_bytes)
        w = query + 4 * p
        a = _add(a, values, splat_load_i32x16(w))
        b = _add(b, values, splat_load_i32x16(w + query_bytes))
        c = _add(c, values, splat_load_i32x16(w + 2 * query_bytes))
        d = _add(d, values, splat_load_i32x16(w + 3 * query_bytes))
    _store(out, a)
    _store(out + out_bytes, b)
    _store(out + 2 * out_bytes, c)
    _store(out + 3 * out_bytes, d)


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

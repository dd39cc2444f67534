"""`dot_tiles` with AVX2: one tile (two registers) by four queries at a time, eight sums in registers."""

from __future__ import annotations

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.memory import load_i32x8, splat_load_i32x8, store_i32x8, zero_i32x8
from tqvec.kernels.simd.x86 import dot_pairs_i32x8


@jit
def _add(sums, values, x):
    """Add the products of two registers with the same pairs of a query."""
    return dot_pairs_i32x8(sums[0], values[0], x), dot_pairs_i32x8(sums[1], values[1], x)


@jit
def _store(out, sums):
    store_i32x8(out, sums[0])
    store_i32x8(out + 32, sums[1])


@jit
def _one_by_four(tile, query, query_bytes, pairs, out, out_bytes):
    a = b = c = d = zero_i32x8(), zero_i32x8()
    for p in range(pairs):
        values = load_i32x8(tile + 64 * p), load_i32x8(tile + 64 * p + 32)
        w = query + 4 * p
        a = _add(a, values, splat_load_i32x8(w))
        b = _add(b, values, splat_load_i32x8(w + query_bytes))
        c = _add(c, values, splat_load_i32x8(w + 2 * query_bytes))
        d = _add(d, values, splat_load_i32x8(w + 3 * query_bytes))
    _store(out, a)
    _store(out + out_bytes, b)
    _store(out + 2 * out_bytes, c)
    _store(out + 3 * out_bytes, d)


@jit
def _one_by_one(tile, query, pairs, out):
    sums = zero_i32x8(), zero_i32x8()
    for p in range(pairs):
        at = tile + 64 * p
        sums = _add(sums, (load_i32x8(at), load_i32x8(at + 32)), splat_load_i32x8(query + 4 * p))
    _store(out, sums)


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

"""Search of a batch with AMX: byte products of all rows and queries, full scores of the few that may count."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.pack.portable import padded_words
from tqvec.kernels.simd.amx import load_config, make_dot, make_load, make_store, make_zero, release_tiles
from tqvec.kernels.simd.base import (
    add_f32x16,
    at_least_f32x16,
    load_f32x16,
    load_i8x64,
    load_i32x16,
    lowest_bit,
    mul_f32x16,
    splat_f32x16,
    store_i8x64,
    to_f32x16,
)
from tqvec.kernels.simd.x86 import permute_i8x64
from tqvec.kernels.staged.avx512 import full_score_avx512, prefix_codes
from tqvec.kernels.topk.portable import topk_push_portable

PAIR = 2 * LANES  # rows, and queries, of one step: two tiles by two tiles, whose sums fill tiles 0 to 3
BLOCK_BYTES = 1 << 19  # of unpacked levels, a part of the second-level cache that all queries share

_zero_0, _zero_1, _zero_2, _zero_3 = (make_zero(tile) for tile in range(4))
_store_0, _store_1, _store_2, _store_3 = (make_store(tile) for tile in range(4))
_load_4, _load_5, _load_6, _load_7 = (make_load(tile) for tile in range(4, 8))
_dot_046, _dot_047 = make_dot(0, 4, 6), make_dot(1, 4, 7)
_dot_156, _dot_157 = make_dot(2, 5, 6), make_dot(3, 5, 7)


@jit
def unpack_levels_amx(data, start, stop, plane_bytes, planes, table, words, out):
    """Byte levels of rows ``start .. stop`` from their first `planes` planes; ``out[i, j]`` is coordinate j, int8."""
    levels = load_i8x64(table.ctypes.data)
    data0 = data.ctypes.data
    out0 = out.ctypes.data
    for i in range(start, stop):
        row = data0 + i * data.shape[1]
        to = out0 + (i - start) * out.shape[1]
        for w in range(words):
            store_i8x64(to + 64 * w, permute_i8x64(levels, prefix_codes(row + 8 * w, plane_bytes, planes)))


@jit
def pair_products_amx(levels, queries, words, out):
    """Dot products of 32 rows with 32 queries.

    `levels` is the address of 32 rows of 64 * words int8, `queries` that of two times `words` packed tiles,
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
    _store_0(out, 4 * PAIR)
    _store_1(out + 64, 4 * PAIR)
    _store_2(out + 4 * PAIR * LANES, 4 * PAIR)
    _store_3(out + 4 * PAIR * LANES + 64, 4 * PAIR)


@jit
def search_batch_amx(data, factor, bias, bands, levels, spread, batch, start, stop, scores, ids):
    """Offer rows ``start .. stop`` to the heaps of a batch of queries.

    Parameters
    ----------
    data, factor, bias, bands, levels, spread
        As in `search_staged_avx512`.
    batch : BatchTables
    start, stop : int
    scores, ids : (nq, k) float32 and int64
        Heaps.
    """
    nq = scores.shape[0]
    words = batch.packed.shape[1]
    width = 64 * words
    plane_bytes = (bands[0, 1] - bands[0, 0]) // 8
    rows = max(1, BLOCK_BYTES // (width * PAIR)) * PAIR
    unpacked = np.zeros((rows, width), np.int8)
    products = np.empty((PAIR, PAIR), np.int32)
    threshold = np.full(batch.worth.size, np.inf, np.float32)  # of the queries that only fill up a tile
    for q in range(nq):
        threshold[q] = scores[q, 0]
    level_words = levels[0, :32].astype(np.int16)
    room = np.zeros(padded_words(bands), np.uint64)
    load_config(batch.config.ctypes.data)
    for block in range(start, stop, rows):
        n = min(rows, stop - block)
        unpack_levels_amx(data, block, block + n, plane_bytes, batch.planes, batch.table, words, unpacked)
        for q in range(0, batch.worth.size, PAIR):
            packed = batch.packed.ctypes.data + q // LANES * words * 1024
            worth = batch.worth.ctypes.data + 4 * q
            slack = batch.slack.ctypes.data + 4 * q
            for r in range(0, n, PAIR):
                # Numba frees an array after the last mention of its name: addresses are taken where they are used.
                least = threshold.ctypes.data + 4 * q
                product = products.ctypes.data
                pair_products_amx(unpacked.ctypes.data + r * width, packed, words, product)
                for v in range(min(PAIR, n - r)):
                    i = block + r + v
                    scale = splat_f32x16(factor[i])
                    shift = splat_f32x16(bias[i] if bias.size > 0 else np.float32(0.0))
                    for h in range(2):
                        at = 64 * h
                        x = mul_f32x16(to_f32x16(load_i32x16(product + 128 * v + at)), load_f32x16(worth + at))
                        x = add_f32x16(mul_f32x16(add_f32x16(x, load_f32x16(slack + at)), scale), shift)
                        bits = at_least_f32x16(x, load_f32x16(least + at))
                        while bits != 0:
                            best = q + h * LANES + lowest_bit(bits)
                            bits &= bits - np.uint64(1)
                            score = full_score_avx512(
                                data, i, bands, levels, level_words, spread, batch.integers[best], batch.unit[best],
                                factor, bias, room,
                            )  # fmt: skip
                            topk_push_portable(score, i, scores[best], ids[best])
                            threshold[best] = scores[best, 0]
    release_tiles()

"""Search of a batch of queries: byte products of all rows and queries, full scores of the few that may count."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.scan.allowed import SPARE, allowed_rows
from tqvec.kernels.simd.bits import find_lowest_bit
from tqvec.kernels.simd.floats import (
    add_f32x16,
    convert_f32x16,
    greater_equal_f32x16,
    min_f32x16,
    mul_f32x16,
    sub_f32x16,
)
from tqvec.kernels.simd.memory import load_f32x16, load_i32x16, splat_f32x16
from tqvec.kernels.staged.dots import row_dot
from tqvec.kernels.topk.portable import topk_push_portable

unpack_levels = kernel("unpack_levels")
begin_products = kernel("begin_products")
pair_products = kernel("pair_products")
end_products = kernel("end_products")

TINY = np.float32(1e-30)  # stands for a factor of 0
LEAST_WORTH = np.finfo(np.float32).tiny  # stands for that of a zero query, whose rows all reach a threshold of 0
PAIR = 2 * LANES  # rows, and queries, of one step
BLOCK_BYTES = 1 << 19  # of unpacked levels, a part of the second-level cache that all queries share


@jit
def _extremes(factor, bias, places, count, out):
    """For each `PAIR` of rows ``places[:count]``: 1 / largest factor, 1 / smallest factor, largest bias; out (…, 3)."""
    for r in range(0, count, PAIR):
        low = np.float32(np.inf)
        high = TINY
        shift = np.float32(-np.inf) if bias.size > 0 else np.float32(0.0)
        for v in range(r, min(r + PAIR, count)):
            i = places[v]
            low = min(low, max(factor[i], TINY))
            high = max(high, factor[i])
            if bias.size > 0:
                shift = max(shift, bias[i])
        out[r // PAIR, 0] = np.float32(1.0) / high
        out[r // PAIR, 1] = np.float32(1.0) / low
        out[r // PAIR, 2] = shift


@jit
def _cut(least, slack, inverse, extremes):
    """What a product must reach at least, whichever of the rows it belongs to, for its score to reach `least`.

    All but `extremes` (3,) are addresses of 16 numbers. ``(product worth + slack) factor + bias`` grows with the bias,
    and with the factor unless it is below the bias.
    """
    short = sub_f32x16(load_f32x16(least), splat_f32x16(extremes[2]))
    needed = min_f32x16(mul_f32x16(short, splat_f32x16(extremes[0])), mul_f32x16(short, splat_f32x16(extremes[1])))
    return mul_f32x16(sub_f32x16(needed, load_f32x16(slack)), load_f32x16(inverse))


@jit
def search_batch_avx2(data, factor, bias, stages, batch, allowed, base, start, stop, scores, ids):
    """Offer the allowed ones of rows ``start .. stop`` to the heaps of a batch of queries.

    Parameters
    ----------
    data, factor, bias, stages
        As in `search_staged_avx2`.
    batch : BatchTables
    allowed, base
        As in `search_rows_portable`.
    start, stop : int
    scores, ids : (nq, k) float32 and int64
        Heaps.
    """
    nq = scores.shape[0]
    words = batch.packed.shape[1]
    width = 64 * words
    n_bands = stages.layout.shape[0]
    rows = max(1, BLOCK_BYTES // (width * PAIR)) * PAIR
    unpacked = np.zeros((rows, width), np.uint8)
    products = np.empty((PAIR, PAIR), np.int32)
    extremes = np.empty((rows // PAIR, 3), np.float32)
    inverse = np.float32(1.0) / np.maximum(batch.worth, LEAST_WORTH)
    threshold = np.full(batch.worth.size, np.inf, np.float32)  # of the queries that only fill up a tile
    for q in range(nq):
        threshold[q] = scores[q, 0]
    begin_products(batch.config)
    places = np.empty(rows + SPARE, np.int32)
    at = start
    while at < stop:
        n, at = allowed_rows(allowed, at, stop, rows, places)
        for b in range(n_bands):
            band = stages.layout[b]
            unpack_levels(
                data.ctypes.data + band[0], data.shape[1], places.ctypes.data, n, band[1], batch.planes[b], band[3],
                batch.table[b].ctypes.data, band[5], unpacked.ctypes.data + band[4], width,
            )  # fmt: skip
        _extremes(factor, bias, places, n, extremes)
        for q in range(0, batch.worth.size, PAIR):
            packed = batch.packed.ctypes.data + q // LANES * words * 1024
            worth = batch.worth.ctypes.data + 4 * q
            slack = batch.slack.ctypes.data + 4 * q
            for r in range(0, n, PAIR):
                # Numba frees an array after the last mention of its name: addresses are taken where they are used.
                least = threshold.ctypes.data + 4 * q
                product = products.ctypes.data
                pair_products(unpacked.ctypes.data + r * width, packed, words, product)
                few = extremes[r // PAIR]
                low_cut = _cut(least, slack, inverse.ctypes.data + 4 * q, few)
                high_cut = _cut(least + 64, slack + 64, inverse.ctypes.data + 4 * q + 64, few)
                for v in range(min(PAIR, n - r)):
                    sums = product + 128 * v
                    passed = greater_equal_f32x16(convert_f32x16(load_i32x16(sums)), low_cut)
                    passed |= greater_equal_f32x16(convert_f32x16(load_i32x16(sums + 64)), high_cut)
                    if passed == 0:
                        continue
                    i = places[r + v]
                    scale = splat_f32x16(factor[i])
                    shift = splat_f32x16(bias[i] if bias.size > 0 else np.float32(0.0))
                    for h in range(2):
                        half = 64 * h
                        x = mul_f32x16(convert_f32x16(load_i32x16(sums + half)), load_f32x16(worth + half))
                        x = add_f32x16(mul_f32x16(add_f32x16(x, load_f32x16(slack + half)), scale), shift)
                        bits = greater_equal_f32x16(x, load_f32x16(least + half))
                        while bits != 0:
                            best = q + h * LANES + find_lowest_bit(bits)
                            bits &= bits - np.uint64(1)
                            row = data.ctypes.data + i * data.shape[1]
                            layout, table = stages.layout.ctypes.data, stages.level_bytes.ctypes.data
                            query = batch.integers.ctypes.data + 2 * width * best
                            total = row_dot(row, layout, n_bands, table, query)
                            score = np.float32(total) * batch.unit[best] * factor[i]
                            if bias.size > 0:
                                score += bias[i]
                            if score >= threshold[best]:
                                topk_push_portable(score, base + i, scores[best], ids[best])
                                threshold[best] = scores[best, 0]
    end_products()

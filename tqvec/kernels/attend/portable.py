"""Attention of queries on rows of codes: scores, softmax and the sum of values (README.md)."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.pack.portable import SPREAD, padded_words, unpack_row_portable
from tqvec.kernels.scan.portable import adc_rows_portable
from tqvec.kernels.trellis.windows import indices_of_row_portable

BLOCK = 256  # rows whose values are added up before they join the rest

# Cephes' expf (Moshier): e^x = 2^n e^r with r = x - n ln 2, ln 2 in two parts, e^r as 1 + r + r² times a polynomial.
LOWEST = np.float32(-87.0)  # e^x is 0 below; 2^n is a normal number above
LOG2_E = np.float32(1.44269504088896341)
LN2_HIGH = np.float32(0.693359375)
LN2_LOW = np.float32(-2.12194440e-4)
P0 = np.float32(1.9875691500e-4)
P1 = np.float32(1.3981999507e-3)
P2 = np.float32(8.3334519073e-3)
P3 = np.float32(4.1665795894e-2)
P4 = np.float32(1.6666665459e-1)
P5 = np.float32(5.0000001201e-1)
ONE = np.float32(1.0)

# Eigen's tanh of float32: odd and even polynomials of degrees 13 and 6, whose quotient is ±1 from SATURATED on.
SATURATED = np.float32(7.90531110763549805)
A1 = np.float32(4.89352455891786e-03)
A3 = np.float32(6.37261928875436e-04)
A5 = np.float32(1.48572235717979e-05)
A7 = np.float32(5.12229709037114e-08)
A9 = np.float32(-8.60467152213735e-11)
A11 = np.float32(2.00018790482477e-13)
A13 = np.float32(-2.76076847742355e-16)
B0 = np.float32(4.89352518554385e-03)
B2 = np.float32(2.26843463243900e-03)
B4 = np.float32(1.18534705686654e-04)
B6 = np.float32(1.19825839466702e-06)


@jit
def widen_scales(scale, start, count, out):
    """Convert the size of bfloat16 scales ``start .. start + count``, as uint16, to the first entries of `out` float32.

    The sign bit has another meaning (rope/README.md).
    """
    bits = out.view(np.uint32)
    for i in range(count):
        bits[i] = np.uint32(scale[start + i] & np.uint16(0x7FFF)) << np.uint32(16)


@jit
def code_scores_portable(tables, queries, codes, scale, out):
    """Compute the scores of rotated queries and rows of codes.

    Parameters
    ----------
    tables : AttentionTables
    queries : (g, d) float32
        Rotated.
    codes : (n, code bytes) uint8
    scale : (n,) uint16
        Bfloat16.
    out : (g, n) float32
        Filled with ``scale[t] * <queries[i], c_t>``.
    """
    n = codes.shape[0]
    wide = np.empty(BLOCK, np.float32)
    for t in range(0, n, BLOCK):
        count = min(BLOCK, n - t)
        widen_scales(scale, t, count, wide)
        adc_rows_portable(codes[t : t + count], wide, tables, SPREAD, queries, 0, count, out[:, t : t + count])


@jit
def _exponentials(x, largest, power):
    """Replace `x` by ``e**(x - largest)``; the workspace `power` int32 is at least as long."""
    factor = power.view(np.float32)
    for t in range(x.size):
        z = max(x[t] - largest, LOWEST)
        n = np.rint(z * LOG2_E)
        r = z - n * LN2_HIGH - n * LN2_LOW
        p = ((((P0 * r + P1) * r + P2) * r + P3) * r + P4) * r + P5
        power[t] = (np.int32(n) + np.int32(127)) << np.int32(23)
        x[t] = np.float32(0.0) if x[t] - largest < LOWEST else p * (r * r) + r + ONE
    for t in range(x.size):
        x[t] *= factor[t]


@jit
def _largest(x, lanes):
    """The largest number, or -infinity if there is none; `lanes` (LANES,) float32 is workspace."""
    lanes[:] = -np.inf
    whole = x.size // LANES * LANES
    for t in range(0, whole, LANES):
        part = x[t : t + LANES]
        for lane in range(LANES):
            lanes[lane] = max(lanes[lane], part[lane])
    for t in range(whole, x.size):
        lanes[t - whole] = max(lanes[t - whole], x[t])
    best = lanes[0]
    for lane in range(1, LANES):
        best = max(best, lanes[lane])
    return best


@jit
def _total(x, lanes):
    """The sum of all numbers; `lanes` (LANES,) float32 is workspace."""
    lanes[:] = np.float32(0.0)
    whole = x.size // LANES * LANES
    for t in range(0, whole, LANES):
        part = x[t : t + LANES]
        for lane in range(LANES):
            lanes[lane] += part[lane]
    for t in range(whole, x.size):
        lanes[t - whole] += x[t]
    total = 0.0
    for lane in range(LANES):
        total += np.float64(lanes[lane])
    return total


@jit
def cap_scores_portable(scores, cap):
    """Replace scores, (g, n) float32, by ``cap * tanh(score / cap)``; `cap` is a float32 above 0 (README.md)."""
    share = np.float32(1.0) / cap
    for q in range(scores.shape[0]):
        row = scores[q]
        for t in range(row.size):
            x = min(max(row[t] * share, -SATURATED), SATURATED)
            z = x * x
            p = ((((((A13 * z + A11) * z + A9) * z + A7) * z + A5) * z + A3) * z + A1) * x
            row[t] = cap * (p / (((B6 * z + B4) * z + B2) * z + B0))


@jit
def softmax_rows_portable(scores, seen, largest, total):
    """Replace scores by ``e**(score - largest score)``, and by 0 where a query may not see the row.

    Parameters
    ----------
    scores : (g, n) float32
    seen : (g,) int64
        Query i sees the first ``seen[i]`` rows.
    largest, total : (g,) float32
        Filled: the largest score seen, -infinity if there is none; the sum of the weights that replace the scores.
    """
    n = scores.shape[1]
    lanes = np.empty(LANES, np.float32)
    power = np.empty(BLOCK, np.int32)
    for q in range(scores.shape[0]):
        count = max(0, min(n, seen[q]))
        row = scores[q]
        largest[q] = _largest(row[:count], lanes)
        sums = 0.0
        for t in range(0, count, BLOCK):
            part = row[t : min(t + BLOCK, count)]
            _exponentials(part, largest[q], power)
            sums += _total(part, lanes)
        total[q] = np.float32(sums)
        row[count:] = np.float32(0.0)


@jit
def add_values_portable(tables, weights, codes, scale, least, out, skipped):
    """Add the weighted values of rows of codes to sums.

    Parameters
    ----------
    tables : AttentionTables
    weights : (g, n) float32
        At least 0.
    codes : (n, code bytes) uint8
    scale : (n,) uint16
        Bfloat16.
    least : float32
        Rows are left out where all weights are less, or 0.
    out : (g, d) float32
        ``out[i]`` gains the sum of ``weights[i, t] * scale[t] * c_t``, `BLOCK` rows at a time.
    skipped : (g,) float32
        Gains the weights of the rows that are left out.
    """
    g, n = weights.shape
    d = out.shape[1]
    bands, windows, centroids = tables.bands, tables.windows, tables.centroids
    words = np.zeros(padded_words(bands), np.uint64)
    flat = words.view(np.uint8)
    level = np.empty(d, np.float32)
    wide = np.empty(BLOCK, np.float32)
    sums = np.empty((g, d), np.float32)
    for start in range(0, n, BLOCK):
        count = min(BLOCK, n - start)
        widen_scales(scale, start, count, wide)
        sums[:] = np.float32(0.0)
        for i in range(count):
            t = start + i
            heaviest = np.float32(0.0)
            for q in range(g):
                heaviest = max(heaviest, weights[q, t])
            if heaviest < least or heaviest == 0.0:
                for q in range(g):
                    skipped[q] += weights[q, t]
                continue
            unpack_row_portable(codes[t], bands, SPREAD, words)
            indices_of_row_portable(words, bands, windows)
            first = 0
            for b in range(bands.shape[0]):
                lo = bands[b, 0]
                centroid = centroids[b]
                for j in range(lo, bands[b, 1]):
                    level[j] = centroid[flat[first + j - lo]]
                first += (bands[b, 1] - lo + 7) // 8 * 8
            for q in range(g):
                weight = weights[q, t] * wide[i]
                row = sums[q]
                for j in range(d):
                    row[j] += weight * level[j]
        for q in range(g):
            for j in range(d):
                out[q, j] += sums[q, j]

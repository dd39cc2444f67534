"""Keys less a mean that turns with the position, in the order and the units in which they are coded (README.md)."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit

# Cosine and sine of a float64, from fdlibm (Sun Microsystems): sums and products alone, so the bits are the same
# everywhere, as those of a library's functions are not. π/2 is in three parts of which the first two have 33 bits.
_TWO_OVER_PI = 0.6366197723675814
_PIO2_1, _PIO2_2, _PIO2_3 = 1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21
_S1, _S2, _S3 = -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04
_S4, _S5, _S6 = 2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10
_C1, _C2, _C3 = 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05
_C4, _C5, _C6 = -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11


@jit
def turn_tables_portable(frequencies, first, cosines, sines):
    """Fill in the cosine and sine of each angle ``frequency * position``.

    Parameters
    ----------
    frequencies : (f,) float64
        Radians per token.
    first : int
        Position of the first token: below 2^40, and the largest angle below 2^20 radians.
    cosines, sines : (n, f) float32
        Filled, for positions ``first .. first + n``.
    """
    for t in range(cosines.shape[0]):
        position = np.float64(first + t)
        for i in range(frequencies.size):
            angle = frequencies[i] * position
            k = np.rint(angle * _TWO_OVER_PI)
            r = ((angle - k * _PIO2_1) - k * _PIO2_2) - k * _PIO2_3
            z = r * r
            sine = r + r * z * (_S1 + z * (_S2 + z * (_S3 + z * (_S4 + z * (_S5 + z * _S6)))))
            p = z * (_C1 + z * (_C2 + z * (_C3 + z * (_C4 + z * (_C5 + z * _C6)))))
            cosine = 1.0 - (0.5 * z - z * p)
            quarter = np.int64(k) & 3
            odd = (quarter & 1) == 1
            c, s = (sine if odd else cosine), (cosine if odd else sine)
            cosines[t, i] = np.float32(-c if quarter == 1 or quarter == 2 else c)
            sines[t, i] = np.float32(-s if quarter >= 2 else s)


@jit
def centre_keys_portable(keys, head, cosines, sines, out, plain):
    """Subtract the turned mean from keys where that makes them shorter, and bring all into the coded order and units.

    Parameters
    ----------
    keys : (n, d) float32
    head : HeadBasis
    cosines, sines : (n, f) float32
        Of the tokens' positions.
    out : (n, d) float32
        Filled.
    plain : (n,) uint8
        Filled: 1 where no mean was subtracted.
    """
    d = keys.shape[1]
    near, far = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    whole = np.empty(d, np.float32)
    for t in range(keys.shape[0]):
        row, rest, c, s = keys[t], out[t], cosines[t], sines[t]
        near[:] = np.float32(0.0)
        far[:] = np.float32(0.0)
        for j in range(d):
            f, x = head.frequency[j], row[head.order[j]]
            rest[j] = head.gain[j] * (x - (head.mean[j] * c[f] + head.crossed[j] * s[f]))
            whole[j] = head.gain[j] * x
        for first in range(0, d - d % LANES, LANES):
            for lane in range(LANES):
                near[lane] += rest[first + lane] * rest[first + lane]
                far[lane] += whole[first + lane] * whole[first + lane]
        for j in range(d - d % LANES, d):
            near[0] += rest[j] * rest[j]
            far[0] += whole[j] * whole[j]
        a, b = near[0], far[0]
        for lane in range(1, LANES):
            a += near[lane]
            b += far[lane]
        plain[t] = np.uint8(0) if a < b else np.uint8(1)
        if plain[t]:
            rest[:] = whole


@jit
def restore_keys_portable(rows, head, cosines, sines, plain, out):
    """Undo `centre_keys_portable`: fill `out`, (n, d) float32, with the keys of decoded rows."""
    for t in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            f = head.frequency[j]
            mean = head.mean[j] * cosines[t, f] + head.crossed[j] * sines[t, f]
            key = rows[t, j] / head.gain[j]
            out[t, head.order[j]] = key if plain[t] else key + mean


@jit
def add_means_portable(coefficients, table, scale, first, out):
    """Add to scores what the means of the tokens contribute: a small product per query and block of tokens.

    Parameters
    ----------
    coefficients : (g, blocks, r) float32
        r is a multiple of 4.
    table : (r, block size) float32
    scale : (n,) uint16
        Of the tokens' codes; the highest bit says that no mean was subtracted.
    first : int
        Place of the first token, counted from the beginning of the first block.
    out : (g, n) float32
        ``out[i, t]`` gains ``coefficients[i, b] @ table[:, k]`` for token ``first + t = b * block size + k``.
    """
    ranks, size = table.shape
    n = scale.size
    kept = np.empty(size, np.float32)
    sums = np.empty(size, np.float32)
    start = 0
    while start < n:
        block, at = (first + start) // size, (first + start) % size
        count = min(size - at, n - start)
        for i in range(count):
            kept[i] = np.float32(0.0) if scale[start + i] >> np.uint16(15) else np.float32(1.0)
        for q in range(coefficients.shape[0]):
            weights = coefficients[q, block]
            sums[:count] = np.float32(0.0)
            for r in range(0, ranks, 4):
                w0, w1, w2, w3 = weights[r], weights[r + 1], weights[r + 2], weights[r + 3]
                t0, t1 = table[r, at : at + count], table[r + 1, at : at + count]
                t2, t3 = table[r + 2, at : at + count], table[r + 3, at : at + count]
                for i in range(count):
                    sums[i] += (w0 * t0[i] + w1 * t1[i]) + (w2 * t2[i] + w3 * t3[i])
            row = out[q, start : start + count]
            for i in range(count):
                row[i] += kept[i] * sums[i]
        start += count

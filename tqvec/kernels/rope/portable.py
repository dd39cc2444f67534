"""Keys less a mean that turns with the position, in the order and the units in which they are coded (README.md)."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit

MEAN_BLOCK = 128  # tokens over which the curves of `MeanWaves` run

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
def start_phases(angles, position, steps, phases):
    """Fill in (cos, sin) of the angles at a position, `phases`, and of a block, `steps`: (f, 2) float64 each."""
    for p in range(angles.size):
        phases[p, 0], phases[p, 1] = np.cos(angles[p] * position), np.sin(angles[p] * position)
        steps[p, 0], steps[p, 1] = np.cos(angles[p] * MEAN_BLOCK), np.sin(angles[p] * MEAN_BLOCK)


@jit
def mean_coefficients(products, waves, steps, phases, out):
    """Fill in the coefficients of the curves for the block that begins at `phases`, and move these to the next block.

    Parameters
    ----------
    products : (g, f, 2) float32
        The mean contributes ``products[i, p, 0] * cos(a) + products[i, p, 1] * sin(a)``, summed over the angles a.
    waves : MeanWaves
    steps, phases : (f, 2) float64
        Those of `start_phases`.
    out : (g, rows) float32
    """
    terms = waves.cosine.shape[1]
    slow = waves.cosine.shape[0]
    out[:] = np.float32(0.0)
    for p in range(waves.angles.size):
        c, s = np.float32(phases[p, 0]), np.float32(phases[p, 1])
        for q in range(products.shape[0]):
            even = products[q, p, 0] * c + products[q, p, 1] * s
            odd = products[q, p, 1] * c - products[q, p, 0] * s
            if p < slow:
                row, cosine, sine = out[q], waves.cosine[p], waves.sine[p]
                for k in range(terms):
                    row[k] += even * cosine[k] + odd * sine[k]
            else:
                out[q, terms + 2 * (p - slow)] = even
                out[q, terms + 2 * (p - slow) + 1] = odd
        a, b = phases[p, 0], phases[p, 1]
        phases[p, 0] = a * steps[p, 0] - b * steps[p, 1]
        phases[p, 1] = b * steps[p, 0] + a * steps[p, 1]


@jit
def add_means_portable(products, waves, position, scale, out):
    """Add to scores what the mean key contributes to those of tokens from which it was subtracted.

    Parameters
    ----------
    products : (g, f, 2) float32
        As in `mean_coefficients`.
    waves : MeanWaves
    position : int
        Of the first token.
    scale : (n,) uint16
        Of the tokens' codes; the highest bit says that no mean was subtracted.
    out : (g, n) float32
    """
    g, n = out.shape
    steps, phases = np.empty((waves.angles.size, 2)), np.empty((waves.angles.size, 2))
    coefficients = np.empty((g, waves.table.shape[0]), np.float32)
    kept, sums = np.empty(MEAN_BLOCK, np.float32), np.empty(MEAN_BLOCK, np.float32)
    start_phases(waves.angles, np.float64(position), steps, phases)
    table = waves.table
    for start in range(0, n, MEAN_BLOCK):
        count = min(MEAN_BLOCK, n - start)
        mean_coefficients(products, waves, steps, phases, coefficients)
        for i in range(count):
            kept[i] = np.float32(0.0) if scale[start + i] >> np.uint16(15) else np.float32(1.0)
        for q in range(g):
            sums[:] = np.float32(0.0)
            for r in range(table.shape[0]):
                weight, curve = coefficients[q, r], table[r]
                for i in range(MEAN_BLOCK):
                    sums[i] += weight * curve[i]
            row = out[q, start : start + count]
            for i in range(count):
                row[i] += kept[i] * sums[i]

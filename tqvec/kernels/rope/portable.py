"""Keys less a mean that turns with the position, in the order and the units in which they are coded (README.md)."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit

MEAN_BLOCK = 128  # tokens over which the curves of `MeanWaves` run
MEAN_TERMS = LANES  # polynomials among them

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
    cosines, sines : (n, d) float32
        Of the angle of each coordinate at the tokens' positions.
    out : (n, d) float32
        Filled.
    plain : (n,) uint8
        Filled: 1 where no mean was subtracted.
    """
    d = keys.shape[1]
    near, far = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    rest, whole = np.empty(d, np.float32), np.empty(d, np.float32)
    mean, crossed, unit, order = head.mean, head.crossed, head.unit, head.order
    for t in range(keys.shape[0]):
        row, c, s, coded = keys[t], cosines[t], sines[t], out[t]
        for i in range(d):
            whole[i] = unit[i] * row[i]
            rest[i] = unit[i] * (row[i] - (mean[i] * c[i] + crossed[i] * s[i]))
        near[:] = np.float32(0.0)
        far[:] = np.float32(0.0)
        for first in range(0, d - d % LANES, LANES):
            a, b = rest[first : first + LANES], whole[first : first + LANES]
            for lane in range(LANES):
                near[lane] += a[lane] * a[lane]
                far[lane] += b[lane] * b[lane]
        for i in range(d - d % LANES, d):
            near[0] += rest[i] * rest[i]
            far[0] += whole[i] * whole[i]
        length, without = near[0], far[0]
        for lane in range(1, LANES):
            length += near[lane]
            without += far[lane]
        if length < without:
            plain[t] = np.uint8(0)
            for j in range(d):
                coded[j] = rest[order[j]]
        else:
            plain[t] = np.uint8(1)
            for j in range(d):
                coded[j] = whole[order[j]]


@jit
def restore_keys_portable(rows, head, cosines, sines, plain, out):
    """Undo `centre_keys_portable`: fill `out`, (n, d) float32, with the keys of decoded rows."""
    mean, crossed, unit, order = head.mean, head.crossed, head.unit, head.order
    for t in range(rows.shape[0]):
        row, key, c, s = rows[t], out[t], cosines[t], sines[t]
        for j in range(rows.shape[1]):
            key[order[j]] = row[j]
        if plain[t]:
            for i in range(rows.shape[1]):
                key[i] = key[i] / unit[i]
        else:
            for i in range(rows.shape[1]):
                key[i] = key[i] / unit[i] + (mean[i] * c[i] + crossed[i] * s[i])


@jit
def start_phases(angles, position):
    """Return cosines and sines of the angles at a position, (2, f) float64, and those of a block of tokens."""
    phases, steps = np.empty((2, angles.size)), np.empty((2, angles.size))
    for p in range(angles.size):
        phases[0, p], phases[1, p] = np.cos(angles[p] * position), np.sin(angles[p] * position)
        steps[0, p], steps[1, p] = np.cos(angles[p] * MEAN_BLOCK), np.sin(angles[p] * MEAN_BLOCK)
    return phases, steps


@jit
def next_waves(products, phases, steps, angle, out):
    """Fill in the factors of each wave's cosine and sine over the block at `phases`, and move these to the next block.

    Parameters
    ----------
    products : (2, g, f) float32
        The mean contributes ``products[0, i] @ cos(a) + products[1, i] @ sin(a)`` at angles a.
    phases, steps : (2, f) float64
        Those of `start_phases`.
    angle : (2, f) float32
        Workspace.
    out : (2, g, f) float32
    """
    f = products.shape[2]
    for p in range(f):
        angle[0, p], angle[1, p] = np.float32(phases[0, p]), np.float32(phases[1, p])
    for q in range(products.shape[1]):
        for p in range(f):
            out[0, q, p] = products[0, q, p] * angle[0, p] + products[1, q, p] * angle[1, p]
        for p in range(f):
            out[1, q, p] = products[1, q, p] * angle[0, p] - products[0, q, p] * angle[1, p]
    for p in range(f):
        c, s = phases[0, p], phases[1, p]
        phases[0, p] = c * steps[0, p] - s * steps[1, p]
        phases[1, p] = s * steps[0, p] + c * steps[1, p]


@jit
def place_fast_waves(factors, waves, coefficients):
    """Copy the factors of fast waves, from (2, g, f) to the coefficients (g, rows) behind those of polynomials."""
    slow = waves.cosine.shape[0]
    fast = factors.shape[2] - slow
    for q in range(factors.shape[1]):
        for p in range(fast):
            coefficients[q, MEAN_TERMS + p] = factors[0, q, slow + p]
        for p in range(fast):
            coefficients[q, MEAN_TERMS + fast + p] = factors[1, q, slow + p]


@jit
def add_means_portable(products, waves, position, scale, out):
    """Add to scores what the mean key contributes to those of tokens from which it was subtracted.

    Parameters
    ----------
    products : (2, g, f) float32
        As in `next_waves`.
    waves : MeanWaves
    position : int
        Of the first token.
    scale : (n,) uint16
        Of the tokens' codes; the highest bit says that no mean was subtracted.
    out : (g, n) float32
    """
    g, n = out.shape
    table, cosine, sine = waves.table, waves.cosine, waves.sine
    factors, angle = np.empty(products.shape, np.float32), np.empty((2, waves.angles.size), np.float32)
    coefficients = np.empty((g, table.shape[0]), np.float32)
    kept, sums = np.empty(MEAN_BLOCK, np.float32), np.empty(MEAN_BLOCK, np.float32)
    phases, steps = start_phases(waves.angles, np.float64(position))
    for start in range(0, n, MEAN_BLOCK):
        count = min(MEAN_BLOCK, n - start)
        next_waves(products, phases, steps, angle, factors)
        place_fast_waves(factors, waves, coefficients)
        for i in range(count):
            kept[i] = np.float32(0.0) if scale[start + i] >> np.uint16(15) else np.float32(1.0)
        for q in range(g):
            terms = coefficients[q, :MEAN_TERMS]
            terms[:] = np.float32(0.0)
            for p in range(cosine.shape[0]):
                even, odd, a, b = factors[0, q, p], factors[1, q, p], cosine[p], sine[p]
                for k in range(MEAN_TERMS):
                    terms[k] += even * a[k] + odd * b[k]
            sums[:] = np.float32(0.0)
            for r in range(waves.rows):
                weight, curve = coefficients[q, r], table[r]
                for i in range(MEAN_BLOCK):
                    sums[i] += weight * curve[i]
            row = out[q, start : start + count]
            for i in range(count):
                row[i] += kept[i] * sums[i]

"""What a head learns of its first keys, and how it codes keys with it, as the documentation says: one after the other.

Sums, roots and means are float64 and in no special order. Of a key, what the format gives bit by bit is float32.
"""

import math
from typing import NamedTuple

import numpy as np


def angles(rope, d, position):
    """Yield each pair of coordinates, and the cosine and sine of its angle at a position."""
    if rope is not None:
        for (a, b), frequency in zip(rope.pairs(d), rope.frequencies(d), strict=True):
            angle = float(np.float32(frequency)) * position
            yield a, b, np.float32(math.cos(angle)), np.float32(math.sin(angle))


def turned(x, rope, position):
    """Return a vector, of its own type, at a position that is so far from its own."""
    out = x.copy()
    for a, b, c, s in angles(rope, len(x), position):
        out[a], out[b] = x[a] * c - x[b] * s, x[b] * c + x[a] * s
    return out


class NaiveBasis(NamedTuple):
    """The mean key of a head at position 0, its coordinates in the order of the codes with their gains, its widths."""

    mean: np.ndarray
    order: list
    gains: np.ndarray
    evenly: bool
    guarded: bool

    def code(self, key, rope, position):
        """Return a key as it is coded, and whether no mean was subtracted."""
        unit = np.empty_like(self.gains)
        unit[self.order] = self.gains
        rest, whole = unit * (key - turned(self.mean, rope, position)), unit * key
        plain = not np.square(rest, dtype=np.float64).sum() < np.square(whole, dtype=np.float64).sum()
        return (whole if plain else rest)[self.order], plain

    def restore(self, row, plain, rope, position):
        """Return the key of a decoded row."""
        key = np.empty_like(row)
        key[self.order] = row / self.gains
        return key if plain else key + turned(self.mean, rope, position)


def learn(keys, positions, rope, bands):
    """Learn from keys (n, d) float32; `bands`: numbers of coordinates, and bits, in the order of the codes."""
    d = keys.shape[1]
    x = np.array([turned(key.astype(np.float64), rope, -p) for key, p in zip(keys, positions, strict=True)])
    near = np.ones(len(x), bool)
    mean = np.median(x, axis=0)
    for _ in range(2):
        distances = np.square(x - mean).sum(axis=1)
        near = distances <= 4 * np.median(distances)
        mean = x[near].mean(axis=0)
    energy = np.square(x[near] - mean).mean(axis=0)
    order, gains, evenly = list(range(d)), np.ones(d), False
    if rope is not None and energy.any():
        order, gains, evenly = units(mean, energy, rope, bands)
    guarded = lost_bits(energy[order] * gains**2, [(d, 0)] if evenly else bands) > 1.5
    return NaiveBasis(mean.astype(np.float32), order, gains.astype(np.float32), evenly, guarded)


def halves_lose(x):
    """Whether a bit more for the first half of importances x, and a bit less for the other, makes the error larger."""
    half = len(x) // 2
    return x[:half].mean() ** 2 / 4 + 4 * x[half:].mean() ** 2 >= 2 * x.mean() ** 2


def units(mean, energy, rope, bands):
    """Order, gains, and whether all coordinates keep one width; those of a pair have the mean of their energies."""
    d = len(mean)
    pair = {i: (a, b) for a, b, _, _ in angles(rope, d, 0) for i in (a, b)}
    keys = np.array([energy[list(pair.get(i, (i,)))].mean() for i in range(d)])
    squares = np.array([np.square(mean[list(pair.get(i, (i,)))]).mean() for i in range(d)])
    keys = keys + 0.05 * keys.mean()
    queries = (squares + 0.1 * squares.mean() + 2.0**-1022) ** (3 / 8)
    queries = queries + 0.05 * queries.mean()
    # The two of a pair differ by rounding at most, and so do not come in the order of their numbers by themselves.
    order = sorted(range(d), key=lambda i: (-(keys * queries)[min(pair.get(i, (i,)))], i))
    gains = ((queries / keys) ** 0.25)[order]
    evenly = False
    if len(bands) == 2 and bands[0] == (d // 2, bands[1][1] + 2) and bands[1][0] * 2 == d:
        evenly = halves_lose(np.sqrt(keys * np.sqrt(queries))[order])
        if evenly:
            bands = [(d, 0)]
    start = 0
    for n, nbits in bands:
        part = slice(start, start + n)
        gains[part] *= 2 ** (nbits / 4) / math.sqrt((keys[order][part] * gains[part] ** 2).mean())
        start += n
    return order, gains / gains.max(), evenly


def lost_bits(energy, bands):
    """Bits per coordinate that one width for all coordinates of a band costs."""
    lost, start = 0.0, 0
    for n, _ in bands:
        part = energy[start : start + n]
        if part.any():
            lost += 0.5 * np.log2(part.mean() / (part + 1e-4 * part.mean())).sum()
        start += n
    return lost / len(energy)

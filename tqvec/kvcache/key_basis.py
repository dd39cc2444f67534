"""What a layer learns from its first keys: the mean before rotary embedding, and how much each coordinate matters.

The embedding turns pairs of coordinates with the position. A part that all keys share before it is therefore no
constant in the cache: it turns. `KeyBasis` keeps that part at position 0 and subtracts it, turned to each token's
position. What is left is measured in units that suit the coordinates, and put in the order of their importance. Both
commute with the embedding, since the coordinates of a pair share them. The "KV cache" page has the derivation.

Sums are taken in a fixed order, and roots are square roots: codes have the same bits everywhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._config import num_threads
from tqvec._types import Bytes, Doubles, Floats
from tqvec.codec.bands import Band
from tqvec.kernels.arguments import HeadBasis, MeanWaves
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.threads.helpers import check_memory, share
from tqvec.kvcache.mean_waves import mean_waves
from tqvec.kvcache.rope import Rope

IN_BANDS, EVENLY, GUARDED = range(3)  # by the layer's codec; by one width of all coordinates; by 8 bits

_FAR = 4.0  # times the median of the squared distances to the mean: tokens beyond don't count for it
_STEPS = 2  # of leaving such tokens out
_FLOOR = 0.05  # part of the mean energy that every coordinate has at least: few tokens tell little of small ones
_QUERY_FLOOR = 0.1  # the same of the mean's energy, from which that of queries is guessed
_MOST_LOST = 1.5  # bits per coordinate; the worst heads of models with their rope lose 0.4
_NS_CENTRE = 0.5  # to subtract the mean from a coordinate, by which the number of threads is chosen
_SMALLEST = 1e-4  # part of a band's mean energy, added to each: a coordinate that is always 0 loses no end of bits


class Layout(NamedTuple):
    """The coordinates of a head, and how they turn.

    Attributes
    ----------
    frequencies : (f,) float64
        Radians per token, rounded to float32 as models have them: 0 for coordinates that don't turn, then rising.
    partner : (d,) int64
        The other coordinate of a pair; the coordinate itself if it does not turn.
    frequency : (d,) int64
        Place of the coordinate's frequency.
    sign : (d,) float32
        -1 for the first coordinate of a pair, 1 for the second, 0 if it does not turn.
    sorted : (d,) int64
        The coordinates by frequency.
    starts : (f,) int64
        Place of the first coordinate of each frequency among them.
    waves : MeanWaves
        The curves of the mean's part of a score.
    """

    frequencies: Doubles
    partner: NDArray[np.int64]
    frequency: NDArray[np.int64]
    sign: Floats
    sorted: NDArray[np.int64]
    starts: NDArray[np.int64]
    waves: MeanWaves

    def turns(self, first: int, n: int) -> tuple[Floats, Floats]:
        """Return the cosines and sines of the coordinates' angles at positions ``first .. first + n``, (n, d) each."""
        cosines, sines = (np.empty((n, self.frequencies.size), np.float32) for _ in range(2))
        kernel("turn_tables")(self.frequencies, first, cosines, sines)
        return cosines.take(self.frequency, axis=1), sines.take(self.frequency, axis=1)

    def cross(self, mean: Floats) -> Floats:
        """Return the part of turned means that grows with the sine; `mean` has those at angle 0, (…, d)."""
        crossed: Floats = self.sign * mean.take(self.partner, axis=-1)
        return crossed

    def products(self, queries: Floats, mean: Floats) -> Floats:
        """Return what means contribute to scores, by frequency: factors of cosine and sine.

        Parameters
        ----------
        queries : (…, g, d) float32
        mean : (…, d) float32

        Returns
        -------
        (…, 2, g, f) float32
        """
        both = np.stack([mean, self.cross(mean)], axis=-2)[..., None, :]
        turning = (queries[..., None, :, :] * both).take(self.sorted, axis=-1)
        products: Floats = np.add.reduceat(turning, self.starts, axis=-1)
        return products


@lru_cache(maxsize=64)
def layout(rope: Rope | None, d: int) -> Layout:
    """Return how the coordinates of keys turn; without a rope none does."""
    pairs = np.empty((0, 2), np.int64) if rope is None else rope.pairs(d)
    angles = np.empty(0) if rope is None else rope.frequencies(d)
    partner, sign, speed = np.arange(d), np.zeros(d, np.float32), np.zeros(d)
    for (one, other), angle in zip(pairs, angles, strict=True):
        partner[one], partner[other] = other, one
        speed[[one, other]] = abs(np.float32(angle))
        sign[one], sign[other] = (-1, 1) if angle > 0 else (1, -1)
    frequencies, frequency = np.unique(speed, return_inverse=True)
    by_frequency = np.argsort(frequency, kind="stable")
    starts = np.searchsorted(frequency[by_frequency], np.arange(len(frequencies)))
    return Layout(
        frequencies=frequencies,
        partner=partner,
        frequency=frequency,
        sign=sign,
        sorted=by_frequency,
        starts=starts,
        waves=mean_waves(frequencies),
    )


class KeyBasis(NamedTuple):
    """What a layer learned of its keys.

    Attributes
    ----------
    means : (heads, d) float32
        The mean key of each head, turned back to position 0.
    order : (heads, d) uint16
        Coordinates in the order of the codes: those that matter most come first.
    gains : (heads, d) float32
        Factors of the coordinates in this order; at most 1.
    spread : (heads,) float32
        Mean squared length of what was learned from, as it is coded.
    kinds : (heads,) uint8
        How the keys of each head are coded: `IN_BANDS`, `EVENLY` or `GUARDED`.
    """

    means: Floats
    order: NDArray[np.uint16]
    gains: Floats
    spread: Floats
    kinds: Bytes

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self)

    @property
    def guarded_heads(self) -> tuple[int, ...]:
        """The heads whose keys get more bits than the policy says."""
        return tuple(np.flatnonzero(self.kinds == GUARDED).tolist())

    def bases(self, turning: Layout) -> HeadBasis:
        """Return what the kernels need of all heads."""
        order, unit = self.order.astype(np.int64), np.empty_like(self.gains)
        np.put_along_axis(unit, order, self.gains, axis=1)
        return HeadBasis(order, unit, self.means, turning.cross(self.means))

    def centre(self, keys: Floats, first: int, turning: Layout, threads: int | None) -> tuple[Floats, Bytes]:
        """Return keys as they are coded, and which of them are coded without the mean, since it makes them longer.

        Parameters
        ----------
        keys : (heads, n, d) float32
        first : int
            Position of the first key.
        turning : Layout
        threads : int, optional

        Returns
        -------
        rows : (heads, n, d) float32
        plain : (heads, n) uint8
        """
        rows, plain = np.empty(keys.shape, np.float32), np.empty(keys.shape[:2], np.uint8)
        tables = turning.turns(first, keys.shape[1])
        sharing = share(num_threads(threads), keys.size * _NS_CENTRE)
        given = self.bases(turning), tables, np.ascontiguousarray(keys)
        check_memory(kernel("centre_heads")(*sharing, *given, rows, plain))
        return rows, plain

    def restore(self, rows: Floats, plain: Bytes, first: int, turning: Layout) -> Floats:
        """Return the keys of decoded rows: undo `centre`."""
        keys = np.empty_like(rows)
        tables, bases = turning.turns(first, rows.shape[1]), self.bases(turning)
        for head, one in enumerate(rows):
            basis = HeadBasis(*(array[head] for array in bases))
            kernel("restore_keys")(one, basis, *tables, plain[head], keys[head])
        return keys

    def turn_queries(self, queries: Floats) -> Floats:
        """Return queries, (heads, g, d), whose products with coded keys are those with the keys less their means."""
        return np.take_along_axis(queries, self.order[:, None].astype(np.int64), axis=2) / self.gains[:, None]


def learn(keys: Floats, first: int, turning: Layout, bands: list[tuple[tuple[Band, ...], Floats]]) -> KeyBasis:
    """Learn a basis from the first keys of a layer.

    Parameters
    ----------
    keys : (heads, n, d) float32
    first : int
        Position of the first key.
    turning : Layout
    bands : list of (bands, standard deviations)
        Per head, of the codec: of the coordinates in the order of the codes.

    Returns
    -------
    KeyBasis
        If nothing turns, order and units stay as they are: whoever gives no rope may have keys that turn, and then
        coordinates don't keep their size.
    """
    heads, _, d = keys.shape
    means, order, gains = np.empty((heads, d), np.float32), np.empty((heads, d), np.uint16), np.ones((heads, d))
    spread, kinds = np.empty(heads, np.float32), np.full(heads, IN_BANDS, np.uint8)
    tables = turning.turns(first, keys.shape[1])
    for head, one in enumerate(keys):
        mean, energy = _mean_and_energy(_turn_back(one, *tables, turning))
        means[head] = mean
        order[head] = np.arange(d)
        own, std = bands[head]
        if turning.sign.any() and energy.any():
            importance = _importance(mean, energy, turning)
            order[head] = np.argsort(-(importance.keys * importance.queries), kind="stable")
            if halves(own) and not _gains_by_halves(importance, order[head]):
                kinds[head], own, std = EVENLY, (Band(0, d, 0),), np.ones(1, np.float32)
            gains[head] = _gains(importance, order[head], own, std)
        coded = energy[order[head]] * np.square(gains[head])
        spread[head] = coded.sum()
        if _lost_bits(coded, own) > _MOST_LOST:
            kinds[head] = GUARDED
    return KeyBasis(means, order, gains=gains.astype(np.float32), spread=spread, kinds=kinds)


class _Importance(NamedTuple):
    """Mean squares of coordinates, (d,): of keys less their mean, and of queries up to a common factor."""

    keys: Doubles
    queries: Doubles


def halves(bands: tuple[Band, ...]) -> bool:
    """Return whether the bands are halves of which the first has two bits more."""
    return len(bands) == 2 and bands[0].stop * 2 == bands[1].stop and bands[0].nbits == bands[1].nbits + 2


def _gains_by_halves(importance: _Importance, order: NDArray[np.uint16]) -> bool:
    """Return whether the error of scores is smaller with a bit more for the first half, and a bit less for the other.

    A bit more divides the squared error by four. The queries are a guess, so they count by their square root.
    """
    x = np.sqrt(importance.keys * np.sqrt(importance.queries))[order]
    first, other = x[: x.size // 2].mean(), x[x.size // 2 :].mean()
    return bool(np.square(first) / 4 + 4 * np.square(other) < 2 * np.square(x.mean()))


def _lost_bits(energy: Doubles, bands: tuple[Band, ...]) -> float:
    """Return the bits per coordinate that a common width of each band costs, beside a width for each coordinate."""
    lost = 0.0
    for band in bands:
        part = energy[band.start : band.stop]
        if part.any():
            lost += float(np.sum(np.log2(part.mean() / (part + _SMALLEST * part.mean()))) / 2)
    return lost / len(energy)


def _turn_back(keys: Floats, cosines: Floats, sines: Floats, turning: Layout) -> Doubles:
    """Return keys as they were before the embedding, (d, n)."""
    x = keys.T.astype(np.float64)
    cos, sin = (table.T.astype(np.float64) for table in (cosines, sines))
    return x * cos - (turning.sign[:, None] * x[turning.partner]) * sin


def _mean_and_energy(x: Doubles) -> tuple[Doubles, Doubles]:
    """Return the mean of columns, (d,), and the mean squared distance to it by coordinate, without the far columns."""
    mean = np.median(x, axis=1)
    for _ in range(_STEPS):
        squares = np.square(x - mean[:, None])
        distance = squares.sum(axis=0)
        near = distance <= _FAR * np.median(distance)
        mean = np.add.reduce(x[:, near].T.copy(), axis=0) / near.sum()
    squares = np.square(x[:, near] - mean[:, None])
    return mean, np.add.reduce(squares.T.copy(), axis=0) / near.sum()


def _importance(mean: Doubles, energy: Doubles, turning: Layout) -> _Importance:
    """Return how much coordinates matter, the same for both of a pair.

    Queries are not known. Where keys share a large part, queries are large too, as the size of the mean to the 3/4.
    """

    def of_pair(x: Doubles) -> Doubles:
        """Return the mean over the two coordinates of a pair."""
        return (x + x[turning.partner]) / 2

    keys, squared = of_pair(energy), of_pair(np.square(mean))
    root = np.sqrt(np.sqrt(squared + _QUERY_FLOOR * squared.mean() + np.finfo(np.float64).tiny))
    queries = root * np.sqrt(root)
    return _Importance(keys + _FLOOR * keys.mean(), queries + _FLOOR * queries.mean())


def _gains(importance: _Importance, order: NDArray[np.uint16], bands: tuple[Band, ...], std: Floats) -> Doubles:
    """Return the gains of coordinates in order.

    A coordinate with energy e of the keys and w of the queries adds w times its error to that of a score. In a band of
    one width, errors are equal in the units of the codes, so the best gain is (w/e)^(1/4).
    """
    gain = np.sqrt(np.sqrt(importance.queries / importance.keys))[order]
    for band, factor in zip(bands, std, strict=True):
        part = slice(band.start, band.stop)
        gain[part] *= factor / np.sqrt(np.mean(importance.keys[order][part] * np.square(gain[part])))
    normalized: Doubles = gain / gain.max()
    return normalized

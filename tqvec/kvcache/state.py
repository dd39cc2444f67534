"""Tiers: where the tokens of a layer are. Tokens never change once they are in a tier; only arrays' ends are written.

A `State` is what a layer holds at a moment. Each change makes another one, in which most arrays are the same: those
of a tier grow behind the tokens that any state has. Functions here that add tokens take `mine`, whether nobody else may
have written there: if not, they begin anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.kvcache import half_precision
from tqvec.kvcache.byte_model import Nbytes, room
from tqvec.kvcache.codecs import Coded, Group, Sides
from tqvec.kvcache.half_precision import Halves

_COPIED = 8  # a last segment of others is copied while it has less than this part of a full one: few stay small


Codes = tuple[Coded, ...]  # an entry for each group of heads


class Hot(NamedTuple):
    """Tokens in 16 bits.

    Attributes
    ----------
    keys, values : (heads, ≥ n, head_dim) float16, or uint16 with the bits of a bfloat16
    n : int
    """

    keys: Halves
    values: Halves
    n: int

    @property
    def room(self) -> int:
        """Tokens that its arrays have memory for."""
        return self.keys.shape[1]

    def longer(self, new: Sequence[Halves], mine: bool) -> Hot:
        """With more tokens: their keys and values, (heads, m, head_dim) each."""
        keys, values = new
        before, total = slice(0, self.n), self.n + keys.shape[1]
        held = self
        if not mine or room(total) != self.room:
            held = Hot(_moved(self.keys, before, room(total)), _moved(self.values, before, room(total)), 0)
        held.keys[:, self.n : total] = keys
        held.values[:, self.n : total] = values
        return held._replace(n=total)

    def first(self, n: int) -> Hot:
        """The first `n` tokens, in arrays of their own with the room that so many have."""
        if n == self.n:
            return self
        rows = slice(0, n)
        return Hot(_moved(self.keys, rows, room(n)), _moved(self.values, rows, room(n)), n)

    def nbytes(self) -> Nbytes:
        """Of its arrays."""
        held = self.keys.nbytes + self.values.nbytes
        hot = 0 if self.n == 0 else held * self.n // self.room
        return Nbytes(hot=hot, bookkeeping=held - hot)


class Segment(NamedTuple):
    """A run of coded tokens.

    Attributes
    ----------
    keys, values : tuple of Coded
        Of `stop` tokens or more, of which the first `start` were dropped.
    start, stop : int
    """

    keys: Codes
    values: Codes
    start: int
    stop: int

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """Where its tokens are in the arrays."""
        return slice(self.start, self.stop)

    @property
    def room(self) -> int:
        """Tokens that its arrays have memory for, dropped ones included."""
        return self.keys[0].scales.shape[1]

    def longer(self, keys: Codes, values: Codes, mine: bool) -> Segment:
        """With more tokens."""
        total = self.stop + keys[0].scales.shape[1]
        held = self
        if not mine or room(total) != self.room:
            held = self._replace(keys=self._moved(self.keys, room(total)), values=self._moved(self.values, room(total)))
        for coded, new in zip((*held.keys, *held.values), (*keys, *values), strict=True):
            coded.codes[:, self.stop : total] = new.codes
            coded.scales[:, self.stop : total] = new.scales
        return held._replace(stop=total)

    def _moved(self, side: Codes, size: int) -> Codes:
        return tuple(Coded(_moved(one.codes, self.rows, size), _moved(one.scales, self.rows, size)) for one in side)

    def nbytes(self) -> Nbytes:
        """Of its arrays."""
        parts = (*self.keys, *self.values)
        codes, scales = sum(part.codes.nbytes for part in parts), sum(part.scales.nbytes for part in parts)
        live, live_scales = codes * self.n // self.room, scales * self.n // self.room
        return Nbytes(live, live_scales, bookkeeping=codes + scales - live - live_scales)


Segments = tuple[Segment, ...]


def _moved(array: NDArray, rows: slice, size: int) -> NDArray:
    """A new array of `size` tokens, with some of the old one's."""
    out = np.empty((array.shape[0], size, *array.shape[2:]), array.dtype)
    out[:, rows] = array[:, rows]
    return out


class Means(NamedTuple):
    """Mean key and mean value of each head, (heads, head_dim) float32; of values only if the policy says so."""

    keys: NDArray[np.float32]
    values: NDArray[np.float32] | None

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.keys.nbytes + (0 if self.values is None else self.values.nbytes)


class State(NamedTuple):
    """What a layer holds at a moment, in order of tokens: sinks, old, cold, hot.

    Attributes
    ----------
    sinks, hot : Hot
    old, cold : tuple of Segment
    means : Means or None
        Fixed when the first tokens are coded, unless the policy has none.
    evicted : int
        Tokens that had to go for newer ones.
    """

    sinks: Hot
    old: Segments
    cold: Segments
    hot: Hot
    means: Means | None
    evicted: int

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.sinks.n + count(self.old) + count(self.cold) + self.hot.n

    def nbytes(self) -> Nbytes:
        """Of all arrays; those of forks count for each."""
        means = 0 if self.means is None else self.means.nbytes
        segments = [segment.nbytes() for segment in (*self.old, *self.cold)]
        return Nbytes.total([self.sinks.nbytes(), self.hot.nbytes(), Nbytes(means=means), *segments])


def empty_state(heads: int, d: int, dtype: str) -> State:
    """Of a layer without tokens."""
    kind = half_precision.type_of(dtype)
    none = Hot(np.empty((heads, 0, d), kind), np.empty((heads, 0, d), kind), 0)
    return State(none, (), (), none, None, 0)


def count(segments: Segments) -> int:
    """Tokens of all."""
    return sum(segment.n for segment in segments)


def joined(parts: Sequence[Codes]) -> Codes:
    """Codes of the same heads, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    return tuple(
        Coded(*(np.concatenate(arrays, axis=1) for arrays in zip(*group, strict=True)))
        for group in zip(*parts, strict=True)
    )


def longer(segments: Segments, sides: Sides, coded: tuple[Codes, Codes], size: int, mine: bool) -> Segments:
    """Segments of at most `size` tokens, with more tokens, given as codes of keys and of values."""
    found = list(segments)
    done, n = 0, coded[0][0].scales.shape[1]
    while done < n:
        if not found or found[-1].stop >= size or (not mine and found[-1].n >= size // _COPIED):
            found.append(_empty_segment(sides))
            mine = True
        part = slice(done, done + min(n - done, size - found[-1].stop))
        keys, values = (tuple(Coded(one.codes[:, part], one.scales[:, part]) for one in side) for side in coded)
        found[-1] = found[-1].longer(keys, values, mine)
        done, mine = part.stop, True
    return tuple(found)


def _empty_segment(sides: Sides) -> Segment:
    def none(group: Group) -> Coded:
        heads = len(group.heads)
        return Coded(np.empty((heads, 0, group.code_bytes), np.uint8), np.empty((heads, 0), np.uint16))

    keys, values = (tuple(none(group) for group in side.groups) for side in sides)
    return Segment(keys, values, 0, 0)


def without_first(segments: Segments, n: int) -> Segments:
    """Segments without the first `n` tokens; those that have none left are let go."""
    found = []
    for segment in segments:
        gone = min(n, segment.n)
        n -= gone
        if gone < segment.n:
            found.append(segment._replace(start=segment.start + gone))
    return tuple(found)


def first(segments: Segments, n: int) -> Segments:
    """The first `n` tokens."""
    found = []
    for segment in segments:
        kept = min(n, segment.n)
        n -= kept
        if kept:
            found.append(segment._replace(stop=segment.start + kept))
    return tuple(found)

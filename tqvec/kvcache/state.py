"""State of a layer: where its tokens are at a moment.

Tokens never change once they are in an array: only the ends of arrays are written. Each change makes another `State`,
which shares most arrays with the one before. An array's `owner` is the one writer that may write behind its last token.
Any other writer copies it first, since states of others may share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Floats
from tqvec.kvcache import half_precision
from tqvec.kvcache.byte_model import Nbytes, TokenCounts, capacity
from tqvec.kvcache.codecs import GroupCodes, HeadGroup, KVCodecs, SideCodes
from tqvec.kvcache.half_precision import Halves
from tqvec.kvcache.key_basis import KeyBasis

_COPIED = 8  # a segment of another owner is copied while it has less than this part of a full one: few stay small


class Uncoded(NamedTuple):
    """A run of tokens in 16 bits.

    Attributes
    ----------
    keys, values : (heads, ≥ n, head_dim) float16, or uint16 with the bits of a bfloat16
    n : int
        Number of tokens.
    owner : object
        The writer that may write behind the `n` tokens.
    """

    keys: Halves
    values: Halves
    n: int
    owner: object = None

    @property
    def capacity(self) -> int:
        """Tokens that its arrays have memory for."""
        return self.keys.shape[1]

    def extend(self, new: Sequence[Halves], owner: object) -> Uncoded:
        """Return the tokens and new ones behind them: keys and values, (heads, m, head_dim) each."""
        keys, values = new
        before, total = slice(0, self.n), self.n + keys.shape[1]
        held = self
        if self.owner is not owner or capacity(total) != self.capacity:
            size = capacity(total)
            held = Uncoded(_copy(self.keys, before, size), _copy(self.values, before, size), 0, owner)
        held.keys[:, self.n : total] = keys
        held.values[:, self.n : total] = values
        return held._replace(n=total)

    def packed(self) -> Uncoded:
        """Return the tokens in views that have no memory for more."""
        rows = slice(0, self.n)
        return Uncoded(self.keys[:, rows], self.values[:, rows], self.n)

    def first(self, n: int) -> Uncoded:
        """Return the first `n` tokens, in new arrays with the capacity for `n` tokens if there are more."""
        if n == self.n:
            return self
        rows, size = slice(0, n), capacity(n)
        return Uncoded(_copy(self.keys, rows, size), _copy(self.values, rows, size), n)

    def nbytes(self) -> Nbytes:
        """Return the bytes of its arrays."""
        held = self.keys.nbytes + self.values.nbytes
        uncoded = 0 if self.n == 0 else held * self.n // self.capacity
        return Nbytes(uncoded=uncoded, bookkeeping=held - uncoded)


class Segment(NamedTuple):
    """A run of coded tokens.

    Attributes
    ----------
    keys, values : tuple of GroupCodes
        Of `stop` tokens or more, of which the first `start` were dropped.
    start, stop : int
        The tokens' place in the arrays.
    owner : object
        The writer that may write behind `stop`.
    """

    keys: SideCodes
    values: SideCodes
    start: int
    stop: int
    owner: object = None

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """The tokens' place in the arrays, as a slice."""
        return slice(self.start, self.stop)

    @property
    def capacity(self) -> int:
        """Tokens that its arrays have memory for, dropped ones included."""
        return self.keys[0].scales.shape[1]

    def extend(self, keys: SideCodes, values: SideCodes, owner: object) -> Segment:
        """Return the tokens and new ones behind them: codes of keys and of values."""
        total = self.stop + keys[0].scales.shape[1]
        held = self
        if self.owner is not owner or capacity(total) != self.capacity:
            rows, size = self.rows, capacity(total)
            held = self._replace(
                keys=_copy_codes(self.keys, rows, size), values=_copy_codes(self.values, rows, size), owner=owner
            )
        for codes, new in zip((*held.keys, *held.values), (*keys, *values), strict=True):
            codes.codes[:, self.stop : total] = new.codes
            codes.scales[:, self.stop : total] = new.scales
        return held._replace(stop=total)

    def packed(self) -> Segment:
        """Return the tokens in views that have no memory for more, and none for dropped ones."""
        keys, values = (
            tuple(GroupCodes(group.codes[:, self.rows], group.scales[:, self.rows]) for group in side)
            for side in (self.keys, self.values)
        )
        return Segment(keys=keys, values=values, start=0, stop=self.n)

    def nbytes(self) -> Nbytes:
        """Return the bytes of its arrays."""
        groups = (*self.keys, *self.values)
        codes, scales = sum(group.codes.nbytes for group in groups), sum(group.scales.nbytes for group in groups)
        live, live_scales = codes * self.n // self.capacity, scales * self.n // self.capacity
        return Nbytes(live, live_scales, bookkeeping=codes + scales - live - live_scales)


Segments = tuple[Segment, ...]


def _copy(array: NDArray, rows: slice, size: int) -> NDArray:
    """Return a new array for `size` tokens that holds some of the old one's, in the same place."""
    out = np.empty((array.shape[0], size, *array.shape[2:]), array.dtype)
    out[:, rows] = array[:, rows]
    return out


def _copy_codes(side: SideCodes, rows: slice, size: int) -> SideCodes:
    return tuple(GroupCodes(_copy(group.codes, rows, size), _copy(group.scales, rows, size)) for group in side)


class Learned(NamedTuple):
    """What a layer learned from its first tokens.

    Attributes
    ----------
    keys : KeyBasis
    values : (heads, head_dim) float32 or None
        The mean value of each head; only if the policy says so.
    """

    keys: KeyBasis
    values: Floats | None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.keys.nbytes + (0 if self.values is None else self.values.nbytes)


class State(NamedTuple):
    """The tokens of a layer at a moment, in order: sinks, recoded, coded, recent.

    Attributes
    ----------
    sinks, recent : Uncoded
    recoded, coded : tuple of Segment
    learned : Learned or None
        Fixed when the first tokens are coded. None: no token is coded, or the policy subtracts no mean.
    evicted : int
        Tokens that were dropped for newer ones.
    """

    sinks: Uncoded
    recoded: Segments
    coded: Segments
    recent: Uncoded
    learned: Learned | None
    evicted: int

    @property
    def counts(self) -> TokenCounts:
        """Tokens in each place."""
        return TokenCounts(
            sinks=self.sinks.n,
            recoded=count(self.recoded),
            coded=count(self.coded),
            recent=self.recent.n,
            evicted=self.evicted,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of heads and their dimension."""
        heads, _, d = self.sinks.keys.shape
        return heads, d

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.sinks.n + count(self.recoded) + count(self.coded) + self.recent.n

    @property
    def kinds(self) -> tuple[int, ...]:
        """How the keys of each head are coded (see `KeyBasis.kinds`); () if nothing is learned."""
        return () if self.learned is None else tuple(self.learned.keys.kinds.tolist())

    @property
    def first_coded(self) -> int:
        """Position of the first token behind the sinks that is held: tokens count from the beginning."""
        return self.sinks.n + self.evicted

    def packed(self) -> State:
        """Return the same tokens in views of just these tokens, for a pickle: no writer owns them."""
        return self._replace(
            sinks=self.sinks.packed(),
            recoded=tuple(segment.packed() for segment in self.recoded),
            coded=tuple(segment.packed() for segment in self.coded),
            recent=self.recent.packed(),
        )

    def nbytes(self) -> Nbytes:
        """Return the bytes of all arrays, shared ones included."""
        means = 0 if self.learned is None else self.learned.nbytes
        segments = [segment.nbytes() for segment in (*self.recoded, *self.coded)]
        return Nbytes.total([self.sinks.nbytes(), self.recent.nbytes(), Nbytes(means=means), *segments])


def empty_state(heads: int, d: int, dtype: str) -> State:
    """Return the state of a layer without tokens."""
    kind = half_precision.type_of(dtype)
    empty = Uncoded(np.empty((heads, 0, d), kind), np.empty((heads, 0, d), kind), 0)
    return State(sinks=empty, recoded=(), coded=(), recent=empty, learned=None, evicted=0)


def count(segments: Segments) -> int:
    """Return the number of tokens of all segments."""
    return sum(segment.n for segment in segments)


def concat(parts: Sequence[SideCodes]) -> SideCodes:
    """Join codes of the same heads, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    return tuple(
        GroupCodes(*(np.concatenate(arrays, axis=1) for arrays in zip(*groups, strict=True)))
        for groups in zip(*parts, strict=True)
    )


def extend(
    segments: Segments, codecs: KVCodecs, new: tuple[SideCodes, SideCodes], size: int, owner: object
) -> Segments:
    """Return the segments and new tokens behind them, codes of keys and of values, in segments of up to `size`."""
    out = list(segments)
    done, n = 0, new[0][0].scales.shape[1]
    while done < n:
        last = out[-1] if out else None
        if last is None or last.stop >= size or (last.owner is not owner and last.n >= size // _COPIED):
            out.append(_empty_segment(codecs, owner))
        part = slice(done, done + min(n - done, size - out[-1].stop))
        keys, values = (tuple(GroupCodes(g.codes[:, part], g.scales[:, part]) for g in side) for side in new)
        out[-1] = out[-1].extend(keys, values, owner)
        done = part.stop
    return tuple(out)


def _empty_segment(codecs: KVCodecs, owner: object) -> Segment:
    def empty(group: HeadGroup) -> GroupCodes:
        heads = len(group.heads)
        return GroupCodes(np.empty((heads, 0, group.code_bytes), np.uint8), np.empty((heads, 0), np.uint16))

    keys, values = (tuple(empty(group) for group in side.groups) for side in codecs)
    return Segment(keys=keys, values=values, start=0, stop=0, owner=owner)


def drop_first(segments: Segments, n: int) -> Segments:
    """Return the segments without their first `n` tokens; segments without tokens are released."""
    out = []
    for segment in segments:
        dropped = min(n, segment.n)
        n -= dropped
        if dropped < segment.n:
            out.append(segment._replace(start=segment.start + dropped))
    return tuple(out)


def keep_first(segments: Segments, n: int) -> Segments:
    """Return the first `n` tokens. A segment that is cut has no owner: others may read what lies behind the cut."""
    out = []
    for segment in segments:
        kept = min(n, segment.n)
        n -= kept
        if kept == segment.n:
            out.append(segment)
        elif kept:
            out.append(segment._replace(stop=segment.start + kept, owner=None))
    return tuple(out)

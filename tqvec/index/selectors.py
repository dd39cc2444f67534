"""Selectors: the vectors that a search may return. They compose with ``&``, ``|`` and ``~``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from tqvec._types import Flags, Words
from tqvec._types import Ids as IdArray
from tqvec._validate import as_array, integer
from tqvec.errors import InputError
from tqvec.index.blocks import Block, intersect, pack_mask


class Selector:
    """A set of vectors: the base of `Mask`, `Ids` and `Range`.

    Selectors compose with each other, and with arrays and ranges that a search takes as a filter.

    Examples
    --------
    >>> import numpy as np, tqvec
    >>> from tqvec import selectors
    >>> index = tqvec.Index(8)
    >>> index.add(np.eye(8))
    >>> keep = selectors.Range(2, 6) & ~selectors.Ids([3])
    >>> sorted(index.search(np.ones(8), k=8, filter=keep)[1][0].tolist())
    [-1, -1, -1, -1, -1, 2, 4, 5]
    """

    def masks(self, blocks: Sequence[Block]) -> list[Flags]:
        """Return a boolean array of the rows of each block; removed rows may be either."""
        raise NotImplementedError

    __array_ufunc__ = None  # so that arrays leave ``array & selector`` to it

    def __and__(self, other: Filter) -> Selector:
        return _Pair(self, other, np.logical_and)

    def __or__(self, other: Filter) -> Selector:
        return _Pair(self, other, np.logical_or)

    __rand__, __ror__ = __and__, __or__

    def __invert__(self) -> Selector:
        return _Not(self)


class Mask(Selector):
    """Vectors by position.

    Parameters
    ----------
    keep : (ntotal,) bool
        Whether the vector with id ``index.ids[i]`` may be returned.
    """

    def __init__(self, keep: ArrayLike):
        self._keep = as_array(keep, "a mask")
        if self._keep.dtype != np.bool_ or self._keep.ndim != 1:
            raise InputError(f"a mask must be a 1-D boolean array, got {self._keep.dtype} of shape {self._keep.shape}")

    def __repr__(self) -> str:
        return f"Mask(<{np.count_nonzero(self._keep):,} of {self._keep.size:,}>)"

    def masks(self, blocks: Sequence[Block]) -> list[Flags]:
        """Return a mask per block, or raise `InputError` for another number of vectors."""
        total = sum(block.live for block in blocks)
        if self._keep.size != total:
            raise InputError(f"a mask must have one entry for each of the {total} vectors, got {self._keep.size}")
        masks, at = [], 0
        for block in blocks:
            if block.alive.size == 0:
                rows = self._keep[at : at + block.n]
            else:
                rows = np.zeros(block.n, bool)
                live = block.live_rows()
                rows[live] = self._keep[at : at + live.size]
            at += block.live
            masks.append(rows)
        return masks


class Ids(Selector):
    """Vectors by id; ids that are not in the index choose nothing.

    Parameters
    ----------
    ids : (n,) int
    """

    def __init__(self, ids: ArrayLike):
        chosen = integers(ids, "ids")
        self._ids = chosen if (chosen[1:] >= chosen[:-1]).all() else np.sort(chosen)

    def __repr__(self) -> str:
        return f"Ids(<{self._ids.size:,}>)"

    def masks(self, blocks: Sequence[Block]) -> list[Flags]:
        """Return a mask per block."""
        return [self._of(block) for block in blocks]

    def _of(self, block: Block) -> Flags:
        if not isinstance(block.ids, int):
            own = block.ids[: block.n]
            at = np.searchsorted(self._ids, own)
            return self._ids[np.minimum(at, self._ids.size - 1)] == own if self._ids.size else np.zeros(block.n, bool)
        rows = np.zeros(block.n, bool)
        low, high = np.searchsorted(self._ids, [block.ids, block.ids + block.n])
        rows[self._ids[low:high] - block.ids] = True
        return rows


class Range(Selector):
    """Vectors whose ids are ``start``, ``start + step``, … below ``stop``.

    Parameters
    ----------
    start, stop, step : int
        As of a ``range``; `step` is positive.
    """

    def __init__(self, start: int, stop: int, step: int = 1):
        self._start = integer(start, "start", -(2**63), 2**63)
        self._stop = integer(stop, "stop", -(2**63), 2**63)
        self._step = integer(step, "step", 1, 2**63 - 1)

    def __repr__(self) -> str:
        return f"Range({self._start}, {self._stop}" + (")" if self._step == 1 else f", {self._step})")

    def masks(self, blocks: Sequence[Block]) -> list[Flags]:
        """Return a mask per block."""
        return [self._of(block) for block in blocks]

    def _of(self, block: Block) -> Flags:
        start, stop, step = self._start, self._stop, self._step
        if not isinstance(block.ids, int):
            own = block.ids[: block.n]
            inside: Flags = (own >= start) & (own < stop)
            return inside if step == 1 else inside & (own % step == start % step)
        rows = np.zeros(block.n, bool)
        first = start - block.ids
        rows[first if first >= 0 else first % step : max(0, stop - block.ids) : step] = True
        return rows


class _Pair(Selector):
    def __init__(self, one: Selector, other: Filter, combine: np.ufunc):
        self._both, self._combine = (one, _selector(other)), combine

    def __repr__(self) -> str:
        one, other = self._both
        return f"({one!r} {'&' if self._combine is np.logical_and else '|'} {other!r})"

    def masks(self, blocks: Sequence[Block]) -> list[Flags]:
        masks = (one.masks(blocks) for one in self._both)
        return [self._combine(a, b) for a, b in zip(*masks, strict=True)]


class _Not(Selector):
    def __init__(self, one: Selector):
        self._one = one

    def __repr__(self) -> str:
        return f"~{self._one!r}"

    def masks(self, blocks: Sequence[Block]) -> list[Flags]:
        return [~rows for rows in self._one.masks(blocks)]


Filter: TypeAlias = Selector | range | ArrayLike  # a mask or ids as an array, a range of ids, or a selector


def _selector(filter: Filter) -> Selector:
    """The selector of a filter."""
    if isinstance(filter, Selector):
        return filter
    if isinstance(filter, range):
        rising = filter if filter.step > 0 else filter[::-1]
        return Range(rising.start, rising.stop, rising.step)
    array = as_array(filter, "filter")
    return Mask(array) if array.dtype == np.bool_ else Ids(integers(filter, "filter"))


def allowed_rows(blocks: Sequence[Block], filter: Filter | None) -> list[Words]:
    """Return the bits of the rows of each block that may be returned; `ALL` for every row.

    Raises
    ------
    InputError
        `filter` is no filter, a mask of another length, or a selector of the user's that makes such masks.
    """
    if filter is None:
        return [block.alive for block in blocks]
    masks = _selector(filter).masks(blocks)
    kinds = [(np.shape(mask), getattr(mask, "dtype", None)) for mask in masks]
    if kinds != [((block.n,), np.bool_) for block in blocks]:  # kernels read a bit per row
        raise InputError("masks of a selector must be boolean arrays with an entry per row of each block")
    pairs = zip(blocks, masks, strict=True)
    return [block.alive if mask.all() else intersect(pack_mask(mask), block.alive) for block, mask in pairs]


def integers(values: ArrayLike, name: str) -> IdArray:
    """Return ids as (n,) int64; a single one counts as an array of one.

    Raises
    ------
    InputError
        They are not integers, or beyond int64.
    """
    array = np.atleast_1d(as_array(values, name))
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
        beyond = np.flatnonzero(array > 2**63 - 1)
        if beyond.size:
            raise InputError(f"{name} row {beyond[0]} is beyond int64: {array[beyond[0]]}")
        return array.astype(np.int64)
    for row, value in enumerate(values if isinstance(values, (list, tuple)) else ()):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:  # NumPy made floats or objects of them all
            raise InputError(f"{name} row {row} is beyond int64: {value}")
    raise InputError(f"{name} must be a 1-D array of integers, got {array.dtype} of shape {array.shape}")


__all__ = ["Filter", "Ids", "Mask", "Range", "Selector"]

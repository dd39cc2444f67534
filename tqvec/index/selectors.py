"""Selectors: the vectors that a search may return. They compose with ``&``, ``|`` and ``~``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from tqvec._arrays import as_array
from tqvec._types import Flags, Words
from tqvec._types import Ids as IdArray
from tqvec._validate import integer
from tqvec.errors import InputError
from tqvec.index.blocks import Block, intersect, ones, pack_mask


class Moment(NamedTuple):
    """The rows of an index at one moment, which a selector chooses among.

    Attributes
    ----------
    blocks : sequence of Block
    find : callable, optional
        Returns the row of each id, counted through all blocks, -1 where there is none. Without it ids are looked for
        among those of the blocks, which takes longer.
    is_whole : bool
        False for a shard, which knows no positions among all vectors.
    """

    blocks: Sequence[Block]
    find: Callable[[IdArray], IdArray] | None = None
    is_whole: bool = True


class _Memory(NamedTuple):
    """The rows that a selector chose last, and the blocks that it chose them from, which it keeps no memory of."""

    rows: list[Words]
    blocks: list[tuple[weakref.ref[Any], int, weakref.ref[Any]]]

    def is_of(self, blocks: Sequence[Block]) -> bool:
        """Return whether these are the blocks: of a block of the same arrays only the number of rows may differ."""
        return len(blocks) == len(self.blocks) and all(
            scale() is block.rows["scale"] and n == block.n and alive() is block.alive
            for block, (scale, n, alive) in zip(blocks, self.blocks, strict=True)
        )


class Selector:
    """A set of vectors: the base of `Mask`, `Ids` and `Range`.

    Selectors compose with each other, and with arrays and ranges that a search takes as a filter. A selector that is
    used again keeps what it found out, until the index changes.

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

    _memory: _Memory | None = None

    def rows_of(self, moment: Moment) -> list[Words]:
        """Return the bits of the chosen rows of each block; those of removed rows may be either."""
        memory, blocks = self._memory, moment.blocks
        if memory is None or not memory.is_of(blocks):
            known = [(weakref.ref(block.rows["scale"]), block.n, weakref.ref(block.alive)) for block in blocks]
            memory = self._memory = _Memory(self._choose(moment), known)
        return memory.rows

    def _choose(self, moment: Moment) -> list[Words]:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_memory"}

    __array_ufunc__ = None  # so that arrays leave ``array & selector`` to it

    def __and__(self, other: Filter) -> Selector:
        return _Pair(self, other, np.bitwise_and)

    def __or__(self, other: Filter) -> Selector:
        return _Pair(self, other, np.bitwise_or)

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
        self._keep = as_array(keep, "a mask").copy()  # what was found out stays true if the user's array changes
        if self._keep.dtype != np.bool_ or self._keep.ndim != 1:
            raise InputError(f"a mask must be a 1-D boolean array, got {self._keep.dtype} of shape {self._keep.shape}")

    def __repr__(self) -> str:
        return f"Mask(<{np.count_nonzero(self._keep):,} of {self._keep.size:,}>)"

    def _choose(self, moment: Moment) -> list[Words]:
        if not moment.is_whole:
            raise InputError(
                "filter: a sharded index takes no masks; hand over the ids, as np.flatnonzero(mask) has them"
            )
        total = sum(block.live for block in moment.blocks)
        if self._keep.size != total:
            raise InputError(f"a mask must have one entry for each of the {total} vectors, got {self._keep.size}")
        chosen, at = [], 0
        for block in moment.blocks:
            if block.alive.size == 0:
                rows = self._keep[at : at + block.n]
            else:
                rows = np.zeros(block.n, bool)
                live = block.live_rows()
                rows[live] = self._keep[at : at + live.size]
            at += block.live
            chosen.append(pack_mask(rows))
        return chosen


class Ids(Selector):
    """Vectors by id; ids that are not in the index choose nothing.

    Parameters
    ----------
    ids : (n,) int
    """

    def __init__(self, ids: ArrayLike):
        self._ids = integers(ids, "ids")

    def __repr__(self) -> str:
        return f"Ids(<{self._ids.size:,}>)"

    def holds(self, ids: IdArray) -> bool:
        """Return whether these ids were given, in this order."""
        return np.array_equal(self._ids, ids)

    def _choose(self, moment: Moment) -> list[Words]:
        blocks = moment.blocks
        if moment.find is None or all(isinstance(block.ids, int) for block in blocks):
            return [pack_mask(self._of(block)) for block in blocks]
        flags = np.zeros(sum(block.n for block in blocks) + 1, bool)
        flags[moment.find(self._ids)] = True  # -1, of an id that isn't there, is the entry after the last row
        return [pack_mask(rows) for rows in np.split(flags[:-1], np.cumsum([block.n for block in blocks])[:-1])]

    def _of(self, block: Block) -> Flags:
        if not isinstance(block.ids, int):
            return np.isin(block.ids[: block.n], self._ids)
        rows, numbers = np.zeros(block.n, bool), self._ids - block.ids
        rows[numbers[numbers.view(np.uint64) < block.n]] = True  # negative numbers are large ones then
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

    def _choose(self, moment: Moment) -> list[Words]:
        return [pack_mask(self._of(block)) for block in moment.blocks]

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
        self._both, self._combine = (one, as_selector(other)), combine

    def __repr__(self) -> str:
        one, other = self._both
        return f"({one!r} {'&' if self._combine is np.bitwise_and else '|'} {other!r})"

    def _choose(self, moment: Moment) -> list[Words]:
        chosen = (one.rows_of(moment) for one in self._both)
        return [self._combine(a, b) for a, b in zip(*chosen, strict=True)]


class _Not(Selector):
    def __init__(self, one: Selector):
        self._one = one

    def __repr__(self) -> str:
        return f"~{self._one!r}"

    def _choose(self, moment: Moment) -> list[Words]:
        chosen = zip(moment.blocks, self._one.rows_of(moment), strict=True)
        return [~rows & ones(block.n) for block, rows in chosen]


Filter: TypeAlias = Selector | range | ArrayLike  # a mask or ids as an array, a range of ids, or a selector


def as_selector(filter: Filter, last: Selector | None = None) -> Selector:
    """Return the selector of a filter: the `last` one, and what it found out, for an array of the same ids.

    Raises
    ------
    InputError
        `filter` is no filter, or looks like a mask of integers.
    """
    if isinstance(filter, Selector):
        return filter
    if isinstance(filter, range):
        rising = filter if filter.step > 0 else filter[::-1]
        return Range(rising.start, rising.stop, rising.step)
    array = as_array(filter, "filter")
    if array.dtype == np.bool_:
        return Mask(array)
    ids = integers(filter, "filter", copy=False)  # of many ids a copy takes longer than to see that they are the last
    if isinstance(last, Ids) and last.holds(ids):
        return last
    if ids.size > 1 and ids.min() >= 0 and ids.max() <= 1 and (ids.size > 2 or ids[0] == ids[1]):
        raise InputError(
            "filter holds nothing but 0 and 1, so it looks like a mask: hand over np.asarray(filter, bool), "
            "or selectors.Ids(filter) if these are ids"
        )
    return Ids(ids)


def allowed_rows(moment: Moment, selector: Selector | None) -> list[Words]:
    """Return the bits of the rows of each block that may be returned; `ALL` for every row.

    Raises
    ------
    InputError
        A mask has another length, or a selector of the user's makes bits for other rows.
    """
    if selector is None:
        return [block.alive for block in moment.blocks]
    chosen = selector.rows_of(moment)
    kinds = [(np.shape(rows), getattr(rows, "dtype", None)) for rows in chosen]
    if kinds != [(ones(block.n).shape, np.uint64) for block in moment.blocks]:  # kernels read a bit per row
        raise InputError("rows_of of a selector must return a uint64 array with a bit per row for each block")
    pairs = zip(moment.blocks, chosen, strict=True)
    return [
        block.alive if np.array_equal(rows, ones(block.n)) else intersect(rows, block.alive) for block, rows in pairs
    ]


def integers(values: ArrayLike, name: str, copy: bool = True) -> IdArray:
    """Return ids as (n,) int64, a copy unless `copy` is false; a single one counts as an array of one.

    Raises
    ------
    InputError
        They are not integers, or beyond int64.
    """
    array = np.atleast_1d(as_array(values, name))
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
        beyond = np.flatnonzero(array > 2**63 - 1) if array.dtype == np.uint64 else np.zeros(0, np.int64)
        if beyond.size:
            raise InputError(f"{name} row {beyond[0]} is beyond int64: {array[beyond[0]]}")
        return array.astype(np.int64, copy=copy)
    for row, value in enumerate(values if isinstance(values, (list, tuple)) else ()):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:  # NumPy made floats or objects of them all
            raise InputError(f"{name} row {row} is beyond int64: {value}")
    remedy = f"; make a list of it, list({name})" if isinstance(values, Collection) and array.dtype == object else ""
    raise InputError(f"{name} must be a 1-D array of integers, got {array.dtype} of shape {array.shape}{remedy}")


__all__ = ["Filter", "Ids", "Mask", "Range", "Selector"]

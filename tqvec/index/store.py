"""Store: the rows of an index as a list of blocks, their ids, and every change to them.

One writer at a time; any number of readers. A reader takes `Store.blocks` once and works on it: blocks never change,
and each change ends with one assignment of a new tuple. So a search sees the index as it was at one moment, and never
waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tqvec._types import Ids
from tqvec.errors import InputError
from tqvec.index.blocks import BLOCK_ROWS, Block, Tail, cut
from tqvec.index.id_table import IdTable
from tqvec.index.prefixes import PrefixBlocks
from tqvec.index.rows import Rows

_PART = 1 << 16  # rows copied at a time
_LARGEST_ID = 2**63 - 1

Lock = AbstractContextManager[Any]
Blocks = tuple[Block, ...]


class Store:
    """Rows that can be added, replaced and removed while others search them.

    Parameters
    ----------
    like : dict of arrays
        Names, shapes and types of a row.
    prefixes : PrefixBlocks
        Of the codec.
    lock : RLock
        Held by writers, and while ids are looked up.

    Attributes
    ----------
    blocks : tuple of Block
        What is stored now.
    next_id : int
        Id of the next row that is added without one: larger than any that was ever used, so up to 2⁶³.
    """

    def __init__(self, like: Rows, prefixes: PrefixBlocks, lock: Lock):
        self.blocks: Blocks = ()
        self.next_id = 0
        self._like = like
        self._prefixes = prefixes
        self._tail: Tail | None = None  # owner of the last block's arrays, if it may grow
        self._table: IdTable | None = None  # while all ids follow each other, their blocks are enough to find them
        self._lock = lock

    def copy(self, lock: Lock) -> Store:
        """Another store of the same rows; later changes of either don't show in the other."""
        other = Store(self._like, self._prefixes, lock)
        with self._lock:
            other.blocks, other.next_id = self.blocks, self.next_id
            if self._table is not None:
                other._table = _table_of(self.blocks)
        return other

    def append(self, rows: Rows, ids: Ids | None, replace: bool) -> None:
        """Add rows; nothing changes if an id is taken.

        Parameters
        ----------
        rows : dict of arrays
        ids : (n,) int64, optional
            Distinct. Default: the next ones.
        replace : bool
            Whether rows with the same ids give way; otherwise they are an error.

        Raises
        ------
        InputError
            An id is taken, or there are no larger ones.
        """
        n = rows["scale"].shape[0]
        if n == 0:
            return
        with self._lock:
            if ids is None:
                self._check_room(n)
            blocks = self.blocks if ids is None else self._vacated(ids, replace)
            self.blocks = self._longer(blocks, rows, ids)
            self._compact()

    def _check_room(self, n: int) -> None:
        if self.next_id + n > _LARGEST_ID:
            raise InputError(f"no {n} ids are left after {self.next_id - 1}; give ids of your own")

    def _vacated(self, ids: Ids, replace: bool) -> Blocks:
        """Blocks without the rows of some ids, which is an error unless they may be replaced."""
        rows = self.find(ids)
        taken = rows >= 0
        if not taken.any():
            return self.blocks
        if not replace:
            at = int(np.argmax(taken))
            raise InputError(f"ids row {at}: id {ids[at]} is in the index; add(..., upsert=True) replaces it")
        if self._table is not None:
            self._table.remove(ids[taken])
        return _without(self.blocks, rows[taken])

    def _longer(self, blocks: Blocks, rows: Rows, ids: Ids | None) -> Blocks:
        """Blocks with more rows, whose ids are new; by default the next ones."""
        n = rows["scale"].shape[0]
        given = self.next_id if ids is None or _follow(ids, self.next_id) else ids
        if not isinstance(given, int) and self._table is None:
            self._table = _table_of(blocks)
        if self._table is not None:
            start = _count(blocks)
            new = np.arange(given, given + n) if isinstance(given, int) else given
            self._table.insert(new, np.arange(start, start + n))
        if self._tail is None or self._tail.n >= BLOCK_ROWS or (self._table is None and self._tail.end != given):
            self._tail = Tail(self._like, self._prefixes)  # without a table, ids follow each other in every block
            blocks = (*blocks, self._tail.append(rows, given))
        else:
            blocks = (*blocks[:-1], self._tail.append(rows, given, blocks[-1].alive))
        largest = given + n - 1 if isinstance(given, int) else int(given.max())
        self.next_id = max(self.next_id, largest + 1)
        return blocks

    def remove(self, ids: Ids) -> int:
        """Remove the rows of distinct ids, those that there are; how many there were."""
        with self._lock:
            rows = self.find(ids)
            found = rows >= 0
            if self._table is not None:
                self._table.remove(ids[found])
            self.blocks = _without(self.blocks, rows[found])
            self._compact()
            return int(found.sum())

    def taken(self) -> tuple[Blocks, bool]:
        """The blocks of now, and whether ids simply count: 0, 1, 2, … in order, with none ever removed."""
        with self._lock:
            return self.blocks, _simply_count(self.blocks, self.next_id)

    def take_over(self, blocks: Blocks, count: bool) -> None:
        """Add all rows of a store of the same codec, given what it has `taken`.

        They get the next ids if theirs simply count; otherwise they keep them.
        """
        with self._lock:
            if count:
                self._check_room(_count(blocks))
            else:
                ids = np.concatenate([np.zeros(0, np.int64), *(block.ids_of(block.live_rows()) for block in blocks)])
                clash = ids[self.find(ids) >= 0]
                if clash.size:
                    more = f" and {clash.size - 1} more" if clash.size > 1 else ""
                    raise InputError(f"both indexes have id {clash[0]}{more}")
            longer = self.blocks
            for rows, ids in parts(blocks):
                longer = self._longer(longer, rows, None if count else ids)
            self.blocks = longer
            self._compact()

    def snapshot(self) -> tuple[Blocks, int]:
        """The blocks of now and the next id."""
        with self._lock:
            return self.blocks, self.next_id

    def located(self, ids: Ids) -> tuple[Blocks, Ids]:
        """The blocks of now and the row of each id in them, as `find` has it."""
        with self._lock:
            return self.blocks, self.find(ids)

    def fill(self, rows: Rows, ids: Ids | int, next_id: int, mapped: bool) -> None:
        """Hold the rows of a file, once, as the first; `mapped` ones are not read, but for the last few."""
        with self._lock:
            self.next_id = next_id
            if rows["scale"].shape[0] == 0:
                return
            blocks, self._tail = cut(rows, ids, self._prefixes, mapped)
            self.blocks = tuple(blocks)
            if not isinstance(ids, int):
                self._table = _table_of(self.blocks)

    def find(self, ids: Ids) -> Ids:
        """Row of each id, counted through all blocks, removed rows included; -1 where there is none."""
        with self._lock:
            if self._table is not None:
                return self._table.find(ids)
            return find_in_order(self.blocks, ids)

    def _compact(self) -> None:
        """Drop removed rows for good when they are more than those that are left."""
        stored = _count(self.blocks)
        if stored < 2 * _PART or 2 * sum(block.live for block in self.blocks) > stored:
            return
        fresh = Store(self._like, self._prefixes, self._lock)
        for rows, ids in parts(self.blocks):
            fresh.append(rows, ids, False)
        self._tail, self._table, self.blocks = fresh._tail, _table_of(fresh.blocks), fresh.blocks


def parts(blocks: Blocks) -> Iterator[tuple[Rows, Ids]]:
    """Copies of all rows that were not removed, in order, a part at a time, with their ids."""
    for block in blocks:
        rows = block.live_rows()
        for first in range(0, rows.size, _PART):
            chosen = rows[first : first + _PART]
            yield {name: array[chosen] for name, array in block.rows.items()}, block.ids_of(chosen)


def _count(blocks: Blocks) -> int:
    """Number of rows, removed ones included."""
    return sum(block.n for block in blocks)


def _table_of(blocks: Blocks) -> IdTable:
    """Where to find the ids of all rows that were not removed."""
    table = IdTable()
    start = 0
    for block in blocks:
        rows = block.live_rows()
        table.insert(block.ids_of(rows), rows + start)
        start += block.n
    return table


def _simply_count(blocks: Blocks, next_id: int) -> bool:
    """Whether ids are 0, 1, 2, … in order up to the one before `next_id`."""
    start = 0
    for block in blocks:
        if block.alive.size or not np.array_equal(block.ids_of(np.arange(block.n)), np.arange(start, start + block.n)):
            return False
        start += block.n
    return start == next_id


def first_id(blocks: Blocks, next_id: int) -> int | None:
    """Id of the first row, or the next one, if those of all rows follow it one by one and none is negative."""
    first: int | None = None
    end = 0
    for block in blocks:
        ids = block.ids_of(block.live_rows())
        if ids.size == 0:
            continue
        if first is None:
            first = end = int(ids[0])
        if first < 0 or not _follow(ids, end):
            return None
        end += ids.size
    return next_id if first is None else first


def _follow(ids: Ids, first: int) -> bool:
    """Whether ids are `first` and the following; one beyond the last of them must be an int64 too."""
    return bool(ids[0] == first and first + ids.size <= _LARGEST_ID and np.all(np.diff(ids) == 1))


def _without(blocks: Blocks, rows: Ids) -> Blocks:
    """Blocks after some rows are removed."""
    left = []
    start = 0
    for block in blocks:
        mine = rows[(rows >= start) & (rows < start + block.n)] - start
        left.append(block.without(mine) if mine.size else block)
        start += block.n
    return tuple(left)


def find_in_order(blocks: Blocks, ids: Ids) -> Ids:
    """Rows of ids that are consecutive in every block, and rise from block to block."""
    rows = np.full(ids.shape, -1, np.int64)
    start = 0
    for block in blocks:
        if not isinstance(block.ids, int):
            raise TypeError("these ids need a table")
        local = ids - block.ids
        inside = (ids >= block.ids) & (ids - block.ids < block.n)
        if block.alive.size:
            at = np.where(inside, local, 0)
            inside &= (block.alive[at >> 6] >> (at & 63).astype(np.uint64) & np.uint64(1)).astype(bool)
        rows[inside] = start + local[inside]
        start += block.n
    return rows

"""Store: the rows of an index as a list of blocks, their ids, and every change to them.

A store has no lock: `Index` lets one thread at a time change it or look ids up. Any number of threads may read
`Store.blocks` meanwhile. Blocks never change, and each change ends with one assignment of a new tuple. So a reader that
takes the tuple once sees the index as it was at one moment, and never waits.

A change may be cut short: by Ctrl-C, or in a forked child, which does not have the thread that made it. The next one
finds that out and goes on from the blocks, which are whole at each moment (`Store.settle`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np

from tqvec._types import Ids
from tqvec.errors import InputError
from tqvec.index.blocks import UNSORTED, Block, cut_starts, empty_block, split_into_blocks
from tqvec.index.id_table import IdTable
from tqvec.index.partition.arrangement import Arrangement, Lists, arrange
from tqvec.index.prefixes import PrefixBlocks
from tqvec.index.rows import Rows

FULL_BLOCK_ROWS = 1 << 18  # a fuller block does not grow: this bounds the copies for its growth and for one removal
_COPIED_ROWS = 1 << 12  # so few are copied to be extended, so that copies of copies don't get a block for each row
_SORTED_BLOCK = 4  # times as many rows has a block at most that is sorted by list: it never grows
_UNSORTED = 64  # part of a full block that the last rows of a partitioned index may be before they are sorted
_LARGEST_ID = 2**63 - 1
_NO_ROWS = np.zeros(0, np.int64)

Blocks: TypeAlias = tuple[Block, ...]


class Store:
    """Rows that can be added, replaced and removed while others search them.

    Parameters
    ----------
    like : dict of arrays
        Names, shapes and types of a row.
    prefixes : PrefixBlocks
        Of the codec.
    block_rows : int
        Rows from which on a block is full. A quarter is copied at a time; of half as many, removed rows are dropped.
    lists : Lists, optional
        Of a partitioned index. Blocks are sorted by list then, except for the last rows while they are few.

    Attributes
    ----------
    blocks : tuple of Block
        The rows of now.
    next_id : int
        Id of the next row that is added without one: larger than any that was ever used, so up to 2⁶³.
    """

    def __init__(
        self, like: Rows, prefixes: PrefixBlocks, block_rows: int = FULL_BLOCK_ROWS, lists: Lists | None = None
    ):
        self.blocks: Blocks = ()
        self.next_id = 0
        self._like = like
        self._prefixes = prefixes
        self._block_rows = block_rows
        self._lists = lists
        self._owns_last = False  # whether the last block may be extended: its arrays are of no file and no other store
        self._table: IdTable | None = None  # made when it is first needed; not while ids are consecutive in each block
        self._before: tuple[Blocks, int] | None = None  # blocks and next id before a change that is going on

    @property
    def table_bytes(self) -> int:
        """Bytes of the table of ids."""
        return 0 if self._table is None else self._table.nbytes

    def settle(self) -> None:
        """Make the store whole after a change that was cut short: all of it is done then, or nothing."""
        if self._before is None:
            return
        blocks, next_id = self._before
        if self.blocks is blocks:
            self.next_id = next_id
        self._owns_last, self._table, self._before = False, None, None

    def copy(self) -> Store:
        """Return a store of the same rows; later changes of either don't show in the other."""
        self.settle()
        other = self._empty(self._lists)
        other.blocks, other.next_id = self.blocks, self.next_id
        return other

    def partitioned(self, lists: Lists | None, threads: int | None = None) -> Store:
        """Return a store of the same rows, sorted by list; without lists in the order of now."""
        self.settle()
        other = self._empty(lists)
        other.blocks = tuple(block._replace(starts=UNSORTED) for block in self.blocks)
        other.next_id = self.next_id
        if lists is not None:
            other.rearrange(threads)
        return other

    def _empty(self, lists: Lists | None) -> Store:
        return Store(self._like, self._prefixes, self._block_rows, lists)

    def append(self, rows: Rows, ids: Ids | None, replace: bool, threads: int | None = None) -> None:
        """Add rows; nothing changes if an id is taken.

        Parameters
        ----------
        rows : dict of arrays
        ids : (n,) int64, optional
            Distinct. Default: the next ones.
        replace : bool
            Whether rows with the same ids give way; otherwise they are an error.
        threads : int, optional
            For finding the lists of rows.

        Raises
        ------
        InputError
            An id is taken, or there are no larger ones.
        """
        self.settle()
        n = rows["scale"].shape[0]
        if n == 0:
            return
        if ids is None:
            self._check_ids_left(n)
            self._add([rows], n, None, threads=threads)
            return
        old = self.find(ids)
        present = old >= 0
        if present.any() and not replace:
            at = int(np.argmax(present))
            raise InputError(f"ids row {at}: id {ids[at]} is in the index; add(..., upsert=True) replaces it")
        self._add([rows], n, ids, old[present], ids[present], threads)

    def extend(self, blocks: Blocks, renumber: bool) -> None:
        """Add all rows of another store of the same codec, as its `merge_snapshot` gives them; all or none.

        Raises
        ------
        InputError
            They keep their ids and one is taken, or there are no larger ones to give them.
        """
        self.settle()
        n = sum(block.live for block in blocks)
        ids = np.concatenate([_NO_ROWS, *(block.ids_of(block.live_rows()) for block in blocks)])
        if renumber:
            self._check_ids_left(n)
            ids = ids + self.next_id
        else:
            clash = ids[self.find(ids) >= 0]
            if clash.size:
                more = f" and {clash.size - 1} more" if clash.size > 1 else ""
                raise InputError(f"both indexes have id {clash[0]}{more}")
        if n:
            self._add((rows for rows, _ in self.iter_chunks(blocks)), n, ids)

    def merge_snapshot(self) -> tuple[Blocks, bool]:
        """Return the blocks of now, and whether a store that they are added to shall give them new ids.

        It shall where ids are 0, 1, 2, … in order, as they are by default, and no row was ever removed. In a
        partitioned index, that is the order in which they were added to each list.
        """
        self.settle()
        if self.next_id != _count(self.blocks) or any(block.alive.size for block in self.blocks):
            return self.blocks, False
        if self._lists is None:
            return self.blocks, first_id(self.blocks, self.next_id) == 0
        order = self.arrangement(self.blocks)
        ids = np.concatenate([_NO_ROWS, *(block.ids_of(np.arange(block.n)) for block in self.blocks)])[order.rows]
        falls = np.flatnonzero(np.diff(ids) < 0) + 1
        return self.blocks, bool(ids.size == 0 or (ids.min() == 0 and np.isin(falls, order.starts).all()))

    def _check_ids_left(self, n: int) -> None:
        if self.next_id + n > _LARGEST_ID:
            raise InputError(f"no {n} ids are left after {self.next_id - 1}; give ids of your own")

    def _add(
        self,
        chunks: Iterable[Rows],
        n: int,
        ids: Ids | None,
        old: Ids = _NO_ROWS,
        old_ids: Ids = _NO_ROWS,
        threads: int | None = None,
    ) -> None:
        """Add `n` rows, in chunks, with their ids or the next ones, in place of `old` rows.

        Nothing shows before the last lines, which can't fail: rows are written where no block has any.
        """
        new = self.next_id if ids is None or _consecutive(ids, self.next_id) else ids
        blocks, start = _without(self.blocks, old), _count(self.blocks)
        table, owned, done = self._table, self._owns_last, 0
        if table is not None:
            table.reserve(n)
        elif not isinstance(new, int):
            table, old_ids = _table_of(blocks), _NO_ROWS
            table.reserve(n)
        for rows in chunks:
            end = done + rows["scale"].shape[0]
            part = new + done if isinstance(new, int) else new[done:end]
            if blocks and (owned or blocks[-1].n < _COPIED_ROWS) and self._may_extend(blocks[-1], part, table):
                last = blocks[-1] if owned else blocks[-1].copied()
                blocks = (*blocks[:-1], last.extended(rows, part))
            else:
                blocks = (*blocks, empty_block(self._like, self._prefixes).extended(rows, part))
            owned, done = True, end
        largest = new + n - 1 if isinstance(new, int) else int(new.max())
        self._before = self.blocks, self.next_id
        if table is not None:
            new_ids = np.arange(new, new + n) if isinstance(new, int) else new
            numbers = np.arange(start, start + n)
            table.remove(old_ids)
            table.insert(new_ids, numbers)
        self._table, self._owns_last = table, True
        self.next_id = max(self.next_id, largest + 1)
        self.blocks = blocks
        self._compact(threads)
        self._sort_last(threads)
        self._before = None

    def _may_extend(self, block: Block, ids: Ids | int, table: IdTable | None) -> bool:
        """Return whether more rows may go into the last block, if it is owned: it has space, and can find their ids.

        Ids that are consecutive in every block are found without a table.
        """
        found = table is not None or block.next_id == ids or not isinstance(block.ids, int)
        return found and block.n < self._block_rows and block.starts.size == 0

    def remove(self, ids: Ids) -> int:
        """Remove the rows of distinct ids, as far as there are any, and return their number."""
        rows = self.find(ids)
        present = rows >= 0
        blocks = _without(self.blocks, rows[present])
        self._before = self.blocks, self.next_id
        if self._table is not None:
            self._table.remove(ids[present])
        self.blocks = blocks
        self._compact()
        self._before = None
        return int(present.sum())

    def load_rows(self, rows: Rows, ids: Ids | int, next_id: int, mapped: bool, starts: Ids = UNSORTED) -> None:
        """Take the rows of a file into an empty store; of `mapped` ones only the last few are read.

        `starts` are those of all rows, if they are sorted by list.
        """
        self.next_id = next_id
        if rows["scale"].shape[0] == 0:
            return
        size = self._block_rows * (_SORTED_BLOCK if starts.size else 1)
        blocks = split_into_blocks(rows, ids, self._prefixes, size, mapped)
        self.blocks = cut_starts(blocks, starts) if starts.size else tuple(blocks)
        self._owns_last = starts.size == 0

    def find(self, ids: Ids) -> Ids:
        """Return the row of each id, counted through all blocks, removed rows included; -1 where there is none."""
        self.settle()
        if self._table is None:
            if all(isinstance(block.ids, int) for block in self.blocks):
                return find_in_order(self.blocks, ids)
            self._table = _table_of(self.blocks)
        return self._table.find(ids)

    def arrangement(self, blocks: Blocks, threads: int | None = None) -> Arrangement:
        """Return rows of a partitioned index by list."""
        if self._lists is None:
            raise TypeError("this store has no lists")
        return arrange(blocks, self._lists, threads)

    def rearrange(self, threads: int | None = None, first: int = 0) -> None:
        """Sort the rows of all blocks from number `first` on by list; removed ones are dropped."""
        moved = self.arrangement(self.blocks[first:], threads).moved(self._prefixes, _SORTED_BLOCK * self._block_rows)
        self._owns_last, self._table, self.blocks = False, None, (*self.blocks[:first], *moved)

    def _sort_last(self, threads: int | None) -> None:
        """Sort the last rows of a partitioned index when they are many, with blocks before them that are as small.

        Blocks grow like the digits of a counter: each row is moved a few times, and a list lies in few blocks.
        """
        first = len(self.blocks) - 1
        if self._lists is None or first < 0 or self.blocks[first].n < self._block_rows // _UNSORTED:
            return
        n = self.blocks[first].n
        while first and self.blocks[first - 1].n < min(2 * n, _SORTED_BLOCK * self._block_rows):
            first -= 1
            n += self.blocks[first].n
        self.rearrange(threads, first)

    def iter_chunks(self, blocks: Blocks) -> Iterator[tuple[Rows, Ids]]:
        """Yield copies of all rows that were not removed, in order, and their ids, some rows at a time."""
        step = max(1, self._block_rows // 4)
        for block in blocks:
            rows = block.live_rows()
            for first in range(0, rows.size, step):
                chunk = rows[first : first + step]
                yield {name: array[chunk] for name, array in block.rows.items()}, block.ids_of(chunk)

    def _compact(self, threads: int | None = None) -> None:
        """Drop removed rows for good when they are more than those that are left."""
        stored = _count(self.blocks)
        if stored < self._block_rows // 2 or 2 * sum(block.live for block in self.blocks) > stored:
            return
        if self._lists is not None:
            self.rearrange(threads)
            return
        fresh = self._empty(None)
        for rows, ids in self.iter_chunks(self.blocks):
            fresh.append(rows, ids, False)
        self._owns_last, self._table, self.blocks = fresh._owns_last, fresh._table, fresh.blocks


def first_id(blocks: Blocks, next_id: int) -> int | None:
    """Return the id of the first row, or `next_id` of none, if the ids of all rows are consecutive from 0 or above."""
    first: int | None = None
    end = 0
    for block in blocks:
        ids = block.ids_of(block.live_rows())
        if ids.size == 0:
            continue
        if first is None:
            first = end = int(ids[0])
        if first < 0 or not _consecutive(ids, end):
            return None
        end += ids.size
    return next_id if first is None else first


def find_in_order(blocks: Blocks, ids: Ids) -> Ids:
    """Return the rows of ids that are consecutive in every block, and rise from block to block."""
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


def _count(blocks: Blocks) -> int:
    """Number of rows, removed ones included."""
    return sum(block.n for block in blocks)


def _table_of(blocks: Blocks) -> IdTable:
    """A table of the ids of all rows that were not removed."""
    table = IdTable()
    start = 0
    for block in blocks:
        rows = block.live_rows()
        table.insert(block.ids_of(rows), rows + start)
        start += block.n
    return table


def _consecutive(ids: Ids, first: int) -> bool:
    """Return whether ids are `first` and the following; one beyond the last of them must be an int64 too."""
    return bool(ids[0] == first and first + ids.size <= _LARGEST_ID and np.all(np.diff(ids) == 1))


def _without(blocks: Blocks, rows: Ids) -> Blocks:
    """Blocks after some rows are removed."""
    if rows.size == 0:
        return blocks
    left = []
    start = 0
    for block in blocks:
        mine = rows[(rows >= start) & (rows < start + block.n)] - start
        left.append(block.without(mine) if mine.size else block)
        start += block.n
    return tuple(left)

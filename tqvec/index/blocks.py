"""Blocks of rows. A block never changes; more rows make a new block, which may share the arrays of the one before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._memory import aligned
from tqvec._types import Flags, Ids, Words
from tqvec.index.mapped import MappedLists, mapped_lists
from tqvec.index.prefixes import PrefixBlocks
from tqvec.index.rows import Rows

_KEPT_ROWS = 1 << 20  # as many as the largest block has
SPARE_ROWS = 64  # that all arrays keep after the last row: vector kernels read whole blocks
ALL = np.zeros(0, np.uint64)  # a mask of every row
UNSORTED = np.zeros(0, np.int64)  # the starts of lists in a block that is not sorted by them


class Block(NamedTuple):
    """A run of rows of an index, as it is at one moment.

    Attributes
    ----------
    rows : dict of arrays
        Codes, scales and, for l2, squared lengths: `n` rows and at least `SPARE_ROWS` more, of any content.
    n : int
        Number of rows, removed ones included.
    ids : (≥ n,) int64 or int
        Id of each row, or of the first of rows with consecutive ids.
    alive : (⌈n/64⌉,) uint64
        Bit i % 64 of word i // 64 is set unless row i was removed; `ALL` while none was.
    prefixes : PrefixBlocks
        The copy that the first stage of a search reads, made when it is first needed.
    starts : (nlist + 1,) int64
        First row of each list, and the end, if the rows are sorted by list; else `UNSORTED`.
    mapped : MappedLists or None
        What the system reads of a mapped file, if the rows are sorted by list.
    """

    rows: Rows
    n: int
    ids: Ids | int
    alive: Words
    prefixes: PrefixBlocks
    starts: Ids = UNSORTED
    mapped: MappedLists | None = None

    @property
    def live(self) -> int:
        """Number of rows that were not removed."""
        return self.count(self.alive)

    def count(self, mask: Words) -> int:
        """Return the number of rows in a mask."""
        return self.n if mask.size == 0 else int(np.bitwise_count(mask).sum())

    @property
    def next_id(self) -> int | None:
        """Id after the last row's, if ids are consecutive."""
        return self.ids + self.n if isinstance(self.ids, int) else None

    def arrays(self) -> list[NDArray]:
        """Return the arrays of rows and ids."""
        return [*self.rows.values(), *(() if isinstance(self.ids, int) else (self.ids,))]

    def ids_of(self, rows: Ids) -> Ids:
        """Return the ids of some rows."""
        ids: Ids = rows + self.ids if isinstance(self.ids, int) else self.ids[rows]
        return ids

    def live_rows(self) -> Ids:
        """Return the numbers of the rows that were not removed."""
        rows = np.arange(self.n)
        return rows if self.alive.size == 0 else rows[unpack_mask(self.alive, self.n)]

    def without(self, rows: Ids) -> Block:
        """Return this block after some rows are removed."""
        alive = self.alive.copy() if self.alive.size else ones(self.n)
        np.bitwise_and.at(alive, rows >> 6, ~(np.uint64(1) << (rows & 63).astype(np.uint64)))
        return self._replace(alive=alive)

    def copied(self) -> Block:
        """Return a copy that may be extended, whose arrays are its own."""
        capacity = self.n + self.n // 2 + SPARE_ROWS
        rows = {name: _enlarged(array, self.n, capacity) for name, array in self.rows.items()}
        ids = self.ids if isinstance(self.ids, int) else _enlarged(self.ids, self.n, capacity)
        return self._replace(rows=rows, ids=ids, prefixes=self.prefixes.fresh(), mapped=None)

    def extended(self, rows: Rows, ids: Ids | int) -> Block:
        """Return this block with more rows, which are written behind its own if its arrays have space for them.

        Only for the latest block of some arrays, and for one owner of them: another one would write to the same place.
        Earlier blocks of the same arrays stay as they are.
        """
        n, total, stored = self.n, self.n + rows["scale"].shape[0], self.rows
        capacity = stored["scale"].shape[0]
        if total + SPARE_ROWS > capacity:
            capacity = max(total + SPARE_ROWS, capacity + capacity // 2)
            stored = {name: _enlarged(array, n, capacity) for name, array in stored.items()}
        for name, array in rows.items():
            stored[name][n:total] = array
        alive = self.alive
        if alive.size:
            alive = ones(total)
            alive[: n // 64] = self.alive[: n // 64]
            if n % 64:
                alive[n // 64] &= self.alive[n // 64] | ~ones(n)[-1]
        return Block(
            rows=stored, n=total, ids=self._joined_ids(ids, total, capacity), alive=alive, prefixes=self.prefixes
        )

    def _joined_ids(self, ids: Ids | int, total: int, capacity: int) -> Ids | int:
        """Ids of these rows and of new ones; they are one number as long as they are consecutive."""
        n = self.n
        if n == 0:
            return ids if isinstance(ids, int) else _enlarged(ids, total, capacity)
        if isinstance(ids, int):
            if self.next_id == ids:
                return self.ids
            ids = np.arange(ids, ids + total - n)
        joined = np.arange(self.ids, self.ids + n) if isinstance(self.ids, int) else self.ids
        if joined.size < total:
            joined = _enlarged(joined, n, capacity)
        joined[n:total] = ids
        return joined


def empty_block(like: Rows, prefixes: PrefixBlocks) -> Block:
    """Return a block of no rows.

    Parameters
    ----------
    like : dict of arrays
        Names, shapes and types of a row.
    prefixes : PrefixBlocks
        Of the same codec.
    """
    rows = {name: np.zeros((0, *array.shape[1:]), array.dtype) for name, array in like.items()}
    return Block(rows=rows, n=0, ids=0, alive=ALL, prefixes=prefixes.fresh())


def split_into_blocks(rows: Rows, ids: Ids | int, prefixes: PrefixBlocks, block_rows: int, mapped: bool) -> list[Block]:
    """Return blocks of rows that lie in arrays without spare rows, as those of a file do.

    The last block is a copy, which may be extended: of few rows if the arrays are mapped and shall not be read,
    otherwise of less than a full block.
    """
    total = rows["scale"].shape[0]
    kept = max(0, min(total if mapped else total // block_rows * block_rows, total - SPARE_ROWS))
    blocks = []
    for start in range(0, kept, block_rows):
        part = {name: array[start:] for name, array in rows.items()}
        first = ids + start if isinstance(ids, int) else ids[start:]
        blocks.append(
            Block(rows=part, n=min(block_rows, kept - start), ids=first, alive=ALL, prefixes=prefixes.fresh())
        )
    rest = {name: array[kept:] for name, array in rows.items()}
    blocks.append(empty_block(rows, prefixes).extended(rest, ids + kept if isinstance(ids, int) else ids[kept:]))
    return blocks


def may_be_kept(blocks: Sequence[Block]) -> bool:
    """Return whether blocks may be kept from one search to the next: after a change they are memory without a use."""
    return sum(block.n for block in blocks) <= _KEPT_ROWS


def cut_starts(blocks: Iterable[Block], starts: Ids) -> tuple[Block, ...]:
    """Return blocks of rows that are sorted by list, given the first row of each list among all rows."""
    cut, base = [], 0
    for block in blocks:
        own = np.clip(starts - base, 0, block.n)
        cut.append(block._replace(starts=own, mapped=mapped_lists([*block.rows.values()], own)))
        base += block.n
    return tuple(cut)


def ones(count: int) -> Words:
    """Return a mask with the first `count` bits set."""
    full = np.full(-(-count // 64), ~np.uint64(0))
    if count % 64:
        full[-1] >>= np.uint64(64 - count % 64)
    return full


def pack_mask(flags: Flags) -> Words:
    """Return the bits of a boolean array, 64 to a word."""
    packed = np.zeros(-(-flags.size // 64) * 8, np.uint8)
    packed[: -(-flags.size // 8)] = np.packbits(flags, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False)


def unpack_mask(mask: Words, count: int) -> Flags:
    """Return the boolean array of `count` that `pack_mask` made a mask of."""
    return np.unpackbits(mask.astype("<u8", copy=False).view(np.uint8), count=count, bitorder="little").view(np.bool_)


def intersect(one: Words, other: Words) -> Words:
    """Return the mask of the rows that are in both masks."""
    if one.size == 0:
        return other
    return one if other.size == 0 else one & other


def _enlarged(array: NDArray, n: int, capacity: int) -> NDArray:
    """The first `n` rows, in an array with space for more."""
    out = aligned((capacity, *array.shape[1:]), array.dtype)
    out[:n] = array[:n]
    return out

"""Blocks: what an index is made of. Rows never change once they are in a block; only the last block grows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Ids, Words
from tqvec.index.prefixes import PrefixBlocks
from tqvec.index.rows import Rows, aligned

SPARE_ROWS = 64  # that all arrays keep after the last row: vector kernels read whole blocks
BLOCK_ROWS = 1 << 18  # from which on a tail stops growing: this bounds what is copied as it grows, or for one removal


ALL = np.zeros(0, np.uint64)  # words that mean every row


class Block(NamedTuple):
    """Some rows of an index, as they are at a moment.

    Attributes
    ----------
    rows : dict of arrays
        Codes, scales and, for l2, squared lengths: `n` rows and at least `SPARE_ROWS` more, of any content.
    n : int
    ids : (≥ n,) int64 or int
        Id of each row, or of the first of rows with consecutive ids.
    alive : (⌈n/64⌉,) uint64
        Bit i % 64 of word i // 64 is set unless row i was removed; `ALL` while none was.
    prefixes : PrefixBlocks
        What the first stage of a search reads, made when it is first needed.
    """

    rows: Rows
    n: int
    ids: Ids | int
    alive: Words
    prefixes: PrefixBlocks

    @property
    def live(self) -> int:
        """Number of rows that were not removed."""
        return self.n if self.alive.size == 0 else int(np.bitwise_count(self.alive).sum())

    def ids_of(self, rows: Ids) -> Ids:
        """Ids of some rows."""
        found: Ids = rows + self.ids if isinstance(self.ids, int) else self.ids[rows]
        return found

    def live_rows(self) -> Ids:
        """Numbers of the rows that were not removed."""
        rows = np.arange(self.n)
        return rows if self.alive.size == 0 else rows[bits(self.alive, self.n)]

    def without(self, rows: Ids) -> Block:
        """This block after some rows are removed."""
        alive = self.alive.copy() if self.alive.size else every(self.n)
        np.bitwise_and.at(alive, rows >> 6, ~(np.uint64(1) << (rows & 63).astype(np.uint64)))
        return self._replace(alive=alive)


def every(count: int) -> Words:
    """Words with the first `count` bits set."""
    full = np.full(-(-count // 64), ~np.uint64(0))
    if count % 64:
        full[-1] >>= np.uint64(64 - count % 64)
    return full


def words(chosen: NDArray[np.bool_]) -> Words:
    """Bits of a boolean array, 64 to a word."""
    packed = np.zeros(-(-chosen.size // 64) * 8, np.uint8)
    packed[: -(-chosen.size // 8)] = np.packbits(chosen, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False)


def bits(chosen: Words, count: int) -> NDArray[np.bool_]:
    """The boolean array of `count` that `words` was made of."""
    return np.unpackbits(chosen.astype("<u8", copy=False).view(np.uint8), count=count, bitorder="little").view(np.bool_)


def both(one: Words, other: Words) -> Words:
    """Words of the rows that both mean."""
    if one.size == 0:
        return other
    return one if other.size == 0 else one & other


def cut(rows: Rows, ids: Ids | int, prefixes: PrefixBlocks, mapped: bool) -> tuple[list[Block], Tail]:
    """Blocks of rows that lie in arrays without spare rows, as in a file, and the tail that is the last of them.

    The tail is a copy: of few rows, if the arrays are mapped and shall not be read, otherwise of less than a block.
    """
    total = rows["scale"].shape[0]
    kept = max(0, min(total if mapped else total // BLOCK_ROWS * BLOCK_ROWS, total - SPARE_ROWS))
    blocks = []
    for start in range(0, kept, BLOCK_ROWS):
        part = {name: array[start:] for name, array in rows.items()}
        first = ids + start if isinstance(ids, int) else ids[start:]
        blocks.append(Block(part, min(BLOCK_ROWS, kept - start), first, ALL, prefixes.fresh()))
    tail = Tail(rows, prefixes)
    rest = {name: array[kept:] for name, array in rows.items()}
    blocks.append(tail.append(rest, ids + kept if isinstance(ids, int) else ids[kept:]))
    return blocks, tail


class Tail:
    """Growing arrays, of which the last block of an index is a view.

    Rows are written behind those that any block has, so earlier views stay as they are.

    Parameters
    ----------
    like : dict of arrays
        Names, shapes and types of a row.
    prefixes : PrefixBlocks
        Of the same codec.
    """

    def __init__(self, like: Rows, prefixes: PrefixBlocks):
        self._rows = {name: np.zeros((0, *array.shape[1:]), array.dtype) for name, array in like.items()}
        self._ids: Ids | int = 0
        self._prefixes = prefixes.fresh()
        self.n = 0

    @property
    def end(self) -> int | None:
        """Id that would follow, if all ids here follow each other."""
        return self._ids + self.n if isinstance(self._ids, int) else None

    def append(self, rows: Rows, ids: Ids | int, alive: Words = ALL) -> Block:
        """The tail with more rows; `alive` are the words of its block before."""
        n = self.n
        total = n + rows["scale"].shape[0]
        self._reserve(total)
        for name, array in rows.items():
            self._rows[name][n:total] = array
        self._add_ids(ids, total)
        self.n = total
        if alive.size:
            more = every(total)
            more[: n // 64] = alive[: n // 64]
            if n % 64:
                more[n // 64] &= alive[n // 64] | ~every(n)[-1]
            alive = more
        return Block(dict(self._rows), total, self._ids, alive, self._prefixes)

    def _reserve(self, total: int) -> None:
        room = self._rows["scale"].shape[0]
        if total + SPARE_ROWS > room:
            room = max(total + SPARE_ROWS, room + room // 2)
            self._rows = {name: _grown(array, self.n, room) for name, array in self._rows.items()}

    def _add_ids(self, ids: Ids | int, total: int) -> None:
        """Ids of the rows from `n` on; they are consecutive as long as they can be."""
        n = self.n
        if n == 0:
            self._ids = ids if isinstance(ids, int) else _grown(ids, total, self._rows["scale"].shape[0])
            return
        if isinstance(ids, int):
            if isinstance(self._ids, int) and self._ids + n == ids:
                return
            ids = np.arange(ids, ids + total - n)
        before = np.arange(self._ids, self._ids + n) if isinstance(self._ids, int) else self._ids
        if before.size < total:
            before = _grown(before, n, self._rows["scale"].shape[0])
        before[n:total] = ids
        self._ids = before


def _grown(array: NDArray, n: int, room: int) -> NDArray:
    """The first `n` rows, with room for more."""
    out = aligned((room, *array.shape[1:]), array.dtype)
    out[:n] = array[:n]
    return out

"""Arrangement: the rows of some blocks in the order of their lists, and in each list in the order of the blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tqvec._memory import aligned
from tqvec._types import Ids
from tqvec.index.blocks import ALL, SPARE_ROWS, Block, cut_starts
from tqvec.index.prefixes import PrefixBlocks
from tqvec.index.rows import Rows

_STEP = 65536  # rows that are moved, or decoded to find their lists, at a time


class Lists(Protocol):
    """What says which list a row belongs to."""

    @property
    def nlist(self) -> int:
        """Number of lists."""

    def lists_of(self, rows: Rows, threads: int | None) -> NDArray[np.int32]:
        """Return the list of each row."""


class Arrangement(NamedTuple):
    """Rows of blocks by list.

    Attributes
    ----------
    blocks : sequence of Block
    rows : (n,) int64
        Numbers of the rows that were not removed, counted through these blocks, in the new order.
    starts : (nlist + 1,) int64
        Where each list begins in `rows`, and the end.
    """

    blocks: Sequence[Block]
    rows: Ids
    starts: Ids

    def chunks(self, step: int = _STEP) -> Iterator[tuple[Rows, Ids]]:
        """Yield copies of the rows in order, and their ids, some rows at a time."""
        ends = np.cumsum([block.n for block in self.blocks])
        for first in range(0, self.rows.size, step):
            numbers = self.rows[first : first + step]
            block_of = np.searchsorted(ends, numbers, side="right")
            ids = np.empty(numbers.size, np.int64)
            rows = {
                name: np.empty((numbers.size, *array.shape[1:]), array.dtype)
                for name, array in self.blocks[0].rows.items()
            }
            for b, block in enumerate(self.blocks):
                mine = np.flatnonzero(block_of == b)
                local = numbers[mine] - (ends[b] - block.n)
                ids[mine] = block.ids_of(local)
                for name, array in block.rows.items():
                    rows[name][mine] = array[local]
            yield rows, ids

    def moved(self, prefixes: PrefixBlocks, block_rows: int) -> tuple[Block, ...]:
        """Return new blocks of at most so many rows, sorted by list."""
        n = self.rows.size
        if n == 0:
            return ()
        stored = {
            name: aligned((n + SPARE_ROWS, *array.shape[1:]), array.dtype)
            for name, array in self.blocks[0].rows.items()
        }
        ids = np.empty(n, np.int64)
        done = 0
        for rows, numbers in self.chunks():
            end = done + numbers.size
            ids[done:end] = numbers
            for name, array in rows.items():
                stored[name][done:end] = array
            done = end
        blocks = [
            Block(
                rows={name: array[start:] for name, array in stored.items()},
                n=min(block_rows, n - start),
                ids=ids[start:],
                alive=ALL,
                prefixes=prefixes.fresh(),
            )
            for start in range(0, n, block_rows)
        ]
        return cut_starts(blocks, self.starts)


def arrange(blocks: Sequence[Block], lists: Lists, threads: int | None = None) -> Arrangement:
    """Find the list of each row; the order of rows in a list stays."""
    rows, members, base = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], 0
    for block in blocks:
        live = block.live_rows()
        rows.append(live + base)
        base += block.n
        if block.starts.size:
            members.append(np.repeat(np.arange(lists.nlist, dtype=np.int32), np.diff(block.starts))[live])
            continue
        for first in range(0, live.size, _STEP):
            chunk = live[first : first + _STEP]
            members.append(lists.lists_of({name: array[chunk] for name, array in block.rows.items()}, threads))
    member = np.concatenate(members)
    counts = np.bincount(member, minlength=lists.nlist)
    return Arrangement(
        blocks=blocks,
        rows=np.concatenate(rows)[np.argsort(member, kind="stable")],
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )

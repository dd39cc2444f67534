"""Probes: the lists of a partitioned index that queries are compared with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Flags, Ids, Words
from tqvec.index.blocks import ALL, Block, pack_mask


class Probes(NamedTuple):
    """The lists that each query of a batch probes.

    Attributes
    ----------
    first : (nq + 1,) int64
        Query q probes ``lists[first[q] : first[q + 1]]``.
    lists : (first[-1],) int32
        Distinct for each query, the nearest first.
    """

    first: Ids
    lists: NDArray[np.int32]

    def of(self, query: int) -> NDArray[np.int32]:
        """Return the lists of one query."""
        return self.lists[self.first[query] : self.first[query + 1]]

    def some(self, chosen: Flags) -> Probes:
        """Return the lists of some queries, (nq,) bool."""
        if chosen.all():
            return self
        counts = np.diff(self.first)
        first = np.concatenate([[0], np.cumsum(counts[chosen])])
        return Probes(first, self.lists[np.repeat(chosen, counts)])


def list_mask(block: Block, lists: NDArray[np.int32]) -> Words:
    """Return the bits of the rows of some lists in a block; of all rows if it is not sorted."""
    if block.starts.size == 0:
        return ALL
    inside = np.zeros(block.n, np.bool_)
    for one in lists:
        inside[block.starts[one] : block.starts[one + 1]] = True
    return pack_mask(inside)

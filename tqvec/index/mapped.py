"""Mapped: the lists of a mapped file, of which the system shall read those that are probed and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tqvec._mmap import Mapping, mapping_of
from tqvec._types import Ids


class MappedLists:
    """The lists of a block of rows that lie in mapped arrays.

    A page that is missing makes the system read many behind it, of lists that nobody asked for. So it is told not to,
    and to read the whole of a list when that is first probed.

    Parameters
    ----------
    arrays : list of arrays
        Views of mappings; the rows of the block come first.
    starts : (nlist + 1,) int64
        First row of each list, and the end.
    """

    def __init__(self, arrays: Iterable[NDArray], starts: Ids) -> None:
        found = ((mapping_of(array), array) for array in arrays)
        self._parts: list[tuple[Mapping, int]] = [
            (mapping, array.strides[0]) for mapping, array in found if mapping is not None
        ]
        self._starts, self._is_sequential = starts, False
        self._read = np.zeros(max(0, starts.size - 1), bool)
        for mapping, _ in self._parts:
            mapping.read_nothing_ahead()

    def read(self, lists: NDArray[np.int32]) -> None:
        """Let the system read some lists that it was not asked for yet."""
        if self._is_sequential or not self._parts:
            return
        new = np.unique(lists[~self._read[lists]])
        self._read[new] = True
        for first, last in zip(self._starts[new].tolist(), self._starts[new + 1].tolist(), strict=True):
            for mapping, size in self._parts if first < last else ():
                mapping.read(first * size, last * size)

    def read_in_order(self) -> None:
        """Let the system read ahead again, for a search of all rows."""
        if not self._is_sequential:
            self._is_sequential = True
            for mapping, _ in self._parts:
                mapping.read_ahead()


def mapped_lists(arrays: list[NDArray], starts: Ids) -> MappedLists | None:
    """Return the lists of a block if one of its arrays is mapped."""
    lists = any(mapping_of(array) is not None for array in arrays)
    return MappedLists(arrays, starts) if lists else None

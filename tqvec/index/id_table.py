"""A table from the ids of an index to its rows."""

from __future__ import annotations

import numpy as np

from tqvec._types import Ids
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.ids.portable import EMPTY

_LEAST = 64  # slots


class IdTable:
    """Row numbers by id: 16 bytes per slot, two to four slots per id."""

    def __init__(self) -> None:
        self._slots = _empty(_LEAST)
        self._n = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return self._slots.nbytes

    def reserve(self, more: int) -> None:
        """Make space for some more ids."""
        n = self._n + more
        if 2 * n > self._slots.shape[0]:
            used = self._slots[self._slots[:, 1] != EMPTY]
            slots = _empty(1 << (2 * n - 1).bit_length())
            kernel("ids_insert")(slots, used[:, 0].copy(), used[:, 1].copy())
            self._slots = slots

    def insert(self, ids: Ids, rows: Ids) -> None:
        """Insert new ids and their rows."""
        self.reserve(ids.size)
        self._n += ids.size
        kernel("ids_insert")(self._slots, np.ascontiguousarray(ids), np.ascontiguousarray(rows))

    def find(self, ids: Ids) -> Ids:
        """Return the row of each id, -1 where there is none."""
        rows = np.empty(ids.size, np.int64)
        kernel("ids_find")(self._slots, np.ascontiguousarray(ids), rows)
        return rows

    def remove(self, ids: Ids) -> None:
        """Remove ids that are in the table."""
        self._n -= ids.size
        kernel("ids_remove")(self._slots, np.ascontiguousarray(ids))


def _empty(capacity: int) -> Ids:
    return np.full((capacity, 2), EMPTY, np.int64)

"""A table from the ids of an index to its rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class IdTable:
    """Row numbers by id."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}

    def insert(self, ids: Ids, first_row: int) -> None:
        """Put new ids in, whose rows are `first_row` and the following."""
        self._rows.update(zip(ids.tolist(), range(first_row, first_row + ids.size), strict=True))

    def find(self, ids: Ids) -> Ids:
        """Row of each id, -1 where there is none."""
        return np.array([self._rows.get(i, -1) for i in ids.tolist()], np.int64)

    def remove(self, ids: Ids) -> None:
        """Take ids out that are in."""
        for i in ids.tolist():
            del self._rows[i]

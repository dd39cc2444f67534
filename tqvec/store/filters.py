"""Filters: the rows that conditions allow, and what was found out about them, until the next commit."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict

import numpy as np

from tqvec._locks import ForkLock
from tqvec._types import Ids
from tqvec.index.selectors import Ids as IdSelector
from tqvec.store.state import read_rows
from tqvec.store.where import Condition

_MOST = 32  # conditions that are remembered


class AllowedRows:
    """The rows that a search may return: those of a condition."""

    def __init__(self, rows: Ids) -> None:
        self.rows = rows
        self._selectors: dict[tuple[int, int], IdSelector | None] = {}

    def selector(self, first: int, last: int) -> IdSelector | None:
        """Return the selector of an index whose rows are from `first` to `last`; None if it has none of them.

        A selector that is used again knows the positions of its rows.
        """
        key = first, last
        if key not in self._selectors:
            start, stop = np.searchsorted(self.rows, [first, last + 1])
            self._selectors[key] = IdSelector(self.rows[start:stop]) if stop > start else None
        return self._selectors[key]


class FilterCache:
    """Rows of the last conditions, as of one commit."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, Condition], AllowedRows] = OrderedDict()
        self._lock = ForkLock()

    def look_up(self, generation: int, condition: Condition) -> AllowedRows | None:
        """Return the rows of a condition as of a commit, if they are remembered."""
        key = generation, condition
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def find(self, connection: sqlite3.Connection, generation: int, condition: Condition) -> AllowedRows | None:
        """Return the rows of a condition as of the transaction of a connection; None for all."""
        if condition.holds_always:
            return None
        rows = self.look_up(generation, condition)
        if rows is not None:
            return rows
        rows = AllowedRows(
            read_rows(connection, f"SELECT row FROM records WHERE {condition.sql}", condition.parameters)
        )
        with self._lock:
            self._known[generation, condition] = rows
            while len(self._known) > _MOST:
                self._known.popitem(last=False)
        return rows

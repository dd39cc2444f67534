"""Search: the rankings of some queries within one transaction."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from tqvec._types import Floats
from tqvec.store.fetch import vectors_of
from tqvec.store.filters import AllowedRows
from tqvec.store.ranking import NOTHING, Options, Ranking, best_of_groups, diversify, fuse, search_vectors, search_words
from tqvec.store.state import State
from tqvec.store.where import Condition

_FURTHER = 4  # times as many rows are searched for if they have too few groups


class Search(NamedTuple):
    """What is searched for, and where.

    Attributes
    ----------
    connection : sqlite3.Connection
    state : State
        As of the transaction of the connection.
    queries : (nq, d) float32, optional
    texts : list of str, optional
        As many as there are queries.
    condition : Condition
    allowed : AllowedRows, optional
        The rows of the condition.
    group : Condition, optional
        SQL of the value of which each result shall have another.
    diversity : float, optional
    candidates : int
        How many of the best are ordered anew, where the others decide.
    options : Options
    """

    connection: sqlite3.Connection
    state: State
    queries: Floats | None
    texts: list[str] | None
    condition: Condition
    allowed: AllowedRows | None
    group: Condition | None
    diversity: float | None
    candidates: int
    options: Options

    def run(self, nq: int, k: int) -> list[Ranking]:
        """Return the `k` best rows for each of `nq` queries."""
        most = self.state.ntotal if self.allowed is None else self.allowed.rows.size
        if most == 0:
            return [NOTHING] * nq
        plain = self.group is None and self.diversity is None and (self.queries is None or self.texts is None)
        m = min(most, k if plain else self.candidates)
        rankings = self._rank(m)
        while self.group is not None:
            grouped = [best_of_groups(self.connection, ranking, self.group) for ranking in rankings]
            if m == most or all(ranking.rows.size >= k for ranking in grouped):
                rankings = grouped
                break
            m = min(most, _FURTHER * m)
            rankings = self._rank(m)
        if self.diversity is not None and self.queries is not None:
            vectors = (vectors_of(self.connection, self.state, ranking.rows) for ranking in rankings)
            return [
                diversify(ranking, x, query, k, self.diversity)
                for ranking, x, query in zip(rankings, vectors, self.queries, strict=True)
            ]
        return [ranking.first(k) for ranking in rankings]

    def _rank(self, m: int) -> list[Ranking]:
        lists = []
        if self.queries is not None:
            lists.append(search_vectors(self.connection, self.state, self.queries, m, self.allowed, self.options))
        if self.texts is not None:
            lists.append([search_words(self.connection, text, m, self.condition) for text in self.texts])
        return lists[0] if len(lists) == 1 else [fuse(both) for both in zip(*lists, strict=True)]

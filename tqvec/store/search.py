"""Search: the rankings of some queries."""

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
    """What is searched for.

    Attributes
    ----------
    queries : (nq, d) float32, optional
    texts : list of str, optional
        As many as there are queries.
    condition : Condition
    group : Condition, optional
        SQL of the value of which each result shall have another.
    diversity : float, optional
    candidates : int
        How many of the best are ordered anew, where the others decide.
    options : Options
    """

    queries: Floats | None
    texts: list[str] | None
    condition: Condition
    group: Condition | None
    diversity: float | None
    candidates: int
    options: Options

    @property
    def needs_catalog(self) -> bool:
        """Whether codes alone don't decide, once the rows of the condition are known."""
        return self.texts is not None or self.group is not None or self.diversity is not None or self.options.rerank

    def run(
        self, connection: sqlite3.Connection, state: State, allowed: AllowedRows | None, nq: int, k: int
    ) -> list[Ranking]:
        """Return the `k` best rows for each of `nq` queries.

        Parameters
        ----------
        connection : sqlite3.Connection
            Within the transaction of the state, unless the catalog is not needed.
        state : State
        allowed : AllowedRows, optional
            The rows of the condition; None for all.
        nq, k : int
        """
        most = state.ntotal if allowed is None else allowed.rows.size
        if most == 0:
            return [NOTHING] * nq
        plain = self.group is None and self.diversity is None and (self.queries is None or self.texts is None)
        m = min(most, k if plain else self.candidates)
        rankings = self._rank(connection, state, allowed, m)
        while self.group is not None:
            grouped = [best_of_groups(connection, ranking, self.group) for ranking in rankings]
            if m == most or all(ranking.rows.size >= k for ranking in grouped):
                rankings = grouped
                break
            m = min(most, _FURTHER * m)
            rankings = self._rank(connection, state, allowed, m)
        if self.diversity is not None and self.queries is not None:
            vectors = (vectors_of(connection, state, ranking.rows) for ranking in rankings)
            return [
                diversify(ranking, x, query, k, self.diversity)
                for ranking, x, query in zip(rankings, vectors, self.queries, strict=True)
            ]
        return rankings if plain else [ranking.first(k) for ranking in rankings]

    def _rank(self, connection: sqlite3.Connection, state: State, allowed: AllowedRows | None, m: int) -> list[Ranking]:
        lists = []
        if self.queries is not None:
            lists.append(search_vectors(connection, state, self.queries, m, allowed, self.options))
        if self.texts is not None:
            lists.append([search_words(connection, text, m, self.condition) for text in self.texts])
        return lists[0] if len(lists) == 1 else [fuse(both) for both in zip(*lists, strict=True)]

"""Ranking: rows of a search by the score of vectors, of words, of both, by group, or by how much they differ."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from tqvec._types import Floats, Ids
from tqvec.errors import FormatError
from tqvec.exact import normalize
from tqvec.store.filters import AllowedRows
from tqvec.store.state import State
from tqvec.store.where import Condition

SMOOTHING = 60  # of reciprocal ranks, as Cormack, Clarke and Büttcher have it (SIGIR 2009)
_MOST_WORDS = 64


class Ranking(NamedTuple):
    """Rows of one query, best first, and their scores."""

    rows: Ids
    scores: Floats

    def first(self, k: int) -> Ranking:
        """Return the first `k`."""
        return Ranking(self.rows[:k], self.scores[:k])


NOTHING = Ranking(np.zeros(0, np.int64), np.zeros(0, np.float32))


class Options(NamedTuple):
    """How vectors are searched.

    Attributes
    ----------
    rerank : bool
        Whether the originals decide.
    recall : float, optional
        As of `Index.search`, for segments that are partitioned.
    threads : int, optional
    """

    rerank: bool = False
    recall: float | None = None
    threads: int | None = None


def search_vectors(
    connection: sqlite3.Connection,
    state: State,
    queries: Floats,
    k: int,
    allowed: AllowedRows | None,
    options: Options,
) -> list[Ranking]:
    """Return the `k` best rows of all segments for each query; there are as many unless the catalog is damaged."""
    scores, rows = [], []
    for part in state.parts:
        index, originals = part.index, part.originals
        filter = None if allowed is None else allowed.selector(part.first, part.last)
        if allowed is not None and filter is None:
            continue
        vectors = partial(state.originals_of_tail, connection) if originals is None else originals.of
        found = index.search(
            queries,
            k,
            filter=filter,
            threads=options.threads,
            rerank=vectors if options.rerank else None,
            recall=options.recall if index.nlist else None,
        )
        scores.append(found[0])
        rows.append(found[1])
    if not scores:
        raise FormatError("some records have no vector: the catalog is damaged; see check()")
    best, numbers = _merge(scores, rows, k, state.empty.metric == "l2")
    return [Ranking(*one) for one in zip(numbers, best, strict=True)]


def _merge(scores: Sequence[Floats], rows: Sequence[Ids], k: int, smaller: bool) -> tuple[Floats, Ids]:
    """Return the best of the results of some indexes; of equal scores that of the smaller row comes first.

    Parameters
    ----------
    scores, rows : list of (nq, m) arrays
        As `Index.search` returns them: empty entries, with row -1, have the worst score.
    k : int
    smaller : bool
        Whether smaller scores are better.
    """
    if len(scores) == 1:
        return scores[0], rows[0]
    best, numbers = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
    order = np.lexsort((numbers, best if smaller else -best))[:, :k]
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(numbers, order, axis=1)


def default_candidates(k: int) -> int:
    """Return how many of the best rows are ordered anew for `k` results, or joined with those of another ranking."""
    return max(100, 4 * k)


def search_words(connection: sqlite3.Connection, text: str, k: int, condition: Condition) -> Ranking:
    """Return the rows whose documents have words of a text, by BM25; larger scores are better."""
    words = list(dict.fromkeys(re.findall(r"\w+", text)))[:_MOST_WORDS]
    if not words:
        return NOTHING
    sql, parameters = condition
    found = connection.execute(
        "SELECT records.row, documents.rank FROM documents JOIN records ON records.row = documents.rowid"
        f" WHERE documents MATCH ? AND ({sql}) ORDER BY documents.rank LIMIT ?",
        (" OR ".join(f'"{word}"' for word in words), *parameters, k),
    ).fetchall()
    rows, ranks = zip(*found, strict=True) if found else ((), ())
    return Ranking(np.array(rows, np.int64), -np.array(ranks, np.float32))


def fuse(rankings: Sequence[Ranking]) -> Ranking:
    """Join rankings: a row's score is the sum of 1 / (60 + rank), ranks from 1."""
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking.rows.tolist(), 1):
            sums[row] = sums.get(row, 0.0) + 1 / (SMOOTHING + rank)
    order = sorted(sums, key=lambda row: (-sums[row], row))
    return Ranking(np.array(order, np.int64), np.array([sums[row] for row in order], np.float32))


def best_of_groups(connection: sqlite3.Connection, ranking: Ranking, value: Condition) -> Ranking:
    """Return the first row of each value of a field; rows without the field are left out."""
    sql, parameters = value
    rows = json.dumps(ranking.rows.tolist())
    found = connection.execute(
        f"SELECT row, {sql} FROM records WHERE row IN (SELECT value FROM json_each(?))", (*parameters, rows)
    )
    groups, seen, keep = dict(found.fetchall()), set(), []
    for i, row in enumerate(ranking.rows.tolist()):
        group = groups.get(row)
        if group is not None and group not in seen:
            seen.add(group)
            keep.append(i)
    return Ranking(ranking.rows[keep], ranking.scores[keep])


def diversify(ranking: Ranking, vectors: Floats, query: Floats, k: int, diversity: float) -> Ranking:
    """Order rows by maximal marginal relevance (Carbonell and Goldstein, 1998).

    The next row is the one with the largest (1 − diversity) · cos(row, query) − diversity · max cos(row, chosen row).
    """
    directions = normalize(vectors)
    relevance = directions @ normalize(query[None])[0]
    nearest = np.full(len(directions), -np.inf, np.float32)
    chosen: list[int] = []
    for _ in range(min(k, len(directions))):
        penalty = np.where(np.isfinite(nearest), nearest, 0)
        value = (1 - diversity) * relevance - diversity * penalty
        value[chosen] = -np.inf
        chosen.append(int(value.argmax()))
        nearest = np.maximum(nearest, directions @ directions[chosen[-1]])
    return Ranking(ranking.rows[chosen], ranking.scores[chosen])

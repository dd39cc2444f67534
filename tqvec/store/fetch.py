"""Fetch: ids, documents, metadata and vectors of rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from tqvec._types import Floats, Ids
from tqvec.errors import FormatError, TqvecError
from tqvec.store.hits import Hits
from tqvec.store.ranking import NOTHING, Ranking
from tqvec.store.state import State

_NO_ROW = 0  # of the generation among records, whose rows are counted from 1
_Records: TypeAlias = dict[int, tuple[Any, ...]]  # by row: row, id, document and metadata as far as they are included


class OutdatedError(TqvecError):
    """Another commit has replaced a state."""


def fetch(connection: sqlite3.Connection, state: State, rows: Ids, include: Sequence[str]) -> Hits:
    """Return the records of rows, in this order."""
    _, records = _read(connection, rows, include)
    return _hits(records, rows, None, _included_vectors(connection, state, rows, include), include)


def fetch_all(
    connection: sqlite3.Connection, state: State, rankings: Sequence[Ranking], include: Sequence[str]
) -> list[Hits]:
    """Return the records of rankings.

    One statement reads the records of all queries and the generation. So they are of one commit outside a transaction
    too; vectors need one.

    Raises
    ------
    OutdatedError
        The state is not that of the last commit. Within the transaction of the state that can't be.
    """
    rows = rankings[0].rows if len(rankings) == 1 else _each_once(rankings)
    generation, records = _read(connection, rows, include)
    if generation != state.generation:
        raise OutdatedError(f"the collection has changed since its commit {state.generation}")
    return [
        _hits(records, rows, scores, _included_vectors(connection, state, rows, include), include)
        for rows, scores in rankings
    ]


def _each_once(rankings: Sequence[Ranking]) -> Ids:
    return np.unique(np.concatenate([NOTHING.rows, *(ranking.rows for ranking in rankings)]))


def _read(connection: sqlite3.Connection, rows: Ids, include: Sequence[str]) -> tuple[int, _Records]:
    """Return the generation, and records by row."""
    sql = _select("documents" in include, "metadatas" in include)
    text = str(rows.tolist())  # JSON, in less time than by the package
    records = {record[0]: record for record in connection.execute(sql, (text,)).fetchall()}
    return int(records.pop(_NO_ROW)[1]), records


@cache
def _select(document: bool, metadata: bool) -> str:
    """Return the statement that reads the generation as a record of its own, and records of rows."""
    columns = ["records.id"] + ["document"] * document + ["metadata"] * metadata
    return (
        f"SELECT {_NO_ROW}, value{', NULL' * (len(columns) - 1)} FROM settings WHERE name = 'generation' UNION ALL "
        f"SELECT row, {', '.join(columns)} FROM json_each(?) CROSS JOIN records ON row = value"
    )


def _included_vectors(connection: sqlite3.Connection, state: State, rows: Ids, include: Sequence[str]) -> Floats | None:
    return vectors_of(connection, state, rows) if "vectors" in include else None


def _hits(records: _Records, rows: Ids, scores: Floats | None, vectors: Floats | None, include: Sequence[str]) -> Hits:
    try:
        own = [records[row] for row in rows.tolist()]
    except KeyError as error:
        lack = "some records have no vector" if error.args == (-1,) else f"the vector of row {error} has no record"
        raise FormatError(f"{lack}: the catalog is damaged; see check()") from None
    return Hits(
        ids=[record[1] for record in own],
        scores=scores,
        documents=[record[2] for record in own] if "documents" in include else None,
        metadatas=[json.loads(record[-1]) for record in own] if "metadatas" in include else None,
        vectors=vectors,
    )


def vectors_of(connection: sqlite3.Connection, state: State, rows: Ids) -> Floats:
    """Return the originals of rows, or the decoded codes if none are kept."""
    vectors = np.empty((rows.size, state.empty.d), np.float32)
    left = np.ones(rows.size, bool)
    for segment in state.segments:
        mine = segment.entry.spans(rows)
        if mine.any():
            originals = segment.originals
            vectors[mine] = segment.index.reconstruct(rows[mine]) if originals is None else originals.of(rows[mine])
            left &= ~mine
    if left.any():
        vectors[left] = state.originals_of_tail(connection, rows[left])
    return vectors

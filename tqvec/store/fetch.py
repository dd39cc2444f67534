"""Fetch: ids, documents, metadata and vectors of rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

import numpy as np

from tqvec._types import Floats, Ids
from tqvec.errors import FormatError
from tqvec.store.hits import Hits
from tqvec.store.ranking import Ranking
from tqvec.store.state import State


def fetch(connection: sqlite3.Connection, state: State, rows: Ids, include: Sequence[str]) -> Hits:
    """Return the records of rows, in this order."""
    return _hits(_read(connection, rows, include), state, connection, rows, None, include)


def fetch_all(
    connection: sqlite3.Connection, state: State, rankings: Sequence[Ranking], include: Sequence[str]
) -> list[Hits]:
    """Return the records of rankings; one statement reads those of all queries."""
    if not rankings:
        return []
    rows = [ranking.rows for ranking in rankings]
    records = _read(connection, rows[0] if len(rows) == 1 else np.unique(np.concatenate(rows)), include)
    return [_hits(records, state, connection, ranking.rows, ranking.scores, include) for ranking in rankings]


def _read(connection: sqlite3.Connection, rows: Ids, include: Sequence[str]) -> dict[int, tuple[Any, ...]]:
    """Return id, document and metadata of rows, as far as they are included."""
    columns = ["row", "id"] + [name for name in ("document", "metadata") if f"{name}s" in include]
    sql = f"SELECT {', '.join(columns)} FROM records WHERE row IN (SELECT value FROM json_each(?))"
    return {row: record for row, *record in connection.execute(sql, (json.dumps(rows.tolist()),))}  # type: ignore[misc]


def _hits(
    records: dict[int, tuple[Any, ...]],
    state: State,
    connection: sqlite3.Connection,
    rows: Ids,
    scores: Floats | None,
    include: Sequence[str],
) -> Hits:
    try:
        own = [records[row] for row in rows.tolist()]
    except KeyError as error:
        raise FormatError(f"the vector of row {error} has no record: the catalog is damaged; see check()") from None
    at = 1 + ("documents" in include)
    return Hits(
        ids=[record[0] for record in own],
        scores=scores,
        documents=[record[1] for record in own] if "documents" in include else None,
        metadatas=[json.loads(record[at]) for record in own] if "metadatas" in include else None,
        vectors=vectors_of(connection, state, rows) if "vectors" in include else None,
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

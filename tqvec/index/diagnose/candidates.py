"""Candidates: the best rows of an index for given queries, or for stored rows that are known by their codes alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Doubles, Flags, Floats, Ids
from tqvec.codec.error_byte import read_error_byte
from tqvec.exact import squared_norms
from tqvec.index.errors.standard_errors import expected_error
from tqvec.index.metrics import Metric
from tqvec.index.rows import encode_rows
from tqvec.index.snapshot import Snapshot

_COPIES = 64  # best results among which copies of the query are looked for


class Candidates(NamedTuple):
    """The best rows for some queries, whose true scores are unknown.

    Attributes
    ----------
    queries : (nq, d) float32
        With the lengths of the true queries.
    scores : (nq, m) float64
        Unbiased, larger is better, best first.
    rows : (nq, m) int64
        Row numbers.
    copies : (nq, m) bool
        Rows with the codes of a query that is a stored row.
    query_error : (nq, 1) float64 or None
        For queries that are known by their codes alone: tan² of the angle between the two, divided by the expected one.
    """

    queries: Floats
    scores: Doubles
    rows: Ids
    copies: Flags
    query_error: Doubles | None


def candidates_of_queries(snapshot: Snapshot, queries: Floats, m: int, leave_out: bool) -> Candidates:
    """Return the best `m` rows for exact queries; with `leave_out`, without one row that has the codes of the query."""
    scores, rows = snapshot.estimates(queries, min(m + leave_out, snapshot.ntotal))
    if leave_out:
        own = encode_rows(snapshot.codec, snapshot.metric, queries)
        copies = _find_copies(snapshot, rows, own["codes"], own["scale"])
        scores, rows = drop_one(copies & (np.cumsum(copies, axis=1) == 1), scores, rows)
    return Candidates(
        queries=queries,
        scores=snapshot.metric.sign * scores.astype(np.float64),
        rows=rows,
        copies=np.zeros(rows.shape, bool),
        query_error=None,
    )


def candidates_of_rows(snapshot: Snapshot, asking: Ids, m: int) -> Candidates:
    """Return the best `m` rows for stored rows, known by their codes alone, each without itself."""
    codec, metric = snapshot.codec, snapshot.metric
    queries = snapshot.decode_unbiased(asking)
    lengths = np.sqrt(squared_norms(queries))[:, None]
    usual = expected_error(codec).tangent
    scale = snapshot.column(asking, "scale")
    tangent = read_error_byte(scale)[:, None]
    squared = np.square(np.where(np.isnan(tangent), usual, tangent))
    noise = squared / (1 + squared) * squared_norms(queries - codec.centre)[:, None]
    true = np.sqrt(np.maximum(lengths**2 - noise, 0))
    estimates, rows = snapshot.estimates(queries, min(m + 1, snapshot.ntotal))
    scores, rows = drop_one(rows == asking[:, None], metric.sign * estimates.astype(np.float64), rows)
    if metric is Metric.COSINE:
        scores, true = scores * lengths, np.minimum(lengths, 1.0)
    elif metric is Metric.L2:
        scores = scores + lengths**2 - true**2
    shrink = np.divide(true, lengths, out=np.zeros_like(true), where=lengths > 0)
    return Candidates(
        queries=(queries * shrink).astype(np.float32),
        scores=scores,
        rows=rows,
        copies=_find_copies(snapshot, rows, snapshot.column(asking, "codes"), scale),
        query_error=squared / max(usual**2, 1e-30),
    )


def _find_copies(snapshot: Snapshot, rows: Ids, codes: NDArray[np.uint8], scale: Floats) -> Flags:
    """Return which of the rows, (nq, m), have the codes and the scale of their query."""
    same = np.zeros(rows.shape, bool)
    q, column = np.nonzero(snapshot.column(rows[:, :_COPIES], "scale") == scale[:, None])
    same[q, column] = (snapshot.column(rows[q, column], "codes") == codes[q]).all(axis=1)
    return same


def same_codes(snapshot: Snapshot, rows: Ids) -> Flags:
    """Return which of the rows, (nq, m), have the codes and the scale of the one before."""
    scale = snapshot.column(rows, "scale")
    same = np.zeros(rows.shape, bool)
    q, column = np.nonzero(scale[:, 1:] == scale[:, :-1])
    before, after = snapshot.column(rows[q, column], "codes"), snapshot.column(rows[q, column + 1], "codes")
    same[q, column + 1] = (before == after).all(axis=1)
    return same


def drop_one(drop: Flags, scores: NDArray, rows: Ids) -> tuple[NDArray, Ids]:
    """Drop the one flagged entry of each query, or the last where none is; at most one is flagged."""
    order = np.argsort(drop, axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

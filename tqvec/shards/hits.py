"""Hits: the best rows of some shards, with what the rest of a search needs of them; and how those of many merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Floats, Ids
from tqvec.index.metrics import Metric
from tqvec.index.rows import Rows


class Hits(NamedTuple):
    """The best rows for each query, best first, (nq, m) each.

    Attributes
    ----------
    scores : float32
        As a `Scanner` has them: larger is better. -inf for an empty entry.
    rows : int64
        Numbers, counted through all shards; -1 for an empty entry.
    lists : int32
        Of a partitioned index, else 0.
    ids : int64
    scalars : dict of arrays
        The numbers that rows keep beside their codes.
    """

    scores: Floats
    rows: Ids
    lists: NDArray[np.int32]
    ids: Ids
    scalars: Rows


def no_hits(metric: Metric, nq: int) -> Hits:
    """Return hits of no columns."""
    return Hits(
        scores=np.zeros((nq, 0), np.float32),
        rows=np.zeros((nq, 0), np.int64),
        lists=np.zeros((nq, 0), np.int32),
        ids=np.zeros((nq, 0), np.int64),
        scalars={name: np.zeros((nq, 0), np.float32) for name in metric.scalars},
    )


def merge(parts: Sequence[Hits], k: int) -> Hits:
    """Return the `k` best of all hits, or all if they are fewer.

    Equal scores are in the order of one index: by list, and then by row.
    """
    if len(parts) == 1:
        return _taken(parts[0], np.s_[:, :k])
    joined = _joined(parts)
    order = np.argsort(-joined.scores, axis=1, kind="stable")  # fast on runs in order, which these are
    scores = np.take_along_axis(joined.scores, order, axis=1)
    tied = np.flatnonzero((scores[:, 1:] == scores[:, :-1]).any(axis=1))
    if tied.size:
        rows = joined.rows[tied]
        order[tied] = np.lexsort((rows, joined.lists[tied], rows < 0, -joined.scores[tied]), axis=1)
    return _taken(joined, (np.arange(len(order))[:, None], order[:, :k]))


def _joined(parts: Sequence[Hits]) -> Hits:
    return Hits(
        scores=np.concatenate([part.scores for part in parts], axis=1),
        rows=np.concatenate([part.rows for part in parts], axis=1),
        lists=np.concatenate([part.lists for part in parts], axis=1),
        ids=np.concatenate([part.ids for part in parts], axis=1),
        scalars={name: np.concatenate([part.scalars[name] for part in parts], axis=1) for name in parts[0].scalars},
    )


def _taken(hits: Hits, at: Any) -> Hits:
    """Return some entries of all arrays."""
    return Hits(
        scores=hits.scores[at],
        rows=hits.rows[at],
        lists=hits.lists[at],
        ids=hits.ids[at],
        scalars={name: array[at] for name, array in hits.scalars.items()},
    )

"""Searches of a view: what `Index` and a sharded index answer alike."""

from __future__ import annotations

import numpy as np

from tqvec import _validate
from tqvec._types import Floats, Ids
from tqvec.index.errors.shortlist import search_shortlist
from tqvec.index.errors.standard_errors import search_with_errors
from tqvec.index.snapshot import Results, View


def search(
    view: View, queries: Floats, k: int, return_error: bool, confidence: float | None
) -> tuple[Floats, Ids] | tuple[Floats, Ids, Floats]:
    """Return what `Index.search` does for these arguments; `queries` and `k` are checked.

    Raises
    ------
    InputError
        `confidence` is not between 0 and 1, or a score is beyond float32.
    """
    n = min(view.columns(k), view.ntotal)
    if confidence is not None:
        results = search_shortlist(view, queries, n, _validate.fraction(confidence, "confidence"))
    elif return_error:
        results = search_with_errors(view, queries, n)
    else:
        results = Results(*view.best(queries, n))
    return answer(view, results, k, return_error)


def answer(view: View, results: Results, k: int, return_error: bool) -> tuple[Floats, Ids] | tuple[Floats, Ids, Floats]:
    """Return results as users get them: at least `k` columns, and ids."""
    scores, numbers, error = results.padded(view.columns(k), view.metric.worst)
    ids = view.ids_of(numbers)
    return (scores, ids, error) if return_error and error is not None else (scores, ids)


def search_range(view: View, queries: Floats, radius: float) -> tuple[Ids, Floats, Ids]:
    """Return what `Index.range_search` does for these arguments; `queries` are checked."""
    limit = np.float64(_validate.number(radius, "radius"))  # a Python float would be rounded to float32
    hits = view.within(queries, limit)
    lims = np.cumsum([0, *(score.size for score, _ in hits)])
    ids = view.ids_of(np.concatenate([np.zeros(0, np.int64), *(row for _, row in hits)]))
    return lims, np.concatenate([np.zeros(0, np.float32), *(score for score, _ in hits)]), ids

"""Additions: checked ids of new rows, and the rows of vectors that come in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from tqvec._types import Ids
from tqvec._vectors import Vectors, iter_stream
from tqvec.errors import InputError
from tqvec.index.selectors import integers

NO_ID = -1  # in results


def distinct_ids(ids: ArrayLike | None) -> Ids | None:
    """Return checked ids of new rows.

    Raises
    ------
    InputError
        They are no integers of 64 bits, one of them is `NO_ID`, or one is given twice.
    """
    if ids is None:
        return None
    new = integers(ids, "ids")
    if (new == NO_ID).any():
        row = int(np.argmax(new == NO_ID))
        raise InputError(f"ids row {row}: -1 can't be an id, since results use it for nothing; take any other integer")
    if np.all(new[1:] > new[:-1]):  # they are distinct, and often come so
        return new
    order = np.argsort(new, kind="stable")
    twice = order[1:][np.diff(new[order]) == 0]
    if twice.size:
        at = int(twice.min())
        raise InputError(f"ids row {at}: id {new[at]} is given twice")
    return new


def iter_additions(x: Vectors | Iterable[ArrayLike], d: int, ids: Ids | None) -> Iterator[Vectors]:
    """Yield vectors in one part, or those of batches in parts, if they are as many as the ids.

    Raises
    ------
    InputError
        They are not, as soon as that is known; or as `iter_stream`.
    """
    if isinstance(x, Vectors):
        if ids is not None and ids.size != len(x):
            raise InputError(f"ids must be as many as the {len(x)} rows of x, got {ids.size}")
        yield x
        return
    done = 0
    for part in iter_stream(x, d, "x"):
        done += len(part)
        if ids is not None and done > ids.size:
            break
        yield part
    if ids is not None and done != ids.size:
        rows = f"{done} rows" if done < ids.size else "more rows"
        raise InputError(f"ids must be as many as the rows of x: got {ids.size} ids and {rows}")

"""A hash table from ids to row numbers; README.md explains it."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit

EMPTY = -1  # row of an empty slot


@jit
def home_of(key, mask):
    """Return the slot where the search for an id begins, a number from 0 to `mask`."""
    z = np.uint64(key)
    z ^= z >> np.uint64(32)
    z ^= z << np.uint64(13)
    z ^= z >> np.uint64(7)
    z ^= z << np.uint64(17)
    z ^= z >> np.uint64(29)
    return np.int64(z & np.uint64(mask))


@jit
def _slot_of(slots, key):
    """Find the slot of an id, or the empty one where it belongs."""
    mask = slots.shape[0] - 1
    at = home_of(key, mask)
    while slots[at, 1] != EMPTY and slots[at, 0] != key:
        at = (at + 1) & mask
    return at


@jit
def ids_insert_portable(slots, keys, rows):
    """Insert ids, or change the rows of those that are there.

    Parameters
    ----------
    slots : (capacity, 2) int64
        Ids and row numbers. The capacity is a power of two, and at least one slot stays empty.
    keys, rows : (n,) int64
        Ids and their row numbers.
    """
    for i in range(keys.size):
        at = _slot_of(slots, keys[i])
        slots[at, 0] = keys[i]
        slots[at, 1] = rows[i]


@jit
def ids_find_portable(slots, keys, rows):
    """Look up the row numbers of ids `keys` (n,) int64 into `rows` (n,) int64; -1 for an unknown id."""
    for i in range(keys.size):
        rows[i] = slots[_slot_of(slots, keys[i]), 1]


@jit
def ids_remove_portable(slots, keys):
    """Remove ids `keys` (n,) int64; unknown ones are ignored."""
    mask = slots.shape[0] - 1
    for key in keys:
        gap = _slot_of(slots, key)
        if slots[gap, 1] == EMPTY:
            continue
        at = gap
        while True:
            at = (at + 1) & mask
            if slots[at, 1] == EMPTY:
                break
            if (at - home_of(slots[at, 0], mask)) & mask >= (at - gap) & mask:  # its home is not behind the gap
                slots[gap, 0] = slots[at, 0]
                slots[gap, 1] = slots[at, 1]
                gap = at
        slots[gap, 1] = EMPTY

"""The table of ids against a dictionary."""

import numpy as np
import pytest
import strategies as sts

from tqvec.index.id_table import IdTable
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.ids.portable import home_of

EXTREMES = np.array([0, -1, 1, 2**63 - 1, -(2**63), 2**32, -(2**32), 2**53], np.int64)


def test_any_sequence_of_changes():
    rng = sts.rng(1)
    pool = np.concatenate([EXTREMES, rng.integers(-(2**63), 2**63 - 1, 300), np.arange(300) * 2**40])
    table, known, row = IdTable(), {}, 0
    for _ in range(400):
        chosen = rng.permutation(pool)[: rng.integers(0, 40)]
        fresh = np.array([i for i in chosen.tolist() if i not in known], np.int64)
        table.insert(fresh, np.arange(row, row + fresh.size))
        known.update(zip(fresh.tolist(), range(row, row + fresh.size), strict=True))
        row += fresh.size
        gone = np.array([i for i in rng.permutation(pool)[:40].tolist() if i in known], np.int64)
        table.remove(gone)
        for i in gone.tolist():
            del known[i]
        assert table.find(pool).tolist() == [known.get(i, -1) for i in pool.tolist()]
    table.remove(np.array(sorted(known), np.int64))
    assert table.find(pool).max() == -1
    assert (table._slots[:, 1] == -1).all()  # nothing is left behind


def test_removing_what_is_not_in_changes_nothing():
    slots = np.full((64, 2), -1, np.int64)
    kernel("ids_insert")(slots, np.arange(20), np.arange(20))
    before = slots.copy()
    kernel("ids_remove")(slots, np.arange(20, 60))
    assert np.array_equal(slots, before)


@pytest.mark.parametrize(
    "ids",
    [
        *(np.arange(4096, dtype=np.int64) << shift for shift in (0, 1, 8, 16, 24, 32, 40, 50)),
        -np.arange(4096, dtype=np.int64),
        np.arange(4096, dtype=np.int64) * 1_000_003,
        np.arange(4096, dtype=np.int64) ** 3,
        sts.rng(2).integers(-(2**63), 2**63 - 1, 4096),
    ],
    ids=str,
)
def test_no_crowds(ids):
    """On average an id is found within four slots of its home."""
    slots = np.full((8192, 2), -1, np.int64)
    kernel("ids_insert")(slots, ids, np.arange(ids.size))
    at = np.empty(ids.size, np.int64)
    used = np.flatnonzero(slots[:, 1] >= 0)
    at[slots[used, 1]] = used
    homes = np.array([home_of(i, 8191) for i in ids])
    assert np.mean((at - homes) % 8192) < 4

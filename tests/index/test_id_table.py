"""The table from ids to rows against a dictionary."""

import numpy as np
import pytest
import strategies as sts
from hypothesis import given
from hypothesis import strategies as st

from tqvec.index.id_table import IdTable

ENDS = [-(2**63), 2**63 - 1, -(2**63) + 1, 2**63 - 2, 0, -1, 1, 2**32, -(2**32), 2**62]


def array(ids):
    return np.array(ids, np.int64)


def check(table, rows, asked):
    found = table.find(array(asked))
    assert found.dtype == np.int64
    assert found.tolist() == [rows.get(i, -1) for i in asked]


def test_an_empty_table():
    table = IdTable()
    check(table, {}, ENDS)
    assert table.find(array([])).shape == (0,)
    table.insert(array([]), array([]))
    table.remove(array([]))
    check(table, {}, ENDS)


def test_ids_at_the_ends_of_int64():
    table = IdTable()
    table.insert(array(ENDS), 10**9 + np.arange(len(ENDS)))
    rows = dict(zip(ENDS, range(10**9, 10**9 + len(ENDS)), strict=True))
    check(table, rows, [*ENDS, 2, 2**31, -(2**62)])
    for one in ENDS[::2]:
        table.remove(array([one]))
        del rows[one]
        check(table, rows, ENDS)
    table.insert(array(ENDS[::2]), np.arange(len(ENDS[::2])))
    check(table, rows | {one: row for row, one in enumerate(ENDS[::2])}, ENDS)


def strided(step):
    return np.arange(20_000) * step


@pytest.mark.parametrize(
    "ids",
    [
        strided(1),
        strided(-1),
        strided(2**32),
        strided(1 << 45),
        strided(65_536) - 5,
        sts.rng(1).permutation(20_000),
        sts.rng(2).integers(-(2**63), 2**63 - 1, 20_000, dtype=np.int64),
    ],
    ids=["up", "down", "high bits", "higher bits", "pages", "permuted", "random"],
)
def test_many_ids(ids):
    """Of any pattern: grown by parts, half taken out, and put back in other places."""
    table, rows = IdTable(), {}
    for start in range(0, ids.size, 3_000):
        part = ids[start : start + 3_000]
        table.insert(part, np.arange(start, start + part.size))
        rows |= zip(part.tolist(), range(start, start + part.size), strict=True)
    check(table, rows, ids.tolist())
    check(table, rows, (ids[:2000] + 1).tolist())
    table.remove(ids[::2])
    for one in ids[::2].tolist():
        del rows[one]
    check(table, rows, ids.tolist())
    table.insert(ids[::4], 10**6 + np.arange(ids[::4].size))
    rows |= {one: 10**6 + i for i, one in enumerate(ids[::4].tolist())}
    check(table, rows, ids.tolist())
    table.remove(ids[1::2])
    table.remove(ids[::4])
    check(table, {}, ids.tolist())


@given(st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from([*range(30), *ENDS]), max_size=12)), max_size=30))
def test_any_order_of_changes(steps):
    table, rows = IdTable(), {}
    for number, (insert, ids) in enumerate(steps):
        if insert:
            new = sorted(ids - set(rows))
            table.insert(array(new), 100 * number + np.arange(len(new)))
            rows |= {one: 100 * number + i for i, one in enumerate(new)}
        else:
            old = sorted(ids & set(rows))
            table.remove(array(old))
            for one in old:
                del rows[one]
        check(table, rows, [*range(30), *ENDS])


def test_ids_that_come_and_go_forever():
    """As when the oldest are removed and new ones added: what is gone leaves nothing behind."""
    table = IdTable()
    for start in range(0, 60_000, 500):
        table.insert(np.arange(start, start + 500), np.arange(start, start + 500))
        if start >= 2_000:
            table.remove(np.arange(start - 2_000, start - 1_500))
    check(table, {i: i for i in range(58_000, 60_000)}, range(57_000, 61_000))

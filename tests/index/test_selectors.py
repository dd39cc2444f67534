"""Filters of all kinds against plain sets of ids, on blocks of 100 rows with removed ones among them."""

import numpy as np
import pytest
import strategies as sts
from naive_index import NaiveIndex

import tqvec
from tqvec.errors import InputError
from tqvec.index import scanner
from tqvec.index.selectors import Ids, Mask, Range, Selector
from tqvec.kernels.dispatch import available

D = 24
pytestmark = pytest.mark.usefixtures("small_blocks")
QUERIES = sts.normal(3, D, seed=900)


def counting(metric="ip", removed=True):
    """An index of own ids 0 … 459, of which some are removed."""
    index = tqvec.Index(D, nbits=2, metric=metric, seed=3)
    naive = NaiveIndex(index)
    for n, seed in ((130, 1), (70, 2), (1, 3), (259, 4)):
        index.add(sts.normal(n, D, seed))
        naive.add(sts.normal(n, D, seed))
    if removed:
        gone = [*range(64, 128), *range(300, 310), 459, 0, 250]
        index.remove_ids(gone)
        naive.remove(gone)
    return index, naive


def scattered(metric="ip"):
    """An index of ids in no order, from one end of int64 to the other."""
    index = tqvec.Index(D, nbits=2, metric=metric, seed=3)
    naive = NaiveIndex(index)
    ids = np.concatenate([sts.rng(1).permutation(600)[:350] - 300, [2**63 - 1, -(2**63), 10**12, -(10**12)]])
    for start in range(0, ids.size, 90):
        part = ids[start : start + 90]
        index.add(sts.normal(part.size, D, start), ids=part)
        naive.add(sts.normal(part.size, D, start), ids=part)
    index.remove_ids(ids[::13])
    naive.remove(ids[::13])
    return index, naive


def compare(index, naive, filter, keep):
    """Searches with a filter find what they should among the ids of `keep`."""
    keep = set(keep)
    for k in (1, 10, 60, index.ntotal + 2):
        found = index.search(QUERIES, k=k, filter=filter, threads=2)
        naive.check(QUERIES, k, found, keep)
    radius = float(np.sort(found[0][0])[index.ntotal // 2])
    naive.check_range(QUERIES, radius, index.range_search(QUERIES, radius, filter=filter), keep)


SIZES = (0.0, 0.01, 0.1, 0.5, 0.99, 1.0)


@pytest.mark.parametrize("share", SIZES)
@pytest.mark.parametrize("build", [counting, scattered])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_masks(metric, build, share):
    index, naive = build(metric)
    mask = sts.rng(5).random(index.ntotal) < share
    keep = index.ids[mask].tolist()
    for filter in (mask, mask.tolist(), Mask(mask), ~Mask(~mask), np.repeat(mask, 2)[::2]):
        compare(index, naive, filter, keep)


@pytest.mark.parametrize("share", SIZES)
@pytest.mark.parametrize("build", [counting, scattered])
def test_ids(build, share):
    index, naive = build()
    ids = sts.rng(6).permutation(index.ids)[: int(share * index.ntotal)]
    strangers = np.array([10**9, -17 if build is counting else 10**6, 64, 300, 2**62], np.int64)
    for filter in (ids, ids.tolist(), Ids(ids), np.append(ids, strangers), np.append(ids, ids[:3])):
        compare(index, naive, filter, {*ids.tolist(), *strangers.tolist()} if np.size(filter) > ids.size + 3 else ids)


@pytest.mark.parametrize("build", [counting, scattered])
def test_ids_of_every_sign(build):
    """The id 0 is above all negative ones, and not among them."""
    index, naive = build()
    for ids in ([-5], [-5, -4], [0], [2**63 - 1], [-(2**63)], [-(2**63), 2**63 - 1], [1], [459], []):
        compare(index, naive, ids, ids)
        compare(index, naive, ~Ids(ids), set(naive.ids) - set(ids))


def test_ids_of_other_types():
    index, naive = counting()
    for dtype in (np.int8, np.uint8, np.int32, np.uint64):
        compare(index, naive, np.array([3, 77, 120], dtype), [3, 77, 120])
    compare(index, naive, 5, [5])
    compare(index, naive, np.int16(5), [5])


RANGES = (
    *(range(a, b) for a in (-1000, -3, 0, 1, 63, 64, 101, 250, 459, 460) for b in (0, 1, 64, 65, 200, 460, 10**6)),
    range(-(2**63), 2**63),
    range(2**63 - 1, 2**63),
    range(5, 400, 7),
    range(-5, 10**15, 3),
    range(400, 5, -6),
    range(10**18, -(10**18), -13),
)


@pytest.mark.parametrize("build", [counting, scattered])
def test_ranges(build):
    index, naive = build()
    for given in RANGES:
        keep = {i for i in naive.ids if i in given}
        compare(index, naive, given, keep)
    compare(index, naive, Range(-20, 77), {i for i in naive.ids if -20 <= i < 77})


@pytest.mark.parametrize("build", [counting, scattered])
def test_composition(build):
    index, naive = build()
    rng = sts.rng(7)
    all_ids = set(naive.ids)

    def drawn(depth):
        """A filter and the ids that it means."""
        kind = rng.integers(6 if depth else 3)
        if kind == 0:
            low, high = np.sort(rng.integers(-310, 460, 2)).tolist()
            return Range(low, high), {i for i in all_ids if low <= i < high}
        if kind == 1:
            ids = rng.permutation(index.ids)[: rng.integers(0, 300)]
            return Ids(ids), set(ids.tolist())
        if kind == 2:
            mask = rng.random(index.ntotal) < rng.random()
            return Mask(mask), set(index.ids[mask].tolist())
        one, ids = drawn(depth - 1)
        if kind == 3:
            return ~one, all_ids - ids
        other, others = drawn(depth - 1)
        return (one & other, ids & others) if kind == 4 else (one | other, ids | others)

    for _ in range(25):
        compare(index, naive, *drawn(4))


def test_composition_with_what_a_filter_may_be():
    index, naive = counting()
    mask = sts.rng(8).random(index.ntotal) < 0.5
    masked = set(index.ids[mask].tolist())
    low = set(range(200))
    for filter, keep in (
        (Range(0, 200) & mask, low & masked),
        (mask & Range(0, 200), low & masked),
        (mask.tolist() | Range(0, 200), low | masked),
        (range(0, 200) & Mask(mask), low & masked),
        (Ids([1, 2]) | range(100, 150), {1, 2, *range(100, 150)}),
        (np.array([1, 2, 77]) | Range(100, 150), {1, 2, 77, *range(100, 150)}),
        (~Range(0, 200) | [1, 5], (set(naive.ids) - low) | {1, 5}),
    ):
        assert isinstance(filter, Selector)
        compare(index, naive, filter, keep)


def test_a_filter_may_be_used_again():
    index, naive = counting()
    keep = Range(10, 300) & ~Ids(range(20, 40))
    ids = set(range(10, 300)) - set(range(20, 40))
    compare(index, naive, keep, ids)
    index.remove_ids(range(100, 200))
    index.add(sts.normal(5, D, seed=9), ids=[11_000, 64, 65, 5, 300], upsert=True)
    naive.remove(range(100, 200))
    naive.add(sts.normal(5, D, seed=9), ids=[11_000, 64, 65, 5, 300])
    compare(index, naive, keep, ids)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("abc", "^filter must be .* got <U3 of shape"),
        (1.5, "^filter must be .* got float64"),
        ([1.0, 2.0], "^filter must be .* got float64"),
        (range(0, 2**64), "^stop must be an integer from"),
        ({1, 2}, "^filter must be .* got object"),
        ({"a": 1}, "^filter must be .* got object"),
        (Range, "^filter must be .* got object"),
        (np.array([1, 2], object), "^filter must be .* got object"),
        ([[1], [2, 3]], "^filter can't be read as an array"),
        ([[1, 2]], r"^filter must be .* got int64 of shape \(1, 2\)"),
        ([3, 2**64], "^filter row 1 is beyond int64: 18446744073709551616"),
        (np.array([5, 2**63], np.uint64), "^filter row 1 is beyond int64: 9223372036854775808"),
        (True, "mask must be a 1-D boolean array"),
        (np.ones((1, 383), bool), r"mask must be a 1-D boolean array, got bool of shape \(1, 383\)"),
        (np.ones(382, bool), "mask must have one entry for each of the 383 vectors, got 382"),
        (np.ones(460, bool), "mask must have one entry for each of the 383 vectors, got 460"),
        (np.zeros(0, bool), "mask must have one entry for each of the 383 vectors, got 0"),
        (~Mask(np.ones(5, bool)) & Range(0, 3), "mask must have one entry for each of the 383 vectors, got 5"),
    ],
    ids=range(18),
)
def test_bad_filters(bad, message):
    index, naive = counting()
    for search in (
        lambda: index.search(QUERIES, filter=bad),
        lambda: index.range_search(QUERIES, 0.1, filter=bad),
        lambda: index.search_by_id([1, 2], filter=bad),
    ):
        with pytest.raises(InputError, match=message):
            search()
    assert index.ids.tolist() == naive.ids


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ids("abc"), "^ids must be a 1-D array of integers"),
        (lambda: Ids([[1], [2, 3]]), "^ids can't be read as an array"),
        (lambda: Ids(None), "^ids must be a 1-D array of integers, got object"),
        (lambda: Ids([True]), "^ids must be a 1-D array of integers, got bool"),
        (lambda: Mask([1, 0]), "mask must be a 1-D boolean array"),
        (lambda: Mask([[True], [True, False]]), "mask can't be read as an array"),
        (lambda: Range(1.0, 3), "^start must be an integer"),
        (lambda: Range(1, "3"), "^stop must be an integer"),
        (lambda: Range(None, 3), "^start must be an integer"),
        (lambda: Range(0, 2**63 + 1), "^stop must be an integer from"),
        (lambda: Range(0, True), "^stop must be an integer"),
        (lambda: Range(0, 9, 0), "^step must be an integer from 1"),
        (lambda: Range(0, 9) & "abc", "^filter must be"),
        (lambda: "abc" | Range(0, 9), "^filter must be"),
    ],
    ids=range(14),
)
def test_bad_selectors(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_filters_of_an_empty_index():
    index = tqvec.Index(D)
    for filter in (None, [], [3], range(5), Range(0, 4), np.zeros(0, bool), ~Ids([3])):
        assert index.search(QUERIES, k=2, filter=filter)[1].tolist() == [[-1, -1]] * 3
        assert index.range_search(QUERIES, 0.0, filter=filter)[0].tolist() == [0, 0, 0, 0]


@pytest.mark.skipif(not available("search_few"), reason="no staged search at this level")
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.9, None])
def test_staged_and_batched_search_through_many_blocks(share, metric, monkeypatch):
    """They give the full scan's results, with the very same scores, but for one result in a thousand."""
    monkeypatch.setattr(tqvec.Index, "_block_rows", 700)
    index = tqvec.Index(64, nbits=3, metric=metric, seed=3)
    x = sts.normal(6000, 64, seed=1)
    for start in range(0, 6000, 150):
        index.add(x[start : start + 150], ids=range(start + 10**6, start + 10**6 + 150))
    index.remove_ids(range(10**6 + 1000, 10**6 + 1900))
    filter = None if share is None else sts.rng(2).random(index.ntotal) < share
    queries, k = sts.normal(60, 64, seed=3), 4
    found = index.search(queries, k, filter=filter, threads=2)
    singles = [index.search(query, k, filter=filter, threads=2) for query in queries]
    monkeypatch.setattr(scanner, "available", lambda operation: False)
    full = index.search(queries, k, filter=filter)
    for other in (found, tuple(np.concatenate(parts) for parts in zip(*singles, strict=True))):
        same = full[1] == other[1]
        assert np.mean(same) > 0.98
        assert np.array_equal(full[0][same], other[0][same])


@pytest.mark.parametrize(
    "mask",
    [
        lambda n: np.ones(n - 1, bool),
        lambda n: np.ones(10**5, bool),
        lambda n: np.ones((n, 1), bool),
        lambda n: np.ones(n, np.uint8),
        lambda n: np.True_,
        lambda n: [True] * n,
        lambda n: None,
    ],
)
def test_masks_of_a_users_selector_are_checked(mask):
    """Kernels read a bit of them for each row."""

    class Mine(Selector):
        def masks(self, blocks):
            return [mask(block.n) for block in blocks]

    class Short(Selector):
        def masks(self, blocks):
            return [np.ones(block.n, bool) for block in blocks][1:]

    index, _ = counting()
    for filter in (Mine(), Short()):
        with pytest.raises(InputError, match="masks of a selector must be boolean arrays"):
            index.search(QUERIES, filter=filter)

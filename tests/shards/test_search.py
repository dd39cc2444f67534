"""A sharded index gives, to the bit, what the single index gives that was cut up."""

import itertools

import index_cases
import numpy as np
import pytest
import shards_of
import strategies as sts
from hypothesis import given, settings
from hypothesis import strategies as st

import tqvec
from tqvec import selectors
from tqvec.errors import FormatError, InputError

N, D = 420, 24
CASES = {
    "ip": {"metric": "ip", "nbits": 2},
    "cosine": {"metric": "cosine", "nbits": 4},
    "l2": {"metric": "l2", "nbits": 2},
    "l2-trained": {"metric": "l2", "nbits": 2, "train": True},
    "ip-trained": {"metric": "ip", "nbits": 3, "train": True},
    "cosine-trained": {"metric": "cosine", "nbits": 1, "train": True},
    "trellis": {"metric": "ip", "nbits": 2, "codebook": "trellis"},
    "bands": {"metric": "l2", "nbits": 2.5},
}
SIZES = [100, 1, 63, 220, 36]


def vectors():
    """Rows of which many come again, so that scores are equal within shards and across them."""
    x = index_cases.anisotropic(N, D, seed=3)
    x[90:150] = x[10:70]
    x[300:420:2] = x[10:70]
    return x


def make(folder, case="ip", nlist=0, sizes=SIZES, **options):
    """A sharded index, and the single one that it was cut from, as it is read from its file."""
    index = index_cases.build_index(vectors(), **CASES[case])
    if nlist:
        index.partition(nlist)
    index.save(folder / "single.tqv")
    index = tqvec.Index.load(folder / "single.tqv")
    shards_of.cut(index, folder, sizes, **options)
    return shards_of.PlainSharded(folder), index


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sharded and single indexes, each made once."""
    known = {}

    def get(case, nlist):
        if (case, nlist) not in known:
            known[case, nlist] = make(tmp_path_factory.mktemp("shards"), case, nlist)
        return known[case, nlist]

    return get


def assert_same(sharded, index, method="search", *arguments, **options):
    wanted, got = (getattr(each, method)(*arguments, **options) for each in (index, sharded))
    assert len(got) == len(wanted)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    return got


QUERIES = np.concatenate([sts.normal(6, D, 5), vectors()[[12, 300]]])


@pytest.mark.parametrize("nlist", [0, 12])
@pytest.mark.parametrize("case", CASES)
def test_searches_equal_those_of_one_index(case, nlist, made):
    sharded, index = made(case, nlist)
    for k, queries in itertools.product((1, 10, 64, N, N + 50), (QUERIES, QUERIES[0])):
        assert_same(sharded, index, "search", queries, k)
    assert_same(sharded, index, "search", QUERIES, 7, return_error=True)
    assert_same(sharded, index, "search", QUERIES, 7, confidence=0.9)
    assert_same(sharded, index, "search", QUERIES[:1], 30, confidence=0.999, return_error=True)
    scores = index.search(QUERIES, 200)[0]
    for radius in (float(scores[0, 3]), float(scores[1, 150]), float(np.median(scores[:, -1]))):
        assert_same(sharded, index, "range_search", QUERIES, radius)
    for recall in (0.3, 0.9, 1.0):
        assert_same(sharded, index, "search", QUERIES, 10, recall=recall)


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_probed_lists_equal_those_of_one_index(metric, made):
    sharded, index = made(metric, 12)
    for nprobe, k in itertools.product((1, 3, 11, 12, 40), (1, 20, 100)):
        assert_same(sharded, index, "search", QUERIES, k, nprobe=nprobe)
        assert_same(sharded, index, "search", QUERIES, k, nprobe=nprobe, filter=range(0, N, 2))
    assert_same(sharded, index, "range_search", QUERIES, float(index.search(QUERIES, 5)[0][0, 4]), nprobe=2)
    assert "scan_lists" in sharded.asked


@pytest.mark.parametrize("nlist", [0, 12])
def test_ties_across_shards_are_in_the_order_of_one_index(nlist, made):
    sharded, index = made("ip", nlist)
    scores, ids = assert_same(sharded, index, "search", vectors()[10:70], 6, recall=1.0)
    shard_of = np.searchsorted(np.cumsum(SIZES), ids, side="right")
    tied = scores[:, :-1] == scores[:, 1:]
    assert (shard_of[:, :-1] != shard_of[:, 1:])[tied].any(), "there are ties across shards"


FILTERS = {
    "few": [3, 100, 164, 419],
    "one shard": range(164, 300, 3),
    "none of most shards": [100],
    "none": [N + 5, -7],
    "empty": np.zeros(0, np.int64),
    "composed": selectors.Range(0, N, 3) & ~selectors.Ids(range(50, 200)),
    "most": ~selectors.Ids([0, 1]),
}


@pytest.mark.parametrize("nlist", [0, 12])
@pytest.mark.parametrize("name", FILTERS)
def test_filters_equal_those_of_one_index(name, nlist, made):
    for case in ("ip", "l2"):
        sharded, index = made(case, nlist)
        for k in (1, 5, 150):
            assert_same(sharded, index, "search", QUERIES, k, filter=FILTERS[name])
        assert_same(sharded, index, "search", QUERIES, 5, filter=FILTERS[name], return_error=True)
        assert_same(sharded, index, "search", QUERIES, 5, filter=FILTERS[name], confidence=0.9)
        radius = float(np.median(index.search(QUERIES, 100)[0]))
        assert_same(sharded, index, "range_search", QUERIES, radius, filter=FILTERS[name])


@given(data=st.data())
@settings(max_examples=15)
def test_any_cut_equals_one_index(data, tmp_path_factory):
    nlist = data.draw(st.sampled_from((0, 9)))
    cuts = sorted(data.draw(st.sets(st.integers(1, N - 1), max_size=12)))
    sizes = np.diff([0, *cuts, N]).tolist()
    sharded, index = make(tmp_path_factory.mktemp("cut"), data.draw(st.sampled_from(("ip", "l2"))), nlist, sizes)
    k = data.draw(st.integers(1, N + 5))
    chosen = data.draw(st.none() | st.lists(st.integers(-2, N + 2), min_size=3, unique=True))
    confidence = data.draw(st.none() | st.sampled_from((0.5, 0.99)))
    assert_same(sharded, index, "search", QUERIES, k, filter=chosen, confidence=confidence, return_error=True)


def test_no_queries_and_many_batches(made, monkeypatch):
    sharded, index = made("l2", 12)
    assert_same(sharded, index, "search", np.zeros((0, D)), 5)
    assert_same(sharded, index, "range_search", np.zeros((0, D)), 1.0)
    monkeypatch.setattr("tqvec.index.snapshot._HEAP_ENTRIES", 40)
    assert_same(sharded, index, "search", QUERIES, 10)
    assert sharded.asked[-1] in ("scan", "scan_lists")
    assert len(sharded.asked) > 2


def test_a_search_asks_each_holder_once_if_nothing_is_filtered(made):
    sharded, _ = made("ip", 0)
    sharded.asked.clear()
    sharded.search(QUERIES, 10)
    assert sharded.asked == ["scan"]
    sharded.search(QUERIES, 10, filter=[1, 2, 3])
    assert sharded.asked[1:] == ["count", "scan"]


def test_a_filter_is_evaluated_once_and_again_only_if_it_changes(made, monkeypatch):
    sharded, _ = made("ip", 0)
    evaluated = []
    ordinary = selectors.Range._choose
    monkeypatch.setattr(selectors.Range, "_choose", lambda self, moment: evaluated.append(1) or ordinary(self, moment))
    kept, other = selectors.Range(0, 200), selectors.Range(0, 300)
    sharded.search(QUERIES, 10, filter=kept, confidence=0.9)
    sharded.search(QUERIES, 10, filter=kept)
    assert len(evaluated) == len(SIZES)
    sharded.search(QUERIES, 10, filter=other)
    assert len(evaluated) == 2 * len(SIZES)


def test_scores_beyond_float32_are_told(made):
    sharded, index = made("ip", 0)
    for each in (index, sharded):
        with pytest.raises(InputError, match="queries row 0 is too long"):
            each.search(np.full(D, 3e38), 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be"),
        ({"queries": np.zeros((2, D + 1))}, "queries"),
        ({"queries": np.full((2, D), np.nan)}, "queries row 0"),
        ({"confidence": 1.5}, "confidence"),
        ({"recall": 0.0}, "recall"),
        ({"nprobe": 2}, "partitioned"),
        ({"filter": np.ones(N, bool)}, "takes no masks"),
        ({"filter": selectors.Range(0, 5) | selectors.Mask(np.ones(100, bool))}, "takes no masks"),
        ({"filter": [0.5]}, "filter"),
        ({"where": "year > 3"}, "where must be a pyarrow"),
    ],
)
def test_bad_arguments_are_told(options, message, made):
    sharded, _ = made("ip", 0)
    with pytest.raises(InputError, match=message):
        sharded.search(**{"queries": QUERIES, "k": 5, **options})


def test_what_it_is(made):
    sharded, index = made("l2", 12)
    assert (sharded.ntotal, len(sharded), sharded.d) == (N, N, D)
    assert sharded.nbytes == sharded.manifest.nbytes > index.ntotal * index.code_size


@pytest.mark.parametrize("nlist", [0, 12])
def test_partial_results_are_those_of_an_index_of_the_other_shards(nlist, tmp_path):
    sharded, index = make(tmp_path, "ip", nlist)
    lost = sharded.manifest.shards[3]
    (tmp_path / lost.vectors.name).unlink()
    index.remove_ids(range(lost.first, lost.first + lost.rows))
    for options in ({}, {"filter": range(0, N, 2)}, {"return_error": True, "confidence": 0.9}, {"recall": 0.5}):
        with pytest.raises(FormatError, match=rf"1 of 5 shards .*{lost.vectors.name}.*is missing"):
            sharded.search(QUERIES, 10, **options)
        *results, missing = sharded.search(QUERIES, 10, partial=True, **options)
        assert missing == [lost.vectors.name]
        if not nlist:  # removed rows of one index still count for its choice of lists
            for ours, theirs in zip(results, index.search(QUERIES, 10, **options), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        assert not np.isin(results[1], range(lost.first, lost.first + lost.rows)).any()
    *_, missing = sharded.range_search(QUERIES, 1.0, partial=True)
    assert missing == [lost.vectors.name]


def test_without_any_shard_a_partial_search_returns_nothing(tmp_path):
    sharded, _ = make(tmp_path, "l2", sizes=[N])
    (tmp_path / sharded.manifest.shards[0].vectors.name).unlink()
    scores, ids, missing = sharded.search(QUERIES, 3, partial=True)
    assert np.isposinf(scores).all()
    assert (ids == -1).all()
    assert len(missing) == 1

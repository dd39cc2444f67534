"""A partitioned index returns what the flat one does, from the lists that a query probes."""

import copy
import pickle

import numpy as np
import pytest
from strategies import normal

import tqvec
from tqvec.errors import InputError
from tqvec.index import scanner, snapshot
from tqvec.index.partition.partition import Routing
from tqvec.index.store import FULL_BLOCK_ROWS

D = 40
METRICS = ["ip", "cosine", "l2"]


def clusters(n, seed, d=D):
    """Vectors near 20 points, as lists are good for."""
    return (3 * normal(20, d, 99)[np.random.default_rng(seed).integers(0, 20, n)] + normal(n, d, seed)).astype(
        np.float32
    )


def make_index(metric="ip", n=3000, **settings):
    index = tqvec.Index(D, metric=metric, **settings)
    index.add(clusters(n, 1))
    return index


@pytest.fixture
def always_lists(monkeypatch):
    """No scan of all rows where it would take less time."""
    monkeypatch.setattr(snapshot, "_MOST_PROBED", 2.0)
    monkeypatch.setattr(snapshot, "_ALONE", np.inf)


def lists_of(index):
    """The list of each row, in the order of `ids`; -1 for rows that are not sorted yet."""
    lists = []
    for block in index._core.store.blocks:
        own = np.full(block.n, -1)
        if block.starts.size:
            own = np.repeat(np.arange(index.nlist), np.diff(block.starts))
        lists.append(own[block.live_rows()])
    return np.concatenate(lists)


def restricted(index, queries, k, nprobe, keep=None):
    """The best scores of the rows in the lists that queries probe, from an exhaustive search."""
    probes = Routing(index._core.partition, nprobe, 0.5).probes(queries, k, 1)
    scores, ids = index.search(queries, k=index.ntotal, recall=1.0)
    of = dict(zip(index.ids.tolist(), lists_of(index).tolist(), strict=True))
    out = []
    for q in range(len(queries)):
        probed = {-1, *probes.of(q).tolist()}
        found = [
            s
            for s, i in zip(scores[q], ids[q].tolist(), strict=True)
            if of[i] in probed and (keep is None or i in keep)
        ]
        out.append(found[:k])
    return out


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("settings", [{}, {"nbits": 2.5}, {"nbits": 3, "codebook": "trellis"}, {"nbits": 8}])
def test_all_lists_give_the_flat_search(metric, settings):
    index, queries = make_index(metric, **settings), clusters(50, 2)
    flat = index.search(queries, k=10)
    index.partition(30)
    for option in ({"recall": 1.0}, {"nprobe": 30}, {"nprobe": 1000}):
        scores, ids = index.search(queries, k=10, **option)
        assert np.array_equal(scores, flat[0])
        assert np.array_equal(ids, flat[1])
    index.unpartition()
    assert index.nlist is None
    assert np.array_equal(index.search(queries, k=10)[0], flat[0])


@pytest.mark.usefixtures("always_lists")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kernels", [True, False])
def test_a_search_sees_the_lists_that_it_probes(metric, threads, kernels, monkeypatch):
    """By the kernels of lists and, where there are none, by masks; for one query and many."""
    index, queries = make_index(metric), clusters(20, 2)
    index.partition(30)
    index.add(clusters(77, 3))  # which stay unsorted, and are seen by all searches
    index.remove_ids(np.arange(0, 3000, 7))
    if not kernels:
        available = scanner.available
        monkeypatch.setattr(scanner, "available", lambda name: name != "search_lists" and available(name))
    keep = set(range(0, 3077, 3))
    for nprobe in (1, 5, 29):
        scores = index.search(queries, k=10, nprobe=nprobe, threads=threads)[0]
        expected = restricted(index, queries, 10, nprobe)
        assert sum(len(best) == 10 for best in expected) > 10
        for q, best in enumerate(expected):
            if len(best) == 10:  # otherwise more lists are probed
                assert scores[q].tolist() == best
        one = index.search(queries[0], k=10, nprobe=nprobe, threads=threads)[0]
        assert one[0].tolist() == scores[0].tolist()
        some = index.search(queries, k=3, nprobe=nprobe, filter=sorted(keep), threads=threads)[0]
        for q, expected in enumerate(restricted(index, queries, 3, nprobe, keep)):
            if len(expected) == 3:
                assert some[q].tolist() == expected


@pytest.mark.usefixtures("always_lists")
def test_more_lists_are_probed_until_there_are_enough_results():
    index, queries = make_index(), clusters(5, 2)
    index.partition(30)
    keep = [3, 5, 2999, 1500]
    scores, ids = index.search(queries, k=4, nprobe=1, filter=keep)
    assert np.array_equal(scores, index.search(queries, k=4, recall=1.0, filter=keep)[0])
    assert set(ids.ravel().tolist()) == set(keep)
    ids = index.search(queries, k=3000, nprobe=1)[1]
    assert all(sorted(row) == list(range(3000)) for row in ids.tolist())


@pytest.mark.parametrize("recall", [0.5, 0.9, 0.98])
def test_results_do_not_depend_on_the_batch(recall):
    """Though some queries scan lists and others all rows; of vectors that have no clusters."""
    index, queries = tqvec.Index(32), normal(60, 32, 2)
    index.add(normal(4000, 32, 1))
    index.partition(60)
    scores, ids = index.search(queries, k=10, recall=recall)
    for q in range(60):
        one = index.search(queries[q], k=10, recall=recall)
        assert np.array_equal(one[0][0], scores[q])
        assert np.array_equal(one[1][0], ids[q])


@pytest.mark.parametrize("given", [False, True])
def test_a_diagnosis_tells_what_lists_cost(given):
    index, queries = make_index(n=3000), clusters(200, 2)
    options = {"queries": queries} if given else {}
    before = index.diagnose(**options)
    assert [cause.name for cause in before.causes if cause.name == "lists"] == []
    index.partition(60)
    after = index.diagnose(**options)
    lists = after.causes[-1]
    assert lists.name == "lists"
    assert 0 < lists.cost < 0.15
    assert "recall=0.95" in lists.text
    assert after.recall == pytest.approx(before.recall, abs=0.05)


def test_imbalance_grows_where_vectors_come_from_elsewhere():
    index = make_index(n=3000)
    assert index.imbalance is None
    index.partition(30)
    sizes = np.bincount(lists_of(index), minlength=30)
    assert index.imbalance == pytest.approx(np.square(sizes).sum() * 30 / 3000**2)
    before = index.imbalance
    index.add(np.ones((5000, D)) + 0.01 * normal(5000, D, 5))
    assert index.imbalance > 2 * before
    index.partition(30)
    assert index.imbalance < 2 * before


def test_bytes_are_counted():
    index = make_index(n=3000)
    before = index.nbytes
    index.partition(30)
    index.search(clusters(3, 2), nprobe=3)
    assert before.lists == 0
    assert index.nbytes.lists > 30 * (D + 4) + 8 * 31
    assert sum(index.nbytes.items().values()) == index.nbytes


def test_recall_is_kept():
    """Of queries that are not rows; each with lists of its own number."""
    index = tqvec.Index(D, metric="cosine")
    index.add(clusters(20_000, 1))
    index.partition(100)
    queries = clusters(300, 2)
    exact = index.search(queries, k=10, recall=1.0)[1]
    for recall in (0.7, 0.9, 0.99):
        found = index.search(queries, k=10, recall=recall)[1]
        reached = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
        assert recall - 0.03 < reached
        counts = np.diff(Routing(index._core.partition, None, recall).probes(queries, 10, 1).first)
        assert counts.mean() < 60
        assert len(set(counts.tolist())) > 1


def test_rows_that_stand_for_queries_calibrate_no_small_k():
    """Their nearest rows may be copies of them, which lie in the same list."""
    index = make_index()
    index.partition(30)
    assert index._core.partition.probing.ks.tolist() == [10, 20, 50, 100]
    index.partition(30, queries=clusters(400, 2))
    assert index._core.partition.probing.ks.tolist() == [1, 2, 5, 10, 20, 50, 100]


def test_options_of_searches_work_with_lists():
    index, queries = make_index("cosine"), clusters(20, 2)
    vectors = clusters(3000, 1)
    index.partition(30)
    _, ids, error = index.search(queries, k=5, nprobe=10, return_error=True)
    assert np.all(error > 0)
    assert index.search(queries, k=5, nprobe=10, confidence=0.9)[1].shape[1] >= 5
    exact = index.search(queries, k=5, nprobe=10, rerank=lambda wanted: vectors[wanted])
    for q, row in enumerate(exact[1]):
        true = vectors[row] @ queries[q] / np.linalg.norm(vectors[row], axis=1) / np.linalg.norm(queries[q])
        np.testing.assert_allclose(exact[0][q], true, rtol=1e-5)
    lims, found, _ = index.range_search(queries, 0.9, nprobe=10)
    everything = index.range_search(queries, 0.9, recall=1.0)
    assert 0 < lims[-1] <= everything[0][-1]
    assert np.all(found > 0.9)
    alike = index.search_by_id(ids[:, 0], k=3, nprobe=5)
    assert not np.any(alike[1] == ids[:, :1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mmap", [False, True])
def test_files(metric, mmap, tmp_path):
    index, queries = make_index(metric), clusters(20, 2)
    index.partition(30)
    index.add(clusters(500, 3))
    index.save(tmp_path / "a.tqv")
    other = tqvec.Index.load(tmp_path / "a.tqv", mmap=mmap, verify=True)
    assert (other.nlist, other.ntotal) == (30, 3500)
    for recall in (0.8, 1.0):
        results = zip(index.search(queries, recall=recall), other.search(queries, recall=recall), strict=True)
        assert recall == 0.8 or all(np.array_equal(one, two) for one, two in results)
    other.save(tmp_path / "b.tqv")
    assert (tmp_path / "a.tqv").read_bytes() == (tmp_path / "b.tqv").read_bytes()
    other.add(clusters(100, 4))
    other.remove_ids([1, 2, 3])
    assert other.search(clusters(1, 4), k=1, nprobe=3)[1] == 3500


def test_bytes_follow_from_the_vectors_in_their_order(tmp_path, monkeypatch):
    """Partitioned before or after they were added, in few parts or many, or merged."""
    monkeypatch.setattr(tqvec.Index, "_block_rows", 640)
    x = clusters(3000, 1)
    index = tqvec.Index(D)
    index.partition(30, x[:2000])
    parts = [index]
    partition = index._core.partition
    for sizes in ([3000], [100] * 30, [1, 2, 997, 2000]):
        index = tqvec.Index(D)
        index._core = index._empty(index.codec, partition)
        for rows in np.split(x, np.cumsum(sizes)[:-1]):
            index.add(rows)
        parts.append(index)
    filled = tqvec.Index(D)
    filled.add(x)
    filled._core = filled._core._replace(store=filled._core.store.partitioned(partition), partition=partition)
    parts.append(filled)
    one, two = (copy_of(parts[0], partition) for _ in range(2))
    one.add(x[:1234])
    two.add(x[1234:])
    one.merge_from(two)
    parts.append(one)
    files = []
    for number, part in enumerate(parts[1:]):
        part.save(tmp_path / f"{number}.tqv")
        files.append((tmp_path / f"{number}.tqv").read_bytes())
    assert all(file == files[0] for file in files)


def copy_of(index, partition):
    other = tqvec.Index(D)
    other._core = other._empty(index.codec, partition)
    return other


def test_own_ids_stay_in_a_merge():
    one, two = make_index(n=500), make_index(n=0)
    two.add(clusters(500, 2), ids=np.arange(499, -1, -1) + 600)
    one.partition(10)
    two.partition(10)
    one.merge_from(two)
    assert sorted(one.ids.tolist()) == [*range(500), *range(600, 1100)]
    with pytest.raises(InputError, match="both indexes have id"):
        one.merge_from(two)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))])
def test_copies_and_pickles_keep_the_partition(duplicate):
    index = make_index("l2")
    index.partition(20)
    queries = clusters(5, 2)
    expected = index.search(queries, recall=0.9)
    again = duplicate(index)
    assert again.nlist == 20
    for one, other in zip(again.search(queries, recall=0.9), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    again.add(clusters(10, 3))
    assert (again.ntotal, index.ntotal) == (3010, 3000)


def test_training_keeps_the_partition():
    index = make_index("cosine", n=4000)
    index.partition(20)
    x = clusters(4000, 1)
    training = index.train(x, vectors=x[index.ids])
    assert index.nlist == 20
    if training.accepted:
        assert index.search(x[:1], k=1, nprobe=20)[1] == 0


def test_few_bits_of_a_map_are_read(tmp_path):
    """Prefixes are made for the lists that are probed alone."""
    index = make_index(n=20_000)
    index.partition(200)
    index.save(tmp_path / "a.tqv")
    mapped = tqvec.Index.load(tmp_path / "a.tqv", mmap=True)
    mapped.search(clusters(1, 2), nprobe=4)
    made = sum(block.prefixes.nbytes for block in mapped._core.store.blocks)
    assert made < 0.2 * 20_000 * D / 8
    assert FULL_BLOCK_ROWS > 20_000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: index.search(np.ones(D), nprobe=3), "nprobe is for a partitioned index"),
        (lambda index: index.search(np.ones(D), nprobe=3, recall=0.5), "not both"),
        (lambda index: index.search(np.ones(D), recall=0.0), "recall must be"),
        (lambda index: index.search(np.ones(D), recall=1.5), "recall must be"),
        (lambda index: index.partition(0), "nlist must be"),
        (lambda index: index.partition(100), "nlist must be at most the 50"),
        (lambda index: index.partition(5, np.ones((7, 3))), "sample"),
        (lambda index: index.partition(5, queries=np.ones((0, D))), "queries must have at least one row"),
        (lambda index: index.partition(5, progress=3), "progress must be a function, or None, got 3"),
        (lambda index: tqvec.Index(D).partition(5), "needs a sample"),
    ],
)
def test_bad_input(call, message):
    index = make_index(n=50)
    with pytest.raises(InputError, match=message):
        call(index)
    assert index.nlist is None


def test_a_flat_index_keeps_any_recall():
    index = make_index(n=50)
    assert np.array_equal(index.search(np.ones(D), recall=0.5)[1], index.search(np.ones(D))[1])


@pytest.mark.parametrize("n", [1, 2, 9])
def test_few_vectors(n):
    index = make_index(n=n)
    index.partition()
    assert sorted(index.search(np.ones(D), k=n)[1][0].tolist()) == list(range(n))
    index.partition(1)
    assert index.search(np.ones(D), k=n)[1].shape == (1, n)

"""Pickled and copied indexes answer like their originals, and go their own ways."""

import copy
import pickle
import threading

import numpy as np
import pytest
from strategies import normal

import tqvec

X = (normal(600, 24, 10_090) / np.arange(1, 25)).astype(np.float32)


def kinds():
    for metric in ("ip", "cosine", "l2"):
        yield tqvec.Index(24, nbits=2, metric=metric)
    yield tqvec.Index(24, nbits=2.5)
    yield tqvec.Index(24, nbits=3, codebook="trellis")
    index = tqvec.Index(24, nbits=2)
    assert index.train(X).accepted
    yield index


COPIES = {"pickle": lambda index: pickle.loads(pickle.dumps(index)), "copy": copy.copy, "deepcopy": copy.deepcopy}


@pytest.mark.parametrize("empty", list(kinds()), ids=repr)
@pytest.mark.parametrize("how", COPIES)
def test_copies(tmp_path, empty, how):
    index = copy.deepcopy(empty)
    index.add(X[:400])
    before = index.search(X[:9], k=7)  # fills caches
    again = COPIES[how](index)
    assert repr(again) == repr(index)
    assert again.codec.fingerprint == index.codec.fingerprint
    for one, two in zip(again.search(X[:9], k=7), before, strict=True):
        assert np.array_equal(one, two)
    for name, part in (("a", again), ("b", index)):
        part.save(tmp_path / f"{name}.tqv")
    assert (tmp_path / "a.tqv").read_bytes() == (tmp_path / "b.tqv").read_bytes()
    again.add(X[400:])
    assert (again.ntotal, index.ntotal) == (index.ntotal + 200, index.ntotal)
    for one, two in zip(index.search(X[:9], k=7), before, strict=True):
        assert np.array_equal(one, two)


def test_nothing_unused_is_pickled():
    index = tqvec.Index(24, nbits=8)
    index.add(X)
    index.search(X[:3])
    tables = len(pickle.dumps(tqvec.Index(24, nbits=8)))
    assert len(pickle.dumps(index)) < tables + 600 * 28 + 500  # codes and scales, without spare rows


def test_pickling_while_others_search():
    index = tqvec.Index(24, nbits=4)
    index.add(X)
    expected = index.search(X[:5])[1]
    stop = threading.Event()

    def search():
        while not stop.is_set():
            index.search(X[:5])

    thread = threading.Thread(target=search)
    thread.start()
    try:
        for _ in range(20):
            assert np.array_equal(pickle.loads(pickle.dumps(index)).search(X[:5])[1], expected)
    finally:
        stop.set()
        thread.join()


class Labelled(tqvec.Index):
    """A user's index with attributes, one of which refers to the index itself."""

    def __init__(self, d, label):
        super().__init__(d)
        self.label, self.notes, self.me = label, [1], self


WAYS = {f"pickle {p}": (lambda index, p=p: pickle.loads(pickle.dumps(index, p))) for p in range(2, 6)}


@pytest.mark.parametrize("how", ["copy", "deepcopy", *WAYS])
def test_class_and_attributes_are_kept(how):
    index = Labelled(24, "mine")
    index.add(X[:9])
    other = (COPIES | WAYS)[how](index)
    assert (type(other), other.label, other.ntotal, other.d) == (Labelled, "mine", 9, 24)
    assert (other.notes is index.notes) == (how == "copy")
    assert other.me is (index if how == "copy" else other)
    other.label = "other"
    other.add(X[9:12])
    assert (index.label, index.ntotal) == ("mine", 9)


def test_files_keep_the_class(tmp_path):
    index = Labelled(24, "mine")
    index.add(X)
    index.save(tmp_path / "a.tqv")
    for mmap in (False, True):
        other = Labelled.load(tmp_path / "a.tqv", mmap=mmap)
        assert (type(other), other.ntotal) == (Labelled, 600)
        again = pickle.loads(pickle.dumps(other))
        assert np.array_equal(again.search(X[:5])[1], index.search(X[:5])[1])
        again.add(X[:1])
        assert (again.ntotal, other.ntotal) == (601, 600)
    assert index.train(X, vectors=X).accepted
    assert index.label == "mine"


@pytest.mark.parametrize("how", COPIES)
def test_copying_while_others_add(how):
    """A copy is the index of one moment: some whole batches, with their ids."""
    index = tqvec.Index(24, nbits=2)
    index.add(X[:10], ids=np.arange(10**6, 10**6 + 10))
    stop = threading.Event()

    def add():
        for batch in range(1, 2000):
            index.add(X[:10], ids=10**6 + 10 * batch + np.arange(10)[::-1], threads=1)
            if stop.is_set():
                return

    thread = threading.Thread(target=add)
    thread.start()
    try:
        for _ in range(15):
            other = COPIES[how](index)
            assert other.ntotal % 10 == 0
            assert len(set(other.ids.tolist())) == other.ntotal
            ids = other.ids
            assert other.remove_ids(ids) == ids.size
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("own_ids", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_copies_of_copies_have_no_block_for_each_row(metric, own_ids):
    """Each is changed once, as the tail of a collection is; the ones before stay as they were."""
    index, whole, before = tqvec.Index(24, metric=metric), tqvec.Index(24, metric=metric), []
    for row in range(200):
        before.append((index, index.search(X[:2], k=3)))
        index = copy.copy(index)
        for one in (index, whole):
            one.add(X[row], ids=[1000 - row] if own_ids else None)
            if row % 7 == 6:
                one.remove_ids(one.ids[:1])
    assert len(index._core.store.blocks) == 1
    for one, (scores, ids) in [*before, (index, whole.search(X[:2], k=3))]:
        found = one.search(X[:2], k=3)
        assert np.array_equal(found[0], scores)
        assert np.array_equal(found[1], ids)
    assert np.array_equal(index.ids, whole.ids)

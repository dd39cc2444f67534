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

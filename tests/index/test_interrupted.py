"""A change that is cut short, by Ctrl-C or by a fork, is done or not done; nothing hangs and nothing is half done."""

import os
import signal
import threading

import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec._locks import ForkLock
from tqvec.index.id_table import IdTable
from tqvec.index.store import Store

D = 16
X = sts.normal(400, D, 12_200)
CHANGES = {
    "add": lambda index: index.add(X[300:350]),
    "add with ids": lambda index: index.add(X[300:310], ids=np.arange(9000, 8990, -1)),
    "upsert": lambda index: index.add(X[200:210], ids=np.arange(5, 15), upsert=True),
    "remove": lambda index: index.remove_ids(np.arange(20, 30)),
    "compact": lambda index: index.remove_ids(np.arange(20, 290)),
    "merge": lambda index: index.merge_from(made({"ids": np.arange(700, 1000)})),
}
KINDS = {"ids": {"ids": np.arange(300)[::-1]}, "no ids": {}}


class Cut(BaseException):
    """Stands for Ctrl-C."""


def made(kind):
    index = tqvec.Index(D, nbits=2)
    index._block_rows = 256
    index._core = index._empty(index.codec)
    index.add(X[:300], **kind)
    return index


def contents(index):
    ids = index.ids
    order = np.argsort(ids)
    return ids[order].tolist(), index.reconstruct(ids[order]).tobytes(), index.search(X[:4], k=300)[0].tobytes()


def cut_at(monkeypatch, owner, name, after):
    original = getattr(owner, name)

    def cut(self, *arguments):
        if after:
            original(self, *arguments)
        monkeypatch.undo()
        raise Cut

    monkeypatch.setattr(owner, name, cut)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", [(IdTable, "remove"), (IdTable, "insert"), (Store, "_compact")])
def test_a_change_that_is_cut_short(monkeypatch, kind, change, place, after):
    index, twin, done = (made(KINDS[kind]) for _ in range(3))
    CHANGES[change](done)
    cut_at(monkeypatch, *place, after)
    try:
        CHANGES[change](index)
    except Cut:
        assert contents(index) in (contents(twin), contents(done))
    else:
        monkeypatch.undo()
        assert contents(index) == contents(done)
    if contents(index) == contents(twin):
        CHANGES[change](index)
        assert contents(index) == contents(done)
    index.add(X[350:360])
    done.add(X[350:360])
    assert contents(index)[1:] == contents(done)[1:]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_while_another_thread_adds(tmp_path, kind):
    index = tqvec.Index(D, nbits=2)
    index.add(X, ids=np.arange(400)[::-1] if kind == "ids" else None)
    stop = threading.Event()

    def add():
        for batch in range(5000):
            index.add(X, ids=10**6 + 400 * batch + np.arange(400)[::-1] if kind == "ids" else None, threads=1)
            if batch % 50 == 49:
                index.remove_ids(index.ids[400:])
            if stop.is_set():
                return

    thread = threading.Thread(target=add)
    thread.start()
    try:
        for number in range(12):
            stop.wait(0.003 * number)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    signal.alarm(20)
                    use_in_child(index, tmp_path / f"{number}.tqv")
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
            saved = tqvec.Index.load(tmp_path / f"{number}.tqv", verify=True)
            assert saved.ntotal % 400 == 1
    finally:
        stop.set()
        thread.join()


def use_in_child(index, path):
    ids = index.ids
    assert ids.size % 400 == 0
    index.add(X[:1], threads=1)
    index.save(path)
    assert index.reconstruct(ids, threads=1).shape == (ids.size, D)
    assert index.search(X[:1], k=1, threads=1)[1].shape == (1, 1)
    assert index.remove_ids(ids) == ids.size


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_locks_in_a_child():
    """One that another thread holds is free; one that the forking thread holds is held, and is released once."""
    theirs, ours, taken = ForkLock(), ForkLock(), threading.Event()
    done = threading.Event()

    def hold():
        with theirs:
            taken.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    with ours:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            with theirs, ours:
                pass
    if child == 0:
        with ours:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    done.set()
    thread.join()

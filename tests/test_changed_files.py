"""Two that load a file, change it and save it: the second does not undo the first without a word."""

import copy
import multiprocessing
import os
import pickle
import threading

import numpy as np
import pytest

import tqvec
from tqvec.errors import InputError
from tqvec.kvcache import KVCache

X = np.random.default_rng(10_061).standard_normal((40, 16)).astype(np.float32)
CHANGED = "a.file: the file has changed since it was loaded or saved here, .*replace it with overwrite=True"


def new_index():
    index = tqvec.Index(16)
    index.add(X[:2])
    return index


def new_cache():
    cache = KVCache(1, 1, 16, "exact")
    cache.append(0, X[None, :2], X[None, :2])
    return cache


def grow(one):
    if isinstance(one, KVCache):
        one.append(0, X[None, :1], X[None, :1])
    else:
        one.add(X[:1])


def size(one):
    return one.n_tokens if isinstance(one, KVCache) else one.ntotal


@pytest.fixture(params=[new_index, new_cache], ids=["index", "cache"])
def new(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.file"


def test_the_second_of_two_is_refused(new, path):
    new().save(path)
    kind = type(new())
    one, two = kind.load(path), kind.load(str(path))
    for each in (one, two):
        grow(each)
    grow(two)
    one.save(path)
    one.save(path)
    for _ in range(2):
        with pytest.raises(InputError, match=CHANGED):
            two.save(path)
    assert size(kind.load(path)) == 3
    two.save(path.with_name("other"))
    two.save(path, overwrite=True)
    assert size(kind.load(path)) == 4
    two.save(path)
    with pytest.raises(InputError, match=CHANGED):
        one.save(path)
    assert [each.name for each in sorted(path.parent.iterdir())] == ["a.file", "other"]


def test_what_is_no_change(new, path, tmp_path):
    """Another time, a copy of the same bytes, another name for the file, or none at all."""
    one = new()
    one.save(path)
    one = type(one).load(path)
    os.utime(path, (1, 1))
    one.save(path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    one.save(path)
    os.symlink("a.file", tmp_path / "link")
    grow(one)
    one.save(tmp_path / "link")
    one.save(path)
    path.unlink()
    one.save(path)
    path.write_bytes(b"")
    one.save(path)


def test_a_change_through_a_link(new, path, tmp_path):
    new().save(path)
    os.symlink("a.file", tmp_path / "link")
    one = type(new()).load(tmp_path / "link")
    other = type(new()).load(path)
    grow(other)
    other.save(path)
    with pytest.raises(InputError, match="link: the file has changed"):
        one.save(tmp_path / "link")


def test_a_foreign_file_in_its_place(new, path):
    one = new()
    one.save(path)
    path.write_bytes(b"something else")
    with pytest.raises(InputError, match="there is a file that is not"):
        one.save(path)


def test_a_loaded_index_of_an_old_version(path, request):
    path.write_bytes((request.path.parent / "golden" / "indexes" / "v1.tqv").read_bytes())
    one, two = tqvec.Index.load(path), tqvec.Index.load(path, mmap=True)
    one.save(path)
    with pytest.raises(InputError, match=CHANGED):
        two.save(path)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_remember(path, again):
    new_index().save(path)
    one = tqvec.Index.load(path)
    two = again(one)
    grow(one)
    one.save(path)
    with pytest.raises(InputError, match=CHANGED):
        two.save(path)


def test_forks_remember(path):
    new_cache().save(path)
    one = KVCache.load(path)
    two = one.fork()
    grow(one)
    one.save(path)
    with pytest.raises(InputError, match=CHANGED):
        two.save(path)


def test_threads_that_save_one_index(new, path):
    """Their own saves are no changes of others."""
    one, failures = new(), []

    def work():
        try:
            for _ in range(8):
                grow(one)
                one.save(path)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [each.name for each in path.parent.iterdir()] == ["a.file"]


def add_once(path, start, wins):
    index = tqvec.Index.load(path)
    index.add(X[:1])
    start.wait()
    try:
        index.save(path)
        wins.put(True)
    except InputError:
        wins.put(False)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_of_processes_at_the_same_time_one_wins(path):
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        new_index().save(path, overwrite=True)
        start, wins = context.Barrier(4), context.Queue()
        children = [context.Process(target=add_once, args=(path, start, wins)) for _ in range(4)]
        for child in children:
            child.start()
        assert sorted(wins.get(timeout=60) for _ in children) == [False, False, False, True]
        for child in children:
            child.join()
        assert len(tqvec.Index.load(path)) == 3

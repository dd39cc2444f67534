"""Copied, pickled, forked and reset caches: each goes its own way, and is what its tokens make it."""

import copy
import os
import pickle
import signal
import threading

import numpy as np
import pytest
import strategies as sts
from cache_policies import POLICIES, D, tokens

from tqvec.errors import FormatError, InputError
from tqvec.kvcache import KVCache, Policy


class Labelled(KVCache):
    """A user's cache with attributes, one of which refers to the cache itself."""

    def __init__(self, policy, label):
        super().__init__(2, 2, D, policy)
        self.label, self.notes, self.me = label, [1], self


def loaded(cache, tmp_path):
    cache.save(tmp_path / "cache.st")
    return type(cache).load(tmp_path / "cache.st")


WAYS = {
    "fork": lambda cache: cache.fork(),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {p}": (lambda cache, p=p: pickle.loads(pickle.dumps(cache, p))) for p in range(2, 6)},
}


def filled(policy, n, kind=KVCache):
    cache = kind(2, 2, D, policy) if kind is KVCache else kind(policy, "mine")
    for layer in range(2):
        cache.append(layer, *tokens(n, layer))
    return cache


def contents(cache):
    q = sts.normal(4, D, 12_300).reshape(4, 1, D)
    held = [(cache.keys(n).tobytes(), cache.values(n).tobytes(), cache.token_counts(n)) for n in range(2)]
    return held, [cache.attend(n, q).tobytes() for n in range(2)] if cache.n_tokens else None


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("how", WAYS)
def test_copies_are_independent(policy, how):
    for n in (0, 3, 150):
        cache = filled(policy, n)
        before = contents(cache)
        other = WAYS[how](cache)
        assert contents(other) == before
        again = filled(policy, n)
        for one, seed in ((cache, 5), (other, 6)):
            twin = again.fork()
            for layer in range(2):
                for each in (one, twin):
                    each.append(layer, *tokens(70, seed))
            assert contents(one) == contents(twin)
        other.truncate(other.n_tokens // 2)
        other.reset()
        assert contents(cache) != contents(other)


@pytest.mark.parametrize("how", [*WAYS, "file"])
def test_class_and_attributes_are_kept(how, tmp_path):
    cache = filled(POLICIES["evicting"], 150, Labelled)
    other = loaded(cache, tmp_path) if how == "file" else WAYS[how](cache)
    assert type(other) is Labelled
    assert contents(other) == contents(cache)
    if how == "file":
        return  # a file has no place for attributes
    shallow = how in ("fork", "copy")
    assert other.label == "mine"
    assert (other.notes is cache.notes) == shallow
    assert other.me is (cache if shallow else other)
    other.label = "other"
    assert cache.label == "mine"


def test_pickles_hold_the_tokens_alone():
    cache = KVCache(1, 2, D, Policy(4, 4, recent=16, chunk=8, max_tokens=400, dtype="bfloat16"))
    cache.append(0, *tokens(2000))
    counted = cache.nbytes
    assert len(pickle.dumps(cache)) < counted - counted.bookkeeping + 3000
    assert pickle.loads(pickle.dumps(cache)).nbytes.bookkeeping == 0


def test_pickles_of_other_codecs_are_refused():
    cache = filled(POLICIES["plain"], 50)
    state = cache.__getstate__() | {"fingerprint": "0" * 32}
    with pytest.raises(FormatError, match="other codecs than the one that pickled the KVCache"):
        KVCache.__new__(KVCache).__setstate__(state)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_reset_caches_are_new(policy):
    """After eviction too: nothing is left, not even the count of dropped tokens."""
    cache, fresh = filled(policy, 300), KVCache(2, 2, D, policy)
    fork = cache.fork()
    before = contents(cache)
    cache.reset()
    assert (cache.n_tokens, cache.token_counts(0), cache.nbytes) == (0, fresh.token_counts(0), fresh.nbytes)
    for one in (cache, fresh):
        for layer in range(2):
            one.append(layer, *tokens(130, 9))
    assert contents(cache) == contents(fresh)
    assert contents(fork) == before


@pytest.mark.parametrize("name", ["n_layers", "n_kv_heads", "head_dim", "policy", "n_tokens", "nbytes"])
def test_no_attribute_can_be_changed(name):
    cache = filled(POLICIES["plain"], 100)
    before = contents(cache)
    for change in (lambda: setattr(cache, name, 1), lambda: delattr(cache, name)):
        with pytest.raises(AttributeError, match=rf"KVCache\.{name} can't be changed; make a new KVCache instead"):
            change()
    with pytest.raises(AttributeError, match="can't be changed"):
        cache.__init__(1, 1, 8)
    with pytest.raises(AttributeError):
        cache.policy.recent = 3
    assert contents(cache) == before


@pytest.mark.parametrize("d", [8, 64])
def test_sizes_come_from_the_arrays(d):
    """Attributes bent by force give an error at most."""
    cache = filled(POLICIES["plain"], 100)
    vars(cache).update(head_dim=d, n_kv_heads=1, n_layers=7)
    for heads in (1, 2):
        wrong = sts.normal(heads * 3, d, 1).reshape(heads, 3, d)
        with pytest.raises(InputError, match="k must have shape"):
            cache.append(0, wrong, wrong)
        with pytest.raises(InputError, match="q must have shape"):
            cache.attend(0, wrong)
    with pytest.raises(InputError, match="layer must be an integer from 0 to 1"):
        cache.keys(5)
    with pytest.raises(AttributeError):
        KVCache.__new__(KVCache).append(0, *tokens(3))


def test_returned_arrays_are_the_users():
    cache = filled(POLICIES["all recent"], 50)
    k, v = tokens(20, 4)
    cache.append(0, k, v)
    before = contents(cache)
    k[:] = v[:] = 9
    cache.keys(0)[:] = 9
    cache.values(1)[:] = 9
    assert contents(cache) == before


def test_a_step_that_fails_in_a_later_layer():
    """Layers before it keep the step; a fork of before takes it back."""
    cache = filled(POLICIES["evicting"], 120)
    before, start = cache.fork(), contents(cache)
    cache.append(0, *tokens(1, 8))
    k, v = tokens(1, 8)
    k[1, 0, 3] = np.nan
    with pytest.raises(InputError, match="k of layer 1, head 1, token 0 holds NaN"):
        cache.append(1, k, v)
    assert contents(cache)[0][1] == start[0][1]
    assert contents(cache)[0][0] != start[0][0]
    for layer in range(2):
        assert cache.attend(layer, sts.normal(2, D, 1).reshape(2, 1, D)).shape == (2, 1, D)
    assert contents(before) == start
    cache = before
    for layer in range(2):
        cache.append(layer, *tokens(1, 8))
    assert cache.token_counts(0) == cache.token_counts(1)


def test_truncating_after_eviction():
    """Of the tokens that are held, not of those that ever were; more is refused and changes nothing."""
    cache = filled(POLICIES["evicting"], 150)
    assert (cache.n_tokens, cache.token_counts(0).evicted) == (90, 60)
    before = contents(cache)
    for n in (91, 149, 150):
        with pytest.raises(InputError, match="n_tokens must be an integer from 0 to 90"):
            cache.truncate(n)
    assert contents(cache) == before
    cache.truncate(90)
    assert contents(cache) == before
    cache.truncate(88)
    assert cache.keys(0).tobytes() == np.ascontiguousarray(filled(POLICIES["evicting"], 150).keys(0)[:, :88]).tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_of_the_process_while_another_thread_appends():
    cache = filled(POLICIES["plain"], 100)
    stop = threading.Event()

    def append():
        while not stop.is_set():
            cache.append(0, *tokens(40), threads=1)

    thread = threading.Thread(target=append)
    thread.start()
    try:
        for number in range(8):
            stop.wait(0.002 * number)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    signal.alarm(20)
                    n = sum(cache.token_counts(0)[:4])
                    cache.append(0, *tokens(1), threads=1)
                    code = 0 if sum(cache.token_counts(0)[:4]) == n + 1 and n % 40 == 20 else 2
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_copies_of_policies(policy):
    for protocol in range(2, 6):
        assert pickle.loads(pickle.dumps(policy, protocol)) == policy
    assert copy.copy(policy) == copy.deepcopy(policy) == policy
    assert hash(copy.deepcopy(policy)) == hash(policy)
    with pytest.raises(AttributeError):
        copy.copy(policy).sinks = 9

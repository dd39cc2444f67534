"""Threads that attend while others append, evict and fork: every answer must be that of one moment.

An attention with the same query is repeated beside the changes; all the answers that there may be, one a number of
tokens, are known from a cache that was filled alone, to the last bit. Caches broken on purpose show that it finds out.
"""

import sys
import threading
import time

import numpy as np
import pytest
import strategies as sts
from cache_policies import POLICIES, D, tokens

from tqvec.errors import InputError
from tqvec.kvcache import KVCache
from tqvec.kvcache.layer import Layer
from tqvec.kvcache.state import Segment, Uncoded

N = 400
Q = sts.normal(4, D, 8_100).reshape(4, 1, D)


class Overwriting(Layer):
    """Writes recent tokens over those that others may be reading."""

    def append(self, keys, values, threads):
        super().append(keys, values, threads)
        state = self.state
        if state.recent.n:
            saved = state.recent.values[:, 0].copy()
            state.recent.values[:, 0] = 7
            time.sleep(1e-4)
            state.recent.values[:, 0] = saved


class Torn(Layer):
    """Publishes codes before the recent tokens have lost their tokens."""

    def _evict(self, state):
        if len(state.coded) and self.state.coded is not state.coded:
            before = self.state
            self.state = before._replace(coded=state.coded, learned=state.learned)
            time.sleep(1e-3)
            self.state = before
        return super()._evict(state)


class Run:
    """A cache, one thread that appends to it, and some that attend and fork."""

    def __init__(self, policy):
        self.k, self.v = tokens(N)
        self.cache = KVCache(2, 2, D, policy)
        alone = KVCache(2, 2, D, policy)
        self.answers = [None]
        for t in range(N):
            self.add(alone, t)
            self.answers.append(alone.attend(0, Q, threads=1).tobytes())
        self.alone = alone
        self.begun = self.complete = 0
        self.stop, self.wrong, self.reads = threading.Event(), [], 0

    def add(self, cache, t):
        cache.append(0, self.k[:, t : t + 1], self.v[:, t : t + 1], threads=1)

    def write(self, seconds):
        deadline = time.monotonic() + seconds
        while self.complete < N and not self.stop.is_set() and time.monotonic() < deadline:
            self.begun += 1
            self.add(self.cache, self.complete)
            self.complete += 1
            time.sleep(0)
        self.stop.set()

    def read(self, seed):
        rng = np.random.default_rng(10_200 + seed)
        try:
            while not self.stop.is_set():
                first = self.complete
                if first == 0:
                    continue
                cache = self.cache if rng.random() < 0.7 else self.cache.fork()
                answer = cache.attend(0, Q, threads=1).tobytes()
                last = self.begun
                assert answer in self.answers[first : last + 1], f"no answer of {first} to {last} tokens"
                if cache is not self.cache:
                    self.check_fork(cache, first, last, answer)
                self.reads += 1
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
            self.stop.set()

    def check_fork(self, fork, first, last, answer):
        """It stays as it was, and grows by itself."""
        n = first + self.answers[first : last + 1].index(answer)
        size = fork.nbytes
        assert size == sum(size.items().values())
        junk, _ = tokens(3, seed=6)
        other = fork.fork()
        other.append(0, junk, junk, threads=1)
        assert fork.attend(0, Q, threads=1).tobytes() == answer, f"a fork of {n} tokens changed"

    def violations(self, seconds):
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        threads = [threading.Thread(target=self.read, args=(seed,)) for seed in range(3)]
        try:
            for thread in threads:
                thread.start()
            self.write(seconds)
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(before)
        return self.wrong


@pytest.mark.parametrize("policy", ["plain", "recoded, evicting"])
def test_every_answer_is_that_of_one_moment(policy):
    run = Run(POLICIES[policy])
    assert run.violations(seconds=20) == []
    assert run.reads > 3
    if run.complete == N:
        assert np.array_equal(run.cache.keys(0), run.alone.keys(0))
        assert run.cache.nbytes.items() == run.alone.nbytes.items()


@pytest.mark.parametrize("kind", [Overwriting, Torn])
def test_broken_layers_are_found_out(kind):
    run = Run(POLICIES["plain"])
    layer = run.cache._layers[0]
    run.cache._layers = (kind(0, layer.policy, layer.codecs(()), layer.turning, layer.state), run.cache._layers[1])
    assert run.violations(seconds=20)


def test_layers_are_filled_by_threads_of_their_own():
    caches = [KVCache(4, 2, D, POLICIES["recoded"]) for _ in range(2)]
    k, v = tokens(300)
    threads = [threading.Thread(target=caches[0].append, args=(layer, k, v)) for layer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for layer in range(4):
        caches[1].append(layer, k, v)
        assert np.array_equal(caches[0].keys(layer), caches[1].keys(layer))


@pytest.mark.parametrize("step", ["encode", "extend"])
def test_an_append_that_fails_changes_nothing(step, monkeypatch):
    """Whatever goes wrong in the middle, and also for what is appended later."""
    k, v = tokens(200)
    cache, plain = (KVCache(1, 2, D, POLICIES["plain"]) for _ in range(2))
    for one in (cache, plain):
        one.append(0, k[:, :70], v[:, :70])
    before, answer = cache.nbytes, cache.attend(0, Q)

    def fail(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(
            "tqvec.kvcache.codecs.SideCodec.encode" if step == "encode" else "tqvec.kvcache.state.extend", fail
        )
        with pytest.raises(MemoryError):
            cache.append(0, k[:, 70:], v[:, 70:])
    assert (cache.nbytes, cache.n_tokens) == (before, 70)
    assert np.array_equal(cache.attend(0, Q), answer)
    for one in (cache, plain):
        one.append(0, k[:, 70:], v[:, 70:])
    assert np.array_equal(cache.keys(0), plain.keys(0))
    with pytest.raises(InputError):
        cache.append(0, np.full((2, 1, D), np.nan), v[:, :1])
    assert cache.n_tokens == 200


def test_arrays_that_others_hold_are_never_written_to():
    """Each state in turn, looked at again after everything that came later."""
    k, v = tokens(N)
    cache = KVCache(2, 2, D, POLICIES["recoded, evicting"])
    seen = []
    for t in range(0, N, 5):
        cache.append(0, k[:, t : t + 5], v[:, t : t + 5])
        if t % 45 == 0 and t:
            cache._layers[0].truncate(cache._layers[0].state.n - 7)
        state = cache._layers[0].state
        seen.append((state, _contents(state)))
    assert all(_contents(state) == contents for state, contents in seen)


def _contents(state):
    def of(part):
        if isinstance(part, Uncoded):
            return part.keys[:, : part.n].tobytes(), part.values[:, : part.n].tobytes()
        if isinstance(part, Segment):
            sides = (*part.keys, *part.values)
            return [(one.codes[:, part.rows].tobytes(), one.scales[:, part.rows].tobytes()) for one in sides]
        return [of(one) for one in part]

    return [of(part) for part in (state.sinks, state.recoded, state.coded, state.recent)]

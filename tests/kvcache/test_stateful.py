"""Any sequence of calls leaves a `KVCache` with what plain lists of tokens have (tests/naive_cache.py)."""

import copy
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import strategies as sts
from cache_policies import POLICIES, ROPES, D, of_layer, tokens
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from naive_cache import NaiveLayer, arrays_of, attention

from tqvec.kvcache import KVCache, byte_model

which = st.integers(0, 2)
sizes = st.sampled_from([1, 1, 2, 5, 9, 40])
counts = st.sampled_from([0, 50, 120])


class Machine(RuleBasedStateMachine):
    """Up to three caches of one policy, for one layer of which each has the lists that it should agree with."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.pairs = []

    def teardown(self):
        self.folder.cleanup()

    @initialize(policy=st.sampled_from(sorted(POLICIES)), rope=st.sampled_from(sorted(ROPES)), n=counts)
    def begin(self, policy, rope, n):
        self.policy, self.rope = POLICIES[policy], of_layer(ROPES[rope], 1)
        self.pairs = [[KVCache(2, 2, D, self.policy, ROPES[rope]), self.empty(), True]]
        self.seed = 0
        if n:
            self.append(0, n)

    def empty(self):
        return NaiveLayer(self.policy, 2, 1, 2, D, self.rope)

    def pair(self, number):
        return self.pairs[number % len(self.pairs)]

    @rule(number=which, n=sizes)
    def append(self, number, n):
        cache, plain, _ = self.pair(number)
        self.seed += 1
        k, v = tokens(n, self.seed, self.rope, plain.next_position)
        cache.append(1, k, v)
        plain.append(k, v)

    @rule(number=which, share=st.sampled_from([0.0, 0.02, 0.3, 0.9, 0.99, 1.0]))
    def truncate(self, number, share):
        pair = self.pair(number)
        cache, plain, _ = pair
        n = int(len(plain.tokens) * share)
        pair[2] = pair[2] and n == len(plain.tokens)
        cache._layers[1].truncate(n)
        plain.truncate(n)

    @rule(number=which, place=which, how=st.sampled_from(["fork", "copy", "deepcopy", "pickle"]))
    def duplicate(self, number, place, how):
        """A copy by any way takes the place of a cache, or comes in addition."""
        cache, plain, _ = self.pair(number)
        ways = {"fork": KVCache.fork, "copy": copy.copy, "deepcopy": copy.deepcopy}
        other = ways[how](cache) if how in ways else pickle.loads(pickle.dumps(cache))
        self.pairs[place : place + 1] = [[other, plain.copy(), False]]
        del self.pairs[3:]

    @rule(number=which)
    def reset(self, number):
        pair = self.pair(number)
        pair[0].reset()
        pair[1], pair[2] = self.empty(), True

    @rule(number=which)
    def file(self, number):
        pair = self.pair(number)
        path = Path(self.folder.name) / "cache.st"
        pair[0].save(path, overwrite=True)  # another one may have been saved there since
        pair[0], pair[2] = KVCache.load(path), False

    @rule(number=which, n_heads=st.sampled_from([2, 4]), nq=st.sampled_from([1, 2, 30]))
    def attend(self, number, n_heads, nq):
        cache, plain, _ = self.pair(number)
        n = len(plain.tokens) - (len(plain.sinks) if plain.evicted else 0)
        if n >= nq:
            q = sts.normal(n_heads * nq, D, 7_900 + nq).reshape(n_heads, nq, D)
            expected = attention(q, *plain.sides())
            np.testing.assert_allclose(cache.attend(1, q), expected, atol=0.01 * np.abs(expected).max())

    @invariant()
    def tokens_are_right(self):
        for cache, plain, _ in self.pairs:
            assert cache.token_counts(1) == plain.token_counts()
            keys, values = plain.sides()
            np.testing.assert_allclose(cache.keys(1), keys, rtol=1e-5, atol=2e-5)
            np.testing.assert_allclose(cache.values(1), values, rtol=1e-5, atol=2e-5)

    @invariant()
    def bytes_are_right(self):
        for cache, plain, untouched in self.pairs:
            size, state = cache.nbytes, cache._layers[1].state
            assert size == sum(array.nbytes for array in arrays_of(state))
            sinks, recoded, coded, recent, _ = plain.token_counts()
            widths = plain.widths
            assert size.uncoded == (sinks + recent) * 2 * 2 * D * 2
            assert size.scales == (recoded + coded) * 2 * 2 * 2
            row, row_recoded = (
                byte_model.row_bytes(both, D)
                for both in ((*widths.keys, *widths.values), (*widths.recoded_keys, *widths.recoded_values))
            )
            assert size.codes == coded * row + recoded * row_recoded
            means = 2 * (D * (4 * (1 + self.policy.value_means) + 6) + 5)
            assert size.means == (means if self.policy.mean_tokens and recoded + coded else 0)
            if untouched:
                n = len(plain.tokens) + plain.evicted
                assert size.items() == byte_model.layer_nbytes(self.policy, widths, D, n).items()


TestCache = pytest.mark.slow(Machine.TestCase)
TestCache.settings = settings(max_examples=40, stateful_step_count=25)

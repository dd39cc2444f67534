"""Windows, caps and sinks of attention against float64 attention on what a cache holds."""

import numpy as np
import pytest
import strategies as sts
from kvcache.test_attention import POLICIES, close, tensors
from naive_cache import attention

from tqvec.kernels.attend import units
from tqvec.kvcache import KVCache, Policy, Rope, coded_attention

N, LAYER = 420, 1
LOGITS = np.array([-2.0, 0.5, 3.0, 12.0])
OPTIONS = {
    "window": {"window": 50},
    "window of one": {"window": 1},
    "window within the recent tokens": {"window": 9},
    "window of all but some": {"window": 400},
    "window of more than all": {"window": 10_000},
    "softcap": {"softcap": 2.5},
    "sinks": {"sinks": LOGITS},
    "all": {"window": 200, "softcap": 4.0, "sinks": LOGITS, "scale": 0.1},
}
FAST = ("turbo4", "evicting")
CASES = [pytest.param(POLICIES[name], id=name, marks=() if name in FAST else pytest.mark.slow) for name in POLICIES]


def filled(policy, rope=None, n=N):
    cache = KVCache(2, 2, 40, policy, rope=rope)
    cache.append(LAYER, *tensors(n))
    return cache


def positions(cache):
    """Positions of the tokens that are held."""
    counts = cache.token_counts(LAYER)
    return np.r_[: counts.sinks, counts.sinks + counts.evicted : counts.held + counts.evicted]


def queries(nq, n_heads=4):
    return sts.normal(n_heads * nq, 40, 7_500).reshape(n_heads, nq, 40)


def expected(cache, q, **options):
    return attention(q, cache.keys(LAYER), cache.values(LAYER), positions=positions(cache), **options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("rope", [None, Rope(1e6)], ids=["no rope", "rope"])
@pytest.mark.parametrize("policy", CASES)
def test_is_that_of_the_decoded_tokens(policy, rope, options):
    cache = filled(policy, rope)
    for nq in (1, 7, 130):
        q = queries(nq)
        close(cache.attend(LAYER, q, **options), expected(cache, q, **options), 8e-3)  # of few tokens: no errors cancel


@pytest.mark.parametrize("n_heads", [2, 6])
def test_heads_have_logits_of_their_own(n_heads):
    cache, q, logits = filled("turbo4"), queries(5, n_heads), sts.normal(n_heads, 1, 7_501)[:, 0]
    close(cache.attend(LAYER, q, sinks=logits), expected(cache, q, sinks=logits))


def same(out, expected):
    """Turned queries depend on a block in their last bits, so a coordinate in thousands rounds to another integer."""
    close(out, expected, 1e-3)
    assert np.isclose(out, expected, rtol=1e-4, atol=2e-5).all(axis=-1).mean() > 0.995


@pytest.mark.slow
@pytest.mark.parametrize("rope", [None, Rope(1e6)], ids=["no rope", "rope"])
@pytest.mark.parametrize("options", [{}, {"window": 60}, {"window": 3}, {"softcap": 3.0, "sinks": LOGITS}])
def test_a_prompt_in_any_blocks(monkeypatch, rope, options):
    cache, q = filled(POLICIES["recoded"], rope), queries(N)
    out = cache.attend(LAYER, q, **options)
    close(out, expected(cache, q, **options), 1e-2)
    monkeypatch.setattr("tqvec.kvcache.attention._BLOCK", 25)
    same(cache.attend(LAYER, q, **options), out)
    monkeypatch.setattr("tqvec.kvcache.attention._SCORES", 1500)
    same(cache.attend(LAYER, q, **options), out)


def test_a_window_counts_evicted_tokens():
    """Sinks are as far away as they were when nothing was evicted."""
    cache, q = filled(POLICIES["evicting"]), queries(1)
    assert cache.token_counts(LAYER).evicted == N - 300
    for window in (300, N - 3, N - 2, N):
        close(cache.attend(LAYER, q, window=window), expected(cache, q, window=window))
    cache.append(0, *tensors(4))
    cache.truncate(4)
    assert cache.token_counts(LAYER)[:4] == (4, 0, 0, 0)
    values = np.repeat(cache.values(LAYER), 2, axis=0)
    np.testing.assert_allclose(cache.attend(LAYER, queries(4), window=1), values, rtol=1e-5, atol=1e-6)


def test_a_window_costs_what_it_holds(monkeypatch):
    """Of what a query does not see, nothing is read."""
    cache, q = filled(Policy(4, 4, recent=20, chunk=10, mean_tokens=16)), queries(2)
    out = cache.attend(LAYER, q, window=60)
    rows = []

    def watched(job, *others):
        rows.append(job.tokens.runs[:, units.RUN_ROWS].sum())
        run(job, *others)

    run = coded_attention._run
    monkeypatch.setattr(coded_attention, "_run", watched)
    assert np.array_equal(cache.attend(LAYER, q, window=60), out)
    assert rows == [61 - cache.token_counts(LAYER).recent]
    rows.clear()
    cache.attend(LAYER, q, window=19)
    assert rows == []


def test_skipped_shares_know_sinks():
    """Flat attention over 500 tokens, and a sink that has three times the weight of all of them."""
    cache = KVCache(1, 1, 40, Policy(4, 4, recent=0, sinks=0, chunk=1, mean_tokens=0))
    cache.append(0, np.zeros((1, 500, 40)), sts.normal(500, 40, 7_502)[None])
    q, logit = np.ones((1, 1, 40)), [np.log(1500)]
    for limit, share in ((1 / 2001, 0), (1 / 1999, 0.25)):
        _, skipped = cache.attend(0, q, skip_below=limit, return_skipped=True, sinks=logit)
        assert skipped[0, 0] == pytest.approx(share, abs=1e-5)


def test_no_option_is_like_one_that_does_nothing():
    cache, q = filled("turbo4"), queries(3)
    out = cache.attend(LAYER, q)
    assert np.array_equal(cache.attend(LAYER, q, window=N, softcap=None, sinks=None), out)
    np.testing.assert_allclose(cache.attend(LAYER, q, softcap=1e9), out, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cache.attend(LAYER, q, sinks=np.full(4, -1e30)), out, rtol=1e-6)


@pytest.mark.parametrize("size", [1.0, 1e4, 1e30])
def test_large_logits(size):
    """A sink may take all the attention, or none."""
    cache, q = filled(POLICIES["mean values too"]), queries(1)
    out = cache.attend(LAYER, q, sinks=np.array([1, -1, 1, -1]) * size * 100)
    close(out, expected(cache, q, sinks=np.array([1, -1, 1, -1]) * size * 100))


def test_threads_change_nothing():
    cache, q = filled("turbo4", Rope(1e6)), queries(40)
    one, two = (cache.attend(LAYER, q, threads=n, window=300, softcap=5.0, sinks=LOGITS) for n in (1, 2))
    assert np.array_equal(one, two)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="windows"):
        filled("turbo4").attend(LAYER, queries(1), windows=3)

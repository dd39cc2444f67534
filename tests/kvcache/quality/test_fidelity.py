"""Metrics of attention, against their definitions token by token."""

import numpy as np
import pytest
import strategies as sts
from naive_cache import attention

from tqvec.kvcache import KVCache
from tqvec.kvcache.quality.fidelity import measure_fidelity, output_errors

D, N = 16, 60


def tensors(heads=2, offset=0.0, noise=0.3):
    k, v = sts.normal(2 * heads * N, D, 8_300).reshape(2, heads, N, D).astype(np.float64)
    k = k + offset
    errors = sts.normal(2 * heads * N, D, 8_301).reshape(2, heads, N, D) * noise
    return (k, v), (k + errors[0], v + errors[1])


def by_hand(q, true, other, top):
    """All metrics, one query at a time."""
    n_heads, nq, _ = q.shape
    rows = np.empty((n_heads, nq, 7))
    for head in range(n_heads):
        k, v, k2, v2 = (x[head * len(true[0]) // n_heads] for x in (*true, *other))
        for j in range(nq):
            n = N - nq + 1 + j
            s, t = (x[:n] @ q[head, j] / np.sqrt(D) for x in (k, k2))
            p, r = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (s, t))
            order, other_order = np.argsort(-s), np.argsort(-t)
            limit = min(top, n)
            o, o2 = p @ v[:n], r @ v2[:n]
            rows[head, j] = (
                s @ t / np.linalg.norm(s) / np.linalg.norm(t),
                np.corrcoef(s, t)[0, 1],
                np.sum(p * np.log(p / r)),
                len(set(order[:limit].tolist()) & set(other_order[:limit].tolist())) / limit,
                order[0] == other_order[0],
                order[0] in other_order[:5],
                np.linalg.norm(o - o2) / np.linalg.norm(o),
            )
    return rows


@pytest.mark.parametrize("nq", [1, 9])
@pytest.mark.parametrize("top", [3, 500])
def test_is_what_it_says(nq, top, monkeypatch):
    true, other = tensors()
    q = sts.normal(4 * nq, D, 8_302).reshape(4, nq, D) * 2
    rows = by_hand(q, true, other, top)
    for block in (1 << 21, 100):
        monkeypatch.setattr("tqvec.kvcache.quality.fidelity._BLOCK", block)
        found = measure_fidelity(q, true, other, top=top)
        np.testing.assert_allclose(found[:7], rows.mean(axis=(0, 1)), rtol=1e-9)
        assert found.output_error_p99 == pytest.approx(np.percentile(rows[..., 6], 99, method="higher"))
        assert found.worst_head_error == pytest.approx(rows[..., 6].mean(axis=1).max())
        np.testing.assert_allclose(output_errors(q, true, other), rows[..., 6])


def test_the_same_tensors_are_perfect():
    true, _ = tensors()
    q = sts.normal(4, D, 8_303).reshape(4, 1, D)
    assert measure_fidelity(q, true, true) == (1, 1, 0, 1, 1, 1, 0, 0, 0)


def test_a_shared_mean_hides_damage_from_the_raw_cosine():
    q = np.abs(sts.normal(2, D, 8_304)).reshape(2, 1, D)
    (true, other), (true_mean, other_mean) = tensors(), tensors(offset=30.0)
    plain, shifted = measure_fidelity(q, true, other), measure_fidelity(q, true_mean, other_mean)
    assert shifted.score_cosine > 0.999 > plain.score_cosine
    assert shifted.centred_cosine == pytest.approx(plain.centred_cosine, abs=1e-6)
    assert shifted.kl == pytest.approx(plain.kl, rel=1e-6)


def test_agrees_with_the_cache():
    k, v = sts.normal(2 * 2 * 500, 32, 8_305).reshape(2, 2, 500, 32)
    q = sts.normal(4 * 3, 32, 8_306).reshape(4, 3, 32)
    cache = KVCache(1, 2, 32, "turbo4")
    cache.append(0, k, v)
    found = measure_fidelity(q, (k, v), (cache.keys(0), cache.values(0)))
    expected = attention(q, k, v)
    error = np.linalg.norm(cache.attend(0, q) - expected, axis=2) / np.linalg.norm(expected, axis=2)
    assert found.output_error == pytest.approx(error.mean(), rel=0.05)


def test_zero_outputs_and_scores():
    zero = np.zeros((1, 5, D))
    k = sts.normal(5, D, 8_307)[None]
    assert measure_fidelity(k[:, :2], (zero, zero), (zero, zero)) == (1, 1, 0, 1, 1, 1, 0, 0, 0)
    assert measure_fidelity(k[:, :2], (k, zero), (k, k)).output_error == np.inf


def test_dropped_tokens_are_not_attended_to():
    (k, v), _ = tensors()
    q = sts.normal(4 * 3, D, 8_308).reshape(4, 3, D)
    kept = np.r_[0:4, 20:N]
    exact, out = attention(q, k, v), attention(q, k[:, kept], v[:, kept])
    expected = np.linalg.norm(out - exact, axis=2) / np.linalg.norm(exact, axis=2)
    np.testing.assert_allclose(output_errors(q, (k, v), (k, v), kept=kept), expected, rtol=1e-9)

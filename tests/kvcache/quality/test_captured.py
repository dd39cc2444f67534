"""The error of a policy on captured or made tensors, with the rotary embedding that the cache is told of."""

import numpy as np
import pytest

from tqvec.errors import InputError
from tqvec.kvcache import Policy, Rope
from tqvec.kvcache.quality import measure_loss, synthesize_layer

ROPE = Rope(1000.0)
POLICY = Policy(3, 3, recent=4, chunk=4, mean_tokens=16, sinks=0)


def test_made_keys_share_a_part_that_turns():
    turning, still = (synthesize_layer(32, 400, rope=rope) for rope in (ROPE, None))
    np.testing.assert_array_equal(turning.q, still.q)
    np.testing.assert_array_equal(turning.v, still.v)
    np.testing.assert_array_equal(turning.k[:, 0], still.k[:, 0])
    back, constant = ROPE.rotate(turning.k, -np.arange(400)).mean(axis=1), still.k.mean(axis=1)
    assert np.linalg.norm(back - constant) < 0.2 * np.linalg.norm(constant)
    assert np.linalg.norm(turning.k.mean(axis=1)) < 0.8 * np.linalg.norm(constant)


def test_a_cache_that_knows_how_keys_turn_loses_less():
    layers = [synthesize_layer(32, 2000, rope=ROPE)] * 2
    known, half, blind = (measure_loss(layers, POLICY, rope=rope).mean for rope in (ROPE, [ROPE, None], None))
    assert known < 0.85 * blind
    assert half == pytest.approx((known + blind) / 2)
    still = [synthesize_layer(32, 2000)]
    assert known == pytest.approx(measure_loss(still, POLICY).mean, rel=0.3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: synthesize_layer(16, rope=3), "rope of layer 0 must be a Rope or None, got int"),
        (lambda: measure_loss([synthesize_layer(16)], POLICY, rope=[ROPE] * 2), "an entry for each of 1 layers, got 2"),
        (lambda: measure_loss([synthesize_layer(16)], POLICY, rope=Rope(dim=64)), "head_dim must be at least 64"),
    ],
)
def test_ropes_fit(call, message):
    with pytest.raises(InputError, match=message):
        call()

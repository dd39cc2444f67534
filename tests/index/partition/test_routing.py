"""Lists that queries probe for a recall, and more of them where these hold too few vectors."""

import numpy as np
import pytest

import tqvec


@pytest.mark.parametrize("least", [1, 2, 4, 64, 200])
def test_more_lists_are_probed_than_the_rule_ranks(least):
    """Clusters are so far apart that one list has all of the best; then the rule ranks two lists."""
    rng = np.random.default_rng(10_192)
    centres = 10 * rng.standard_normal((200, 16))
    x = (np.repeat(centres, 60, axis=0) + 0.1 * rng.standard_normal((12_000, 16))).astype(np.float32)
    index = tqvec.Index(16)
    index.add(x)
    index.partition(200)
    routing = index._snapshot(probe=(None, 0.5)).routing
    assert index._core.partition.limits(10, 0.5).size < 4
    counts = np.diff(routing.probes(x[:3], 10, 1, least).first)
    assert (counts >= least).all()
    assert counts.max() <= max(least, 4)
    keep = np.arange(12_000) % 1000 == 0
    ids = index.search(x[:3], k=8, filter=np.flatnonzero(keep), recall=0.5)[1]
    assert (ids >= 0).all()
    assert (ids % 1000 == 0).all()

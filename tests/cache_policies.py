"""Policies and embeddings that reach every way through a cache with few tokens, and such tokens."""

import numpy as np
import strategies as sts

from tqvec.kvcache import Bands, Policy, Rope

D = 20
POLICIES = {
    "plain": Policy(3, 3, recent=24, chunk=8, mean_tokens=16),
    "mean values too": Policy(3, 3, recent=24, chunk=8, mean_tokens=16, value_means=True),
    "mean later than the window": Policy(4, 2, recent=10, chunk=4, mean_tokens=70, sinks=1),
    "no mean": Policy(2, 3, recent=0, chunk=1, mean_tokens=0, sinks=0),
    "trellis": Policy(3, 3, "trellis", recent=16, chunk=16, mean_tokens=8),
    "bfloat16": Policy(5, 8, dtype="bfloat16", recent=16, chunk=8),
    "by head": Policy([3, (8, 2.5)], [(1, 6), 4], recent=30, chunk=7),
    "bands": Policy(Bands(((8, 4), (12, 2))), 3, recent=16, chunk=8),
    "protected": Policy(2, 2, protected=1, protected_nbits=6, recent=16, chunk=8),
    "recoded": Policy(
        4, 4, recode_after=30, recoded_key_nbits=2, recoded_value_nbits=3, recent=16, chunk=8, mean_tokens=20
    ),
    "evicting": Policy(4, 3, max_tokens=90, recent=16, chunk=8, mean_tokens=40),
    "recoded, evicting": Policy(
        *(4, 4),
        recode_after=30,
        recoded_key_nbits=(3, (2, 1)),
        recoded_value_nbits=3,
        recent=16,
        chunk=8,
        mean_tokens=9,
        max_tokens=90,
    ),
    "all recent": Policy(recent=None, dtype="bfloat16"),
}


ROPES = {
    "no rope": None,
    "rope": Rope(1e4),
    "interleaved": Rope(1e6, interleaved=True),
    "partial": Rope(1e4, dim=12, start=4, reverse=True),
    "by layer": (None, Rope(5e5, dim=14)),
}


def tokens(n, seed=0, rope=None, start=0):
    """Keys at positions from `start` on, and values, (2, n, D) each, with a mean that nearly all share."""
    mean = sts.normal(2 * 2, D, 7_500)[:, None] * 3
    x = (mean + sts.normal(4 * n, D, 7_501 + seed).reshape(4, n, D)).reshape(2, 2, n, D)
    x[:, :, 5::9] -= mean.reshape(2, 2, 1, D)
    return (x[0] if rope is None else rope.rotate(x[0], np.arange(start, start + n))), x[1]


def of_layer(ropes, layer):
    """The embedding of a layer, as `KVCache` takes it from its argument."""
    return ropes[layer] if isinstance(ropes, tuple) else ropes

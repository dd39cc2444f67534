"""Keys and values of a transformer in a few bits each.

`KVCache` holds them, and a `Policy` says how. `planning` computes bytes before a cache exists, `simulation` serves
requests with one, and `quality` measures what compression costs attention.
"""

from tqvec.kvcache import planning, quality, simulation
from tqvec.kvcache.byte_model import Nbytes, TokenCounts, bits_per_value, nbytes
from tqvec.kvcache.cache import KVCache
from tqvec.kvcache.planning import Plan, plan
from tqvec.kvcache.policy import PRESETS, Bands, Policy
from tqvec.kvcache.quality import Allocation, allocate
from tqvec.kvcache.rope import Rope
from tqvec.kvcache.simulation import simulate

__all__ = [
    "PRESETS",
    "Allocation",
    "Bands",
    "KVCache",
    "Nbytes",
    "Plan",
    "Policy",
    "Rope",
    "TokenCounts",
    "allocate",
    "bits_per_value",
    "nbytes",
    "plan",
    "planning",
    "quality",
    "simulate",
    "simulation",
]

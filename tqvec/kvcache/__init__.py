"""Keys and values of a transformer in a few bits each: `KVCache`, and the `Policy` that says what it keeps."""

from tqvec.kvcache.allocation import Allocation, allocate
from tqvec.kvcache.cache import KVCache, Tiers
from tqvec.kvcache.memory import Nbytes, bits_per_value, nbytes
from tqvec.kvcache.policy import PRESETS, Bands, Policy

__all__ = [
    "PRESETS",
    "Allocation",
    "Bands",
    "KVCache",
    "Nbytes",
    "Policy",
    "Tiers",
    "allocate",
    "bits_per_value",
    "nbytes",
]

"""Keys and values of a transformer in a few bits each: `KVCache`, and the `Policy` that says what it keeps."""

from tqvec.kvcache.cache import KVCache, Tiers
from tqvec.kvcache.memory import Nbytes, bits_per_value, nbytes
from tqvec.kvcache.policy import PRESETS, Bands, Policy

__all__ = ["PRESETS", "Bands", "KVCache", "Nbytes", "Policy", "Tiers", "bits_per_value", "nbytes"]

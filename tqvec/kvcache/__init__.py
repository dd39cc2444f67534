"""Keys and values of a transformer in a few bits each: `KVCache`, and the `Policy` that says what it keeps."""

from tqvec.kvcache.allocation import Allocation, allocate
from tqvec.kvcache.cache import KVCache, Tiers
from tqvec.kvcache.fidelity import Fidelity, fidelity
from tqvec.kvcache.formats import FORMATS
from tqvec.kvcache.memory import Nbytes, bits_per_value, nbytes
from tqvec.kvcache.models import LayerKind, Model, catalogue
from tqvec.kvcache.planner import Plan, plan
from tqvec.kvcache.policy import PRESETS, Bands, Policy

__all__ = [
    "FORMATS",
    "PRESETS",
    "Allocation",
    "Bands",
    "Fidelity",
    "KVCache",
    "LayerKind",
    "Model",
    "Nbytes",
    "Plan",
    "Policy",
    "Tiers",
    "allocate",
    "bits_per_value",
    "catalogue",
    "fidelity",
    "nbytes",
    "plan",
]

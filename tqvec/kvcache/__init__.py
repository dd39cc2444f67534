"""Keys and values of a transformer in a few bits each: `KVCache`, and the `Policy` that says what it keeps."""

from tqvec.kvcache.allocation import Allocation, allocate
from tqvec.kvcache.cache import KVCache, Tiers
from tqvec.kvcache.formats import FORMATS
from tqvec.kvcache.memory import Nbytes, bits_per_value, nbytes
from tqvec.kvcache.models import LayerKind, Model, catalogue
from tqvec.kvcache.planner import Plan, plan
from tqvec.kvcache.policy import PRESETS, Bands, Policy
from tqvec.kvcache.simulator import Server, simulate
from tqvec.kvcache.store import Tier
from tqvec.kvcache.traces import Request, generate, read_trace, write_trace

__all__ = [
    "FORMATS",
    "PRESETS",
    "Allocation",
    "Bands",
    "KVCache",
    "LayerKind",
    "Model",
    "Nbytes",
    "Plan",
    "Policy",
    "Request",
    "Server",
    "Tier",
    "Tiers",
    "allocate",
    "bits_per_value",
    "catalogue",
    "generate",
    "nbytes",
    "plan",
    "read_trace",
    "simulate",
    "write_trace",
]

"""Keys and values of a transformer in a few bits each: `KVCache`, and the `Policy` that says what it keeps."""

from tqvec.kvcache.byte_model import Nbytes, bits_per_value, nbytes
from tqvec.kvcache.cache import KVCache, Tiers
from tqvec.kvcache.planning.formats import FORMATS
from tqvec.kvcache.planning.models import LayerKind, Model, catalogue
from tqvec.kvcache.planning.planner import Plan, plan
from tqvec.kvcache.policy import PRESETS, Bands, Policy
from tqvec.kvcache.quality.allocation import Allocation, allocate
from tqvec.kvcache.simulation.memory_tiers import Tier
from tqvec.kvcache.simulation.simulator import Server, simulate
from tqvec.kvcache.simulation.traces import Request, generate, read_trace, write_trace

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

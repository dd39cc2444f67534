"""Plan the memory of a KV cache before it exists: `plan` a `Model` under a policy or another engine's format."""

from tqvec.kvcache.planning.formats import FORMATS, Coding, Format
from tqvec.kvcache.planning.models import LayerKind, Model, find_model, list_models, parse_config
from tqvec.kvcache.planning.planner import plan
from tqvec.kvcache.planning.plans import Plan, PlanPart, Plans
from tqvec.kvcache.planning.units import format_bytes, format_seconds, parse_bytes, parse_tokens
from tqvec.kvcache.planning.weights import StreamedWeights

__all__ = [
    "FORMATS",
    "Coding",
    "Format",
    "LayerKind",
    "Model",
    "Plan",
    "PlanPart",
    "Plans",
    "StreamedWeights",
    "find_model",
    "format_bytes",
    "format_seconds",
    "list_models",
    "parse_bytes",
    "parse_config",
    "parse_tokens",
    "plan",
]

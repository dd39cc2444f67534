"""Measure what compression costs: attention, retrieval, and the widths that serve a budget best."""

from tqvec.kvcache.quality.allocation import Allocation, Step, allocate
from tqvec.kvcache.quality.captured import AttentionLoss, CapturedLayer, measure_loss, read_layers, synthesize_layer
from tqvec.kvcache.quality.fidelity import Fidelity, measure_fidelity, output_errors
from tqvec.kvcache.quality.needle import Curve, Haystack, measure_retrieval

__all__ = [
    "Allocation",
    "AttentionLoss",
    "CapturedLayer",
    "Curve",
    "Fidelity",
    "Haystack",
    "Step",
    "allocate",
    "measure_fidelity",
    "measure_loss",
    "measure_retrieval",
    "output_errors",
    "read_layers",
    "synthesize_layer",
]

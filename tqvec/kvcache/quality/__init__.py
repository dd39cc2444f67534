"""Measure what compression costs: attention, retrieval, and the widths that serve a budget best."""

from tqvec.kvcache.quality.allocation import Allocation, Step, allocate
from tqvec.kvcache.quality.captured import (
    AttentionLoss,
    CapturedLayer,
    measure_loss,
    read_layers,
    read_rope,
    synthesize_layer,
)
from tqvec.kvcache.quality.fidelity import Fidelity, measure_fidelity, output_errors
from tqvec.kvcache.quality.needle import Curve, Haystack, measure_retrieval
from tqvec.kvcache.quality.report import Report, measure_report

__all__ = [
    "Allocation",
    "AttentionLoss",
    "CapturedLayer",
    "Curve",
    "Fidelity",
    "Haystack",
    "Report",
    "Step",
    "allocate",
    "measure_fidelity",
    "measure_loss",
    "measure_report",
    "measure_retrieval",
    "output_errors",
    "read_layers",
    "read_rope",
    "synthesize_layer",
]

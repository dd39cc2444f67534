"""Simulate a server with a compressed KV cache: `simulate` requests on a `Server` with `MemoryTier`s."""

from tqvec.kvcache.simulation.memory_tiers import EVICTIONS, MemoryTier
from tqvec.kvcache.simulation.report import COLUMNS, SimulationReport, format_legend, format_reports, plot_reports
from tqvec.kvcache.simulation.simulator import Server, simulate
from tqvec.kvcache.simulation.timing import Clock, Rates
from tqvec.kvcache.simulation.traces import WORKLOADS, Request, Workload, generate_requests, read_trace, write_trace

__all__ = [
    "COLUMNS",
    "EVICTIONS",
    "WORKLOADS",
    "Clock",
    "MemoryTier",
    "Rates",
    "Request",
    "Server",
    "SimulationReport",
    "Workload",
    "format_legend",
    "format_reports",
    "generate_requests",
    "plot_reports",
    "read_trace",
    "simulate",
    "write_trace",
]

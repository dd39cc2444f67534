"""Is the simulator right about time, and fast? Simulated against measured decoding, and the cost of simulating.

Decoding: a real cache of some layers is filled, then tokens are appended and attended to, layer by layer, as in a
model. The clock is calibrated on caches of other lengths just before. Simulating: 100,000 and 1,000,000 tokens of a
full layer set through memory, disk and eviction; measured in fresh processes, with their peak memory.
"""

from __future__ import annotations

from _common import THREADS, console, report  # isort: skip - sets threads first

import argparse
import multiprocessing
import resource
import time
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table

from tqvec.kvcache import KVCache, Policy
from tqvec.kvcache.planning import LayerKind, Model
from tqvec.kvcache.planning.planner import group_layers
from tqvec.kvcache.simulation import Clock, MemoryTier, Request, Server, generate_requests, simulate

KIND = LayerKind("full", 8, 128, heads=32)  # of Llama-3.1-8B
LAYERS = 4
STEPS = 64  # a chunk: its coding is part of it
REPEATS = 3
SEED = 30_000
GIB = 2**30


def measured(policy: Policy, context: int) -> float:
    """Seconds of a generated token: mean over steps of the median over repeats, so that pauses don't count."""
    rng = np.random.default_rng(SEED)
    cache = KVCache(LAYERS, KIND.kv_heads, KIND.head_dim, policy)
    for layer in range(LAYERS):
        x = rng.standard_normal((2, KIND.kv_heads, context, KIND.head_dim), np.float32)
        cache.append(layer, *x, threads=THREADS)
    new = rng.standard_normal((2, KIND.kv_heads, STEPS, KIND.head_dim), np.float32)
    q = rng.standard_normal((KIND.heads, 1, KIND.head_dim), np.float32)
    repeats = []
    for repeat in range(-1, REPEATS):  # the first compiles, and may move all to larger arrays
        times = []
        for step in range(STEPS if repeat >= 0 else 1):
            start = time.perf_counter()
            for layer in range(LAYERS):
                cache.append(layer, *new[:, :, step : step + 1], threads=THREADS)
                cache.attend(layer, q, threads=THREADS)
            times.append(time.perf_counter() - start)
        repeats.append(times)
    return float(np.median(repeats[1:], axis=0).mean())


def decoding(name: str, contexts: list[int]) -> list[dict[str, Any]]:
    """Simulated and measured time of a generated token at some contexts."""
    policy = Policy.from_name(name)
    model = Model(f"{LAYERS} layers", 2**30, (KIND,) * LAYERS, "")
    clock = Clock.calibrate(group_layers(model, policy), policy, threads=THREADS)
    rows = []
    for context in contexts:
        server = Server([MemoryTier("memory", 2**50)])
        result = simulate([Request(0.0, "a", context, STEPS)], model, name, server, clock=clock)
        real = measured(policy, context)
        rates = next(iter(clock.rates.values()))._asdict()
        rows.append(
            {"policy": name, "context": context, "simulated_s": result.token["mean"], "measured_s": real} | rates
        )
    return rows


def _simulating(workload: str, tokens: int, eviction: str) -> dict[str, Any]:
    """Cost of a simulation, in a process of its own."""
    server = Server([MemoryTier("memory", 4 * GIB), MemoryTier("disk", 12 * GIB, 2e9, 1e-4)], eviction, prefill=5000)
    start = time.perf_counter()
    result = simulate(generate_requests(workload, tokens), "llama-3.1-8b", "turbo3", server, threads=THREADS)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {"workload": workload, "tokens": result.tokens, "eviction": eviction, "seconds": seconds, "peak_bytes": peak}
    return row | {"hit_rate": result.hit_rate, "attended": result.attended, "error": result.loss and result.loss.mean}


def simulating(workload: str, tokens: int, eviction: str) -> dict[str, Any]:
    """The same, spawned: calibration and the error's measurement are in its time."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_simulating, (workload, tokens, eviction))


def main() -> None:
    """Run both parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", nargs="+", default=["turbo4", "turbo3", "k4v2", "exact"])
    parser.add_argument("--contexts", type=int, nargs="+", default=[16384, 49152])
    parser.add_argument("--tokens", type=int, nargs="+", default=[100_000, 1_000_000])
    arguments = parser.parse_args()
    rows = []
    table = Table(title=f"ms a generated token, {LAYERS} layers of Llama-3.1-8B, {THREADS} thread(s)")
    for heading in ("policy", "context", "simulated", "measured", "off"):
        table.add_column(heading, justify="right")
    for name in track(arguments.policies, description="decoding", transient=True):
        for row in decoding(name, arguments.contexts):
            rows.append(row)
            simulated, real = row["simulated_s"], row["measured_s"]
            cells = (f"{1000 * simulated:.2f}", f"{1000 * real:.2f}", f"{100 * (simulated / real - 1):+.1f} %")
            table.add_row(row["policy"], f"{row['context']:,}", *cells)
    console.print(table)
    table = Table(title="simulating Llama-3.1-8B, turbo3, 4 GiB of memory and 12 of disk, calibration included")
    for heading in ("workload", "eviction", "tokens", "seconds", "peak MiB", "hit rate"):
        table.add_column(heading, justify="right")
    cases = [(w, n, e) for w, e in (("documents", "oldest"), ("shared", "lru")) for n in arguments.tokens]
    for case in track(cases, description="simulating", transient=True):
        row = simulating(*case)
        rows.append(row)
        cells = (f"{row['tokens']:,}", f"{row['seconds']:.1f}", f"{row['peak_bytes'] / 2**20:,.0f}")
        table.add_row(row["workload"], row["eviction"], *cells, f"{100 * row['hit_rate']:.1f} %")
    console.print(table)
    report("simulator", rows)


if __name__ == "__main__":
    main()

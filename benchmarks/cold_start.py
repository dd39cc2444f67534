"""How long until the first result? Every figure is a new process: import, first use with an empty cache, later uses."""

from __future__ import annotations

from _common import console, report  # isort: skip - sets threads first

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parents[1]
USE = """
import time
start = time.perf_counter()
import numpy as np
numpy = time.perf_counter()
import tqvec
ready = time.perf_counter()
x = np.random.default_rng(1).standard_normal((1000, 64)).astype(np.float32)
index = tqvec.Index(64)
index.add(x, threads=1)
added = time.perf_counter()
index.search(x[:1], k=10, threads=1)
print(numpy - start, ready - numpy, added - ready, time.perf_counter() - added)
"""
WARMUP = """
import time
import tqvec
from tqvec.index.warmup import STEPS
start = time.perf_counter()
for step in STEPS.values():
    step()
print(time.perf_counter() - start)
"""


def seconds(program: str, cache: str) -> list[float]:
    """What a process prints that runs `program` with its compiled kernels in `cache`."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=ROOT, check=True
    )
    return [float(number) for number in done.stdout.split()]


def main() -> None:
    """Time new processes with an empty and with a filled cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="processes with a filled cache")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as cache:
        first = seconds(USE, cache)
        compiling = seconds(WARMUP, cache)[0]
        uses = [seconds(USE, cache) for _ in track(range(repeats), "processes", console=console, transient=True)]
        cached = [seconds(WARMUP, cache)[0] for _ in range(repeats)]
    later = [statistics.median(values) for values in zip(*uses, strict=True)]
    rows = [
        {"step": "import tqvec, after NumPy", "empty cache": first[1], "filled cache": later[1]},
        {"step": "first add of 1,000 vectors", "empty cache": first[2], "filled cache": later[2]},
        {"step": "first search", "empty cache": first[3], "filled cache": later[3]},
        {
            "step": "warmup: all kernels",
            "empty cache": first[2] + first[3] + compiling,
            "filled cache": statistics.median(cached),
        },
    ]
    table = Table(title=f"cold start, s (filled: median of {repeats} processes)")
    for column in ("step", "empty cache", "filled cache"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for row in rows:
        table.add_row(row["step"], f"{row['empty cache']:.2f}", f"{row['filled cache']:.2f}")
    console.print(table)
    console.print(f"NumPy's own import: {later[0]:.2f} s")
    report("cold_start", rows)


if __name__ == "__main__":
    main()

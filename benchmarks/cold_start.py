"""How long until the first result, and until full speed? Every row is a new process, in each mode of TQVEC_COMPILE."""

from __future__ import annotations

from _common import console, report  # isort: skip - sets threads first

import argparse
import fcntl
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parents[1]
STEPS = ("import", "add", "search", "batch", "train", "trellis add")
COLUMNS = ("cache", "mode", *STEPS)
# Seconds of each step; the vectors are made between import and add, and count nowhere.
USE = """
import time
marks = [time.perf_counter()]
import numpy as np, tqvec
marks.append(time.perf_counter())
scale = np.exp(-np.arange(384) / 100)
x = (np.random.default_rng(1).standard_normal((10_000, 384)) * scale).astype(np.float32)
index, trellis = tqvec.Index(384), tqvec.Index(384, codebook="trellis")
trained = tqvec.Index(384, metric="cosine")
steps = [
    lambda: index.add(x),
    lambda: index.search(x[:1], k=10),
    lambda: index.search(x[:200], k=10),
    lambda: trained.train(x[:4000]),
    lambda: trellis.add(x[:1000]),
]
took = [marks[1] - marks[0]]
for step in steps:
    start = time.perf_counter()
    step()
    took.append(time.perf_counter() - start)
print(*took)
"""
# Seconds from the start of the process until its calls are those of compiled kernels, while it searches now and then.
UNTIL = """
import time
start = time.perf_counter()
import numpy as np, tqvec
from tqvec.kernels.background import ready
x = np.random.default_rng(1).standard_normal((10_000, 384)).astype(np.float32)
index = tqvec.Index(384)
for name, step in (
    ("encode", lambda: tqvec.TurboQuant(384).encode(x[:100])),
    ("search, one query", lambda: index.search(x[:1], k=10)),
    ("search, many queries", lambda: index.search(x[:100], k=10)),
    ("train", lambda: None),
):
    if name == "search, one query":
        index.add(x)
    step()
    while not ready(name):
        time.sleep(0.1)
    print(time.perf_counter() - start)
"""
READY = ("add", "search", "batch", "train")


def run(program: list[str], cache: str, mode: str) -> str:
    """Return what a process prints whose compiled kernels are in `cache`, on two threads."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(ROOT), "TQVEC_COMPILE": mode}
    environment |= {name: "2" for name in environment if name.endswith("_NUM_THREADS")}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout


def use(cache: str, mode: str) -> dict[str, float]:
    """Time first calls in a new process."""
    output = run([sys.executable, "-c", USE], cache, mode)
    return dict(zip(STEPS, map(float, output.split()), strict=True))


def until_ready() -> dict[str, float]:
    """Time a process with an empty cache until compiled kernels serve."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        output = run([sys.executable, "-c", UNTIL], cache, "background")
        seconds = dict(zip(READY, map(float, output.split()), strict=True))
        while is_compiling(cache):
            time.sleep(0.5)
    return seconds


def is_compiling(cache: str) -> bool:
    """Whether a child that a process has left behind still compiles."""
    for path in Path(cache).rglob("compiling.lock"):
        with path.open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def main() -> None:
    """Time new processes with an empty and with a filled cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="processes with a filled cache")
    parser.add_argument("--modes", default="background,never,now", help="of the processes with an empty cache")
    arguments = parser.parse_args()
    rows = []
    for mode in filter(None, arguments.modes.split(",")):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
            rows.append({"cache": "empty", "mode": mode} | use(cache, mode))
            while is_compiling(cache):
                time.sleep(0.5)
    if "background" in arguments.modes:
        rows.append({"cache": "empty", "mode": "background: full speed after"} | until_ready())
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        run([sys.executable, "-m", "tqvec", "warmup"], cache, "now")
        warmup = time.perf_counter() - start
        uses = [use(cache, "background") for _ in track(range(arguments.repeats), "processes", console=console)]
    rows.append({"cache": "filled", "mode": "any"} | {n: statistics.median(each[n] for each in uses) for n in STEPS})
    table = Table(title=f"cold start, s, two threads (filled: median of {arguments.repeats} processes)")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("cache", "mode") else "right")
    for row in rows:
        table.add_row(*(f"{row[n]:.3f}" if isinstance(row.get(n), float) else row.get(n, "") for n in COLUMNS))
    console.print(table)
    console.print(f"tqvec warmup: {warmup:.1f} s on two cores")
    report("cold_start", [*rows, {"cache": "empty", "mode": "tqvec warmup", "all": warmup}])


if __name__ == "__main__":
    main()

"""How long until the first result, and until full speed? Every row is a new process, in a mode of TQVEC_COMPILE.

With an empty cache, `background` lets NumPy serve while a child compiles, `never` compiles only what NumPy can't do
(the trellis), and `now` compiles in each call what it needs. `full-speed` is the time from the start of a process until
compiled kernels serve a call of each kind. `filled` has all kernels on disk; "all" is the time of `tqvec warmup`, which
puts them there on all cores.
Some rows alone (`--only`) are written to a file of their own.
"""

from __future__ import annotations

import os

os.environ.setdefault("TQVEC_BENCH_THREADS", "2")

from _common import THREADS, console, report_parts  # isort: skip - sets threads first

import argparse
import fcntl
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parents[1]
STEPS = ("import", "add", "search", "batch", "train", "trellis add")
COLUMNS = ("cache", "mode", *STEPS, "all")
PARTS = ("background", "full-speed", "never", "now", "filled")

Row = dict[str, Any]

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
    """Return what a process prints whose compiled kernels are in `cache`."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(ROOT), "TQVEC_COMPILE": mode}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout


def use(cache: str, mode: str) -> dict[str, float]:
    """Time first calls in a new process."""
    output = run([sys.executable, "-c", USE], cache, mode)
    return dict(zip(STEPS, map(float, output.split()), strict=True))


@contextmanager
def empty_cache() -> Iterator[str]:
    """An empty folder for kernels, in which nothing compiles any more when it is removed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        yield cache
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if f"NUMBA_CACHE_DIR={cache}".encode() in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), signal.SIGTERM)
        while is_compiling(cache):
            time.sleep(0.1)


def is_compiling(cache: str) -> bool:
    """Whether a child that a process has left behind still compiles."""
    for path in Path(cache).rglob("compiling.lock"):
        with path.open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def first_calls(mode: str) -> list[Row]:
    """A process with an empty cache."""
    with empty_cache() as cache:
        return [{"cache": "empty", "mode": mode} | use(cache, mode)]


def full_speed() -> list[Row]:
    """A process with an empty cache until compiled kernels serve."""
    with empty_cache() as cache:
        output = run([sys.executable, "-c", UNTIL], cache, "background")
    seconds = dict(zip(READY, map(float, output.split()), strict=True))
    return [{"cache": "empty", "mode": "background: full speed after"} | seconds]


def filled(cache: str | None, repeats: int) -> list[Row]:
    """Processes with a filled cache; first the time to fill it, where none is given."""
    rows: list[Row] = []
    with empty_cache() as folder:
        if cache is None:
            start = time.perf_counter()
            run([sys.executable, "-m", "tqvec", "warmup"], folder, "now")
            rows.append({"cache": "empty", "mode": "tqvec warmup", "all": time.perf_counter() - start})
        uses = [use(cache or folder, "background") for _ in track(range(repeats), "processes", console=console)]
    medians = {name: statistics.median(each[name] for each in uses) for name in STEPS}
    return [*rows, {"cache": "filled", "mode": f"any, median of {repeats}"} | medians]


def main() -> None:
    """Time new processes with an empty and with a filled cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="processes with a filled cache")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some of the rows")
    parser.add_argument("--cache", metavar="FOLDER", help="with all kernels; default: an empty one that warmup fills")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for part in arguments.only:
        if part == "filled":
            rows += filled(arguments.cache, arguments.repeats)
        else:
            rows += full_speed() if part == "full-speed" else first_calls(part)
    table = Table(title=f"cold start: s of first calls in new processes, {THREADS} threads")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("cache", "mode") else "right")
    for row in rows:
        table.add_row(*(f"{row[n]:.3f}" if isinstance(row.get(n), float) else row.get(n, "") for n in COLUMNS))
    console.print(table)
    report_parts("cold_start", rows, arguments.only, PARTS)


if __name__ == "__main__":
    main()

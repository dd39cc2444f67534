"""What every benchmark shares: fixed threads, alternating runs, and a record of where the figures come from.

Import this before NumPy: thread counts of all libraries are read when they load.
"""

from __future__ import annotations

import os

THREADS = int(os.environ.get("TQVEC_BENCH_THREADS", "1"))
for _name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON", "TQVEC"):
    os.environ[f"{_name}_NUM_THREADS"] = str(THREADS)
os.environ.setdefault("TQVEC_COMPILE", "now")  # what is timed is compiled
os.environ.pop("OPENBLAS_CORETYPE", None)  # slows NumPy's own products down where it is set

import json  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from rich.console import Console  # noqa: E402

import tqvec  # noqa: E402
from tqvec.eval.leaderboard.environment import describe_machine  # noqa: E402

# Holds libraries back to what processors without AVX-512 run. (TQVEC_SIMD_LEVEL=avx2 alone lets LLVM use AVX-512 in
# generic code, and so does NUMBA_CPU_NAME alone, which keeps the host's features.) turbovec can't be lowered.
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "",
    "TQVEC_SIMD_LEVEL": "avx2",
    "FAISS_SIMD_LEVEL": "AVX2",
    "FAISS_OPT_LEVEL": "AVX2",
}
console = Console(highlight=False, width=130)
RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """CPU, SIMD level, threads, versions and commit."""
    return describe_machine() | {"threads": THREADS, "commit": _commit()}


def _commit() -> str:
    """Short hash, marked when anything differs from it but results, and pages that quote them."""
    root = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=root, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs", ":!README.md")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if changed else "")


def alternate(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each task; one run of each in turn, so that a noisy moment hits all alike."""
    for task in tasks.values():
        task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def unit_vectors(n: int, d: int, seed: int) -> NDArray[np.float32]:
    """Uniform on the sphere; the seed is never that of a rotation."""
    x = np.random.default_rng(seed + 10_000).standard_normal((n, d), np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def bytes_read(index: tqvec.Index, count: int) -> float:
    """Bytes that each of `count` queries must read at least: of one all sign planes and scales, of more all codes."""
    if count > 1:
        return index.ntotal * index.code_size / count
    return index.ntotal * (-(-index.d // 32) * 4 + 4)


def report(name: str, rows: list[dict[str, Any]]) -> None:
    """Print the environment and write it with the rows to results/<name>-<level>[-<threads>].json.

    TQVEC_BENCH_RESULT names another file.
    """
    env = environment()
    versions = ", ".join(f"{package} {number}" for package, number in env["packages"].items())
    console.print(f"{env['cpu']}, {env['cores']} cores; SIMD level {env['level']}; {env['threads']} thread(s)")
    console.print(f"commit {env['commit']}; {versions}")
    RESULTS.mkdir(exist_ok=True)
    threads = f"-{THREADS}threads" if THREADS > 1 else ""
    path = Path(os.environ.get("TQVEC_BENCH_RESULT", RESULTS / f"{name}-{env['level']}{threads}.json"))
    path.write_text(json.dumps({"environment": env, "rows": rows}, indent=1) + "\n")
    console.print(f"written: {path}")


def report_parts(name: str, rows: list[dict[str, Any]], parts: Sequence[str], everything: Sequence[str]) -> None:
    """Report some parts of a benchmark under a name with those parts; all of them under its name."""
    report(name if set(parts) == set(everything) else "-".join([name, *parts]), rows)

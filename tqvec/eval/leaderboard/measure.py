"""Measure: engines in processes of their own, with threads fixed for all libraries, timed in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tqvec._types import Floats, Ids
from tqvec.errors import UnsupportedError
from tqvec.eval.leaderboard.engines import Engine
from tqvec.eval.leaderboard.result import Row
from tqvec.eval.leaderboard.worker import BASE, QUERIES
from tqvec.eval.recall import exact_search, recall
from tqvec.exact import normalize

K = 10
DEPTHS = (1, 2, 4, 8, 16, 32, 64)  # of recall 1@k, as in the paper
_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON", "TQVEC")

Progress = Callable[[str], None]


class Plan(NamedTuple):
    """How often, and with what, is measured.

    Attributes
    ----------
    threads : tuple of int
        Numbers of threads that searches are timed with; builds have the first.
    repeats : int
        Of each timing, of which the median counts.
    batch : int
        Queries of a batch.
    singles : int
        Queries that are timed one by one.
    seeds : int
        Rotations of tqvec whose recall is averaged.
    """

    threads: tuple[int, ...] = (1,)
    repeats: int = 5
    batch: int = 200
    singles: int = 20
    seeds: int = 1


class _Process:
    """The worker of an engine."""

    def __init__(self, engine: Engine, folder: Path, threads: int, seed: int = 0) -> None:
        settings = {f"{name}_NUM_THREADS": str(threads) for name in _THREADS}
        settings |= {"TQVEC_COMPILE": "now", "PYTHONPATH": os.pathsep.join(sys.path)}
        inherited = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
        self._name = engine.name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tqvec.eval.leaderboard.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=inherited | settings,
        )
        try:
            self.ask("start", list(engine), str(folder), threads, seed)
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, *arguments: Any) -> Any:
        """Return what the worker answers; UnsupportedError if it can't."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise TypeError("a worker has pipes")
        try:
            stdin.write(json.dumps([method, arguments]) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"its process ended with status {self._process.wait()}"}
        if "error" in answer:
            raise UnsupportedError(f"{self._name}: {answer['error']}")
        return answer["value"]

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def measure(
    base: Floats, queries: Floats, engines: Sequence[Engine], plan: Plan, progress: Progress | None = None
) -> list[Row]:
    """Measure engines on vectors, of which the directions count.

    Parameters
    ----------
    base : (n, d) float32
    queries : (nq, d) float32
    engines : sequence of Engine
    plan : Plan
    progress : callable, optional
        Called with a text before each step.

    Returns
    -------
    list of Row
        In the order of the engines; one that fails has the reason in place of figures.
    """
    note = progress or (lambda text: None)
    base, queries = normalize(base), normalize(queries)
    depth = min(DEPTHS[-1], len(base))
    truth = exact_search(base, queries, depth)[1]
    with tempfile.TemporaryDirectory(prefix="tqvec-bench-") as name:
        folder = Path(name)
        np.save(folder / BASE, base)
        np.save(folder / QUERIES, queries)
        rows = []
        for number, engine in enumerate(engines):
            note(f"building {engine.name}")
            rows.append(_build(engine, folder, number, plan, truth, len(base)))
        for threads in plan.threads:
            note(f"timing with {threads} thread{'s' * (threads > 1)}")
            rows = _time(rows, engines, folder, threads, plan)
    return rows


def _build(engine: Engine, folder: Path, number: int, plan: Plan, truth: Ids, n: int) -> Row:
    """Build and save an engine, and compare its results with the true ones."""
    row = Row(
        name=engine.name,
        library=engine.library,
        nbits=engine.nbits,
        sublinear=engine.sublinear,
        settings=json.dumps(engine.settings),
    )
    seeds = plan.seeds if engine.library == "tqvec" else 1
    found: list[Ids] = []
    facts: dict[str, float] = {}
    try:
        for seed in range(seeds):
            with _Process(engine, folder, plan.threads[0], seed) as process:
                facts |= process.ask("build")
                found.append(np.array(process.ask("results", truth.shape[1])))
                facts |= process.ask("save", str(folder / f"{number}.index"))
    except UnsupportedError as error:
        return row._replace(failure=str(error))
    return row._replace(
        bytes=facts["bytes"] / n,
        train_s=facts["train_s"],
        build_s=facts["build_s"],
        save_s=facts["save_s"],
        recall_10_at_10=_mean(recall(ids, truth, K, K) for ids in found),
        recall_1_at={k: _mean(recall(ids, truth, 1, k) for ids in found) for k in DEPTHS if k <= truth.shape[1]},
    )


def _time(rows: list[Row], engines: Sequence[Engine], folder: Path, threads: int, plan: Plan) -> list[Row]:
    """Time single queries and batches of all engines, one after the other, so that a noisy moment hits all alike."""
    times: dict[int, tuple[list[float], list[float]]] = {}
    with ExitStack() as stack:
        processes = {}
        for number, (row, engine) in enumerate(zip(rows, engines, strict=True)):
            if row.failure is None:
                processes[number] = stack.enter_context(_Process(engine, folder, threads))
                load_s = processes[number].ask("load", str(folder / f"{number}.index"))["load_s"]
                rows[number] = row._replace(load_s=load_s)
                times[number] = [], []
                processes[number].ask("time", 1, plan.singles, K)
                processes[number].ask("time", plan.batch, 1, K)
        for _ in range(plan.repeats):
            for number, process in processes.items():
                single, batch = times[number]
                single.append(process.ask("time", 1, plan.singles, K))
                batch.append(process.ask("time", plan.batch, 1, K))
    for number, (single, batch) in times.items():
        row = rows[number]
        rows[number] = row._replace(
            single_ms={**row.single_ms, threads: 1e3 * statistics.median(single)},
            batch_ms={**row.batch_ms, threads: 1e3 * statistics.median(batch)},
        )
    return rows


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))

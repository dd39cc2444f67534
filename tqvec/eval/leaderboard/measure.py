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
    truth = exact_search(base, queries, min(DEPTHS[-1], len(base)))[1]
    groups: dict[str, list[Engine]] = {}
    for engine in engines:
        groups.setdefault(engine.build, []).append(engine)
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="tqvec-bench-") as name:
        folder = Path(name)
        np.save(folder / BASE, base)
        np.save(folder / QUERIES, queries)
        for number, group in enumerate(groups.values()):
            note(f"building {group[0].name}")
            rows |= _build(group, folder, number, plan, truth, len(base))
        for threads in plan.threads:
            note(f"timing with {threads} thread{'s' * (threads > 1)}")
            _time(rows, list(groups.values()), folder, threads, plan)
    return [rows[engine.name] for engine in engines]


def count_steps(engines: Sequence[Engine], plan: Plan) -> int:
    """Return how often `measure` calls `progress`."""
    return len({engine.build for engine in engines}) + len(plan.threads)


def _build(group: list[Engine], folder: Path, number: int, plan: Plan, truth: Ids, n: int) -> dict[str, Row]:
    """Build and save the index of some engines, and compare the results of each with the true ones."""
    seeds = plan.seeds if group[0].library == "tqvec" else 1
    found: dict[str, list[tuple[Ids, Ids]]] = {engine.name: [] for engine in group}
    facts: dict[str, Any] = {}
    failure = None
    try:
        for seed in range(seeds):
            with _Process(group[0], folder, plan.threads[0], seed) as process:
                facts |= process.ask("build")
                for engine in group:
                    found[engine.name].append(_results(process, engine, truth.shape[1]))
                facts |= process.ask("save", str(folder / f"{number}.index"))
    except UnsupportedError as error:
        failure = str(error)
    rows = {}
    for engine in group:
        row = Row(
            name=engine.name,
            library=engine.library,
            nbits=engine.nbits,
            sublinear=engine.sublinear,
            settings=json.dumps(engine.settings),
            n=n,
            search=json.dumps(engine.search),
            failure=failure,
        )
        rows[engine.name] = _fill(row, facts, found[engine.name], truth) if failure is None else row
    return rows


def _results(process: _Process, engine: Engine, depth: int) -> tuple[Ids, Ids]:
    """Return the best `K` as they are timed, and the best `depth`: libraries search more for more results."""
    few, many = (np.array(process.ask("results", k, engine.search)) for k in (K, depth))
    return few, many


def _fill(row: Row, facts: dict[str, Any], found: Sequence[tuple[Ids, Ids]], truth: Ids) -> Row:
    """Return a row with what was measured of a build and its results."""
    depths = [k for k in DEPTHS if k <= truth.shape[1]]
    return row._replace(
        bytes=facts["bytes"] / row.n,
        **{name: value for name, value in facts.items() if name != "bytes"},
        recall_10_at_10=_mean(recall(few, truth, K, K) for few, _ in found),
        recall_1_at={k: _mean(recall(few if k <= K else many, truth, 1, k) for few, many in found) for k in depths},
    )


def _time(rows: dict[str, Row], groups: Sequence[list[Engine]], folder: Path, threads: int, plan: Plan) -> None:
    """Time single queries and batches of all engines, one after the other, so that a noisy moment hits all alike."""
    times: dict[str, tuple[list[float], list[float]]] = {}
    with ExitStack() as stack:
        processes: dict[str, tuple[_Process, Engine]] = {}
        for number, group in enumerate(groups):
            timed = [engine for engine in group if rows[engine.name].failure is None]
            if not timed:
                continue
            process = stack.enter_context(_Process(group[0], folder, threads))
            load_s = process.ask("load", str(folder / f"{number}.index"))["load_s"]
            for engine in timed:
                processes[engine.name], times[engine.name] = (process, engine), ([], [])
                rows[engine.name] = rows[engine.name]._replace(load_s=load_s)
        for repeat in range(plan.repeats + 1):
            for name, (process, engine) in processes.items():
                pair = [
                    process.ask("time", *counts, K, engine.search) for counts in ((1, plan.singles), (plan.batch, 1))
                ]
                if repeat:  # the first is a rehearsal
                    for values, seconds in zip(times[name], pair, strict=True):
                        values.append(seconds)
    for name, (single, batch) in times.items():
        row = rows[name]
        rows[name] = row._replace(
            single_ms={**row.single_ms, threads: 1e3 * statistics.median(single)},
            batch_ms={**row.batch_ms, threads: 1e3 * statistics.median(batch)},
        )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))

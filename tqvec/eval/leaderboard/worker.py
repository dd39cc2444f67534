"""Worker: the process of one engine. It does what a line of its standard input asks for, and answers by a line."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tqvec.eval.leaderboard.adapters import Adapter, adapter
from tqvec.eval.leaderboard.engines import Engine
from tqvec.eval.leaderboard.memory import forget_peak, peak, resident

BASE, QUERIES = "base.npy", "queries.npy"  # in the folder that all workers share
_WARM = 2_000  # vectors of the index that compiles what the large one needs


class Worker:
    """An engine, and the data that it is measured on.

    Parameters
    ----------
    engine : Engine
    folder : Path
        Of the data.
    threads, seed : int
    """

    def __init__(self, engine: Engine, folder: Path, threads: int, seed: int) -> None:
        base = np.load(folder / BASE, mmap_mode="r")
        self._folder, self._queries = folder, np.load(folder / QUERIES)
        shape = base.shape[1], len(base)
        if engine.library == "tqvec":  # other libraries come compiled
            warm = adapter(engine, *shape, threads, seed)
            warm.build(np.array(base[:_WARM]))
            warm.search(self._queries, 1)
        self._adapter: Adapter = adapter(engine, *shape, threads, seed)

    def build(self) -> dict[str, float]:
        """Build, and return the seconds of training and of all else, and bytes of memory.

        ``resident_bytes`` is what the process has more after the build than before, ``peak_bytes`` what it had more at
        most, beside the vectors themselves. ``process_bytes`` is all that it has after the build.
        """
        before = resident()
        base = np.load(self._folder / BASE)
        loaded = resident()
        forget_peak()
        trained, added = self._adapter.build(base)
        most = peak() - loaded
        del base
        after = resident()
        own = {"resident_bytes": after - before, "peak_bytes": most, "process_bytes": after}
        return {"train_s": trained, "build_s": added} | own

    def results(self, k: int, options: dict[str, Any]) -> list[list[int]]:
        """Return the ids of the best `k` for each query."""
        return self._adapter.search(self._queries, k, **options).tolist()

    def save(self, path: str) -> dict[str, float]:
        """Save, and return the seconds and the bytes."""
        start = time.perf_counter()
        self._adapter.save(Path(path))
        return {"save_s": time.perf_counter() - start, "bytes": os.path.getsize(path)}

    def load(self, path: str) -> dict[str, float]:
        """Load, and return the seconds."""
        start = time.perf_counter()
        self._adapter.load(Path(path))
        return {"load_s": time.perf_counter() - start}

    def time(self, count: int, runs: int, k: int, options: dict[str, Any]) -> float:
        """Return the seconds of a query, in some searches for so many queries each; all queries are different ones."""
        parts = [np.ascontiguousarray(self._queries[i * count : (i + 1) * count]) for i in range(runs)]
        start = time.perf_counter()
        for part in parts:
            self._adapter.search(part, k, **options)
        return (time.perf_counter() - start) / sum(map(len, parts))


def main() -> None:
    """Answer until standard input ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            if worker is None:
                worker = _start(arguments)
                value: Any = None
            else:
                value = getattr(worker, method)(*arguments)
            answer = {"value": value}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _start(arguments: list[Any]) -> Worker:
    engine, folder, threads, seed = arguments
    return Worker(Engine(*engine), Path(folder), threads, seed)


if __name__ == "__main__":
    main()

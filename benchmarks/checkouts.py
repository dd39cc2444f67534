"""Is this checkout as fast as another one? The cells of search.py, encode.py and attention.py, both in one run.

    git worktree add ../before COMMIT
    python benchmarks/checkouts.py ../before

Each checkout runs in a process of its own. Every cell is timed in both, one run of each in turn, so that a noisy moment
hits both. Some processes are slower than others for as long as they live, by where their arrays lie (batches at d=1536
have two speeds, 1.4 apart). So there are several pairs of processes, and the fastest median of each checkout counts. A
ratio is this checkout's time over the other's: below 1 this one is faster.
"""

from __future__ import annotations

from _common import console, report, unit_vectors  # isort: skip - sets threads first

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import tqvec
from tqvec.eval.sample import load_sample

N, BATCH, SINGLES, K = 100_000, 200, 20, 10
TOKENS, KV_HEADS, HEAD_DIM = 65_536, 8, 128
HERE = Path(__file__).resolve()

Task = Callable[[], object]


def search_cells(folder: Path | None) -> Iterator[tuple[str, Callable[[], Task]]]:
    """Batches and single queries, as in search.py."""
    for name, d in [("isotropic", 384), ("isotropic", 1536), *([("WordNet", 384)] if folder else [])]:

        def prepare(single: bool, name: str = name, d: int = d) -> Task:
            if name == "WordNet":
                sample = load_sample(folder)
                x, queries = sample.base[:N].astype(np.float32), sample.queries[:BATCH].astype(np.float32)
            else:
                x = unit_vectors(N, d, seed=2)
                queries = x[:BATCH] + 0.5 * unit_vectors(BATCH, d, seed=3)
            index = tqvec.Index(d, nbits=4)
            index.add(x)
            if single:
                return lambda: [index.search(queries[i : i + 1], k=K) for i in range(SINGLES)]
            return lambda: index.search(queries, k=K)

        for single in (False, True):
            yield (
                f"search, {name}, d={d}, {'single queries' if single else 'batch'}",
                lambda p=prepare, s=single: p(s),  # type: ignore[misc]
            )


def encode_cells() -> Iterator[tuple[str, Callable[[], Task]]]:
    """Both codebooks by dimension and, at d=1536, by width, as in encode.py."""
    cases = [(d, n, 4) for d, n in ((128, 50_000), (384, 20_000), (768, 10_000), (1536, 10_000))]
    cases += [(1536, 4000, nbits) for nbits in (1, 2, 3, 5)]
    for d, n, nbits in cases:
        for codebook in ("scalar", "trellis"):

            def prepare(d: int = d, n: int = n, nbits: int = nbits, codebook: Any = codebook) -> Task:
                codec, x = tqvec.TurboQuant(d, nbits=nbits, codebook=codebook), unit_vectors(n, d, seed=1)
                return lambda: codec.encode(x)

            yield f"encode, d={d}, {nbits} bits, {codebook}", prepare


def attention_cells() -> Iterator[tuple[str, Callable[[], Task]]]:
    """One decode step, by codec and query heads, as in attention.py."""
    for codebook, nbits in (("scalar", 3), ("scalar", 4), ("trellis", 3), ("trellis", 4)):
        for heads in (8, 32):

            def prepare(codebook: Any = codebook, nbits: int = nbits, heads: int = heads) -> Task:
                rng = np.random.default_rng(10_001)
                k, v = rng.standard_normal((2, KV_HEADS, TOKENS, HEAD_DIM), np.float32)
                policy = tqvec.kvcache.Policy(nbits, nbits, codebook=codebook)
                cache = tqvec.kvcache.KVCache(1, KV_HEADS, HEAD_DIM, policy)
                cache.append(0, k, v)
                queries = rng.standard_normal((heads, 1, HEAD_DIM), np.float32)
                return lambda: cache.attend(0, queries)

            yield f"attention, {nbits} bits, {codebook}, {heads} query heads", prepare


def cells(folder: Path | None) -> dict[str, Callable[[], Task]]:
    """What makes the task of each cell, by name."""
    return dict([*search_cells(folder), *encode_cells(), *attention_cells()])


def serve(folder: Path | None) -> None:
    """Time a cell whenever its name comes in; the first time it is prepared and run once before."""
    makers, current, task = cells(folder), "", None
    for line in sys.stdin:
        if line.strip() != current:
            current = line.strip()
            task = makers[current]()
            task()
        assert task is not None
        start = time.perf_counter()
        task()
        print(json.dumps(time.perf_counter() - start), flush=True)


class Workers:
    """A process for each checkout, which times cells of its tqvec."""

    def __init__(self, roots: dict[str, Path], folder: Path | None) -> None:
        options = [] if folder is None else ["--folder", str(folder)]
        self._processes = {
            name: subprocess.Popen(
                [sys.executable, str(HERE), ".", "--serve", *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(root)},
            )
            for name, root in roots.items()
        }

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes.values():
            process.communicate()

    def medians(self, cell: str, repeats: int) -> dict[str, float]:
        """Median seconds of a cell in each process, one run of each in turn."""
        for name in self._processes:
            self._run(name, cell)  # prepares it
        names = list(self._processes)
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(repeats):
            for name in names if turn % 2 else names[::-1]:
                times[name].append(self._run(name, cell))
        return {name: statistics.median(values) for name, values in times.items()}

    def _run(self, name: str, cell: str) -> float:
        process = self._processes[name]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(cell + "\n")
        process.stdin.flush()
        return float(json.loads(process.stdout.readline()))


def main() -> None:
    """Compare two checkouts cell by cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the root of the other checkout")
    parser.add_argument("--folder", type=Path, help="also search this set of embeddings (datasets/README.md)")
    parser.add_argument("--only", default="", help="cells whose names contain this")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.folder)
        return
    roots = {"this": HERE.parents[1], "other": arguments.other.resolve()}
    names = [name for name in cells(arguments.folder) if arguments.only in name]
    best: dict[str, dict[str, float]] = {name: {"this": np.inf, "other": np.inf} for name in names}
    for _ in range(arguments.processes):
        with Workers(roots, arguments.folder) as workers:
            for name in names:
                for root, seconds in workers.medians(name, arguments.repeats).items():
                    best[name][root] = min(best[name][root], seconds)
    title = f"{roots['this'].name} over {roots['other'].name}: median of {arguments.repeats}, best of "
    table = Table(title=f"{title}{arguments.processes} processes")
    for column in ("cell", "this, ms", "other, ms", "ratio"):
        table.add_column(column, justify="left" if column == "cell" else "right")
    rows = []
    for name, seconds in best.items():
        ratio = seconds["this"] / seconds["other"]
        table.add_row(name, f"{1e3 * seconds['this']:.3f}", f"{1e3 * seconds['other']:.3f}", f"{ratio:.3f}")
        rows.append({"cell": name, "seconds": seconds, "ratio": ratio})
    console.print(table)
    report("checkouts", rows)


if __name__ == "__main__":
    main()

"""What do large indexes cost? Build rate, memory, load time and time of a query at 4 bits, beside turbovec.

Vectors are made and added 20,000 at a time. Building, and searching what was read or mapped, are new processes each, to
tell their memory: the peak of building, in which 20,000 vectors and their copy count too, and after the searches what
belongs to the process alone, which the pages of a mapped file do not. Kernels are ready before the clock starts. One
thread by default (TQVEC_BENCH_THREADS).

For figures: `--sizes 1000000x128 10000000x128 1000000x768`.
"""

from __future__ import annotations

from _common import THREADS, console, report, unit_vectors  # isort: skip - sets threads first

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import turbovec
from numpy.typing import NDArray
from rich.table import Table

import tqvec

NBITS, K, PART, SINGLES, BATCH, REPEATS = 4, 10, 20_000, 20, 64, 5
QUERY_SEED = 40_000_000  # beyond those of the vectors, which are the numbers of their first rows

Floats = NDArray[np.float32]


class Ours:
    """tqvec, as the others are used."""

    ways = ("read", "mapped")

    def __init__(self, d: int):
        self.index = tqvec.Index(d, nbits=NBITS)

    def add(self, x: Floats) -> None:
        self.index.add(x)

    def search(self, queries: Floats) -> None:
        self.index.search(queries, k=K)

    def save(self, path: Path) -> None:
        self.index.save(path)

    def load(self, path: Path, way: str) -> None:
        self.index = tqvec.Index.load(path, mmap=way == "mapped")


class Turbovec:
    """turbovec, which maps no files."""

    ways = ("read",)

    def __init__(self, d: int):
        self.index = turbovec.TurboQuantIndex(d, NBITS)

    def add(self, x: Floats) -> None:
        self.index.add(x)

    def search(self, queries: Floats) -> None:
        self.index.search(queries, K)

    def save(self, path: Path) -> None:
        self.index.write(str(path))

    def load(self, path: Path, way: str) -> None:
        self.index = turbovec.TurboQuantIndex.load(str(path))


LIBRARIES: dict[str, Any] = {"tqvec": Ours, "turbovec": Turbovec}


def parts(n: int, d: int) -> Iterator[Floats]:
    """All vectors, in parts."""
    for start in range(0, n, PART):
        yield unit_vectors(min(PART, n - start), d, seed=start)


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def memory(kind: str) -> float:
    """MB of this process by a line of /proc/self/status, NaN where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) * 1024 / 1e6


def warmed(library: str, d: int) -> Any:
    """An empty index of a library whose code is ready to run."""
    small = LIBRARIES[library](d)
    small.add(unit_vectors(5_000, d, seed=QUERY_SEED))
    for count in (1, BATCH):
        small.search(unit_vectors(count, d, seed=QUERY_SEED))
    return LIBRARIES[library](d)


def built(library: str, n: int, d: int, path: Path) -> dict[str, float]:
    """Build an index and save it."""
    index = warmed(library, d)
    before = memory("VmRSS")
    adding = sum(seconds(lambda x=x: index.add(x)) for x in parts(n, d))
    return {
        "vectors_per_s": n / adding,
        "peak_mb": memory("VmHWM") - before,
        "save_s": seconds(lambda: index.save(path)),
        "file_mb": path.stat().st_size / 1e6,
    }


def searched(library: str, d: int, path: Path, way: str) -> dict[str, float]:
    """Load an index and search it."""
    index = warmed(library, d)
    before = memory("RssAnon")
    loading = seconds(lambda: index.load(path, way))
    queries = unit_vectors(SINGLES + BATCH, d, seed=QUERY_SEED)
    first = seconds(lambda: index.search(queries[:1]))
    singles = [seconds(lambda q=q: index.search(queries[q : q + 1])) for q in range(SINGLES)]
    batches = [seconds(lambda: index.search(queries[SINGLES:])) for _ in range(REPEATS)]
    return {
        "load_s": loading,
        "first_ms": first * 1e3,
        "single_ms": statistics.median(singles) * 1e3,
        "batch_ms": statistics.median(batches) * 1e3 / BATCH,
        "own_mb": memory("RssAnon") - before,
    }


def in_new_process(call: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """What a call returns that has a process to itself."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def measured(sizes: list[tuple[int, int]], folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of the table."""
    for n, d in sizes:
        for library, kind in LIBRARIES.items():
            path = folder / f"{library}.index"
            build = in_new_process(built, library, n, d, path)
            for way in kind.ways:
                found = in_new_process(searched, library, d, path, way)
                yield {"n": n, "d": d, "library": library, "loaded": way} | build | found
            path.unlink()


def size(text: str) -> tuple[int, int]:
    """1000000x128 as numbers."""
    n, d = text.split("x")
    return int(n), int(d)


def main() -> None:
    """Build, save, load and search indexes of all sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=size, nargs="+", default=[(200_000, 128), (50_000, 768)], metavar="NxD")
    parser.add_argument("--folder", type=Path, help="where files are written; default: the one for temporary files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = list(measured(arguments.sizes, Path(folder)))
    table = Table(title=f"{NBITS} bits, k = {K}, batches of {BATCH}, {THREADS} thread(s)")
    for column in ("n", "d", "", "loaded", "vectors/s", "peak MB", "save s", "file MB", "load s", "first ms"):
        table.add_column(column, justify="right")
    for column in ("single ms", "batch ms", "own MB"):
        table.add_column(column, justify="right")
    for row in rows:
        n, d, library, way, *figures = row.values()
        table.add_row(
            f"{n:,}", str(d), library, way, *(f"{one:,.0f}" if one >= 1000 else f"{one:.3g}" for one in figures)
        )
    console.print(table)
    report("scale", rows)


if __name__ == "__main__":
    main()

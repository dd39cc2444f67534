"""A partitioned index of vectors that never are in memory at once, and how much of its file a mapped search reads.

Vectors are made part by part, around centres that are drawn once, one per 2,000 vectors. The noise has 0.4 of the
spread of the centres. The lists are learned from a sample, then each part goes to its lists. Memory is the peak of this
process. For the searches the file leaves the cache of the system first, and what is there afterwards was read. Pages
that the system reads ahead count, too.

For figures: `--n 10000000 --d 128`.
"""

from __future__ import annotations

from _common import console, report  # isort: skip - sets threads first

import argparse
import ctypes
import mmap
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tqvec

PART, SAMPLE_A_LIST, QUERIES, K, RECALL, NOISE = 100_000, 40, 100, 10, 0.95, 0.4
Floats = NDArray[np.float32]


def parts(n: int, centres: Floats) -> Iterator[Floats]:
    """Yield `n` vectors around centres, the same in each call."""
    d = centres.shape[1]
    for first in range(0, n, PART):
        rng = np.random.default_rng([2, first])
        m = min(PART, n - first)
        yield centres[rng.integers(0, len(centres), m)] + np.float32(NOISE) * rng.standard_normal((m, d), np.float32)


def drop_cache(path: Path) -> None:
    """Take a file out of the system's cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached_share(path: Path) -> float:
    """Return the share of a file's pages that are in the system's cache."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as data:
        pages = -(-len(data) // mmap.PAGESIZE)
        resident = (ctypes.c_ubyte * pages)()
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        if ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(data)), resident):
            raise OSError(ctypes.get_errno(), "mincore")
        share = float(np.mean(np.frombuffer(resident, np.uint8) & 1))
        del resident
    return share


def peak_gib() -> float:
    """Return the largest memory that this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def build(n: int, centres: Floats, path: Path) -> dict[str, float]:
    """Build the file, and return seconds and memory."""
    nlist = round(4 * np.sqrt(n))
    sample = np.concatenate(list(parts(min(n, SAMPLE_A_LIST * nlist), centres)))
    given, start = peak_gib(), time.perf_counter()
    index = tqvec.Index(centres.shape[1], metric="l2")
    index.partition(nlist, sample)
    learned = time.perf_counter() - start
    del sample
    for x in parts(n, centres):
        index.add(x)
    index.save(path)
    seconds = time.perf_counter() - start
    return {"nlist": nlist, "learn": learned, "build": seconds, "peak_gib": peak_gib(), "sample_gib": given}


def search(path: Path, queries: Floats) -> list[dict[str, float]]:
    """Search the mapped file with 1, 10 and 100 queries, and return what share of it was read."""
    exact = tqvec.Index.load(path).search(queries, K, recall=1.0)[1]
    rows = []
    for count in (1, 10, 100):
        drop_cache(path)
        before = cached_share(path)
        index = tqvec.Index.load(path, mmap=True)
        loaded = cached_share(path)
        start = time.perf_counter()
        found = index.search(queries[:count], K, recall=RECALL)[1]
        seconds = time.perf_counter() - start
        read = cached_share(path)
        kept = np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), exact.tolist(), strict=False)])
        facts = {"queries": count, "before": before, "loaded": loaded, "read": read, "ms": 1e3 * seconds / count}
        rows.append({**facts, "kept": float(kept)})
        del index
    return rows


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=500_000)
    parser.add_argument("--d", type=int, default=128)
    arguments = parser.parse_args()
    n, d = arguments.n, arguments.d
    centres = np.random.default_rng(1).standard_normal((max(1, n // 2_000), d), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.tqv"
        built = build(n, centres, path)
        noise = np.float32(NOISE) * np.random.default_rng(3).standard_normal((QUERIES, d), np.float32)
        queries = next(parts(n, centres))[:QUERIES] + noise
        size = path.stat().st_size
        rows = search(path, queries)
    console.print(
        f"{n:,} x {d}: {built['build']:.0f} s, of which {built['learn']:.0f} s for {built['nlist']:,.0f} lists; "
        f"file {size / n:.0f} bytes a vector; peak {built['peak_gib']:.2f} GiB, {built['sample_gib']:.2f} of the sample"
    )
    table = Table("queries", "kept", "share read", "of it by load", "ms a query, cold")
    for row in rows:
        cells = (
            f"{row['queries']}",
            f"{row['kept']:.3f}",
            f"{row['read']:.3f}",
            f"{row['loaded']:.3f}",
            f"{row['ms']:.1f}",
        )
        table.add_row(*cells)
    console.print(table)
    report(f"stream-{n}", [{"n": n, "d": d, "file": size, **built}, *rows])


if __name__ == "__main__":
    main()

"""What does one change cost? Add, replace and remove one vector of many, beside FAISS's IndexIDMap2 and turbovec.

Medians of single calls on indexes of two sizes: what grows with the size of the index is not constant time.
"""

from __future__ import annotations

from _common import console, report, unit_vectors  # isort: skip - sets threads first

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import turbovec
from rich.table import Table

import tqvec

CALLS, PART = 101, 100_000


def median_ms(call: Callable[[int], object]) -> float:
    """Of calls with 0, 1, 2, …; the first one may compile."""
    times = []
    for i in range(CALLS):
        start = time.perf_counter()
        call(i)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) * 1e3


def ours(n: int, d: int) -> dict[str, float]:
    """Ids of the index's own making, and of the user's."""
    found = {}
    extra = unit_vectors(CALLS, d, seed=1)
    for name, step in (("own ids", None), ("user's ids", 7)):
        index = tqvec.Index(d, nbits=4)
        for start in range(0, n, PART):
            x = unit_vectors(min(PART, n - start), d, seed=start)
            index.add(x, ids=None if step is None else np.arange(start, start + len(x)) * step)
        last = int(index.ids[-1])
        found[f"tqvec, {name}: add"] = median_ms(
            lambda i, index=index, last=last, step=step: index.add(
                extra[i], ids=None if step is None else [last + 1 + i]
            )
        )
        unit = step or 1
        found[f"tqvec, {name}: remove"] = median_ms(
            lambda i, index=index, unit=unit: index.remove_ids([unit * (i * 97)])
        )
        found[f"tqvec, {name}: update"] = median_ms(
            lambda i, index=index, unit=unit: index.update(ids=[unit * (i * 97 + 1)], x=extra[i])
        )
    return found


def rivals(n: int, d: int) -> dict[str, float]:
    """FAISS and turbovec, with ids."""
    extra = unit_vectors(CALLS, d, seed=1)
    pq = faiss.IndexIDMap2(faiss.index_factory(d, f"PQ{d // 2}x8np", faiss.METRIC_INNER_PRODUCT))
    turbo: Any = turbovec.IdMapIndex(d, 4)
    for start in range(0, n, PART):
        x = unit_vectors(min(PART, n - start), d, seed=start)
        ids = np.arange(start, start + len(x))
        if start == 0:
            pq.train(x[:20_000])
        pq.add_with_ids(x, ids)
        turbo.add_with_ids(x, ids.astype(np.uint64))
    found = {
        "FAISS IDMap2: add": median_ms(lambda i: pq.add_with_ids(extra[i : i + 1], np.array([n + i]))),
        "FAISS IDMap2: remove": median_ms(lambda i: pq.remove_ids(np.array([i * 97]))),
        "turbovec IdMap: add": median_ms(lambda i: turbo.add_with_ids(extra[i : i + 1], np.array([n + i], np.uint64))),
        "turbovec IdMap: remove": median_ms(lambda i: turbo.remove(i * 97)),
    }
    return found


def main() -> None:
    """Time single changes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("-d", type=int, default=128)
    arguments = parser.parse_args()
    results = {n: ours(n, arguments.d) | rivals(n, arguments.d) for n in arguments.sizes}
    table = Table(title=f"ms for one vector, d = {arguments.d}, 4 bits")
    table.add_column("change")
    for n in arguments.sizes:
        table.add_column(f"n = {n:,}", justify="right")
    for name in results[arguments.sizes[0]]:
        table.add_row(name, *(f"{results[n][name]:.3f}" for n in arguments.sizes))
    console.print(table)
    report(
        "mutation", [{"n": n, "change": name, "ms": ms} for n, found in results.items() for name, ms in found.items()]
    )


if __name__ == "__main__":
    main()

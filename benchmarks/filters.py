"""What does a filter cost? Searches of a part of the vectors, beside searches of all, 4 bits, k = 10.

A filter keeps a random part, or a run of ids; it is given as a boolean array, as ids and as a range. Making the bits of
it is counted. FAISS's 4-bit scalar quantiser stands beside, with an `IDSelectorBatch` (PQ takes none).
Ratios are times of the unfiltered search over times with the filter: above 1 the filter saves time.
"""

from __future__ import annotations

from _common import alternate, console, report, unit_vectors  # isort: skip - sets threads first

import argparse
from functools import partial
from typing import Any

import faiss
import numpy as np
from rich.table import Table

import tqvec

K, REPEATS, PART = 10, 9, 100_000
FILTER_SEED = 30_000


def filled(n: int, d: int) -> tuple[tqvec.Index, Any]:
    """Both indexes, of the same vectors."""
    index, sq = tqvec.Index(d, nbits=4), faiss.index_factory(d, "SQ4", faiss.METRIC_INNER_PRODUCT)
    for start in range(0, n, PART):
        x = unit_vectors(min(PART, n - start), d, seed=start)
        if start == 0:
            sq.train(x[:20_000])
        index.add(x)
        sq.add(x)
    return index, sq


def selections(n: int) -> dict[str, Any]:
    """Filters by name."""
    rng = np.random.default_rng(FILTER_SEED)
    found: dict[str, Any] = {"all": None}
    for share in (0.5, 0.1, 0.01):
        found[f"{share:.0%}, mask"] = rng.random(n) < share
    found["1%, ids"] = np.flatnonzero(found["1%, mask"])
    found["1%, range"] = range(n // 2, n // 2 + n // 100)
    return found


def faiss_search(sq: Any, queries: Any, chosen: Any) -> None:
    """Search the chosen ids."""
    if chosen is None:
        sq.search(queries, K)
        return
    array = np.array(chosen)
    ids = np.flatnonzero(array) if array.dtype == np.bool_ else array
    selector = faiss.IDSelectorBatch(ids.astype(np.int64))
    sq.search(queries, K, params=faiss.SearchParameters(sel=selector))


def main() -> None:
    """Time all filters, single queries and batches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[128])
    parser.add_argument("--no-faiss", action="store_true")
    arguments = parser.parse_args()
    table = Table(title=f"{arguments.n:,} vectors, 4 bits, k = {K}; ms a query")
    for column in ("d", "queries", "filter", "kept", "tqvec ms", "ratio to all", "FAISS SQ4 ms", "ratio to all"):
        table.add_column(column, justify="right")
    rows = []
    for d in arguments.dims:
        index, sq = filled(arguments.n, d)
        chosen = selections(arguments.n)
        for count in (1, 64):
            queries = unit_vectors(count, d, seed=40_000)
            # FAISS by itself: its longer searches would empty the caches before each of ours.
            tasks = {name: partial(index.search, queries, k=K, filter=one) for name, one in chosen.items()}
            times = alternate(tasks, REPEATS)
            if not arguments.no_faiss and count == 1:
                tasks = {f"FAISS {name}": partial(faiss_search, sq, queries, one) for name, one in chosen.items()}
                times |= alternate(tasks, REPEATS)
            for name, one in chosen.items():
                kept = arguments.n if one is None else int(np.sum(one)) if name.endswith("mask") else len(one)
                ours, theirs = times[name] / count * 1e3, times.get(f"FAISS {name}")
                found = {
                    "d": d, "queries": count, "filter": name, "kept": kept, "tqvec_ms": ours,
                    "ratio": times["all"] / times[name],
                    "faiss_ms": None if theirs is None else theirs * 1e3,
                    "faiss_ratio": None if theirs is None else times["FAISS all"] / theirs,
                }  # fmt: skip
                rows.append(found)
                table.add_row(
                    *("" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in found.values())
                )
    console.print(table)
    report("filters", rows)


if __name__ == "__main__":
    main()

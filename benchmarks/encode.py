"""How fast are vectors compressed? One thread by default (TQVEC_BENCH_THREADS), 4 bits, beside FAISS and turbovec."""

from __future__ import annotations

from _common import THREADS, alternate, console, report, unit_vectors  # isort: skip - sets threads first

import faiss
import turbovec
from rich.table import Table

import tqvec

CASES = ((128, 50_000), (384, 20_000), (768, 10_000), (1536, 10_000))
NBITS = 4
REPEATS = 7


def main() -> None:
    """Time `encode` of each library on the same rows; training is not counted."""
    faiss.omp_set_num_threads(THREADS)
    table = Table(title=f"encoding at {NBITS} bits, {THREADS} thread(s): vectors a second (median of {REPEATS})")
    for column in ("d", "tqvec", "turbovec add", "tqvec/turbovec", "FAISS PQ{d}x4 encode", "tqvec/FAISS"):
        table.add_column(column, justify="right")
    rows = []
    for d, n in CASES:
        x = unit_vectors(n, d, seed=1)
        tq = tqvec.TurboQuant(d, nbits=NBITS)
        pq = faiss.index_factory(d, f"PQ{d}x4fs", faiss.METRIC_INNER_PRODUCT)
        pq.train(x[:5000])
        tasks = {
            "tqvec": lambda tq=tq, x=x: tq.encode(x),
            "turbovec": lambda x=x, d=d: turbovec.TurboQuantIndex(d, NBITS).add(x),
            "faiss": lambda pq=pq, x=x: (pq.reset(), pq.add(x)),
        }
        seconds = alternate(tasks, REPEATS)
        rate = {name: n / s for name, s in seconds.items()}
        rows.append({"d": d, "n": n, "nbits": NBITS, "vectors_per_s": rate})
        table.add_row(
            str(d),
            f"{rate['tqvec']:,.0f}",
            f"{rate['turbovec']:,.0f}",
            f"{rate['tqvec'] / rate['turbovec']:.2f}",
            f"{rate['faiss']:,.0f}",
            f"{rate['tqvec'] / rate['faiss']:.2f}",
        )
    console.print(table)
    report("encode", rows)


if __name__ == "__main__":
    main()

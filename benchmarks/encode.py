"""How fast are vectors compressed? At 4 bits beside FAISS and turbovec; both codebooks by width. One thread by default
(TQVEC_BENCH_THREADS).
"""

from __future__ import annotations

from _common import THREADS, alternate, console, report, unit_vectors  # isort: skip - sets threads first

from typing import Any

import faiss
import turbovec
from rich.table import Table

import tqvec

CASES = ((128, 50_000), (384, 20_000), (768, 10_000), (1536, 10_000))
NBITS = 4
WIDTHS = (1, 2, 3, 4, 5)  # that both codebooks have; timed at WIDTHS_D
WIDTHS_D = 1536
REPEATS = 7


def by_width() -> list[dict[str, Any]]:
    """Time both codebooks at every width."""
    table = Table(title=f"tqvec at d={WIDTHS_D}, {THREADS} thread(s): vectors a second (median of {REPEATS})")
    for column in ("bits", "scalar", "trellis", "trellis/scalar"):
        table.add_column(column, justify="right")
    x = unit_vectors(4000, WIDTHS_D, seed=1)
    rows = []
    for nbits in WIDTHS:
        codecs = {name: tqvec.TurboQuant(WIDTHS_D, nbits=nbits, codebook=name) for name in ("scalar", "trellis")}
        seconds = alternate({name: lambda tq=tq: tq.encode(x) for name, tq in codecs.items()}, REPEATS)
        rate = {name: len(x) / s for name, s in seconds.items()}
        rows.append({"d": WIDTHS_D, "n": len(x), "nbits": nbits, "vectors_per_s": rate})
        ratio = rate["trellis"] / rate["scalar"]
        table.add_row(str(nbits), f"{rate['scalar']:,.0f}", f"{rate['trellis']:,.0f}", f"{ratio:.2f}")
    console.print(table)
    return rows


def main() -> None:
    """Time `encode` of each library on the same rows; training is not counted."""
    faiss.omp_set_num_threads(THREADS)
    table = Table(title=f"encoding at {NBITS} bits, {THREADS} thread(s): vectors a second (median of {REPEATS})")
    columns = ("d", "tqvec", "tqvec trellis", "turbovec add", "tqvec/turbovec", "FAISS PQ{d}x4 encode", "tqvec/FAISS")
    for column in columns:
        table.add_column(column, justify="right")
    rows = []
    for d, n in CASES:
        x = unit_vectors(n, d, seed=1)
        tq = tqvec.TurboQuant(d, nbits=NBITS)
        trellis = tqvec.TurboQuant(d, nbits=NBITS, codebook="trellis")
        pq = faiss.index_factory(d, f"PQ{d}x4fs", faiss.METRIC_INNER_PRODUCT)
        pq.train(x[:5000])
        tasks = {
            "tqvec": lambda tq=tq, x=x: tq.encode(x),
            "trellis": lambda trellis=trellis, x=x: trellis.encode(x),
            "turbovec": lambda x=x, d=d: turbovec.TurboQuantIndex(d, NBITS).add(x),
            "faiss": lambda pq=pq, x=x: (pq.reset(), pq.add(x)),
        }
        seconds = alternate(tasks, REPEATS)
        rate = {name: n / s for name, s in seconds.items()}
        rows.append({"d": d, "n": n, "nbits": NBITS, "vectors_per_s": rate})
        table.add_row(
            str(d),
            f"{rate['tqvec']:,.0f}",
            f"{rate['trellis']:,.0f}",
            f"{rate['turbovec']:,.0f}",
            f"{rate['tqvec'] / rate['turbovec']:.2f}",
            f"{rate['faiss']:,.0f}",
            f"{rate['tqvec'] / rate['faiss']:.2f}",
        )
    console.print(table)
    report("encode", rows + by_width())


if __name__ == "__main__":
    main()

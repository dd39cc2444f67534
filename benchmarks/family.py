"""Which codec has the least error at equal bytes? All of tqvec, RaBitQ and EDEN as FAISS has them, and the theory.

Every codec here estimates products of unit vectors without bias. For one that decodes to the angle θ the variance is
(1 − cosine²)·tan²θ/(d − 1), and 1 − cos²θ is the squared error of the best multiple of what it decodes: the error D
that the theory speaks of. So D is measured from products alone, in the same way for all. ``--plot FILE`` draws it.
"""

from __future__ import annotations

from _common import THREADS, console, report, unit_vectors  # isort: skip - sets threads first

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

import tqvec
from tqvec.eval.baselines import build_faiss, has_faiss

D = 1536
VECTORS = 1024
QUERIES = 128
UPPER = 3**0.5 * np.pi / 2  # Theorem 1 of arXiv 2504.19874: D <= UPPER * 4^-bits; Shannon's limit is 4^-bits

Floats = NDArray[np.float32]
Scores = Callable[[Floats, Floats], tuple[Floats, float]]  # vectors and queries to products and bytes a vector


def ours(nbits: float, **options: str) -> Scores:
    """Products by a codec of tqvec."""

    def scores(x: Floats, queries: Floats) -> tuple[Floats, float]:
        tq = tqvec.TurboQuant(D, nbits=nbits, **options)
        return tq.inner_product(queries, tq.encode(x)), tq.code_size

    return scores


def faiss(factory: str) -> Scores:
    """Products by a FAISS index."""

    def scores(x: Floats, queries: Floats) -> tuple[Floats, float]:
        built = build_faiss(factory, x, threads=THREADS)
        found, ids = built.index.search(queries, len(x))
        return np.take_along_axis(found, np.argsort(ids, axis=1), axis=1), built.code_size

    return scores


def family() -> dict[str, dict[float, Scores]]:
    """What is compared: name, nominal bits, products."""
    widths = (1, 2, 2.5, 3, 3.5, 4, 5)
    made = {
        "scalar": {b: ours(b) for b in widths},
        "trellis": {b: ours(b, codebook="trellis") for b in widths},
        "prod, gaussian": {b: ours(b, mode="prod", qjl="gaussian") for b in (1, 2, 3, 4, 5)},
        "prod, hadamard": {b: ours(b, mode="prod", qjl="hadamard") for b in (1, 2, 3, 4, 5)},
    }
    if has_faiss():
        made["RaBitQ (FAISS)"] = {b: faiss(f"RR,RaBitQ{b}" if b > 1 else "RR,RaBitQ") for b in (1, 2, 3, 4, 5)}
        made["EDEN (FAISS)"] = {b: faiss(f"RR,EDEN{b}") for b in (1, 2, 3, 4, 5)}
    return made


def error(scores: Floats, x: Floats, queries: Floats) -> float:
    """D = 1 − cos²θ from the errors of products."""
    true = queries.astype(np.float64) @ x.astype(np.float64).T
    tangent2 = (D - 1) * float(np.mean((scores - true) ** 2 / (1 - true**2)))
    return tangent2 / (1 + tangent2)


def measure() -> list[dict[str, Any]]:
    """Bits a coordinate, scales included, and D of every codec."""
    x, queries = unit_vectors(VECTORS, D, seed=1), unit_vectors(QUERIES, D, seed=2)
    rows = []
    cells = [(name, nbits, scores) for name, made in family().items() for nbits, scores in made.items()]
    for name, nbits, scores in track(cells, description="measuring", transient=True):
        found, size = scores(x, queries)
        rows.append({"codec": name, "nbits": nbits, "bits": 8 * size / D, "error": error(found, x, queries)})
    return rows


def draw(rows: list[dict[str, Any]], path: str) -> None:
    """D against bits, and how many times Shannon's limit that is."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    bits = np.linspace(1, 5.1, 50)
    for axis, times in zip(axes, (np.zeros_like, lambda b: b), strict=True):
        axis.plot(bits, 4.0 ** (times(bits) - bits), "k-", label="Shannon's limit, 4^-bits")
        axis.plot(bits, UPPER * 4.0 ** (times(bits) - bits), "k--", label="the paper's bound, 2.72·4^-bits")
        for name in dict.fromkeys(row["codec"] for row in rows):
            points = [(row["bits"], row["error"]) for row in rows if row["codec"] == name]
            b, d = np.array(points).T
            style = "o-" if name in ("scalar", "trellis") else "s:" if "FAISS" in name else "^:"
            axis.plot(b, d * 4.0 ** times(b), style, markersize=4, linewidth=1, label=name)
        axis.set(xlabel="bits a coordinate, scales included", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="squared error D of unit vectors")
    axes[1].set(ylabel="D · 4^bits: times Shannon's limit", ylim=(0.9, 20))
    ticks = (1, 1.25, 1.5, 2, 3, 5, 10, 20)
    axes[1].set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes[1].minorticks_off()
    axes[0].legend(fontsize=8)
    figure.suptitle(f"random vectors, d={D}")
    figure.savefig(path, dpi=90)
    console.print(f"written: {path}")


def main() -> None:
    """Print bits, D and D over Shannon's limit of each codec."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="also draw it; needs matplotlib")
    options = parser.parse_args()
    rows = measure()
    table = Table(title=f"error of unit vectors, d={D}; bits: stored, scales included; Shannon's limit: 4^-bits")
    for heading in ("codec", "nbits", "bits", "D", "D·4^bits"):
        table.add_column(heading, justify="left" if heading == "codec" else "right")
    for row in rows:
        b, d = row["bits"], row["error"]
        table.add_row(row["codec"], f"{row['nbits']:g}", f"{b:.3f}", f"{d:.5f}", f"{d * 4**b:.3f}")
    console.print(table)
    if options.plot:
        draw(rows, options.plot)
    report("family", rows)


if __name__ == "__main__":
    main()

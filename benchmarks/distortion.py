"""Is the error what the mathematics says? Squared error of random unit vectors against the exact table."""

from __future__ import annotations

from _common import console, report, unit_vectors  # isort: skip - sets threads first

import numpy as np
from rich.progress import track
from rich.table import Table

import tqvec

COORDINATES = 4_000_000


def main() -> None:
    """Print measured over predicted distortion for each d and width."""
    table = Table(
        title=f"measured / predicted distortion (predicted), {COORDINATES:,} coordinates a cell, scale 'norm'"
    )
    table.add_column("bits", justify="right")
    dims = (64, 100, 128, 200, 384, 768, 1536, 3072)
    for d in dims:
        table.add_column(f"d={d}", justify="right")
    rows = []
    for nbits in track(range(1, 9), description="encoding", transient=True):
        cells = []
        for d in dims:
            x = unit_vectors(COORDINATES // d, d, seed=nbits)
            tq = tqvec.TurboQuant(d, nbits=nbits, scale="norm", seed=nbits)
            error = tq.decode(tq.encode(x)) - x
            measured = float(np.mean(np.einsum("ij,ij->i", error, error, dtype=np.float64)))
            rows.append({"d": d, "nbits": nbits, "measured": measured, "predicted": tq.distortion})
            cells.append(f"{measured / tq.distortion:.4f} ({tq.distortion:.3g})")
        table.add_row(str(nbits), *cells)
    console.print(table)
    report("distortion", rows)


if __name__ == "__main__":
    main()

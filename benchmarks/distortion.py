"""Is the error what the mathematics says? Squared error of random unit vectors against the exact table.

Below, the trellis codebook's beside it, with the limits between which theory puts an error.
"""

from __future__ import annotations

from _common import console, report, unit_vectors  # isort: skip - sets threads first

from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table

import tqvec

DIMS = (64, 100, 128, 200, 384, 768, 1536, 3072)
COORDINATES = 4_000_000  # a cell
WIDTHS = {"scalar": (1, 2, 3, 4, 5, 6, 7, 8), "trellis": (1, 2, 2.5, 3, 3.5, 4, 5)}
UPPER = 3**0.5 * np.pi / 2  # Theorem 1 of arXiv 2504.19874: D <= UPPER * 4^-bits; Shannon's limit is 4^-bits


def measure(codebook: str, nbits: float, d: int) -> dict[str, Any]:
    """Measured and predicted error of one codec, and the bits of its codes."""
    x = unit_vectors(COORDINATES // d, d, seed=int(2 * nbits))
    tq = tqvec.TurboQuant(d, nbits=nbits, codebook=codebook, scale="norm", seed=int(nbits))
    error = tq.decode(tq.encode(x)) - x
    measured = float(np.mean(np.einsum("ij,ij->i", error, error, dtype=np.float64)))
    bits = sum((band.stop - band.start) * band.nbits for band in tq.bands) / d
    return {
        "codebook": codebook,
        "d": d,
        "nbits": nbits,
        "bits": bits,
        "measured": measured,
        "predicted": tq.distortion,
    }


def scalar_table(rows: list[dict[str, Any]]) -> Table:
    """Measured over predicted error."""
    table = Table(title="scalar: measured / predicted distortion (predicted), scale 'norm'")
    table.add_column("bits", justify="right")
    for d in DIMS:
        table.add_column(f"d={d}", justify="right")
    for nbits in WIDTHS["scalar"]:
        found = [row for row in rows if row["codebook"] == "scalar" and row["nbits"] == nbits]
        cells = [f"{row['measured'] / row['predicted']:.4f} ({row['predicted']:.3g})" for row in found]
        table.add_row(str(nbits), *cells)
    return table


def trellis_table(rows: list[dict[str, Any]]) -> Table:
    """Measured error, and its ratio to the scalar codebook's exact one."""
    table = Table(title="trellis: measured distortion (over the scalar codebook's); limits 4^-bits and 2.72·4^-bits")
    for heading in ("nbits", "bits", "lower", "upper", *(f"d={d}" for d in DIMS)):
        table.add_column(heading, justify="right")
    for nbits in WIDTHS["trellis"]:
        found = [row for row in rows if row["codebook"] == "trellis" and row["nbits"] == nbits]
        bits = found[-1]["bits"]
        scalar = [tqvec.TurboQuant(row["d"], nbits=nbits).distortion for row in found]
        cells = [f"{row['measured']:.3g} ({row['measured'] / s:.3f})" for row, s in zip(found, scalar, strict=True)]
        table.add_row(f"{nbits:g}", f"{bits:g}", f"{4.0**-bits:.3g}", f"{UPPER * 4.0**-bits:.3g}", *cells)
    return table


def main() -> None:
    """Print a table for each codebook."""
    cells = [(codebook, nbits, d) for codebook, widths in WIDTHS.items() for nbits in widths for d in DIMS]
    rows = [measure(*cell) for cell in track(cells, description="encoding", transient=True)]
    console.print(scalar_table(rows))
    console.print(trellis_table(rows))
    report("distortion", rows)


if __name__ == "__main__":
    main()

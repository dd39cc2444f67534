"""What do levels at equal distances cost? The codebooks of tqvec beside uniform and min/max quantisers, at equal bits.

- uniform: 2^b levels at equal distances, for rotated coordinates, with the step that has the least error for the normal
  distribution; one float32 a vector, as tqvec has.
- min/max: 2^b levels from the least to the largest coordinate of a vector, or of each group of 32 coordinates, as is
  common for KV caches; two float16 each. Not rotated, and rotated.

D is the mean squared error of vectors of length 1. Bits count all that is stored. The others are rotated by a random
orthogonal matrix.
"""

from __future__ import annotations

from _common import console, report, unit_vectors  # isort: skip - sets threads first

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.optimize import minimize_scalar
from scipy.stats import norm, ortho_group

import tqvec
from tqvec.eval.sample import load_sample
from tqvec.exact import normalize

D, ROWS, WIDTHS, GROUP, SEED = 384, 2_000, (1, 2, 3, 4, 8), 32, 5
Floats = NDArray[np.float32]
Quantizer = Callable[[Floats, int], tuple[Floats, float]]  # unit vectors and bits to what they decode to, and bits


def ours(codebook: str) -> Quantizer:
    """A codec of tqvec that decodes with the least error."""

    def quantize(x: Floats, nbits: int) -> tuple[Floats, float]:
        tq = tqvec.TurboQuant(D, nbits=nbits, codebook=codebook, scale="norm", seed=1)
        return tq.decode(tq.encode(x)), 8 * tq.code_size / D

    return quantize


def uniform(x: Floats, nbits: int) -> tuple[Floats, float]:
    """Levels at equal distances around 0, for coordinates of variance 1/d."""
    step = best_step(2**nbits) / np.sqrt(D)
    number = np.clip(np.floor(x / step), -(2 ** (nbits - 1)), 2 ** (nbits - 1) - 1)
    return (step * (number + 0.5)).astype(np.float32), nbits + 32 / D


def best_step(levels: int) -> float:
    """The step of the uniform quantiser that has the least squared error for the normal distribution."""
    points = np.linspace(-8, 8, 40_001)
    weights = norm.pdf(points)

    def error(step: float) -> float:
        number = np.clip(np.floor(points / step), -levels // 2, levels // 2 - 1)
        return float(np.sum(weights * (step * (number + 0.5) - points) ** 2))

    return float(minimize_scalar(error, bounds=(1e-3, 4), method="bounded").x)


def min_max(group: int) -> Quantizer:
    """Levels from the least to the largest coordinate of each group."""

    def quantize(x: Floats, nbits: int) -> tuple[Floats, float]:
        parts = x.reshape(len(x), -1, group)
        low, high = (f(parts, axis=2, keepdims=True).astype(np.float16).astype(np.float32) for f in (np.min, np.max))
        step = np.maximum(high - low, 1e-12) / (2**nbits - 1)
        number = np.clip(np.round((parts - low) / step), 0, 2**nbits - 1)
        return (low + step * number).reshape(x.shape), nbits + 32 / group

    return quantize


def main() -> None:
    """Print bits and D of each quantiser."""
    sample = load_sample()
    glosses = normalize(np.asarray(sample.base[:ROWS], np.float32))
    data = {"isotropic": unit_vectors(ROWS, D, seed=SEED), "WordNet": glosses}
    rotation = ortho_group.rvs(D, random_state=SEED).astype(np.float32)
    plain: dict[str, Quantizer] = {"scalar": ours("scalar"), "trellis": ours("trellis")}
    turned: dict[str, Quantizer] = {"uniform": uniform, "min/max": min_max(D), f"min/max of {GROUP}": min_max(GROUP)}
    rows: list[dict[str, Any]] = []
    for name, x in data.items():
        for nbits in WIDTHS:
            cases = [(label, f, x, x) for label, f in plain.items() if (label, nbits) != ("trellis", 8)]
            cases += [(f"{label}, rotated", f, x @ rotation, x @ rotation) for label, f in turned.items()]
            cases += [(label, f, x, x) for label, f in turned.items() if label != "uniform"]
            for label, f, given, true in cases:
                decoded, bits = f(given, nbits)
                error = float(np.mean(np.sum((decoded - true) ** 2, axis=1, dtype=np.float64)))
                rows.append({"data": name, "quantizer": label, "nbits": nbits, "bits": bits, "D": error})
    for name in data:
        table = Table(title=f"{name}, d={D}: D (bits that are stored)")
        labels = list(dict.fromkeys(row["quantizer"] for row in rows))
        for heading in ("quantizer", *(f"{b} bits" for b in WIDTHS)):
            table.add_column(heading, justify="right")
        for label in labels:
            own = {row["nbits"]: row for row in rows if (row["data"], row["quantizer"]) == (name, label)}
            table.add_row(label, *(f"{own[b]['D']:.4g} ({own[b]['bits']:.2f})" if b in own else "" for b in WIDTHS))
        console.print(table)
    report("quantizers", rows)


if __name__ == "__main__":
    main()

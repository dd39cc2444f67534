"""Does a fractional width need two scales, as in the paper, or groups of its own? Squared error of the candidates.

All take the bytes of ``TurboQuant(d, nbits=2.5)`` (or 3.5): a quarter of the coordinates gets one bit more, and 32 bits
go to scales. Data: random directions, and text embeddings, whose coordinates differ in energy.
"""

from __future__ import annotations

from _common import console, report, unit_vectors  # isort: skip - sets threads first

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tqvec
from tqvec.eval.sample import load_sample

Rows = NDArray[np.float32]


def error(x: Rows, decoded: Rows) -> float:
    """Mean squared error of unit rows."""
    gap = decoded.astype(np.float64) - x
    return float(np.mean(np.einsum("ij,ij->i", gap, gap)))


def one_scale(x: Rows, nbits: float, scale: str) -> float:
    """What tqvec does: one rotation, one float32."""
    tq = tqvec.TurboQuant(x.shape[1], nbits=nbits, scale=scale)
    return error(x, tq.decode(tq.encode(x)))


def scale_a_band(x: Rows, nbits: float) -> float:
    """One rotation, and the least-squares scale of each band in float16."""
    tq = tqvec.TurboQuant(x.shape[1], nbits=nbits, scale="norm")
    y = tq.transform.rotate(x).astype(np.float64)
    levels = tq.transform.rotate(tq.decode(tq.encode(x))).astype(np.float64)
    total = 0.0
    for band in tq.bands:
        true, coded = y[:, band.start : band.stop], levels[:, band.start : band.stop]
        best = np.einsum("ij,ij->i", true, coded) / np.einsum("ij,ij->i", coded, coded)
        gap = best.astype(np.float16).astype(np.float64)[:, None] * coded - true
        total += float(np.mean(np.einsum("ij,ij->i", gap, gap)))
    return total


def two_groups(x: Rows, nbits: float, wide: NDArray[np.int64]) -> float:
    """The paper's: the channels `wide` and the others each have a rotation, a codebook and a float16 norm."""
    narrow = np.setdiff1d(np.arange(x.shape[1]), wide)
    total = 0.0
    for seed, (columns, width) in enumerate(((wide, int(nbits) + 1), (narrow, int(nbits)))):
        tq = tqvec.TurboQuant(columns.size, nbits=width, seed=seed, scale="norm")
        codes = tq.encode(x[:, columns])
        halves = tqvec.Codes(codes.data, codes.scale.astype(np.float16).astype(np.float32))
        total += error(x[:, columns], tq.decode(halves))
    return total


def main() -> None:
    """Print the error of each candidate over that of one float32 norm."""
    sample = load_sample().base.astype(np.float32)
    sample /= np.linalg.norm(sample, axis=1, keepdims=True)
    data = {"random, d=128": unit_vectors(20_000, 128, seed=1), "WordNet, d=384": sample}
    table = Table(title="squared error over that of nbits=2.5 or 3.5 with one float32 norm")
    for heading in (
        "data",
        "bits",
        "error",
        "unbiased",
        "least squares",
        "two in float16",
        "groups",
        "groups by energy",
    ):
        table.add_column(heading, justify="right")
    rows = []
    for name, x in data.items():
        count = x.shape[1] // 4
        loudest = np.sort(np.argsort(-np.square(x, dtype=np.float64).mean(axis=0))[:count])
        for nbits in (2.5, 3.5):
            base = one_scale(x, nbits, "norm")
            ratios = [
                one_scale(x, nbits, "unbiased") / base,
                one_scale(x, nbits, "least_squares") / base,
                scale_a_band(x, nbits) / base,
                two_groups(x, nbits, np.arange(count)) / base,
                two_groups(x, nbits, loudest) / base,
            ]
            rows.append({"data": name, "nbits": nbits, "norm": base, "ratios": ratios})
            table.add_row(name, str(nbits), f"{base:.5f}", *(f"{ratio:.4f}" for ratio in ratios))
    console.print(table)
    report("bands", rows)


if __name__ == "__main__":
    main()

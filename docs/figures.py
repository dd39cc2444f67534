"""Draw the figures of the explanation pages from the sample: ``python docs/figures.py`` writes docs/images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import tqvec
from tqvec.eval.sample import load_sample
from tqvec.exact import normalize
from tqvec.reference import codebook

D = 384
IMAGES = Path(__file__).parent / "images"


def draw_rotation() -> Figure:
    """Coordinates of three kinds of vectors, before and after the rotation, beside the density of the codebook."""
    rng = np.random.default_rng(1)
    sparse = np.zeros((1000, D), np.float32)
    np.put_along_axis(sparse, rng.random(sparse.shape).argsort(axis=1)[:, :8], rng.standard_normal((1000, 8)), axis=1)
    kinds = {
        "8 of 384 are not zero": normalize(sparse),
        "geometric, 0.97 to the j": normalize(np.tile(0.97 ** np.arange(D, dtype=np.float32), (1000, 1))),
        "embeddings": normalize(np.asarray(load_sample().base[:1000], np.float32)),
    }
    t = np.linspace(-0.3, 0.3, 401)
    expected = codebook.density(t, D)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharex=True, sharey=True)
    for panel, title in zip(axes, ("as they come", "rotated"), strict=True):
        for name, x in kinds.items():
            parts = np.split(x, 20)
            if title == "rotated":  # each part by a rotation of its own
                parts = [tqvec.TurboQuant(D, seed=i).transform.rotate(part) for i, part in enumerate(parts)]
            panel.hist(np.ravel(parts), bins=91, range=(-0.3, 0.3), density=True, histtype="step", label=name)
        panel.plot(t, expected / np.trapezoid(expected, t), "k", lw=1.2, label="expected by the codebook")
        panel.set(title=f"coordinates, {title}", xlabel="value", yscale="log", ylim=(1e-3, 300))
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    axes[0].set_ylabel("density")
    return figure


def draw_codebook() -> Figure:
    """The levels of 2 and 3 bits on the density of a coordinate, and the borders of their cells."""
    t = np.linspace(-0.2, 0.2, 801)
    density = codebook.density(t, D)
    density /= np.trapezoid(density, t)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
    for panel, nbits in zip(axes, (2, 3), strict=True):
        levels = codebook.frozen(D, nbits)
        borders = codebook.thresholds(levels)
        panel.plot(t, density, "k", lw=1.2)
        panel.fill_between(t, density, where=np.searchsorted(borders, t) % 2 == 0, alpha=0.25)
        panel.vlines(levels, 0, np.interp(levels, t, density), "C3")
        panel.plot(levels, np.zeros_like(levels), "C3o", clip_on=False)
        panel.set(title=f"{nbits} bits: {len(levels)} levels", xlabel="coordinate of a unit vector", ylim=0)
    axes[0].set_ylabel(f"density, d = {D}")
    return figure


def draw_errors() -> Figure:
    """Scores of a query with their bars, and all errors in standard errors beside the normal distribution."""
    sample = load_sample()
    x, queries = (normalize(np.asarray(rows, np.float32)) for rows in (sample.base, sample.queries))
    index = tqvec.Index(D, nbits=2, metric="cosine")
    index.add(x)
    scores, ids, error = index.search(queries, k=40, return_error=True)
    exact = np.einsum("qd,qkd->qk", queries, x[ids])
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    ranks = np.arange(1, 41)
    left.errorbar(ranks, scores[2], 1.96 * error[2], fmt=".", ms=4, lw=0.8, label="score ± 1.96 standard errors")
    left.plot(ranks, exact[2], "k.", ms=4, label="exact")
    left.set(title="results of one query, 2 bits", xlabel="rank", ylabel="cosine")
    left.legend(fontsize=8)
    z = np.linspace(-4, 4, 201)
    right.hist(((scores - exact) / error).ravel(), bins=80, range=(-4, 4), density=True, alpha=0.5)
    right.plot(z, np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), "k", lw=1.2, label="normal")
    right.set(title="40 best results of 500 queries", xlabel="(score − exact) / standard error", yticks=[])
    right.legend(fontsize=8)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "rotation.png": draw_rotation,
    "levels.png": draw_codebook,
    "error-bars.png": draw_errors,
}


def main(folder: Path = IMAGES) -> None:
    """Write all figures to `folder`."""
    for name, draw in FIGURES.items():
        figure = draw()
        figure.savefig(folder / name, dpi=110, metadata={"Software": None})
        plt.close(figure)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

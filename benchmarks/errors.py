"""Are the errors of scores honest? Share of results within z standard errors, and of lists that hold the true best.

Without a folder: isotropic vectors, and the sample. With one: the full set. For "ip" and "l2" its unit vectors get
random lengths, so that the metrics differ. Means over rotations.
"""

from __future__ import annotations

from _common import console, report, unit_vectors  # isort: skip - sets threads first

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

import tqvec
from tqvec.eval.sample import load_sample
from tqvec.exact import normalize

Z = (0.994458, 1.959964, 2.575829)  # 68, 95 and 99 % of a normal distribution
RESULTS = (10, 100)
LISTED = 10  # true best that lists shall hold
PROMISES = (0.9, 0.99)
TRAIN = 8000  # rows, where there are more
DATA_SEED = 20_000  # of the sample and of lengths, not of a rotation

Floats = NDArray[np.float32]
Array = NDArray[np.float64]


class Data(NamedTuple):
    """Vectors and queries, and the metrics to judge by."""

    name: str
    x: Floats
    queries: Floats
    metrics: tuple[str, ...]
    training: tuple[bool, ...]


def datasets(folder: Path | None) -> Iterator[Data]:
    """The full set, or what every checkout has."""
    given = load_sample(folder)
    x, queries = (normalize(np.asarray(rows, np.float32)) for rows in (given.base, given.queries))
    if folder is not None:
        yield Data("WordNet", x, queries, ("cosine", "ip", "l2"), (False, True))
        return
    yield Data("sample", x, queries, ("cosine",), (False, True))
    for d in (128, 768):
        yield Data(f"isotropic, d={d}", unit_vectors(100_000, d, 1), unit_vectors(1000, d, 2), ("cosine",), (False,))


def true_scores(x: Floats, queries: Floats, ids: NDArray[np.int64], metric: str) -> Array:
    """Of the results, (nq, k); unit queries."""
    out = np.empty(ids.shape)
    for q in range(len(ids)):
        rows = x[ids[q]].astype(np.float64)
        out[q] = np.square(rows - queries[q]).sum(axis=1) if metric == "l2" else rows @ queries[q]
    return out


def coverage(index: tqvec.Index, x: Floats, queries: Floats, k: int) -> dict[str, Any]:
    """Shares of the best `k` scores within z errors, and their mean error by its root mean square."""
    scores, ids, error = index.search(queries, k=k, return_error=True)
    off = scores - true_scores(x, queries, ids, index.metric)
    within = [float(np.mean(np.abs(off) <= z * error)) for z in Z]
    return {"k": k, "within": within, "lean": float(np.mean(off) / np.sqrt(np.mean(np.square(off))))}


def kth_best(data: Data) -> Array:
    """True cosine of the k-th best, (nq,); unit vectors."""
    out = np.empty(len(data.queries))
    for q in range(0, len(out), 100):
        block = data.queries[q : q + 100] @ data.x.T
        best = np.argpartition(-block, LISTED + 4, axis=1)[:, : LISTED + 5]  # float32 may swap a few
        out[q : q + 100] = np.sort(true_scores(data.x, data.queries[q : q + 100], best, "cosine"), axis=1)[:, -LISTED]
    return out


def completeness(index: tqvec.Index, data: Data, kth: Array) -> list[dict[str, Any]]:
    """Share of lists that hold the true best of unit vectors, and how long they are."""
    rows = []
    for promise in PROMISES:
        ids = index.search(data.queries, k=LISTED, confidence=promise)[1]
        true = np.where(ids < 0, -np.inf, true_scores(data.x, data.queries, ids, "cosine"))
        whole = np.sum(true >= kth[:, None] - 1e-9, axis=1) >= LISTED
        length = np.sum(ids >= 0, axis=1)
        found = {"promised": promise, "kept": float(whole.mean()), "median": float(np.median(length))}
        rows.append(found | {"mean": float(length.mean()), "longest": int(length.max())})
    return rows


def cell(data: Data, kth: Array, metric: str, nbits: int, codebook: str, trained: bool, seed: int) -> dict[str, Any]:
    """All figures of one index."""
    rng = np.random.default_rng(DATA_SEED)
    x = data.x if metric == "cosine" else data.x * rng.uniform(0.8, 1.25, (len(data.x), 1)).astype(np.float32)
    index = tqvec.Index(x.shape[1], nbits=nbits, metric=metric, codebook=codebook, seed=seed)
    if trained:
        index.train(x[np.random.default_rng([DATA_SEED, seed]).permutation(len(x))[:TRAIN]])
    index.add(x)
    found: dict[str, Any] = {"data": data.name, "metric": metric, "nbits": nbits, "codebook": codebook}
    found |= {"trained": trained, "seed": seed, "coverage": [coverage(index, x, data.queries, k) for k in RESULTS]}
    if metric == "cosine":
        found["lists"] = completeness(index, data, kth)
    return found


def show(rows: list[dict[str, Any]], bits: list[int]) -> None:
    """A line for each kind of index, a column for each width; means over seeds."""
    kinds = list(dict.fromkeys((r["data"], r["metric"], r["codebook"], r["trained"]) for r in rows))

    def mean(kind: tuple[Any, ...], nbits: int, pick: Any) -> Array:
        same = [r for r in rows if (r["data"], r["metric"], r["codebook"], r["trained"], r["nbits"]) == (*kind, nbits)]
        return np.mean([pick(r) for r in same], axis=0)

    for i, k in enumerate(RESULTS):
        table = Table(title=f"% within .99, 1.96 and 2.58 errors (68, 95, 99 promised), k = {k}; mean error by its rms")
        for heading in ("data, metric, codebook", *(f"{nbits} bits" for nbits in bits)):
            table.add_column(heading)
        for kind in kinds:
            texts = []
            for nbits in bits:
                shares = 100 * mean(kind, nbits, lambda r, i=i: r["coverage"][i]["within"])
                lean = mean(kind, nbits, lambda r, i=i: r["coverage"][i]["lean"])
                texts.append(" ".join(f"{share:.1f}" for share in shares) + f" ({lean:+.2f})")
            table.add_row(", ".join([*kind[:3], *(["trained"] if kind[3] else [])]), *texts)
        console.print(table)
    table = Table(title=f"% of lists with all of the true best {LISTED}; median, mean and greatest length")
    for heading in ("data, codebook", "promised", *(f"{nbits} bits" for nbits in bits)):
        table.add_column(heading)
    for kind in (kind for kind in kinds if kind[1] == "cosine"):
        for i, promise in enumerate(PROMISES):
            texts = []
            for nbits in bits:
                pick = ("kept", "median", "mean", "longest")
                kept, *length = mean(kind, nbits, lambda r, i=i, pick=pick: [r["lists"][i][name] for name in pick])
                texts.append(f"{100 * kept:.1f}: " + ", ".join(f"{value:.0f}" for value in length))
            table.add_row(", ".join([kind[0], kind[2], *(["trained"] if kind[3] else [])]), str(promise), *texts)
    console.print(table)


def main() -> None:
    """Build every index, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="the full set; default: sample and isotropic vectors")
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    cells = [
        (data, kth, metric, nbits, codebook, trained, seed)
        for data, kth in ((data, kth_best(data)) for data in datasets(arguments.folder))
        for metric in data.metrics
        for codebook in ("scalar", "trellis")
        for trained in data.training
        for nbits in arguments.bits
        for seed in range(arguments.seeds)
    ]
    rows = [cell(*what) for what in track(cells, description="building", transient=True)]
    show(rows, arguments.bits)
    report("errors" if arguments.folder is None else "errors-wordnet", rows)


if __name__ == "__main__":
    main()

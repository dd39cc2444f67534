"""How far is the recall that `Index.diagnose` estimates from the true one? On real data and on many kinds of made data.

Three methods: from codes and queries; from codes alone, where stored rows search for the others; and from codes and a
fifth of the vectors, for the queries again. True recall is against exact search in float64, where a result that ties
with the true k-th counts: of the same queries, or of 2,000 stored rows, while the diagnosis draws 500 others.

A run of some sets is written under the name of `--part`; `--merge` joins all parts and prints the shares.
"""

from __future__ import annotations

from _common import RESULTS, console, report  # isort: skip - sets threads first

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import tqvec
from tqvec.eval.readers import read_vectors
from tqvec.eval.sample import sample_folder

QUERIES = 500
OWN = 2000  # stored rows that search for the others, for the true recall of codes alone
TRAINED = 8000  # rows to train on
METHODS = ("queries", "codes", "sample")
DATA_SEED = 30_000  # of data, never of a rotation

Floats = NDArray[np.float32]
Data = tuple[str, Floats, Floats]  # metric, vectors, queries


def draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(DATA_SEED + seed)


def real(folder: Path, n: int | None = None) -> Data:
    """Read all vectors of a folder, or `n` random ones."""
    base, queries = (read_vectors(folder / f"{name}_f16.npy") for name in ("base", "queries"))
    rows = draw(1).permutation(len(base))[:n]
    return "cosine", base[np.sort(rows)].astype(np.float32), queries.astype(np.float32)


def isotropic(d: int) -> Data:
    rng = draw(d)
    return "ip", rng.standard_normal((50_000, d), np.float32), rng.standard_normal((QUERIES, d), np.float32)


def clusters(count: int, spread: float) -> Data:
    """Draw Gaussian clusters around Gaussian centres, and queries from the same clusters."""
    rng = draw(2)
    centres = rng.standard_normal((count, 128), np.float32)

    def some(n: int) -> Floats:
        return centres[rng.integers(0, count, n)] + np.float32(spread) * rng.standard_normal((n, 128), np.float32)

    return "cosine", some(50_000), some(QUERIES)


def sparse() -> Data:
    """Draw rows with 12 of 256 coordinates, some of them far more often than others."""
    rng = draw(3)
    often = 1 / np.arange(1, 257) ** 0.7

    def some(n: int) -> Floats:
        x = np.zeros((n, 256), np.float32)
        for row in x:
            row[rng.choice(256, 12, replace=False, p=often / often.sum())] = rng.exponential(size=12)
        return x

    return "cosine", some(50_000), some(QUERIES)


def duplicates(folder: Path, noise: float) -> Data:
    """Repeat few vectors; with noise, copies differ a little."""
    metric, x, queries = real(folder)
    x = x[draw(4).integers(0, min(15_000, len(x) // 3), min(50_000, len(x)))]
    return metric, x + np.float32(noise) * draw(5).standard_normal(x.shape, np.float32), queries


def lengths(folder: Path, metric: str) -> Data:
    """Scale vectors of a folder to log-normal lengths."""
    _, x, queries = real(folder, 50_000)
    return metric, x * np.exp(0.3 * draw(6).standard_normal((len(x), 1), np.float32)), queries


def anisotropic(metric: str) -> Data:
    """Draw rows around a common point with variances that fall as 1/j."""
    rng = draw(7)
    scale = (2 / np.sqrt(np.arange(1, 65))).astype(np.float32)
    return metric, *(rng.standard_normal((n, 64), np.float32) * scale + np.float32(0.3) for n in (50_000, QUERIES))


def sets(folders: list[Path]) -> dict[str, Callable[[], Data]]:
    """Return functions that load or draw each data set, by name; variants of real data use the first folder."""
    first = folders[0]
    return {
        **{folder.resolve().name: lambda folder=folder: real(folder) for folder in folders},
        "10,000 of the first": lambda: real(first, 10_000),
        "duplicates": lambda: duplicates(first, 0.0),
        "near-duplicates": lambda: duplicates(first, 0.02),
        "lengths, ip": lambda: lengths(first, "ip"),
        "lengths, l2": lambda: lengths(first, "l2"),
        "isotropic, d=64": lambda: isotropic(64),
        "isotropic, d=128": lambda: isotropic(128),
        "isotropic, d=768": lambda: isotropic(768),
        "clusters": lambda: clusters(500, 0.5),
        "tight clusters": lambda: clusters(2000, 0.15),
        "sparse": sparse,
        "anisotropic, d=64, l2": lambda: anisotropic("l2"),
    }


class Truth:
    """Exact k-th best scores of queries, to measure recall by; row `own` of each query doesn't count."""

    def __init__(self, data: Data, queries: Floats, k: int, own: NDArray[np.int64] | None = None):
        self.asking, self.metric, self.k, self.own = queries, data[0], k, own
        self.queries, self.rows = queries.astype(np.float64), data[1].astype(np.float64)
        if self.metric == "cosine":
            self.queries /= np.linalg.norm(self.queries, axis=1, keepdims=True)
            self.rows /= np.linalg.norm(self.rows, axis=1, keepdims=True)
        self.squares = np.sum(np.square(self.rows), axis=1) if self.metric == "l2" else None
        self.least = np.concatenate([self._kth(q) for q in range(0, len(queries), 50)])

    def _larger(self, products: NDArray[np.float64], ids: NDArray[np.int64] | slice) -> NDArray[np.float64]:
        return products if self.squares is None else 2 * products - self.squares[ids]

    def _kth(self, q: int) -> NDArray[np.float64]:
        scores = self._larger(self.queries[q : q + 50] @ self.rows.T, slice(None))
        tie = 1e-9 * np.abs(scores).max(axis=1)
        if self.own is not None:
            scores[np.arange(len(scores)), self.own[q : q + 50]] = -np.inf
        return -np.partition(-scores, self.k - 1, axis=1)[:, self.k - 1] - tie

    def recall(self, index: tqvec.Index) -> float:
        ids = index.search(self.asking, k=self.k + (self.own is not None))[1]
        if self.own is not None:
            order = np.argsort(ids == self.own[:, None], axis=1, kind="stable")
            ids = np.take_along_axis(ids, np.sort(order[:, : self.k], axis=1), axis=1)
        products = np.einsum("qd,qkd->qk", self.queries, self.rows[ids])
        return float(np.mean(self._larger(products, ids) >= self.least[:, None]))


def cells(data: Data, widths: list[int], k: int, codebooks: list[str], train: bool) -> Iterator[dict[str, Any]]:
    """Yield a row for each index: true recall and its estimates by the three methods."""
    metric, x, queries = data
    queries = queries[:QUERIES]
    own = draw(8).permutation(len(x))[:OWN]
    queries_truth, rows_truth = Truth(data, queries, k), Truth(data, x[own], k, own)
    fifth = x[draw(9).permutation(len(x))[: len(x) // 5]]
    for codebook, trained, nbits in itertools.product(codebooks, (False, True)[: 1 + train], widths):
        index = tqvec.Index(x.shape[1], nbits=nbits, metric=metric, codebook=codebook)
        if trained and not index.train(x[draw(10).permutation(len(x))[:TRAINED]]).accepted:
            continue
        index.add(x)
        row: dict[str, Any] = {"index": f"{nbits} bits, {codebook}" + (", trained" if trained else "")}
        of_queries, of_rows = queries_truth.recall(index), rows_truth.recall(index)
        for method, arguments, true in (
            ("queries", {"queries": queries}, of_queries),
            ("codes", {}, of_rows),
            ("sample", {"queries": queries, "sample": fifth}, of_queries),
        ):
            start = time.perf_counter()
            diagnosis = index.diagnose(k=k, **arguments)
            seconds = time.perf_counter() - start
            values = {"true": true, "estimate": diagnosis.recall, "interval": diagnosis.interval}
            row[method] = values | {"method": diagnosis.method, "seconds": seconds}
        row["alternatives"] = [other._asdict() for other in diagnosis.alternatives]
        yield row


def summary(rows: list[dict[str, Any]]) -> None:
    """Print how near each method is to the truth, over all cells, and where it is farthest off."""
    for method in METHODS:
        off = np.array([row[method]["estimate"] - row[method]["true"] for row in rows])
        inside = np.mean(
            [row[method]["interval"][0] <= row[method]["true"] <= row[method]["interval"][1] for row in rows]
        )
        worst = [f"{off[at]:+.3f} {rows[at]['data']} {rows[at]['index']}" for at in np.argsort(-np.abs(off))[:5]]
        console.print(
            f"{method}: {np.mean(np.abs(off) <= 0.02):.0%} of {off.size} cells within 0.02, root mean square "
            f"{np.sqrt(np.mean(off**2)):.4f}, {inside:.0%} inside the interval; worst: {'; '.join(worst)}"
        )


def merge() -> list[dict[str, Any]]:
    """Join the rows of all parts into one report, and remove their files."""
    parts = sorted(RESULTS.glob("diagnose-part-*.json"))
    rows = [row for path in parts for row in json.loads(path.read_text())["rows"]]
    report("diagnose", rows)
    for path in parts:
        path.unlink()
    return rows


def main() -> None:
    """Print true and estimated recall for every set, width and codebook."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", type=Path, nargs="*", help="with base_f16.npy and queries_f16.npy; default: the sample"
    )
    parser.add_argument("--sets", nargs="+", help="only these")
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--codebooks", nargs="+", default=["scalar", "trellis"])
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--part", help="name of this run's results, to be merged")
    parser.add_argument("--merge", action="store_true", help="join the results of parts, and run nothing")
    arguments = parser.parse_args()
    if arguments.merge:
        summary(merge())
        return
    loaders = sets(arguments.folders or [sample_folder()])
    rows: list[dict[str, Any]] = []
    for name in arguments.sets or loaders:
        table = Table(title=f"recall {arguments.k}@{arguments.k}, estimated and off the truth, on {name}")
        for column in ("index", "queries", "", "codes alone", "", "with a fifth", ""):
            table.add_column(column, justify="right")
        for row in cells(loaders[name](), arguments.bits, arguments.k, arguments.codebooks, not arguments.no_training):
            rows.append({"data": name, "k": arguments.k, **row})
            values = [(row[method]["estimate"], row[method]["estimate"] - row[method]["true"]) for method in METHODS]
            line = [text for value, off in values for text in (f"{value:.3f}", f"{off:+.3f}")]
            table.add_row(row["index"], *line)
            console.print(f"{name}: {row['index']}: {' '.join(line)}; {row['sample']['seconds']:.0f} s")
        console.print(table)
        report("diagnose" + (f"-part-{arguments.part}" if arguments.part else ""), rows)
    summary(rows)


if __name__ == "__main__":
    main()

"""How far is the recall that `Index.diagnose` tells from the true one? On real data and on made data of many kinds.

Three ways: from codes and queries; from codes alone, where stored rows ask for the others; and from codes and a fifth
of the vectors, for the queries again. True recall is that of exact search in float64, where a result that ties with the
true k-th counts: of the same queries, or of 2,000 stored rows, of which the diagnosis asks other 500.

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
OWN = 2000  # stored rows that the truth of codes alone is for
TRAINED = 8000  # rows to train on
WAYS = ("queries", "codes", "sample")
DATA_SEED = 30_000  # of data, never of a rotation

Floats = NDArray[np.float32]
Data = tuple[str, Floats, Floats]  # metric, vectors, queries


def draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(DATA_SEED + seed)


def real(folder: Path, n: int | None = None) -> Data:
    """All vectors of a folder, or some."""
    base, queries = (read_vectors(folder / f"{name}_f16.npy") for name in ("base", "queries"))
    rows = draw(1).permutation(len(base))[:n]
    return "cosine", base[np.sort(rows)].astype(np.float32), queries.astype(np.float32)


def isotropic(d: int) -> Data:
    rng = draw(d)
    return "ip", rng.standard_normal((50_000, d), np.float32), rng.standard_normal((QUERIES, d), np.float32)


def clusters(count: int, spread: float) -> Data:
    """Gaussian clusters around Gaussian centres; queries come from them too."""
    rng = draw(2)
    centres = rng.standard_normal((count, 128), np.float32)

    def some(n: int) -> Floats:
        return centres[rng.integers(0, count, n)] + np.float32(spread) * rng.standard_normal((n, 128), np.float32)

    return "cosine", some(50_000), some(QUERIES)


def sparse() -> Data:
    """12 of 256 coordinates, some of them far more often than others."""
    rng = draw(3)
    often = 1 / np.arange(1, 257) ** 0.7

    def some(n: int) -> Floats:
        x = np.zeros((n, 256), np.float32)
        for row in x:
            row[rng.choice(256, 12, replace=False, p=often / often.sum())] = rng.exponential(size=12)
        return x

    return "cosine", some(50_000), some(QUERIES)


def duplicates(folder: Path, noise: float) -> Data:
    """Few vectors, each some times; with noise, almost the same."""
    metric, x, queries = real(folder)
    x = x[draw(4).integers(0, min(15_000, len(x) // 3), min(50_000, len(x)))]
    return metric, x + np.float32(noise) * draw(5).standard_normal(x.shape, np.float32), queries


def lengths(folder: Path, metric: str) -> Data:
    """With log-normal lengths."""
    _, x, queries = real(folder, 50_000)
    return metric, x * np.exp(0.3 * draw(6).standard_normal((len(x), 1), np.float32)), queries


def anisotropic(metric: str) -> Data:
    """Variances that fall as 1/j, around a common point."""
    rng = draw(7)
    scale = (2 / np.sqrt(np.arange(1, 65))).astype(np.float32)
    return metric, *(rng.standard_normal((n, 64), np.float32) * scale + np.float32(0.3) for n in (50_000, QUERIES))


def sets(folders: list[Path]) -> dict[str, Callable[[], Data]]:
    """By name; what is made from real data takes the first folder."""
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
    """Exact k-th best scores of queries, to judge results by; `own` are rows that don't count."""

    def __init__(self, data: Data, queries: Floats, k: int, own: NDArray[np.int64] | None = None):
        self.asked, self.metric, self.k, self.own = queries, data[0], k, own
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
        ids = index.search(self.asked, k=self.k + (self.own is not None))[1]
        if self.own is not None:
            order = np.argsort(ids == self.own[:, None], axis=1, kind="stable")
            ids = np.take_along_axis(ids, np.sort(order[:, : self.k], axis=1), axis=1)
        products = np.einsum("qd,qkd->qk", self.queries, self.rows[ids])
        return float(np.mean(self._larger(products, ids) >= self.least[:, None]))


def cells(data: Data, widths: list[int], k: int, codebooks: list[str], train: bool) -> Iterator[dict[str, Any]]:
    """A row for each index: true recall, and what was told, by the three ways."""
    metric, x, queries = data
    queries = queries[:QUERIES]
    own = draw(8).permutation(len(x))[:OWN]
    asked, stored = Truth(data, queries, k), Truth(data, x[own], k, own)
    fifth = x[draw(9).permutation(len(x))[: len(x) // 5]]
    for codebook, trained, nbits in itertools.product(codebooks, (False, True)[: 1 + train], widths):
        index = tqvec.Index(x.shape[1], nbits=nbits, metric=metric, codebook=codebook)
        if trained and not index.train(x[draw(10).permutation(len(x))[:TRAINED]]).used:
            continue
        index.add(x)
        row: dict[str, Any] = {"index": f"{nbits} bits, {codebook}" + (", trained" if trained else "")}
        of_queries, of_rows = asked.recall(index), stored.recall(index)
        for way, arguments, true in (
            ("queries", {"queries": queries}, of_queries),
            ("codes", {}, of_rows),
            ("sample", {"queries": queries, "sample": fifth}, of_queries),
        ):
            start = time.perf_counter()
            found = index.diagnose(k=k, **arguments)
            seconds = time.perf_counter() - start
            told = {"true": true, "told": found.recall, "interval": found.interval}
            row[way] = told | {"way": found.way, "seconds": seconds}
        row["options"] = [option._asdict() for option in found.options]
        yield row


def summary(rows: list[dict[str, Any]]) -> None:
    """Print how near each way is to the truth, over all cells, and where it is farthest off."""
    for way in WAYS:
        off = np.array([row[way]["told"] - row[way]["true"] for row in rows])
        inside = np.mean([row[way]["interval"][0] <= row[way]["true"] <= row[way]["interval"][1] for row in rows])
        worst = [f"{off[at]:+.3f} {rows[at]['data']} {rows[at]['index']}" for at in np.argsort(-np.abs(off))[:5]]
        console.print(
            f"{way}: {np.mean(np.abs(off) <= 0.02):.0%} of {off.size} cells within .02, root mean square "
            f"{np.sqrt(np.mean(off**2)):.4f}, {inside:.0%} inside the interval; worst: {'; '.join(worst)}"
        )


def merged() -> list[dict[str, Any]]:
    """Rows of all parts, whose files are removed once they are joined."""
    parts = sorted(RESULTS.glob("diagnose-part-*.json"))
    rows = [row for path in parts for row in json.loads(path.read_text())["rows"]]
    report("diagnose", rows)
    for path in parts:
        path.unlink()
    return rows


def main() -> None:
    """Print true and told recall for every set, width and codebook."""
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
        summary(merged())
        return
    made = sets(arguments.folders or [sample_folder()])
    rows: list[dict[str, Any]] = []
    for name in arguments.sets or made:
        table = Table(title=f"recall {arguments.k}@{arguments.k}, told and true, on {name}")
        for column in ("index", "queries", "", "codes alone", "", "with a fifth", ""):
            table.add_column(column, justify="right")
        for row in cells(made[name](), arguments.bits, arguments.k, arguments.codebooks, not arguments.no_training):
            rows.append({"data": name, "k": arguments.k, **row})
            told = [(row[way]["told"], row[way]["told"] - row[way]["true"]) for way in WAYS]
            line = [text for value, off in told for text in (f"{value:.3f}", f"{off:+.3f}")]
            table.add_row(row["index"], *line)
            console.print(f"{name}: {row['index']}: {' '.join(line)}; {row['sample']['seconds']:.0f} s")
        console.print(table)
        report("diagnose" + (f"-part-{arguments.part}" if arguments.part else ""), rows)
    summary(rows)


if __name__ == "__main__":
    main()

"""Snapshot: the index as one search sees it. Later changes of the index do not show in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._present import brief
from tqvec._types import Doubles, Floats, Ids, Words
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant
from tqvec.exact import squared_norms
from tqvec.index.blocks import ALL, Block, empty_block
from tqvec.index.metrics import Metric
from tqvec.index.rows import Rows
from tqvec.index.scanner import Scanner

_HEAP_ENTRIES = 1 << 24  # results that all threads hold for one batch of queries


class Results(NamedTuple):
    """The best rows for each query, best first.

    Attributes
    ----------
    scores : (nq, k) float32
        As `Index.search` returns them.
    rows : (nq, k) int64
        Row numbers, counted through all blocks; -1 for an empty entry.
    error : (nq, k) float32, optional
        Standard error of each score.
    """

    scores: Floats
    rows: Ids
    error: Floats | None = None

    def __repr__(self) -> str:
        return brief(self)

    def padded(self, k: int, worst: float) -> Results:
        """Return at least `k` columns; empty entries have the score `worst`."""
        missing = k - self.rows.shape[1]
        if missing <= 0:
            return self
        width = (0, 0), (0, missing)
        error = None if self.error is None else np.pad(self.error, width, constant_values=np.inf)
        return Results(
            np.pad(self.scores, width, constant_values=worst), np.pad(self.rows, width, constant_values=-1), error
        )


@dataclass(frozen=True)
class Snapshot:
    """The rows of an index at one moment, those that a search may return, and the codec to read them with.

    Row numbers are counted through all blocks, removed rows included.

    Attributes
    ----------
    codec : TurboQuant
    metric : Metric
    scanner : Scanner
        Of this codec.
    blocks : tuple of Block
    allowed : list of arrays
        For each block the bits of the rows that may be returned; `ALL` for every row.
    threads : int
    """

    codec: TurboQuant
    metric: Metric
    scanner: Scanner
    blocks: tuple[Block, ...]
    allowed: list[Words]
    threads: int

    def __repr__(self) -> str:
        return brief(self)

    @cached_property
    def ntotal(self) -> int:
        """Number of rows that may be returned."""
        return sum(
            block.n if allowed.size == 0 else int(np.bitwise_count(allowed).sum())
            for block, allowed in zip(self.blocks, self.allowed, strict=True)
        )

    def best(self, queries: Floats, k: int) -> tuple[Floats, Ids]:
        """Return the `k` best rows for each query.

        Parameters
        ----------
        queries : (nq, d) float32
            Checked.
        k : int
            At most `ntotal`.

        Returns
        -------
        scores : (nq, k) float32
            As `Index.search` returns them, best first.
        rows : (nq, k) int64
        """
        scores, rows = self.estimates(queries, k)
        return scores if self.metric.larger_is_better else np.maximum(scores, 0.0), rows

    def estimates(self, queries: Floats, k: int) -> tuple[Floats, Ids]:
        """Return the same as `best`, but squared distances without bias: small ones may be below 0."""
        l2 = self.metric is Metric.L2
        shifted = queries - self.codec.centre if l2 else queries  # distances don't change
        nq = shifted.shape[0]
        scores, rows = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
        batch = max(1, _HEAP_ENTRIES // (max(1, k) * self.threads))
        for q in range(0, nq if k else 0, batch):
            part = slice(q, q + batch)
            scores[part], rows[part] = self.scanner.search(
                self.blocks, self.allowed, self.ntotal, shifted[part], k, self.threads
            )
        if l2:
            return (squared_norms(shifted)[:, None] - scores.astype(np.float64)).astype(np.float32), rows
        if self.codec.rotation != "calibrated":
            return scores, rows
        return (scores + centre_scores(self.codec, self.metric, shifted)[:, None]).astype(np.float32), rows

    def gather(self, rows: Ids, names: Iterable[str]) -> Rows:
        """Return some of the stored arrays for row numbers of any shape; -1 gives any row, and no blocks zeros."""
        if not self.blocks:
            return {name: np.zeros(rows.shape, np.float32) for name in names}
        starts = self._starts
        block_of = np.clip(np.searchsorted(starts, rows, side="right") - 1, 0, len(self.blocks) - 1)
        gathered = {}
        for name in names:
            like = self.blocks[0].rows[name]
            out = np.empty((*rows.shape, *like.shape[1:]), like.dtype)
            for b, block in enumerate(self.blocks):
                mine = block_of == b
                out[mine] = block.rows[name][np.maximum(rows[mine] - starts[b], 0)]
            gathered[name] = out
        return gathered

    def column(self, rows: Ids, name: str) -> NDArray:
        """Return one of the stored arrays for row numbers of any shape."""
        return self.gather(rows, (name,))[name]

    def codes(self, rows: Ids) -> Codes:
        """Return codes and scales of rows, (n,)."""
        stored = self.gather(rows, ("codes", "scale"))
        return Codes(stored["codes"], stored["scale"])

    def decode(self, rows: Ids) -> Floats:
        """Return decompressed rows, (n, d) float32."""
        if rows.size == 0:  # there may be no block
            return np.empty((0, self.codec.d), np.float32)
        return self.codec.decode(self.codes(rows), threads=self.threads)

    def decode_unbiased(self, rows: Ids, threads: int | None = None) -> Floats:
        """Return decompressed rows whose products with queries are the estimates of a search, (n, d) float32."""
        return self.codec.decode_unbiased(self.codes(rows), threads=threads)

    def live_rows(self) -> Ids:
        """Return the numbers of all rows that were not removed, in order."""
        rows = [block.live_rows() + start for block, start in zip(self.blocks, self._starts, strict=False)]
        return np.concatenate([np.zeros(0, np.int64), *rows])

    def ids_of(self, rows: Ids) -> Ids:
        """Return the ids of row numbers of any shape; -1 stays."""
        ids = np.full(rows.shape, -1, np.int64)
        for start, block in zip(self._starts, self.blocks, strict=False):
            mine = (rows >= start) & (rows < start + block.n)
            ids[mine] = block.ids_of(rows[mine] - start)
        return ids

    def plain(self) -> TurboQuant:
        """Return the codec without its calibration."""
        codec = self.codec
        if codec.calibration is None:
            return codec
        return TurboQuant(codec.d, codec.nbits, codebook=codec.codebook, seed=codec.seed)

    @property
    def _starts(self) -> list[int]:
        """Number of the first row of each block, and of all rows."""
        return list(accumulate((block.n for block in self.blocks), initial=0))


def centre_scores(codec: TurboQuant, metric: str, queries: Floats) -> Doubles:
    """Return the part of "ip" and "cosine" scores that is due to the centre of a calibrated codec, (nq,)."""
    products = codec.transform.centre_products(queries)
    if metric == Metric.COSINE:
        length = np.sqrt(squared_norms(queries))
        products = np.divide(products, length, out=np.zeros_like(products), where=length > 0)
    return products


def snapshot_of_rows(codec: TurboQuant, metric: Metric, rows: Rows, threads: int) -> Snapshot:
    """Return a snapshot of rows that are in no index; they are numbered from 0."""
    scanner = Scanner(codec, metric)
    block = empty_block(rows, scanner.prefixes).extended(rows, 0)
    return Snapshot(codec=codec, metric=metric, scanner=scanner, blocks=(block,), allowed=[ALL], threads=threads)

"""Views: the rows that one search sees. A snapshot has those of an index, as they are at one moment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._locks import cached_property
from tqvec._present import brief
from tqvec._types import Doubles, Floats, Ids, Words
from tqvec._validate import first_bad_row
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError
from tqvec.exact import squared_norms
from tqvec.index.blocks import ALL, Block, empty_block
from tqvec.index.metrics import Metric
from tqvec.index.partition.partition import Routing
from tqvec.index.probes import Probes
from tqvec.index.rows import Rows
from tqvec.index.scanner import Scanner

_FIRST_HITS = 64  # results of the first round of a range search; each further round asks for four times as many
_MOST_PADDED = 1 << 20  # results up to which missing ones are padded: a larger k means all that there are
_MOST_PROBED = 0.5  # of all lists, above which a scan of all rows takes less time
_ALONE = 8  # times as long takes a row that a filter lets in on its own, as one of a list
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


@dataclass(frozen=True, kw_only=True, repr=False)
class View(ABC):
    """The rows that a search may return, and the codec to read them with. Subclasses know where the rows are.

    Attributes
    ----------
    codec : TurboQuant
    metric : Metric
    threads : int
    routing : Routing, optional
        Which lists of a partitioned index queries probe; all rows without it.
    """

    codec: TurboQuant
    metric: Metric
    threads: int
    routing: Routing | None = None

    def __repr__(self) -> str:
        return brief(self)

    @property
    @abstractmethod
    def n(self) -> int:
        """Number of all rows, those included that a filter leaves out and those that were removed."""

    @property
    @abstractmethod
    def ntotal(self) -> int:
        """Number of rows that may be returned."""

    @property
    def heaps(self) -> int:
        """Number of times that a scan holds the results of a query, before it merges them."""
        return self.threads

    @abstractmethod
    def scan(self, shifted: Floats, k: int) -> tuple[Floats, Ids]:
        """Return scores and numbers of the `k` best rows for each query, as `Scanner.search` does."""

    @abstractmethod
    def scan_lists(self, shifted: Floats, k: int, probes: Probes) -> tuple[Floats, Ids]:
        """Return the same of the lists that each query probes, as `Scanner.search_lists` does."""

    @abstractmethod
    def scalars(self, rows: Ids) -> Rows:
        """Return the numbers that rows keep beside their codes, for row numbers of any shape; -1 gives any."""

    @abstractmethod
    def ids_of(self, rows: Ids) -> Ids:
        """Return the ids of row numbers of any shape; -1 stays."""

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
            As `Index.search` returns them, best first: in the order of the estimates, within the bounds of the metric.
        rows : (nq, k) int64

        Raises
        ------
        InputError
            A score is beyond float32.
        """
        scores, rows = self.estimates(queries, k)
        query = first_bad_row(scores)
        if query is not None:
            raise InputError(
                f"queries row {query} is too long: its scores are beyond float32, so their order is lost; scale "
                "queries or stored vectors down, or if they are short, load the file with verify=True"
            )
        if self.metric.bounds is not None:
            low, high = self.metric.bounds
            scores = np.minimum(np.maximum(scores, low), high)  # np.clip takes five times as long for a few scores
        return scores, rows

    def estimates(self, queries: Floats, k: int) -> tuple[Floats, Ids]:
        """Return the same as `best` without bias: cosines may be above 1, squared distances below 0, all infinite."""
        l2, has_centre = self.metric is Metric.L2, self.codec.rotation == "calibrated"
        shifted = queries - self.codec.centre if l2 and has_centre else queries  # distances don't change
        scores, rows = self._scan(shifted, k, queries)
        if not l2 and not has_centre:
            return scores, rows
        shift = squared_norms(shifted) if l2 else centre_scores(self.codec, self.metric, shifted)
        with np.errstate(over="ignore"):
            return (shift[:, None] - scores if l2 else shift[:, None] + scores).astype(np.float32), rows

    def _scan(self, shifted: Floats, k: int, queries: Floats) -> tuple[Floats, Ids]:
        """Return scores without the part that all rows share, and rows; of so many queries at a time that heaps fit.

        `shifted` are queries relative to the centre of the codec for l2.
        """
        nq, batch = shifted.shape[0], max(1, _HEAP_ENTRIES // (max(1, k) * self.heaps))
        if 0 < nq <= batch and k:
            return self._route(shifted, k, queries)
        scores, rows = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
        for q in range(0, nq if k else 0, batch):
            part = slice(q, q + batch)
            scores[part], rows[part] = self._scan(shifted[part], k, queries[part])
        return scores, rows

    def _route(self, shifted: Floats, k: int, queries: Floats) -> tuple[Floats, Ids]:
        """Scan lists, or all rows: where that takes less time, and where the lists of a query have fewer than `k`."""
        if self.routing is None:
            return self.scan(shifted, k)
        probes = self.routing.probes(queries, k, self.threads)
        if len(queries) == 1:  # NumPy would take longer for arrays of one than the search of the lists
            if probes.lists.size / self.routing.partition.nlist <= self._most_probed:
                scores, rows = self.scan_lists(shifted, k, probes)
                if rows[0, -1] >= 0:
                    return scores, rows
            return self.scan(shifted, k)
        few = np.diff(probes.first) / self.routing.partition.nlist <= self._most_probed
        scores, rows = np.empty((len(queries), k), np.float32), np.full((len(queries), k), -1, np.int64)
        if few.any():
            scores[few], rows[few] = self.scan_lists(shifted[few], k, probes.some(few))
        rest = rows[:, -1] < 0
        if rest.any():
            scores[rest], rows[rest] = self.scan(shifted[rest], k)
        return scores, rows

    @property
    def _most_probed(self) -> float:
        """Share of all lists of which a query is compared with the rows faster than with all."""
        return min(_MOST_PROBED, _ALONE * self.ntotal / max(1, self.n))

    def within(self, queries: Floats, radius: float) -> list[tuple[Floats, Ids]]:
        """Return scores and rows of all rows that are better than `radius`, best first, for each query."""
        hits: list[tuple[Floats, Ids]] = [(np.zeros(0, np.float32), np.zeros(0, np.int64))] * queries.shape[0]
        pending, k = np.arange(queries.shape[0]), _FIRST_HITS
        while pending.size and self.ntotal:
            k = min(k, self.ntotal)
            scores, numbers = self.best(queries[pending], k)
            inside = scores > radius if self.metric.larger_is_better else scores < radius
            for q, score, row, good in zip(pending, scores, numbers, inside, strict=True):
                hits[q] = score[good], row[good]
            pending = pending[inside[:, -1]] if k < self.ntotal else pending[:0]
            k *= 4
        return hits

    def columns(self, k: int) -> int:
        """Return the number of results per query that a search for the best `k` returns, missing ones included."""
        return k if k <= _MOST_PADDED else max(1, min(k, self.ntotal))


@dataclass(frozen=True, kw_only=True, repr=False)
class Snapshot(View):
    """The rows of an index at one moment: later changes of the index do not show in it.

    Row numbers are counted through all blocks, removed rows included.

    Attributes
    ----------
    codec, metric, threads, routing
        As of `View`.
    scanner : Scanner
        Of this codec.
    blocks : tuple of Block
    allowed : list of arrays
        For each block the bits of the rows that may be returned; `ALL` for every row.
    """

    scanner: Scanner
    blocks: tuple[Block, ...]
    allowed: list[Words]

    @cached_property
    def n(self) -> int:
        """Number of all rows, those included that a filter leaves out and those that were removed."""
        return sum(block.n for block in self.blocks)

    @cached_property
    def ntotal(self) -> int:
        """Number of rows that may be returned."""
        return sum(block.count(allowed) for block, allowed in zip(self.blocks, self.allowed, strict=True))

    def scan(self, shifted: Floats, k: int) -> tuple[Floats, Ids]:
        """Return scores and numbers of the `k` best rows for each query, as `Scanner.search` does."""
        for block in self.blocks:
            if block.mapped is not None:
                block.mapped.read_in_order()
        return self.scanner.search(self.blocks, self.allowed, self.ntotal, shifted, k, self.threads)

    def scan_lists(self, shifted: Floats, k: int, probes: Probes) -> tuple[Floats, Ids]:
        """Return the same of the lists that each query probes, as `Scanner.search_lists` does."""
        for block in self.blocks:
            if block.mapped is not None:
                block.mapped.read(probes.lists)
        return self.scanner.search_lists(self.blocks, self.allowed, shifted, k, probes, self.threads)

    def scalars(self, rows: Ids) -> Rows:
        """Return the numbers that rows keep beside their codes, for row numbers of any shape; -1 gives any."""
        names = self.metric.scalars
        if len(self.blocks) == 1:
            return {name: self.blocks[0].rows[name][rows] for name in names}
        return self.gather(rows, names)

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
        if len(self.blocks) == 1:
            if isinstance(self.blocks[0].ids, int) and self.blocks[0].ids == 0:  # they are row numbers
                return rows.copy()
            ids = self.blocks[0].ids_of(rows)
            ids[rows < 0] = -1
            return ids
        ids = np.full(rows.shape, -1, np.int64)
        for start, block in zip(self._starts, self.blocks, strict=False):
            mine = (rows >= start) & (rows < start + block.n)
            if mine.all():
                return block.ids_of(rows - start)
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

"""Scanner: chooses the kernel that answers a search, and prepares queries and blocks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tqvec import _threads
from tqvec._types import Floats, Ids, Words
from tqvec.codec.bands import integer_levels
from tqvec.codec.tables.batch import batch_tables
from tqvec.codec.tables.staged import PrefixPlane, prefix_counts, prefix_planes, stage_tables
from tqvec.codec.turboquant import TurboQuant, kernel_tables
from tqvec.errors import InputError
from tqvec.index.blocks import SPARE_ROWS, Block
from tqvec.index.metrics import Metric
from tqvec.index.prefixes import PrefixBlocks
from tqvec.kernels import plain
from tqvec.kernels.arguments import Heap, RowRange, Rows
from tqvec.kernels.background import ROWS, ready
from tqvec.kernels.dispatch import available, kernel
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.tables import QueryTables, ScanTables, StageTables
from tqvec.kernels.topk.portable import EMPTY_ID

_GRAIN = 2048  # rows a thread takes at least; a multiple of the staged kernel's 64
_FEW = 8  # queries, up to which each is searched alone, in stages
_ROWS_A_RESULT = 64  # from which on ruling rows out by a few bits pays
_NO_BIAS = np.zeros(0, np.float32)

Scan = Callable[[Block, int, RowRange, Heap], None]


class Scanner:
    """Searches the rows of an index.

    Three kernels give the same full scores, to the last bit. ``search_rows`` unpacks every code. ``search_few`` rules
    most rows out by a few bits of their codes, one query at a time; ``search_batch`` does so by byte products, many
    queries at a time. The last two exist at some SIMD levels only, and may miss a true result with a small probability.

    Parameters
    ----------
    codec : TurboQuant
    metric : {"ip", "cosine", "l2"}
    """

    def __init__(self, codec: TurboQuant, metric: str):
        self._codec = codec
        self._metric = Metric(metric)
        rotation, quantizer = kernel_tables(codec)
        self._d = rotation.perm.shape[1]
        self._quantizer = quantizer
        self._bands = quantizer.bands
        self._levels = integer_levels(self._d, quantizer)
        self._windows = quantizer.windows
        self._stages: StageTables | None = None
        planes: list[PrefixPlane] = []
        if all((band.stop - band.start) % 8 == 0 for band in codec.bands):  # the stages read whole bytes
            known = self._d, codec.bands, self._windows, codec.band_std
            counts = prefix_counts(*known)
            self._stages = stage_tables(*known, self._levels.levels, counts)
            planes = prefix_planes(codec.bands, self._windows, counts)
        self.prefixes = PrefixBlocks(planes)
        self._queries = QueryTables(rotation, self._bands, self._metric.score_scale, self._levels.unit)
        self._scan = ScanTables(
            bands=self._bands,
            windows=self._windows,
            levels=self._levels.levels,
            pairs=self._levels.pairs,
            spread=SPREAD,
        )

    def search(
        self, blocks: Sequence[Block], allowed: Sequence[Words], ntotal: int, queries: Floats, k: int, threads: int
    ) -> tuple[Floats, Ids]:
        """Return the `k` best of some rows for each query.

        Parameters
        ----------
        blocks : sequence of Block
        allowed : sequence of arrays
            For each block the bits of the rows that may be returned; `ALL` for every row.
        ntotal : int
            Number of these rows.
        queries : (nq, d) float32
            Checked; for l2 relative to the centre of the codec.
        k : int
            At most `ntotal`.
        threads : int

        Returns
        -------
        scores : (nq, k) float32
            Larger is better; for l2 the squared distance is ``‖query‖² - score``.
        ids : (nq, k) int64
            Row numbers, counted through all blocks.
        """
        if queries.shape[1] != self._d:
            raise InputError(f"queries must have {self._d} columns, got {queries.shape[1]}")
        staged = self._stages is not None and k * _ROWS_A_RESULT <= ntotal
        if staged and queries.shape[0] <= _FEW and available("search_few"):
            step, prepare = "search, one query", self._few
        elif staged and available("search_batch"):
            step, prepare = "search, many queries", self._batch
        else:
            step, prepare = "search, all rows", self._all
        if not ready(step):
            return self._search_plainly(blocks, allowed, queries, k)
        scan = prepare(queries)
        scores = np.full((threads, queries.shape[0], k), -np.inf, np.float32)
        ids = np.full((threads, queries.shape[0], k), EMPTY_ID, np.int64)

        def task(part: int, start: int, stop: int) -> None:
            base = 0
            for block, chosen in zip(blocks, allowed, strict=True):
                first, last = (_whole(row - base, block.n) for row in (start, stop))
                if first < last and (chosen.size == 0 or chosen[first // 64 : -(-last // 64)].max() > 0):
                    scan(block, base, RowRange(chosen, first, last), Heap(scores[part], ids[part]))
                base += block.n

        parts = _threads.over_rows(task, sum(block.n for block in blocks), _GRAIN, threads)
        kernel("topk_finish")(scores[:parts], ids[:parts])
        return scores[0], ids[0]

    def _search_plainly(
        self, blocks: Sequence[Block], allowed: Sequence[Words], queries: Floats, k: int
    ) -> tuple[Floats, Ids]:
        """Search all rows by NumPy, while no kernel is ready."""
        search = plain.Search(queries, self._queries, self._quantizer, self._levels.levels, k)
        base = 0
        for block, chosen in zip(blocks, allowed, strict=True):
            numbers = np.arange(block.n)
            if chosen.size:
                numbers = np.flatnonzero(np.unpackbits(chosen.view(np.uint8), count=block.n, bitorder="little"))
            for start in range(0, numbers.size, ROWS):
                part = numbers[start : start + ROWS]
                codes, scale = (block.rows[name][part] for name in ("codes", "scale"))
                bias = -block.rows["squared_norm"][part] if self._metric.stores_norm else None
                search.offer(plain.ScoredRows(codes, scale, bias, base + part))
            base += block.n
        return search.scores, search.ids

    def _rows(self, block: Block, base: int) -> Rows:
        bias = -block.rows["squared_norm"] if self._metric.stores_norm else _NO_BIAS
        return Rows(block.rows["codes"], block.rows["scale"], bias, base)

    def _all(self, queries: Floats) -> Scan:
        directions, _, unit = self._directions(queries)
        padded = sum(-(-(band.stop - band.start) // 8) * 8 for band in self._codec.bands)
        integers = np.empty((queries.shape[0], padded), np.int16)
        kernel("integer_queries")(directions, self._bands, 8, integers)
        search = kernel("search_rows")

        def scan(block: Block, base: int, where: RowRange, heaps: Heap) -> None:
            search(self._rows(block, base), self._scan, integers, unit, where, heaps)

        return scan

    def _few(self, queries: Floats) -> Scan:
        search = kernel("search_few")

        def scan(block: Block, base: int, where: RowRange, heaps: Heap) -> None:
            workspace = _threads.scratch((where.stop - where.start) * 21 // 16 + 3 * SPARE_ROWS)
            prefixes = block.prefixes.of(block.rows["codes"], block.n)
            search(self._rows(block, base), prefixes, queries, self._queries, self._stages, workspace, where, heaps)

        return scan

    def _batch(self, queries: Floats) -> Scan:
        batch = batch_tables(self._bands, self._windows, self._codec.band_std, *self._directions(queries))
        search = kernel("search_batch")

        def scan(block: Block, base: int, where: RowRange, heaps: Heap) -> None:
            search(self._rows(block, base), self._stages, batch, where, heaps)

        return scan

    def _directions(self, queries: Floats) -> tuple[Floats, NDArray[np.float64], Floats]:
        """Rotated queries of length 1, factors of their scores, and units of their integer products."""
        nq = queries.shape[0]
        out = np.empty_like(queries), np.empty(nq), np.empty(nq, np.float32)
        kernel("query_directions")(queries, self._queries, *out)
        return out


def _whole(row: int, count: int) -> int:
    """End of a thread's rows within a block: kernels start at multiples of 64."""
    return count if row >= count else max(0, row) // 64 * 64

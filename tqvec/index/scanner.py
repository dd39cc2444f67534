"""Which kernel answers a search, and what it needs: the part of `Index` that turns queries into ids."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tqvec import _threads
from tqvec._types import Floats, Ids
from tqvec.codec.bands import integer_levels
from tqvec.codec.tables.batch import batch_tables
from tqvec.codec.tables.staged import PrefixPlane, prefix_counts, prefix_planes, stage_tables
from tqvec.codec.turboquant import TurboQuant
from tqvec.index.blocks import SPARE_ROWS, Block, View
from tqvec.index.prefixes import PrefixBlocks
from tqvec.kernels.arguments import Heap, RowRange, Rows
from tqvec.kernels.dispatch import available, kernel
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.scan.queries import NORM, TWICE_NORM, UNIT
from tqvec.kernels.tables import QueryTables, ScanTables, StageTables
from tqvec.kernels.topk.portable import EMPTY_ID

_GRAIN = 2048  # rows a thread takes at least; a multiple of the staged kernel's 64
_FEW = 8  # queries, up to which each is searched alone, in stages
_ROWS_A_RESULT = 64  # from which on judging rows by a few bits pays
_SCORE_SCALES = {"ip": NORM, "cosine": UNIT, "l2": TWICE_NORM}
_NO_BIAS = np.zeros(0, np.float32)

Scan = Callable[[Block, int, RowRange, Heap], None]


class Scanner:
    """Searches the rows of an index.

    Three kernels give the same full scores, to the last bit: ``search_rows`` unpacks everything, ``search_few`` judges
    most rows by a few bits, one query at a time, and ``search_batch`` by byte products, many queries at a time. The
    last two exist at some SIMD levels only; they may miss a true result with the small probability that
    kernels/staged/README.md derives.

    Parameters
    ----------
    codec : TurboQuant
    metric : str
        "ip", "cosine" or "l2".
    """

    def __init__(self, codec: TurboQuant, metric: str):
        self._codec = codec
        self._metric = metric
        self._bands = codec.quantizer.bands
        self._levels = integer_levels(codec.d, codec.quantizer)
        self._windows = codec.quantizer.windows
        self._stages: StageTables | None = None
        planes: list[PrefixPlane] = []
        if all((band.stop - band.start) % 8 == 0 for band in codec.bands):  # the stages read whole bytes
            known = codec.d, codec.bands, self._windows, codec.band_std
            counts = prefix_counts(*known)
            self._stages = stage_tables(*known, self._levels.levels, counts)
            planes = prefix_planes(codec.bands, self._windows, counts)
        self.prefixes = PrefixBlocks(planes)

    def search(self, view: View, queries: Floats, k: int, threads: int) -> tuple[Floats, Ids]:
        """The `k` best rows of a view for each query; there are at least `k`.

        Returns
        -------
        scores : (nq, k) float32
            Larger is better; for l2 the squared distance is ``‖query‖² - score``.
        ids : (nq, k) int64
            Row numbers, counted through all blocks.
        """
        scores = np.full((threads, queries.shape[0], k), -np.inf, np.float32)
        ids = np.full((threads, queries.shape[0], k), EMPTY_ID, np.int64)
        ntotal = sum(block.n for block in view.blocks)
        judged = self._stages is not None and k * _ROWS_A_RESULT <= view.size
        if judged and queries.shape[0] <= _FEW and available("search_few"):
            scan = self._few(queries)
        elif judged and available("search_batch"):
            scan = self._batch(queries)
        else:
            scan = self._all(queries)

        def task(part: int, start: int, stop: int) -> None:
            base = 0
            for block, chosen in zip(view.blocks, view.allowed, strict=True):
                first, last = (_whole(row - base, block.n) for row in (start, stop))
                if first < last and (chosen.size == 0 or chosen[first // 64 : -(-last // 64)].max() > 0):
                    scan(block, base, RowRange(chosen, first, last), Heap(scores[part], ids[part]))
                base += block.n

        parts = _threads.over_rows(task, ntotal, _GRAIN, threads)
        kernel("topk_finish")(scores[:parts], ids[:parts])
        return scores[0], ids[0]

    def _rows(self, block: Block, base: int) -> Rows:
        bias = -block.rows["squared_norm"] if self._metric == "l2" else _NO_BIAS
        return Rows(block.rows["codes"], block.rows["scale"], bias, base)

    def _all(self, queries: Floats) -> Scan:
        directions, _, unit = self._directions(queries)
        padded = sum(-(-(band.stop - band.start) // 8) * 8 for band in self._codec.bands)
        integers = np.empty((queries.shape[0], padded), np.int16)
        kernel("integer_queries")(directions, self._bands, 8, integers)
        search = kernel("search_rows")
        tables = ScanTables(self._bands, self._windows, self._levels.levels, self._levels.pairs, SPREAD)

        def scan(block: Block, base: int, where: RowRange, heaps: Heap) -> None:
            search(self._rows(block, base), tables, integers, unit, where, heaps)

        return scan

    def _few(self, queries: Floats) -> Scan:
        search, tables = kernel("search_few"), self._query_tables()

        def scan(block: Block, base: int, where: RowRange, heaps: Heap) -> None:
            workspace = _threads.scratch((where.stop - where.start) * 21 // 16 + 3 * SPARE_ROWS)
            prefixes = block.prefixes.of(block.rows["codes"], block.n)
            search(self._rows(block, base), prefixes, queries, tables, self._stages, workspace, where, heaps)

        return scan

    def _batch(self, queries: Floats) -> Scan:
        batch = batch_tables(self._bands, self._windows, self._codec.band_std, *self._directions(queries))
        search = kernel("search_batch")

        def scan(block: Block, base: int, where: RowRange, heaps: Heap) -> None:
            search(self._rows(block, base), self._stages, batch, where, heaps)

        return scan

    def _query_tables(self) -> QueryTables:
        scale = _SCORE_SCALES[self._metric]
        return QueryTables(self._codec.transform.tables, self._bands, scale, self._levels.unit)

    def _directions(self, queries: Floats) -> tuple[Floats, NDArray[np.float64], Floats]:
        """Rotated queries of length 1, the factors of their scores, and the units of their integer products."""
        nq = queries.shape[0]
        out = np.empty_like(queries), np.empty(nq), np.empty(nq, np.float32)
        kernel("query_directions")(queries, self._query_tables(), *out)
        return out


def _whole(row: int, count: int) -> int:
    """Where a share of the rows ends within a block: kernels start at multiples of 64."""
    return count if row >= count else max(0, row) // 64 * 64


def squared_lengths(rows: Floats) -> NDArray[np.float64]:
    """Squared Euclidean length of each row, summed in float64."""
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)

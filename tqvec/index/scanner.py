"""Scanner: chooses the kernel that answers a search, and prepares queries and blocks for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tqvec._threads import scratch
from tqvec._types import Floats, Ids, Words
from tqvec.codec.bands import integer_levels
from tqvec.codec.tables.batch import batch_tables
from tqvec.codec.tables.staged import prefix_counts, prefix_planes, stage_tables
from tqvec.codec.turboquant import TurboQuant, kernel_tables
from tqvec.errors import InputError
from tqvec.index.blocks import Block
from tqvec.index.metrics import Metric
from tqvec.index.prefixes import PrefixBlocks
from tqvec.kernels import plain
from tqvec.kernels.background import ROWS, ready
from tqvec.kernels.dispatch import available, kernel
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.scan.units import BLOCK_FIELDS
from tqvec.kernels.staged.query import workspace_size
from tqvec.kernels.tables import QueryTables, ScanTables
from tqvec.kernels.threads.helpers import check_memory, share

# Time per row, query and coordinate, by which the number of threads is chosen: rough figures are enough.
_NS_STAGED = 0.007
_NS_PRODUCTS = 0.0005
_NS_FULL = 0.05
_FEW = 8  # queries, up to which each is searched alone, in stages
_ROWS_A_RESULT = 16  # below which queries share little work: most of it is full scores and heaps of their own
_NO_BIAS = np.zeros(0, np.float32)

Heaps = tuple[Floats, Ids]


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
        known = self._d, codec.bands, self._windows, codec.band_std
        counts = prefix_counts(*known)
        self._stages = stage_tables(*known, self._levels.levels, counts)
        self.prefixes = PrefixBlocks(prefix_planes(codec.bands, self._windows, counts))
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
        nq = queries.shape[0]
        few = nq <= _FEW or k * _ROWS_A_RESULT > ntotal
        if few and available("search_few"):
            step, search, cost = "search, one query", self._search_staged, _NS_STAGED
        elif available("search_batch"):
            step, search, cost = "search, many queries", self._search_products, _NS_PRODUCTS
        else:
            step, search, cost = "search, all rows", self._search_full, _NS_FULL
        if not ready(step):
            return self._search_plainly(blocks, allowed, queries, k)
        heaps = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
        table = BlockTable(blocks, allowed, step == "search, one query")
        check_memory(search(table, queries, heaps, share(threads, table.n * nq * self._d * cost)))
        return heaps

    def _search_full(self, table: BlockTable, queries: Floats, heaps: Heaps, sharing: tuple[int, int]) -> bool:
        plan = self._scan, self._queries
        return bool(kernel("search_full")(*sharing, table.fields, plan, queries, heaps))

    def _search_staged(self, table: BlockTable, queries: Floats, heaps: Heaps, sharing: tuple[int, int]) -> bool:
        plan = self._stages, self._queries
        _, threads = sharing
        size = workspace_size(table.n, threads)
        workspace = scratch(threads * size)[: threads * size].reshape(threads, size)
        return bool(kernel("search_staged")(*sharing, table.fields, plan, queries, workspace, heaps))

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

    def _search_products(self, table: BlockTable, queries: Floats, heaps: Heaps, sharing: tuple[int, int]) -> bool:
        batch = batch_tables(self._bands, self._windows, self._codec.band_std, *self._directions(queries))
        plan = (self._stages,)
        return bool(kernel("search_products")(*sharing, table.fields, plan, batch, heaps))

    def _directions(self, queries: Floats) -> tuple[Floats, NDArray[np.float64], Floats]:
        """Rotated queries of length 1, factors of their scores, and units of their integer products."""
        nq = queries.shape[0]
        out = np.empty_like(queries), np.empty(nq), np.empty(nq, np.float32)
        kernel("query_directions")(queries, self._queries, *out)
        return out


class BlockTable:
    """Blocks of rows as the kernels take them: addresses and sizes of their arrays.

    Parameters
    ----------
    blocks : sequence of Block
    allowed : sequence of arrays
        As for `Scanner.search`.
    prefixes : bool
        Whether to give the prefixes of all rows, which are made if need be.

    Attributes
    ----------
    fields : (n_blocks, BLOCK_FIELDS) int64
    n : int
        Rows of all blocks.
    """

    def __init__(self, blocks: Sequence[Block], allowed: Sequence[Words], prefixes: bool):
        self._kept: list[object] = [blocks, allowed]  # whatever the addresses refer to
        fields, base = [], 0
        for block, mask in zip(blocks, allowed, strict=True):
            codes, norms, address, groups = block.rows["codes"], block.rows.get("squared_norm"), 0, 0
            if norms is not None:
                norms = -norms
                self._kept.append(norms)
            if prefixes:
                first_bits = block.prefixes.of(codes, block.n)
                self._kept.append(first_bits)
                address, groups = _address(first_bits), first_bits.shape[1]
            fields.append(
                (
                    _address(codes),
                    codes.shape[1],
                    _address(block.rows["scale"]),
                    0 if norms is None else _address(norms),
                    _address(mask),
                    address,
                    groups,
                    block.n,
                    base,
                )
            )
            base += block.n
        self.fields, self.n = np.array(fields, np.int64).reshape(-1, BLOCK_FIELDS), base


def _address(array: NDArray) -> int:
    """Return where an array begins; 0 for an empty one."""
    return int(array.__array_interface__["data"][0]) if array.size else 0

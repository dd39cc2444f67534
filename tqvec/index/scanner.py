"""Scanner: chooses the kernel that answers a search, and prepares queries and blocks for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tqvec._threads import scratch
from tqvec._types import Floats, Ids, Words
from tqvec.codec.bands import integer_levels
from tqvec.codec.tables.batch import batch_tables
from tqvec.codec.tables.staged import PrefixPlane, prefix_counts, prefix_planes, stage_tables
from tqvec.codec.turboquant import TurboQuant, kernel_tables
from tqvec.errors import InputError
from tqvec.index.blocks import Block
from tqvec.index.metrics import Metric
from tqvec.index.prefixes import PrefixBlocks
from tqvec.kernels.dispatch import available, kernel
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.scan.units import BLOCK_FIELDS
from tqvec.kernels.staged.query import workspace_size
from tqvec.kernels.tables import QueryTables, ScanTables, StageTables
from tqvec.kernels.threads.helpers import check_memory, share

# Time per row, query and coordinate, by which the number of threads is chosen: rough figures are enough.
_NS_STAGED = 0.007
_NS_PRODUCTS = 0.0005
_NS_FULL = 0.05
_FEW = 8  # queries, up to which each is searched alone, in stages
_ROWS_A_RESULT = 64  # from which on ruling rows out by a few bits pays
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
        nq = queries.shape[0]
        heaps = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
        n = sum(block.n for block in blocks)
        staged = self._stages is not None and k * _ROWS_A_RESULT <= ntotal
        products = n * nq * self._d
        if staged and nq <= _FEW and available("search_few"):
            table = BlockTable(blocks, allowed, True)
            done = self._search_staged(table, n, queries, heaps, share(threads, products * _NS_STAGED))
        elif staged and available("search_batch"):
            table = BlockTable(blocks, allowed, False)
            done = self._search_products(table, queries, heaps, share(threads, products * _NS_PRODUCTS))
        else:
            table = BlockTable(blocks, allowed, False)
            done = self._search_full(table, queries, heaps, share(threads, products * _NS_FULL))
        check_memory(done)
        return heaps

    def _search_full(self, table: BlockTable, queries: Floats, heaps: Heaps, sharing: tuple[int, int]) -> bool:
        plan = self._scan, self._queries
        return bool(kernel("search_full")(*sharing, table.fields, plan, queries, heaps))

    def _search_staged(
        self, table: BlockTable, n: int, queries: Floats, heaps: Heaps, sharing: tuple[int, int]
    ) -> bool:
        plan = self._stages, self._queries
        _, threads = sharing
        size = workspace_size(n, threads)
        workspace = scratch(threads * size)[: threads * size].reshape(threads, size)
        return bool(kernel("search_staged")(*sharing, table.fields, plan, queries, workspace, heaps))

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
        self.fields = np.array(fields, np.int64).reshape(-1, BLOCK_FIELDS)


def _address(array: NDArray) -> int:
    """Return where an array begins; 0 for an empty one."""
    return int(array.__array_interface__["data"][0]) if array.size else 0

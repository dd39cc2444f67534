"""Scanner: chooses the kernel that answers a search, and prepares queries and blocks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tqvec._locks import cached_property
from tqvec._types import Floats, Ids, Words
from tqvec.codec.bands import integer_levels
from tqvec.codec.tables.batch import ByteLevels, prefix_space, product_levels, product_space
from tqvec.codec.tables.staged import prefix_counts, prefix_planes, stage_tables
from tqvec.codec.turboquant import TurboQuant, kernel_tables
from tqvec.errors import InputError
from tqvec.index.blocks import Block, intersect, may_be_kept
from tqvec.index.choice import Search, Work, choose_search
from tqvec.index.metrics import Metric
from tqvec.index.prefixes import PrefixBlocks
from tqvec.index.probes import Probes, list_mask
from tqvec.kernels import plain
from tqvec.kernels.arguments import ProbedLists, RowRange, Rows
from tqvec.kernels.background import ROWS, ready
from tqvec.kernels.dispatch import available, kernel, module
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.scan.units import BLOCK_FIELDS
from tqvec.kernels.staged.sizes import lists_workspace, prefix_workspace, product_workspace, staged_workspace
from tqvec.kernels.tables import ProductLevels, QueryTables, ScanTables
from tqvec.kernels.threads.helpers import check_memory, scratch, share

# Nanoseconds per row, query and coordinate, by which the number of threads is chosen: rough figures are enough.
_NS: dict[Search, float] = {"full": 0.05, "few": 0.007, "prefixes": 0.004, "products": 0.002}
# The steps of a warm-up that compile the kernels of each search.
_STEPS: dict[Search, str] = {
    "full": "search, all rows",
    "few": "search, one query",
    "prefixes": "search, many queries",
    "products": "search, many queries",
}
_ROWS_A_RESULT = 16  # below which queries share little work: most of it is full scores and heaps of their own
_SAMPLE_QUERIES, _SAMPLE_STEPS = 4, 4  # by which the searches of a batch are compared
_SEARCHES_A_SAMPLE = 32  # after which survivors are measured again: data and queries may change
_NO_BIAS = np.zeros(0, np.float32)

Heaps = tuple[Floats, Ids]
LastTable: TypeAlias = "tuple[tuple[Sequence[Block], Sequence[Words], bool, bool], BlockTable]"


class Scanner:
    """Searches the rows of an index.

    Four searches give the same full scores, to the last bit. ``"full"`` unpacks every code. ``"few"`` and
    ``"prefixes"`` rule most rows out by a few bits of their codes, one query at a time and many; ``"products"`` does so
    by byte products. These three exist at some SIMD levels only, and may miss a true result with a small probability.

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
        self._shares: dict[tuple[int, int], tuple[float, int]] = {}  # of survivors, and searches that they are good for
        self._last_table: LastTable = ((), (), False, False), BlockTable((), (), False)
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
        search = self._choose(blocks, allowed, ntotal, queries, k, threads)
        if not ready(_STEPS[search]):
            return self._search_plainly(blocks, allowed, queries, k)
        return self.search_by(search, blocks, allowed, queries, k, threads)

    def search_by(
        self,
        search: Search,
        blocks: Sequence[Block],
        allowed: Sequence[Words],
        queries: Floats,
        k: int,
        threads: int,
    ) -> tuple[Floats, Ids]:
        """Return the same as `search`, by the kernels that are named."""
        heaps = np.empty((queries.shape[0], k), np.float32), np.empty((queries.shape[0], k), np.int64)
        table = self._table(blocks, allowed, search in ("few", "prefixes"))
        sharing = share(threads, table.n * queries.size * _NS[search])
        run = {
            "full": self._search_full,
            "few": self._search_few,
            "prefixes": self._search_prefixes,
            "products": self._search_products,
        }[search]
        check_memory(run(table, queries, heaps, sharing))
        return heaps

    def search_lists(
        self,
        blocks: Sequence[Block],
        allowed: Sequence[Words],
        queries: Floats,
        k: int,
        probes: Probes,
        threads: int,
    ) -> tuple[Floats, Ids]:
        """Return the `k` best rows of the lists that each query probes, and of blocks that are not sorted by list.

        Arguments and results are those of `search`. Empty entries have the score -inf and the number -1.
        """
        nq = queries.shape[0]
        if not available("search_lists") or not ready("search, lists"):
            return self._search_masked(blocks, allowed, queries, k, probes, threads)
        heaps = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
        table = self._table(blocks, allowed, prefixes=True, lists=True)
        rows = table.n * probes.lists.size / max(1, table.nlist)
        address, useful = share(threads, rows * queries.shape[1] * _NS["few"])
        lists = ProbedLists(
            nlist=table.nlist,
            starts=table.starts,
            ready=table.ready,
            planes=self.prefixes.planes,
            strides=self._strides,
            first=probes.first,
            probes=probes.lists,
            parts=max(1, useful // nq),
        )
        workspace = scratch(useful, lists_workspace(k))
        plan = self._stages, self._queries
        check_memory(
            bool(kernel("search_lists")(address, useful, table.fields, plan, queries, lists, workspace, heaps))
        )
        return heaps

    def _search_masked(
        self, blocks: Sequence[Block], allowed: Sequence[Words], queries: Floats, k: int, probes: Probes, threads: int
    ) -> tuple[Floats, Ids]:
        """Do the same by searches of all rows with masks of the lists, one query after the other."""
        heaps = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
        for q in range(len(queries)):
            lists = probes.of(q)
            masks = [intersect(mask, list_mask(block, lists)) for block, mask in zip(blocks, allowed, strict=True)]
            counts = [block.count(mask) for block, mask in zip(blocks, masks, strict=True)]
            n = min(k, sum(counts))
            if n:
                scores, rows = self.search(blocks, masks, sum(counts), queries[q : q + 1], n, threads)
                heaps[0][q, :n], heaps[1][q, :n] = scores[0], rows[0]
        return heaps

    def _table(
        self, blocks: Sequence[Block], allowed: Sequence[Words], prefixes: bool, lists: bool = False
    ) -> BlockTable:
        """Return the table of blocks, which is kept until others are searched if they may be kept.

        To make it takes longer than all else around the kernel of one query. Of many rows that time does not count.
        """
        key, table = self._last_table
        if key[0] is blocks and key[1] is allowed and key[2:] == (prefixes, lists):
            return table
        table = BlockTable(blocks, allowed, prefixes, lists)
        if may_be_kept(blocks):
            self._last_table = (blocks, allowed, prefixes, lists), table
        return table

    def _choose(
        self, blocks: Sequence[Block], allowed: Sequence[Words], ntotal: int, queries: Floats, k: int, threads: int
    ) -> Search:
        if not available("search_few"):
            return "full"
        nq = queries.shape[0]
        if nq == 1 or k * _ROWS_A_RESULT > ntotal:
            return "few"
        work = Work(
            nq=nq,
            allowed=ntotal,
            rows=sum(
                block.n if chosen.size == 0 else 64 * int(np.count_nonzero(chosen))
                for block, chosen in zip(blocks, allowed, strict=True)
            ),
            prefix_bytes=self._stages.prefix_source.size // 8,
            words=int(self._stages.layout[:, 5].sum()),
            threads=threads,
        )
        return choose_search(work, lambda: self._survivors(blocks, allowed, queries, k))

    def _survivors(self, blocks: Sequence[Block], allowed: Sequence[Words], queries: Floats, k: int) -> float:
        """Share of rows that survive their prefixes, as measured for one of the last searches of such a size."""
        if not ready(_STEPS["prefixes"]):
            return 0.0
        size = k, sum(block.n for block in blocks).bit_length()
        share, left = self._shares.get(size, (0.0, 0))
        if left == 0:
            share, left = self._measure_survivors(blocks, allowed, queries, k), _SEARCHES_A_SAMPLE
        self._shares[size] = share, left - 1
        return share

    def _measure_survivors(self, blocks: Sequence[Block], allowed: Sequence[Words], queries: Floats, k: int) -> float:
        """Share of rows that survive their prefixes, in a sample of the largest block, for a few queries.

        A query whose near copy is stored (a search for duplicates) meets the copy in the sample, or does not. So the
        threshold is that of one result more, which a copy does not decide alone.
        """
        block, chosen = max(zip(blocks, allowed, strict=True), key=lambda pair: pair[0].n)
        sample = min(block.n, 1024 * _SAMPLE_STEPS)
        results = 1 + -(-k * sample // sum(block.n for block in blocks))
        some = np.ascontiguousarray(queries[:: -(-queries.shape[0] // _SAMPLE_QUERIES)])
        space = prefix_space(self._bands, self._stages, len(some))
        norms = block.rows.get("squared_norm")
        bias = _NO_BIAS if norms is None else block.prefixes.biases(norms, block.n)
        rows = Rows(block.rows["codes"], block.rows["scale"], bias, 0)
        prefixes, where = block.prefixes.of(block.rows["codes"], block.n), RowRange(chosen, 0, block.n)
        plan = self._stages, self._queries
        return float(kernel("survivor_share")(rows, prefixes, plan, some, space, where, _SAMPLE_STEPS, results))

    def _search_full(self, table: BlockTable, queries: Floats, heaps: Heaps, sharing: tuple[int, int]) -> bool:
        plan = self._scan, self._queries
        return bool(kernel("search_full")(*sharing, table.fields, plan, queries, heaps))

    def _search_few(self, table: BlockTable, queries: Floats, heaps: Heaps, sharing: tuple[int, int]) -> bool:
        plan = self._stages, self._queries
        workspace = scratch(sharing[1], staged_workspace(table.n, heaps[0].shape[1], sharing[1]))
        return bool(kernel("search_staged")(*sharing, table.fields, plan, queries, workspace, heaps))

    def _search_prefixes(self, table: BlockTable, queries: Floats, heaps: Heaps, sharing: tuple[int, int]) -> bool:
        plan = self._stages, self._queries
        space = prefix_space(self._bands, self._stages, queries.shape[0])
        groups, tile = self._stages.prefix_source.size // 32, module("tile_totals").QUERY_TILE
        nq, k = heaps[0].shape
        workspace = scratch(sharing[1], prefix_workspace(nq, k, groups, tile))
        return bool(kernel("search_by_prefixes")(*sharing, table.fields, plan, queries, space, workspace, heaps))

    def _search_products(self, table: BlockTable, queries: Floats, heaps: Heaps, sharing: tuple[int, int]) -> bool:
        levels, known = self._product_levels
        plan = self._stages, self._queries, known
        space = product_space(self._bands, levels, queries.shape[0])
        workspace = scratch(sharing[1], product_workspace(space.packed.shape[1]))
        return bool(kernel("search_products")(*sharing, table.fields, plan, queries, space, workspace, heaps))

    @cached_property
    def _strides(self) -> tuple[int, int]:
        """What `prefix_rows` takes of the level in use."""
        strides: tuple[int, int] = module("prefix_totals").PREFIX_STRIDES
        return strides

    @cached_property
    def _product_levels(self) -> tuple[list[ByteLevels], ProductLevels]:
        """The levels of the codec for byte products, made when they are first needed."""
        return product_levels(self._d, self._bands, self._windows, self._codec.band_std)

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


class BlockTable:
    """Blocks of rows as the kernels take them: addresses and sizes of their arrays.

    Parameters
    ----------
    blocks : sequence of Block
    allowed : sequence of arrays
        As for `Scanner.search`.
    prefixes : bool
        Whether to give the prefixes of all rows, which are made if need be.
    lists : bool
        Whether to give the lists of blocks, whose prefixes are not made here then.

    Attributes
    ----------
    fields : (n_blocks, BLOCK_FIELDS) int64
    n : int
        Rows of all blocks.
    starts, ready : (n_blocks,) int64
        As in `ProbedLists`.
    nlist : int
        Lists of a block that is sorted by them; 0 if none is.
    """

    def __init__(self, blocks: Sequence[Block], allowed: Sequence[Words], prefixes: bool, lists: bool = False):
        self._kept: list[object] = [blocks, allowed]  # whatever the addresses refer to
        self.nlist = max((block.starts.size - 1 for block in blocks), default=0) if lists else 0
        fields, base = [], 0
        self.starts, self.ready = np.zeros((2, len(blocks)), np.int64)
        for b, (block, mask) in enumerate(zip(blocks, allowed, strict=True)):
            codes, norms, address, groups = block.rows["codes"], block.rows.get("squared_norm"), 0, 0
            bias = _NO_BIAS if norms is None else block.prefixes.biases(norms, block.n)
            self._kept.append(bias)
            if lists and block.starts.size:
                first_bits, made = block.prefixes.some(codes, block.n)
                self._kept.append(made)
                self.starts[b], self.ready[b] = _address(block.starts), _address(made)
            elif prefixes:
                first_bits = block.prefixes.of(codes, block.n)
            if prefixes:
                self._kept.append(first_bits)
                address, groups = _address(first_bits), first_bits.shape[1]
            fields.append(
                (
                    _address(codes),
                    codes.shape[1],
                    _address(block.rows["scale"]),
                    _address(bias),
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

"""Search of the lists that each query probes: runs of rows, one for each list in a block that is sorted by list."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.arguments import RowBlocks, RowRange
from tqvec.kernels.scan.allowed import bits_between
from tqvec.kernels.scan.units import ROWS, WORD, heap_of, merge_heaps, rows_of_block, share_search
from tqvec.kernels.simd.atomic import atomic_load, atomic_store
from tqvec.kernels.staged.one_query import search_one_query
from tqvec.kernels.staged.prefix_rows import prefix_rows
from tqvec.kernels.staged.query import prepare_queries, query_at, search_few, staged_queries
from tqvec.kernels.staged.sizes import LIST_ROWS, ROWS_ALONE
from tqvec.kernels.threads.pool import address_of, run_units, unit_function
from tqvec.kernels.threads.views import words_at
from tqvec.kernels.topk.portable import EMPTY_ID


@jit
def _search_listed(rows, prefixes, query, stages, listed, workspace, heap):
    """Offer the rows of ``starts[:count]`` whose bits are set to the heap, and clear the bits."""
    bits, starts, count = listed
    if count == 0:
        return
    for c in range(count, (count + 3) // 4 * 4):
        starts[c] = starts[count - 1]
    blocks = RowBlocks(bits, starts, 0, count)
    search_one_query(rows, prefixes, query, stages, blocks, LANES * count, workspace, heap)
    for c in range(count):
        bits[starts[c] // WORD] = np.uint64(0)


@jit
def search_runs(block, probes, query, stages, workspace, heap):
    """Offer the rows of some lists of a block to the heap of one query.

    A block of 16 rows at a border belongs to two lists. It is listed once; the bits say which of its rows count.

    Parameters
    ----------
    block : (rows, prefixes, allowed, lists)
        `lists` is (starts, ready, bits, planes, strides): the first row of each list; a word for each 64 rows, 1 if
        their prefixes are there; a workspace of as many words, all 0; and what `prefix_rows` takes.
    probes : (n,) int32
        Numbers of lists, all distinct, the nearest first.
    query, stages, heap
        As in `search_one_query`.
    workspace : (≥ lists_workspace(k) / 4,) float32
    """
    rows, prefixes, allowed, lists = block
    starts, ready, bits, planes, strides = lists
    listed = workspace[: LIST_ROWS // LANES + 4].view(np.int32)
    space = workspace[listed.size :]
    count = 0
    for i in range(probes.size):
        first, stop = starts[probes[i]], starts[probes[i] + 1]
        for w in range(first // WORD, (stop + WORD - 1) // WORD):
            word = ~np.uint64(0) if allowed.size == 0 else allowed[w]
            word = bits_between(word, first - WORD * w, stop - WORD * w)
            if word == 0:
                continue
            if atomic_load(ready.ctypes.data + 8 * w) == 0:
                prefix_rows(rows.codes, planes, strides, WORD * w, WORD * w + WORD, prefixes)
                atomic_store(ready.ctypes.data + 8 * w, 1)
            if count > LIST_ROWS // LANES - 4:
                _search_listed(rows, prefixes, query, stages, (bits, listed, count), space, heap)
                count = 0
            before = bits[w]
            bits[w] = before | word
            for part in range(0, WORD, LANES):
                new = word >> np.uint64(part) & np.uint64(0xFFFF) != 0
                listed[count] = WORD * w + part
                count += new and before >> np.uint64(part) & np.uint64(0xFFFF) == 0
    _search_listed(rows, prefixes, query, stages, (bits, listed, count), space, heap)


@jit
def _lists_unit(plan, call, worker, unit):
    """Search a share of the lists of one query."""
    stages, _ = plan
    search, staged, lists, bits = call
    q, part = unit // lists.parts, unit % lists.parts
    query = query_at(staged, q)
    heap = heap_of(search, worker, q)
    workspace = search.workspace[worker].view(np.float32)
    probes = lists.probes[lists.first[q] + part : lists.first[q + 1] : lists.parts]
    for b in range(search.blocks.shape[0]):
        rows, prefixes, allowed = rows_of_block(search.blocks[b])
        n = search.blocks[b, ROWS]
        if lists.starts[b] != 0:
            starts = words_at(lists.starts[b], (lists.nlist + 1,)).view(np.int64)
            ready = words_at(lists.ready[b], ((n + WORD - 1) // WORD,))
            runs = starts, ready, bits[worker], lists.planes, lists.strides
            search_runs((rows, prefixes, allowed, runs), probes, query, stages, workspace, heap)
        elif part == 0:
            for start in range(0, n, LIST_ROWS):
                where = RowRange(allowed, start, min(n, start + LIST_ROWS))
                search_few(rows, prefixes, query, stages, workspace, where, heap)


@jit
def search_lists(pool, threads, blocks, plan, queries, lists, workspace, heaps):
    """Search the lists that each query probes, with at most `threads` threads.

    Parameters
    ----------
    pool, threads, blocks, queries, heaps
        As in `search_full`.
    plan : (StageTables, QueryTables)
    lists : ProbedLists
    workspace : (threads, lists_workspace(k)) uint8

    Empty entries of the heaps get the id -1.

    Returns
    -------
    bool
        False if memory ran out.
    """
    stages, _ = plan
    nq = queries.shape[0]
    search = share_search(blocks, (ROWS_ALONE, 1), heaps, workspace, 0)
    staged = staged_queries(nq, stages)
    done = prepare_queries(pool, threads, plan, queries, staged)
    most = 0
    for b in range(blocks.shape[0]):
        most = max(most, (blocks[b, ROWS] + WORD - 1) // WORD)
    bits = np.zeros((threads, most), np.uint64)
    share = (search, staged, lists, bits)
    function = unit_function(_lists_unit, plan, share)
    done &= run_units(pool, threads, function, address_of(plan), address_of(share), nq * lists.parts)
    done &= merge_heaps(pool, threads, search)
    for q in range(nq):
        ids = search.ids[q]
        for r in range(ids.size):
            if ids[r] == EMPTY_ID:
                ids[r] = -1
    return done and staged.numbers.shape[0] == nq and bits.shape[0] == threads  # all live until here

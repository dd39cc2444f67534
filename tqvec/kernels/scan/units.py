"""The units of a search that threads share: which rows of which block, for which queries, into which heaps."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.arguments import Heap, RowRange, Rows, SharedSearch
from tqvec.kernels.staged.sizes import UNITS
from tqvec.kernels.threads.pool import address_of, run_units, unit_function
from tqvec.kernels.threads.views import bytes_at, floats_at, words_at
from tqvec.kernels.topk.portable import EMPTY_ID, topk_merge_portable, topk_sort_portable

# Fields of a block: addresses and sizes of its arrays. An address of 0 stands for an empty array.
CODES, ROW_BYTES, SCALE, BIAS, ALLOWED, PREFIXES, GROUPS, ROWS, BASE = range(9)
BLOCK_FIELDS = 9

WORD = 64  # rows whose bits a word of a filter holds
LINE = 64  # bytes of 16 rows in a group of a prefix
SEED_ROWS = 1024  # that each query of a large batch is compared with before threads share the rest
SEED_QUERIES = 32  # that one thread prepares and compares with them
FEW_QUERIES = 4  # that one thread prepares, if it compares them with no row
_ENTRIES = 4096  # of heaps that a unit of the merge takes


@jit
def units_of(blocks, nq, threads, rows, queries):
    """Return the rows of a chunk and the queries of a group, so that all threads have work.

    At most `rows`, a multiple of 64, and at least about `queries`. Queries are divided first: each meets its rows with
    an empty heap in every chunk.
    """
    if threads == 1:
        return rows, nq
    n = 0
    for b in range(blocks.shape[0]):
        n += blocks[b, ROWS]
    groups = max(1, min(nq // queries, UNITS * threads))
    chunk = max(WORD, min(rows, n * groups // (UNITS * threads)) // WORD * WORD)
    return chunk, max(1, (nq + groups - 1) // groups)


@jit
def share_search(blocks, units, heaps, workspace, seeded):
    """Make a `SharedSearch`, and fill the heaps (nq, k) with nothing.

    `units` are results of `units_of`; other arguments are as in `SharedSearch`.
    """
    scores, ids = heaps
    chunk, group = units
    threads = workspace.shape[0]
    nq, k = scores.shape
    first_chunk = np.zeros(blocks.shape[0] + 1, np.int64)
    for b in range(blocks.shape[0]):
        first_chunk[b + 1] = first_chunk[b] + (blocks[b, ROWS] + chunk - 1) // chunk
    scores[:] = -np.inf
    ids[:] = EMPTY_ID
    return SharedSearch(
        blocks=blocks,
        first_chunk=first_chunk,
        chunk=chunk,
        group=group,
        scores=scores,
        ids=ids,
        other_scores=np.empty((threads - 1, nq, k), np.float32),
        other_ids=np.empty((threads - 1, nq, k), np.int64),
        begun=np.zeros(threads - 1, np.uint8),
        least=np.full(nq, -np.inf, np.float32),
        workspace=workspace,
        seeded=seeded,
    )


@jit
def rows_of_block(block):
    """Return a block as `Rows`, its prefixes (n_blocks, groups, 64) uint8, and the words of a filter of its rows."""
    n = block[ROWS]
    rows = Rows(
        bytes_at(block[CODES], (n, block[ROW_BYTES])),
        floats_at(block[SCALE], (n,)),
        floats_at(block[BIAS], (n if block[BIAS] != 0 else 0,)),
        block[BASE],
    )
    prefixes = bytes_at(block[PREFIXES], (n // 16 if block[PREFIXES] != 0 else 0, block[GROUPS], LINE))
    allowed = words_at(block[ALLOWED], ((n + WORD - 1) // WORD if block[ALLOWED] != 0 else 0,))
    return rows, prefixes, allowed


@jit
def rows_of_chunk(search, number):
    """Return the block of a chunk as `Rows`, its prefixes (n_blocks, groups, 64) uint8, and the `RowRange`."""
    first_chunk = search.first_chunk
    b = 0
    while first_chunk[b + 1] <= number:
        b += 1
    rows, prefixes, allowed = rows_of_block(search.blocks[b])
    n = search.blocks[b, ROWS]
    start = (number - first_chunk[b]) * search.chunk
    stop = min(n, start + search.chunk)
    if number == 0:
        start = min(stop, search.seeded)
    return rows, prefixes, RowRange(allowed, start, stop)


@jit
def rows_to_seed(nq, threads):
    """Return the first rows that all queries of a batch are compared with, one thread per query.

    Each thread has heaps of its own. Without this they would begin with no idea of what is good enough. That pays if
    all threads have such work.
    """
    return SEED_ROWS if threads > 1 and nq >= SEED_QUERIES * threads else 0


@jit
def seed_rows(search):
    """Return what `rows_of_chunk` does for the rows of `rows_to_seed`."""
    rows, prefixes, (allowed, _, stop) = rows_of_chunk(search, 0)
    return rows, prefixes, RowRange(allowed, 0, min(stop, search.seeded))


@jit
def count_units(search, nq):
    """Return the number of units: all groups of queries for each chunk."""
    return search.first_chunk[-1] * ((nq + search.group - 1) // search.group)


@jit
def group_of(search, unit):
    """Return the chunk of a unit, and the first query of its group and the end."""
    nq = search.scores.shape[0]
    groups = (nq + search.group - 1) // search.group
    start = unit % groups * search.group
    return unit // groups, start, min(nq, start + search.group)


@jit
def heaps_of(search, worker, start, stop):
    """Return the heaps of a thread for the queries ``start .. stop``."""
    least = search.least[start:stop]
    if worker == 0:
        return Heap(search.scores[start:stop], search.ids[start:stop], least)
    helper = worker - 1
    scores, ids = search.other_scores[helper], search.other_ids[helper]
    if search.begun[helper] == 0:
        scores[:] = -np.inf
        ids[:] = EMPTY_ID
        search.begun[helper] = 1
    return Heap(scores[start:stop], ids[start:stop], least)


@jit
def heap_of(search, worker, query):
    """Return the heap of a thread for one query."""
    scores, ids, least = heaps_of(search, worker, query, query + 1)
    return Heap(scores[0], ids[0], least)


@jit
def _merge_unit(plan, call, worker, unit):
    (group,) = plan
    scores, ids, other_scores, other_ids, begun = call
    for q in range(unit * group, min(scores.shape[0], (unit + 1) * group)):
        for helper in range(begun.size):
            if begun[helper]:
                topk_merge_portable(other_scores[helper, q], other_ids[helper, q], scores[q], ids[q])
        topk_sort_portable(scores[q], ids[q])


@jit
def merge_heaps(pool, threads, search):
    """Merge the heaps of all threads, and sort them, best first; return whether there was memory for it."""
    nq, k = search.scores.shape
    plan = (max(1, _ENTRIES // (max(1, k) * (1 + search.begun.size))),)
    call = (search.scores, search.ids, search.other_scores, search.other_ids, search.begun)
    function = unit_function(_merge_unit, plan, call)
    return run_units(pool, threads, function, address_of(plan), address_of(call), (nq + plan[0] - 1) // plan[0])

"""Sizes of the workspaces of staged searches, for kernels and for those who make room for them."""

from __future__ import annotations

from tqvec.kernels._jit import LANES, jit

WORD = 64  # rows scanned together
PAIR = 2 * LANES  # rows, and queries, of one step of byte products
UNITS = 4  # for each thread at least, so that none is left alone with a large one
UNIT_QUERIES = 64  # of a batch by prefixes at least: they share the rows in the nearest cache
SHARED_ROWS = 16384  # of a unit of one query at most, where threads share the rows
ROWS_ALONE = 131072  # of one at most, where one thread has all: their estimates stay in the second-level cache
LIST_ROWS = 32768  # of several lists together at most
CHUNK = 16384  # rows whose candidates are scored together
BLOCK_BYTES = 1 << 19  # of unpacked levels, a part of the second-level cache that all queries share
GROUP_BYTES = 1 << 17  # of tables of queries that walk through the rows together, a part of the second-level cache
DOUBTFUL = 2 * 1024, 8  # rows, and more per result, that wait for the end of a batch, when the threshold is highest


def rows_together(k: int) -> int:
    """Return the rows whose candidates are scored together, for `k` results: a heap takes many rows at once."""
    return max(CHUNK, (2 * k + WORD - 1) // WORD * WORD)


def rows_listed(n: int, k: int) -> int:
    """Return the entries of each list of rows, in a search of `n` rows for `k` results."""
    return min(max(CHUNK, (2 * k + WORD - 1) // WORD * WORD), (n + WORD - 1) // WORD * WORD) + WORD


def queries_together(groups: int, tile: int) -> int:
    """Return the queries that walk through the rows together, for prefixes of so many groups of 32 bits."""
    return max(1, GROUP_BYTES // (128 * groups) // tile) * tile


def bytes_waiting(nq: int, k: int) -> int:
    """Return the bytes of the rows that may wait of `nq` queries whose heaps have `k` entries."""
    return 8 * nq * (DOUBTFUL[0] + DOUBTFUL[1] * k)


chunk_rows, list_size, group_size, waiting_bytes = map(
    jit, (rows_together, rows_listed, queries_together, bytes_waiting)
)


def staged_workspace(rows: int, k: int, threads: int) -> int:
    """Return the bytes that each of some threads needs to search this many rows for `k` results in stages."""
    most = min(rows, SHARED_ROWS if threads > 1 else ROWS_ALONE)
    return 4 * (most * 21 // 16 + 192 + 2 * rows_listed(most, k))


def lists_workspace(k: int) -> int:
    """Return the bytes that each thread needs to search lists of rows for `k` results."""
    starts = LIST_ROWS // LANES + 4
    return 4 * (starts + LIST_ROWS * 21 // 16 + 192 + 2 * rows_listed(LIST_ROWS, k))


def prefix_workspace(nq: int, k: int, groups: int, tile: int) -> int:
    """Return the bytes that each thread needs to search for a batch by prefixes of so many groups of 32 bits."""
    return bytes_waiting(min(nq, queries_together(groups, tile)), k)


def product_workspace(words: int) -> int:
    """Return the bytes that each thread needs for byte products of rows of so many words."""
    return max(BLOCK_BYTES, 64 * words * PAIR)

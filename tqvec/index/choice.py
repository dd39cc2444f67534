"""Choice: which search answers a batch of queries in the least time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from tqvec.kernels.dispatch import levels, module
from tqvec.kernels.staged.sizes import UNIT_QUERIES, UNITS

Search = Literal["full", "few", "prefixes", "products"]

# Nanoseconds of one thread, measured on Zen 4.
_SURVIVOR_OF_FEW, _SURVIVOR = 20.0, 32.0  # per row that its prefix lets through: for one query alone, in a batch
_FULL_SCORE = 60.0  # per row that a filter picks out
_MEASURING = 150_000.0  # of the share of survivors
_START = 2000.0  # for each query of a batch and each part of the rows, which begins with few results
_PRODUCT_TILE = 32  # queries of a byte product; fewer take as long
_MANY = 0.15  # rows survive, about as many as of isotropic data: more are not worth the time of measuring


class Costs(NamedTuple):
    """Nanoseconds of one thread at a SIMD level.

    Attributes
    ----------
    few, prefixes : float
        Per row and byte of its prefix, for one query alone and for each of a batch.
    unpack : float
        Per row and 64 coordinates, for the levels that all queries of byte products share.
    products : float
        Per row, 64 coordinates and query.
    """

    few: float
    prefixes: float
    unpack: float
    products: float


# Measured on Zen 4 and, for AMX, on Sapphire Rapids.
_COSTS = {
    "amx": Costs(few=0.05, prefixes=0.028, unpack=6.0, products=0.09),
    "avx512": Costs(few=0.027, prefixes=0.021, unpack=4.0, products=0.32),
    "avx2": Costs(few=0.037, prefixes=0.027, unpack=5.0, products=0.45),
}


class Work(NamedTuple):
    """What a search has to do.

    Attributes
    ----------
    nq : int
        Queries.
    allowed : int
        Rows that may be returned.
    rows : int
        Rows of all words of 64 that have any of them.
    prefix_bytes : int
        Bytes of a prefix.
    words : int
        Words of 64 coordinates per row.
    threads : int
    """

    nq: int
    allowed: int
    rows: int
    prefix_bytes: int
    words: int
    threads: int


def choose_search(work: Work, survivors: Callable[[], float]) -> Search:
    """Return the search that takes the least time, by estimate.

    Where data are isotropic, many rows survive their prefixes. Byte products, which let hardly any row survive, are
    faster there. So the share of survivors is measured on some of the rows, unless that takes longer than it saves.

    Parameters
    ----------
    work : Work
    survivors : callable
        Measures the share of rows that survive their prefixes.

    Returns
    -------
    {"few", "prefixes", "products"}
        One after the other by prefixes, many at a time by prefixes, or by byte products.
    """
    nq, allowed, rows, prefix_bytes, words, threads = work
    parts = count_parts(nq, threads)
    costs = _COSTS[levels("pair_products")[0]]

    def times(share: float) -> dict[Search, float]:
        alone = min(rows * prefix_bytes * costs.few + share * allowed * _SURVIVOR_OF_FEW, allowed * _FULL_SCORE)
        lookups = _filled(nq, module("tile_totals").QUERY_TILE) * rows * prefix_bytes * costs.prefixes
        return {
            "few": nq * alone,
            "prefixes": lookups + nq * (share * allowed * _SURVIVOR + parts * _START),
            "products": allowed * words * (costs.unpack + _filled(nq, _PRODUCT_TILE) * costs.products),
        }

    fewest, most = times(0.0), times(_MANY)
    safe = min(most, key=lambda search: most[search])
    if fewest[safe] <= min(fewest.values()) + _MEASURING:
        return safe
    measured = times(survivors())
    return min(measured, key=lambda search: measured[search])


def count_parts(nq: int, threads: int) -> float:
    """Return how many parts of the rows a query of a batch meets, as `tqvec.kernels.scan.units` divides them."""
    return 1.0 if threads == 1 else max(1.0, UNITS * threads / max(1, nq // UNIT_QUERIES))


def _filled(count: int, tile: int) -> int:
    return -(-count // tile) * tile

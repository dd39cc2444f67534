"""Choice: which search answers a batch of queries in the least time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from tqvec.kernels.dispatch import module

Search = Literal["few", "prefixes", "products"]

# Nanoseconds of one thread (Zen 4), beside those that the modules of each level name.
_FEW = 0.025  # per byte of a prefix, for one query alone
_FEW_SURVIVOR, _SURVIVOR = 25.0, 35.0  # per row that its prefix lets through: one query alone, in a batch
_FULL_SCORE = 60.0  # per row that a filter picks out
_PRODUCT_TILE = 32  # queries of a byte product; fewer take as long
_MANY = 0.15  # rows survive, about as many as of isotropic data: more are not worth the time of measuring


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
    """

    nq: int
    allowed: int
    rows: int
    prefix_bytes: int
    words: int


def choose_search(work: Work, survivors: Callable[[], float]) -> Search:
    """Return the search that takes the least time, by estimate.

    Where data are isotropic, many rows survive their prefixes. Byte products, which let hardly any row survive, are
    faster there. So the share of survivors is measured on some of the rows, unless it does not matter.

    Parameters
    ----------
    work : Work
    survivors : callable
        Measures the share of rows that survive their prefixes.

    Returns
    -------
    {"few", "prefixes", "products"}
    """
    nq, allowed, rows, prefix_bytes, words = work
    lookups, products = module("tile_totals"), module("pair_products")

    def cheapest(share: float) -> Search:
        few = min(rows * prefix_bytes * _FEW + share * allowed * _FEW_SURVIVOR, allowed * _FULL_SCORE)
        prefixes = _filled(nq, lookups.QUERY_TILE) * rows * prefix_bytes * lookups.NS_PER_BYTE
        costs: dict[Search, float] = {
            "few": nq * few,
            "prefixes": prefixes + nq * share * allowed * _SURVIVOR,
            "products": _filled(nq, _PRODUCT_TILE) * allowed * words * products.NS_PER_WORD,
        }
        return min(costs, key=lambda search: costs[search])

    best = cheapest(0.0)
    return best if best == cheapest(_MANY) or nq == 1 else cheapest(survivors())


def _filled(count: int, tile: int) -> int:
    return -(-count // tile) * tile

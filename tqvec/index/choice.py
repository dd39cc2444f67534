"""Choice: which search answers a batch of queries in the least time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from tqvec.kernels import features
from tqvec.kernels.dispatch import module

Search = Literal["few", "prefixes", "products"]

# Nanoseconds of one thread (Zen 4), beside those that the modules of each level name.
_FEW = 0.05  # per byte of a prefix, for one query alone
_FULL_SCORE = 60.0  # per row that its prefix lets through
_PRODUCT_TILE = 32  # queries of a byte product; fewer take as long


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

    Rows that survive their prefixes cost most where data are isotropic, and byte products, which let hardly any row
    survive, win there. So that share is measured, unless it does not matter.

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
    few = nq * min(rows * prefix_bytes * _FEW, allowed * _FULL_SCORE)
    prefixes = _filled(nq, lookups.QUERY_TILE) * rows * prefix_bytes * lookups.NS_PER_BYTE
    product = _filled(nq, _PRODUCT_TILE) * allowed * words * products.NS_PER_WORD
    staged: Search = "few" if few <= prefixes else "prefixes"
    if features.level() == "amx" and nq > lookups.QUERY_TILE:
        return "products" if product < few else "few"
    most = (product - min(few, prefixes)) / (nq * allowed * _FULL_SCORE)  # survivors that products would cost as well
    if most >= 1:
        return staged
    return staged if most > 0 and survivors() <= most else "products"


def _filled(nq: int, tile: int) -> int:
    return -(-nq // tile) * tile

"""Operations of the index: `add`, and `search` for one query and for batches."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
from _common import unit_vectors

import tqvec

D, K, QUERIES, N, PART = 128, 10, 100, 10_000, 65_536
DIMS, BATCHES, WIDTHS = (64, 128, 384, 768, 1536, 3072), (1, 10, 100, 1_000), range(1, 9)


@lru_cache(maxsize=1)
def filled(n: int, d: int, nbits: int) -> tqvec.Index:
    """An index of random vectors, which are drawn in parts: all would not fit into memory."""
    index = tqvec.Index(d, nbits=nbits)
    for start in range(0, n, PART):
        index.add(unit_vectors(min(PART, n - start), d, seed=start))
    return index


def held(index: tqvec.Index) -> int:
    """Bytes of the codes and scales of an index."""
    return index.ntotal * index.code_size


def test_single_by_n(measure: Any, vectors: Any, n: int) -> None:
    index, query = filled(n, D, 4), vectors(1, D)
    measure(lambda: index.search(query, k=K), "search, single", "n", n, held(index))


def test_batch_by_n(measure: Any, vectors: Any, n: int) -> None:
    index, queries = filled(n, D, 4), vectors(QUERIES, D)
    measure(lambda: index.search(queries, k=K), f"search, {QUERIES} queries", "n", n, held(index))


@pytest.mark.parametrize("batch", BATCHES)
def test_search_by_batch(measure: Any, vectors: Any, batch: int) -> None:
    index, queries = filled(N, D, 4), vectors(batch, D)
    measure(lambda: index.search(queries, k=K), "search", "batch", batch, held(index))


@pytest.mark.parametrize("d", DIMS)
def test_search_by_d(measure: Any, vectors: Any, d: int) -> None:
    index, queries = filled(N, d, 4), vectors(QUERIES, d)
    measure(lambda: index.search(queries, k=K), f"search, {QUERIES} queries", "d", d, held(index))


@pytest.mark.parametrize("nbits", WIDTHS)
def test_search_by_width(measure: Any, vectors: Any, nbits: int) -> None:
    index, queries = filled(N, D, nbits), vectors(QUERIES, D)
    measure(lambda: index.search(queries, k=K), f"search, {QUERIES} queries", "bits", nbits, held(index))


@pytest.mark.parametrize("count", [1_000, 10_000, 100_000])
def test_add_by_n(measure: Any, vectors: Any, count: int) -> None:
    x = vectors(count, D)
    measure(lambda: tqvec.Index(D).add(x), "add", "n", count, count * tqvec.Index(D).code_size)

"""Tiny runs through every kernel, so that Numba compiles them (or finds them on disk)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tqvec.codec.attention import add_values, attention_tables, code_scores, softmax_in_place
from tqvec.codec.turboquant import TurboQuant
from tqvec.index.blocks import ALL
from tqvec.index.index import Index
from tqvec.kernels.arguments import Heap, RowRange
from tqvec.kernels.dispatch import available
from tqvec.kernels.topk.portable import EMPTY_ID

_X = np.eye(128, 16, dtype=np.float32)


def _encode() -> None:
    TurboQuant(16).encode(_X, threads=1)
    TurboQuant(16, mode="prod", qjl="hadamard").encode(_X, threads=1)


def _encode_trellis() -> None:
    TurboQuant(16, codebook="trellis").encode(_X, threads=1)


def _ids() -> None:
    index = Index(16)
    index.add(_X, ids=np.arange(128, 0, -1), threads=1)
    index.remove_ids([5])


def _train() -> None:
    x = np.random.default_rng(0).standard_normal((256, 16), np.float32)
    Index(16, metric="cosine").train(x, threads=1)


def _decode() -> None:
    tq = TurboQuant(16)
    codes = tq.encode(_X, threads=1)
    tq.decode(codes, threads=1)
    tq.inner_product(_X, codes, threads=1)


def _attend() -> None:
    tq = TurboQuant(16)
    codes, tables = tq.encode(_X, threads=1), attention_tables(tq)
    scale, out = np.zeros(128, np.uint16), np.zeros((1, 16), np.float32)
    scores = np.empty((1, 128), np.float32)
    code_scores(tables, _X[:1], codes.data, scale, scores)
    softmax_in_place(scores)
    add_values(tables, scores, codes.data, scale, out)


def _searches(queries: int, k: int) -> Callable[[], None]:
    def step() -> None:
        index = Index(16)
        index.add(_X, threads=1)
        index.search(_X[:queries], k=k, threads=1)

    return step


def _search_prefixes() -> None:
    """The search of a batch of more rows than these."""
    if available("search_prefixes"):
        index = Index(16)
        index.add(_X, threads=1)
        snapshot = index._snapshot()
        scanner, block = snapshot.scanner, snapshot.blocks[0]
        scanner._survivors(snapshot.blocks, snapshot.allowed, _X, 1)
        heaps = Heap(np.full((128, 1), -np.inf, np.float32), np.full((128, 1), EMPTY_ID, np.int64))
        scanner._prefixes(_X)(block, 0, RowRange(ALL, 0, block.n), heaps)


STEPS: dict[str, Callable[[], None]] = {
    "encode": _encode,
    "encode, trellis": _encode_trellis,
    "decode": _decode,
    "attention": _attend,
    "ids": _ids,
    "train": _train,
    "search, all rows": _searches(queries=1, k=128),
    "search, one query": _searches(queries=1, k=1),
    "search, many queries": _searches(queries=32, k=1),
    "search, prefixes": _search_prefixes,
}

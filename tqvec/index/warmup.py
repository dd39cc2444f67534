"""Tiny runs through every kernel, so that Numba compiles them (or finds them on disk)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from tqvec.codec.turboquant import TurboQuant
from tqvec.index.choice import Search
from tqvec.index.index import Index
from tqvec.kernels.dispatch import available

_X = np.eye(128, 16, dtype=np.float32)


@contextmanager
def _by_numpy() -> Iterator[None]:
    """Have NumPy encode what a step only reads: steps that run side by side would all compile the encoder."""
    mode = os.environ.get("TQVEC_COMPILE")
    os.environ["TQVEC_COMPILE"] = "never"
    try:
        yield
    finally:
        if mode is None:
            del os.environ["TQVEC_COMPILE"]
        else:
            os.environ["TQVEC_COMPILE"] = mode


def _encode() -> None:
    Index(16).add(_X, threads=1)


def _encode_prod() -> None:
    TurboQuant(16, mode="prod", qjl="hadamard").encode(_X, threads=1)


def _encode_trellis() -> None:
    TurboQuant(16, codebook="trellis").encode(_X, threads=1)


def _ids() -> None:
    index = Index(16)
    with _by_numpy():
        index.add(_X, ids=np.arange(128, 0, -1), threads=1)
    index.remove_ids([5])


def _train() -> None:
    x = np.random.default_rng(0).standard_normal((256, 16), np.float32)
    Index(16, metric="cosine").train(x, threads=1)


def _decode() -> None:
    tq = TurboQuant(16)
    with _by_numpy():
        codes = tq.encode(_X, threads=1)
    tq.decode(codes, threads=1)
    tq.inner_product(_X, codes, threads=1)


def _searches(*searches: Search) -> Callable[[], None]:
    def step() -> None:
        index = Index(16)
        with _by_numpy():
            index.add(_X, threads=1)
        snapshot = index._snapshot(threads=1)
        if "prefixes" in searches and available("search_few"):
            snapshot.scanner._survivors(snapshot.blocks, snapshot.allowed, _X, 1)
        for search in searches if available("search_few") else ("full",):
            snapshot.scanner.search_by(search, snapshot.blocks, snapshot.allowed, _X[:32], 1, 1)

    return step


def _lists() -> None:
    index = Index(16)
    with _by_numpy():
        index.add(_X, threads=1)
        index.partition(2, threads=1)
    index.search(_X[:1], k=1, nprobe=1, threads=1)


# In the order in which programs need them; `tqvec.kernels.background.ready` names them.
STEPS: dict[str, Callable[[], None]] = {
    "encode": _encode,
    "search, one query": _searches("few"),
    "search, many queries": _searches("prefixes", "products"),
    "search, all rows": _searches("full"),
    "decode": _decode,
    "search, lists": _lists,
    "train": _train,
    "encode, trellis": _encode_trellis,
    "ids": _ids,
    "encode, prod": _encode_prod,
}

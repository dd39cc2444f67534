"""FAISS indexes to compare with. FAISS is optional: the extras ``bench`` and ``test`` install it."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tqvec._types import Floats
from tqvec.errors import UnsupportedError


def has_faiss() -> bool:
    """Return whether FAISS is installed."""
    return importlib.util.find_spec("faiss") is not None


class Built(NamedTuple):
    """A trained and filled FAISS index.

    Attributes
    ----------
    index : faiss.Index
    build_s : float
        Seconds of training and adding.
    train_s : float
        Seconds of training alone.
    code_size : int
        Bytes per vector.
    """

    index: Any
    build_s: float
    train_s: float
    code_size: int


def build_faiss(
    factory: str,
    x: Floats,
    train: Floats | None = None,
    threads: int = 1,
    train_threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Built:
    """Build a FAISS index for inner products.

    Parameters
    ----------
    factory : str
        ``index_factory`` string, such as ``"PQ96x8"``.
    x : (n, d) float32
    train : (m, d) float32, optional
        Vectors to train on; default: `x` itself, which favours trained codecs.
    threads : int
    train_threads : int, optional
        Default: `threads`. FAISS's threads wait for each other without rest: where a CPU is busy, one is faster.
    clock : callable
        Returns the time in seconds.

    Raises
    ------
    UnsupportedError
        FAISS is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise UnsupportedError("FAISS is not installed: pip install 'tqvec[bench]'") from error
    index = faiss.index_factory(x.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    if hasattr(index, "pq"):
        index.pq.cp.min_points_per_centroid = 1  # no warnings on standard error: the caller chose the sample
    faiss.omp_set_num_threads(train_threads or threads)
    start = clock()
    index.train(x if train is None else train)
    trained = clock()
    faiss.omp_set_num_threads(threads)
    index.add(x)
    return Built(index, clock() - start, trained - start, int(index.sa_code_size()))

"""A pool of threads that share the rows of a task. Kernels release the GIL, so plain Python threads do.

Unlike a Numba parallel loop this works after fork, needs no threading layer, and lets several callers search at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tqvec._types import Floats

GRAIN = 256  # rows that a thread takes at least, where a row takes about a microsecond

_local = threading.local()
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def _forget_pool() -> None:
    """Drop the pool in a forked child, which has none of its parent's threads."""
    global _pool, _size, _lock
    _pool, _size, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def scratch(size: int) -> Floats:
    """Return a workspace of at least `size` float32 that belongs to the calling thread until it calls again."""
    workspace: Floats | None = getattr(_local, "workspace", None)
    if workspace is None or workspace.size < size:
        workspace = _local.workspace = np.empty(size, np.float32)
    return workspace


def _executor(threads: int) -> ThreadPoolExecutor:
    global _pool, _size
    with _lock:
        if _pool is None or _size < threads:  # a smaller pool finishes what it has and goes away
            _pool, _size = ThreadPoolExecutor(threads, thread_name_prefix="tqvec"), threads
        return _pool


def over_rows(task: Callable[[int, int, int], None], n: int, grain: int, threads: int) -> int:
    """Call ``task(part, start, stop)`` for consecutive parts of ``range(n)`` and wait for all.

    Parameters
    ----------
    task : callable
    n : int
        Number of rows.
    grain : int
        Parts are multiples of `grain` rows; the last one may be shorter.
    threads : int
        Upper limit of the number of parts.

    Returns
    -------
    int
        Number of parts.
    """
    grains = max(1, -(-n // grain))
    parts = min(threads, grains)
    bounds = [min(n, grains * p // parts * grain) for p in range(parts + 1)]
    if parts == 1:
        task(0, 0, n)
        return 1
    pool = _executor(parts)
    futures = [pool.submit(task, p, bounds[p], bounds[p + 1]) for p in range(1, parts)]
    try:
        task(0, bounds[0], bounds[1])
    finally:
        for future in futures:
            future.result()
    return parts

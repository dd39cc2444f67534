"""Compile the kernels of `KVCache` by using a tiny cache with each type of recent tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tqvec.kvcache.cache import KVCache
from tqvec.kvcache.policy import Policy


def _compile_cache() -> None:
    x = np.ones((1, 16, 16), np.float32)
    for dtype in ("float16", "bfloat16"):
        cache = KVCache(1, 1, 16, Policy(recent=4, chunk=4, mean_tokens=4, dtype=dtype))
        cache.append(0, x, x, threads=1)
        cache.attend(0, x[:, :1], softcap=1.0, threads=1)
        cache.keys(0, threads=1)


STEPS: dict[str, Callable[[], None]] = {"KV cache": _compile_cache}

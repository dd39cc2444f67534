"""Matrix products that BLAS computes in the calling thread.

For larger ones it has threads of its own. They wait for more work in a loop, for milliseconds, on the cores that the
threads of an attention need.
"""

from __future__ import annotations

import numpy as np

from tqvec._types import Floats

_ALONE = 1 << 17  # products of numbers that BLAS shares with no thread; OpenBLAS does from twice as many on


def multiply(x: Floats, y: Floats, out: Floats) -> None:
    """Fill `out`, (heads, g, n), with ``x @ y``; x: (heads, g, k), y: (heads, k, n)."""
    g, k = x.shape[1:]
    if g == 1:  # a vector's product gets threads much earlier
        out[:] = np.matmul(np.repeat(x, 2, axis=1), y)[:, :1]
        return
    rows = max(2, _ALONE // (k * y.shape[2]))
    for start in range(0, g - 1, rows):  # at least two rows at a time, the last time up to one more
        part = slice(start, start + rows if start + rows < g - 1 else g)
        np.matmul(x[:, part], y, out=out[:, part])


def rotate(x: Floats, rotation: Floats) -> Floats:
    """Return ``x @ rotation`` for vectors (…, d) and a matrix (d, d)."""
    out = np.empty((1, x.size // x.shape[-1], x.shape[-1]), np.float32)
    multiply(x.reshape(out.shape), rotation[None], out)
    return out.reshape(x.shape)

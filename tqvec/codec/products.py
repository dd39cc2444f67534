"""Products of queries with the levels of codes."""

from __future__ import annotations

import numpy as np

from tqvec._types import Bytes, Floats
from tqvec.kernels import plain
from tqvec.kernels.background import serve
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.rows import NS_TO_DECODE
from tqvec.kernels.tables import QuantizerTables
from tqvec.kernels.threads.helpers import check_memory, share


def level_products(
    data: Bytes, scale: Floats, tables: QuantizerTables, queries: Floats, threads: int, operation: str = "decode"
) -> Floats:
    """Return the products of rotated queries, (nq, d), with the levels of all codes times their scales, (nq, n).

    Parameters
    ----------
    data : (n, code bytes) uint8
    scale : (n,) float32
    tables : QuantizerTables
    queries : (nq, d) float32
    threads : int
    operation : str
        The step of a warm-up that compiles what is called here.
    """
    n, d = data.shape[0], queries.shape[1]
    out = np.empty((queries.shape[0], n), np.float32)

    def serve_part(start: int, stop: int) -> None:
        plain.adc_rows(data[start:stop], scale[start:stop], tables, queries, out[:, start:stop])

    done = serve(operation, n, serve_part)
    if done < n:
        rest = out if done == 0 else np.empty((queries.shape[0], n - done), np.float32)  # the kernel takes whole rows
        sharing = share(threads, (n - done) * queries.shape[0] * d * NS_TO_DECODE)
        codes = data[done:], scale[done:]
        check_memory(kernel("share_adc_rows")(*sharing, codes, (tables, SPREAD), queries, rest))
        out[:, done:] = rest
    return out

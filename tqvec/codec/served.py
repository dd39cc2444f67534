"""Reading of coded rows by compiled kernels, or by NumPy while these are not ready."""

from __future__ import annotations

import numpy as np

from tqvec._types import Bytes, Floats
from tqvec.kernels import plain
from tqvec.kernels.background import serve
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.rows import NS_TO_DECODE
from tqvec.kernels.tables import QuantizerTables, RotationTables
from tqvec.kernels.threads.helpers import check_memory, share


def decode_rows(data: Bytes, scale: Floats, basis: RotationTables, tables: QuantizerTables, threads: int) -> Floats:
    """Return ``scale[i] · basisᵀ (levels of row i)``, (n, d) float32."""
    out = np.empty((len(data), basis.perm.shape[1]), np.float32)

    def by_numpy(start: int, stop: int) -> None:
        plain.decode_rows(data[start:stop], scale[start:stop], basis, tables, out[start:stop])

    done = serve("decode", len(data), by_numpy)
    if done < len(data):
        rest = out[done:]
        sharing = share(threads, rest.size * NS_TO_DECODE)
        known = basis, tables, SPREAD
        check_memory(kernel("share_decode_rows")(*sharing, (data[done:], scale[done:]), known, rest))
    return out


def score_rows(data: Bytes, scale: Floats, tables: QuantizerTables, rotated: Floats, threads: int) -> Floats:
    """Return products of rotated queries (nq, d) with the scaled levels of rows, (nq, n) float32."""
    out = np.empty((len(rotated), len(data)), np.float32)

    def by_numpy(start: int, stop: int) -> None:
        plain.adc_rows(data[start:stop], scale[start:stop], tables, rotated, out[:, start:stop])

    done = serve("decode", len(data), by_numpy)
    if done < len(data):
        rest = np.empty((len(rotated), len(data) - done), np.float32) if done else out
        sharing = share(threads, rest.shape[1] * rotated.size * NS_TO_DECODE)
        known = tables, SPREAD
        check_memory(kernel("share_adc_rows")(*sharing, (data[done:], scale[done:]), known, rotated, rest))
        out[:, done:] = rest
    return out

"""Reading of coded rows by compiled kernels, or by NumPy while these are not ready."""

from __future__ import annotations

import numpy as np

from tqvec import _threads
from tqvec._types import Bytes, Floats
from tqvec.kernels import plain
from tqvec.kernels.background import serve
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.tables import QuantizerTables, RotationTables


def decode_rows(data: Bytes, scale: Floats, basis: RotationTables, tables: QuantizerTables, threads: int) -> Floats:
    """Return ``scale[i] · basisᵀ (levels of row i)``, (n, d) float32."""
    out = np.empty((len(data), basis.perm.shape[1]), np.float32)

    def by_numpy(start: int, stop: int) -> None:
        plain.decode_rows(data[start:stop], scale[start:stop], basis, tables, out[start:stop])

    def by_kernel(part: int, start: int, stop: int) -> None:
        kernel("decode_rows")(data, scale, basis, tables, SPREAD, done + start, done + stop, out)

    done = serve("decode", len(data), by_numpy)
    if done < len(data):
        _threads.over_rows(by_kernel, len(data) - done, _threads.GRAIN, threads)
    return out


def score_rows(data: Bytes, scale: Floats, tables: QuantizerTables, rotated: Floats, threads: int) -> Floats:
    """Return products of rotated queries (nq, d) with the scaled levels of rows, (nq, n) float32."""
    out = np.empty((len(rotated), len(data)), np.float32)

    def by_numpy(start: int, stop: int) -> None:
        plain.adc_rows(data[start:stop], scale[start:stop], tables, rotated, out[:, start:stop])

    def by_kernel(part: int, start: int, stop: int) -> None:
        kernel("adc_rows")(data, scale, tables, SPREAD, rotated, done + start, done + stop, out)

    done = serve("decode", len(data), by_numpy)
    if done < len(data):
        _threads.over_rows(by_kernel, len(data) - done, _threads.GRAIN, threads)
    return out

"""Rows of an index: what is kept of each vector."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tqvec.codec.bands import code_bytes
from tqvec.codec.turboquant import TurboQuant, encode_sums
from tqvec.errors import InputError

METRICS = ("ip", "cosine", "l2")
_LINE = 64  # bytes of a cache line

Rows = dict[str, NDArray]  # codes, scale and, for l2, squared_norm; with ids of their own, ids


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """Zeros that begin with a cache line: a row of 64 bytes is then read from one line in place of two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + size].view(dtype).reshape(shape)


def empty_rows(codec: TurboQuant, metric: str) -> Rows:
    """The arrays of an index with no vectors; their names are those of a file's tensors."""
    rows: Rows = {"codes": np.empty((0, code_bytes(codec.bands)), np.uint8), "scale": np.empty(0, np.float32)}
    if metric == "l2":
        rows["squared_norm"] = np.empty(0, np.float32)
    return rows


def encoded(codec: TurboQuant, metric: str, x: ArrayLike, threads: int | None = None) -> Rows:
    """Compress vectors.

    Parameters
    ----------
    codec : TurboQuant
    metric : {"ip", "cosine", "l2"}
    x : (n, d) or (d,) float16, float32, float64 or bfloat16
    threads : int, optional
        Default: ``TQVEC_NUM_THREADS``, or all CPUs.

    Returns
    -------
    dict of arrays
        ``codes`` (n, bytes a row) uint8, ``scale`` (n,) float32; for l2 ``squared_norm`` (n,) float32.

    Raises
    ------
    InputError
        Wrong type or shape; NaN, Inf or a length beyond float32, with the row.
    """
    sums = encode_sums(codec, x, threads=threads, unit=metric == "cosine")
    codes = sums.codes(with_error_byte=True)
    rows: Rows = {"codes": codes.data, "scale": codes.scale}
    if metric == "l2":
        with np.errstate(over="ignore"):
            rows["squared_norm"] = np.square(sums.norm).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(rows["squared_norm"]))
        if bad.size:
            raise InputError(f"x row {bad[0]} is too long: its squared length does not fit float32")
    return rows

"""Rows of an index: what is stored of a vector."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec.codec import tangents
from tqvec.codec.bands import code_bytes
from tqvec.codec.quantizer import TurboQuant
from tqvec.errors import InputError

Rows = dict[str, NDArray]  # codes, scale and, for l2, squared_norm


def empty_rows(codec: TurboQuant, metric: str) -> Rows:
    """The arrays of an index with no vectors; their names are those of a file's tensors."""
    rows: Rows = {"codes": np.empty((0, code_bytes(codec.bands)), np.uint8), "scale": np.empty(0, np.float32)}
    if metric == "l2":
        rows["squared_norm"] = np.empty(0, np.float32)
    return rows


def encoded(codec: TurboQuant, metric: str, x: ArrayLike, threads: int | None = None) -> Rows:
    """Compressed vectors.

    Raises
    ------
    InputError
        As `Index.add` says.
    """
    sums = codec.encode_sums(x, threads, unit=metric == "cosine")
    scale = tangents.packed(codec.stored_scale(sums), codec.tangents(sums, threads))
    rows: Rows = {"codes": sums.data, "scale": scale}
    if metric == "l2":
        with np.errstate(over="ignore"):
            rows["squared_norm"] = np.square(sums.norm).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(rows["squared_norm"]))
        if bad.size:
            raise InputError(f"x row {bad[0]} is too long: its squared length does not fit float32")
    return rows

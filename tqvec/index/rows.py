"""Rows of an index: the code, the scale and, for l2, the squared length of each vector."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec._validate import first_bad_row
from tqvec._vectors import Vectors
from tqvec.codec.bands import code_bytes
from tqvec.codec.turboquant import TurboQuant, encode_sums
from tqvec.errors import InputError
from tqvec.index.metrics import Metric

Rows = dict[str, NDArray]  # codes, scale and, for l2, squared_norm; with ids of their own, ids


def empty_rows(codec: TurboQuant, metric: str) -> Rows:
    """Return the arrays of an index without vectors, by the names that a file's tensors have."""
    rows: Rows = {"codes": np.empty((0, code_bytes(codec.bands)), np.uint8), "scale": np.empty(0, np.float32)}
    if Metric(metric).stores_norm:
        rows["squared_norm"] = np.empty(0, np.float32)
    return rows


def encode_rows(codec: TurboQuant, metric: str, x: ArrayLike | Vectors, threads: int | None = None) -> Rows:
    """Compress vectors to rows of an index, part by part: what lies in a file needs memory for its codes alone.

    Parameters
    ----------
    codec : TurboQuant
    metric : {"ip", "cosine", "l2"}
    x : (n, d) or (d,) array_like, or Vectors
    threads : int, optional
        Default: ``TQVEC_NUM_THREADS``, or all CPUs.

    Returns
    -------
    dict of arrays
        ``codes`` (n, bytes per row) uint8, ``scale`` (n,) float32; for l2 ``squared_norm`` (n,) float32.

    Raises
    ------
    InputError
        Wrong type or shape; NaN, Inf or a length beyond float32, with the row.
    """
    vectors = x if isinstance(x, Vectors) else Vectors(x, codec.d, "x")
    rows: Rows = {}
    done = 0
    for part in vectors.parts(whole=codec.calibration is None):
        coded = _encode_part(codec, Metric(metric), part, threads)
        if len(part) == len(vectors):
            return coded
        for name, array in coded.items():
            if not done:
                rows[name] = np.empty((len(vectors), *array.shape[1:]), array.dtype)
            rows[name][done : done + len(part)] = array
        done += len(part)
    return rows


def join_rows(parts: list[Rows]) -> Rows:
    """Return the rows of one part or more, in order."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([rows[name] for rows in parts]) for name in parts[0]}


def _encode_part(codec: TurboQuant, metric: Metric, vectors: Vectors, threads: int | None) -> Rows:
    sums = encode_sums(codec, vectors, threads=threads, unit=metric.unit_rows)
    codes = sums.codes(with_error_byte=True)
    rows: Rows = {"codes": codes.data, "scale": codes.scale}
    if metric.stores_norm:
        with np.errstate(over="ignore"):
            rows["squared_norm"] = np.square(sums.norm).astype(np.float32)
        bad = first_bad_row(rows["squared_norm"][:, None])
        if bad is not None:
            raise InputError(f"{vectors.names.of(bad)} is too long: its squared length does not fit float32")
    return rows

"""Attention on codes: scores, softmax of parts, and the weighted sum of values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tqvec.reference import codebook, packing, trellis

Array = NDArray[np.float64]


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Numbers of which `bits` are the upper half of the float32 (bfloat16: IEEE 754 binary32, cut off)."""
    return np.asarray(bits.astype(np.uint32) << 16, np.uint32).view(np.float32)


def levels(data: NDArray[np.uint8], d: int, bands: packing.Bands, kind: str) -> Array:
    """Levels (n, d) of packed codes of codebook `kind` ("File format" page, sections 3, 4 and 7)."""
    codes = packing.unpack(data, bands)
    out = np.zeros((len(data), d))
    for first, end, width in bands:
        part = codes[:, first:end]
        if kind == "trellis":
            out[:, first:end] = trellis.levels(part, trellis.frozen(d, width).astype(np.float32))
        else:
            out[:, first:end] = codebook.frozen(d, width).astype(np.float32)[part]
    return out


def scores(queries: NDArray, rows: Array, scale: NDArray) -> Array:
    """scale_t ⟨q_i, c_t⟩, (g, n) ("File format" page, section 5, Scores)."""
    return np.asarray(queries.astype(np.float64) @ rows.T * scale.astype(np.float64))


def capped(values: Array, cap: float) -> Array:
    """cap tanh(s / cap) (Gemma Team 2024, "Gemma 2", section 2: logit soft-capping)."""
    return np.asarray(cap * np.tanh(values / cap))


def weights(values: Array, seen: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """exp(s − max s) of the first seen_i scores of each row, 0 elsewhere; max s and the sum (Vaswani et al. 2017,
    eq. (1); safe by Milakov and Gimelshein 2018)."""
    open_ = np.arange(values.shape[1]) < seen[:, None]
    visible = np.where(open_, values, -np.inf)
    largest = visible.max(axis=1, initial=-np.inf)
    shifted = np.where(open_, visible - np.where(open_.any(axis=1), largest, 0.0)[:, None], -np.inf)
    out = np.exp(shifted)
    return out, largest, out.sum(axis=1)


def attention(queries: NDArray, keys: Array, values: Array, seen: NDArray[np.int64]) -> Array:
    """softmax(q Kᵀ) V over the first seen_i rows, (g, d) (Vaswani et al. 2017, eq. (1); the scale is in q)."""
    found, _, total = weights(queries.astype(np.float64) @ keys.T, seen)
    return np.asarray(found @ values / np.where(total > 0, total, 1.0)[:, None])

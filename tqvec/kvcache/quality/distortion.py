"""Measure the distortion of codecs on real keys, values and queries, for the bounds of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tqvec.codec.turboquant import TurboQuant
from tqvec.exact import normalize
from tqvec.kvcache.quality.captured import CapturedLayer
from tqvec.kvcache.quality.published import PRODUCT_ERROR, SQUARED_ERROR, Figure

SEEDS = 8  # rotations: keys of a head are much alike, so their errors are alike too
_UPPER = 3**0.5 * np.pi / 2  # Theorem 1: D_mse <= _UPPER * 4^-bits; Theorem 3: D_mse >= 4^-bits
_UPPER_PRODUCT = 3**0.5 * np.pi**2  # Theorem 2: d * D_prod <= _UPPER_PRODUCT * 4^-bits


class Distortion(NamedTuple):
    """A distortion of the paper, measured on captured tensors whose vectors have length 1.

    Attributes
    ----------
    measure : str
        "D_mse": squared error. "d·D_prod": squared error of products with queries of length 1, times the dimension.
    side : str
        "keys" or "values".
    nbits : int
    published : Figure
    lower, upper : float
        The bounds of the paper's theorems.
    expected : float
        The exact value for this dimension, if the rotation is drawn anew for each vector.
    measured : float
        Of the paper's algorithm: mean over vectors, heads, layers and `SEEDS` rotations.
    tqvec : float
        Of the codec of this package at the same bits: the trellis codebook for D_mse, the unbiased scale for D_prod.
    """

    measure: str
    side: str
    nbits: int
    published: Figure
    lower: float
    upper: float
    expected: float
    measured: float
    tqvec: float


def measure_distortions(layers: Sequence[CapturedLayer]) -> list[Distortion]:
    """Measure D_mse of keys and of values, and D_prod of keys with the queries that attend to them, at 1 to 4 bits."""
    d = layers[0].k.shape[2]
    rows = []
    for side, arrays in (("keys", [layer.k for layer in layers]), ("values", [layer.v for layer in layers])):
        x = normalize(np.concatenate([array.reshape(-1, d) for array in arrays]))
        for nbits, published in enumerate(SQUARED_ERROR, start=1):
            row = Distortion(
                measure="D_mse",
                side=side,
                nbits=nbits,
                published=published,
                lower=4.0**-nbits,
                upper=_UPPER * 4.0**-nbits,
                expected=TurboQuant(d, nbits).distortion,
                measured=_squared_error(x, nbits, rotation="haar", scale="norm"),
                tqvec=_squared_error(x, nbits, codebook="trellis", scale="least_squares"),
            )
            rows.append(row)
    for nbits, published in enumerate(PRODUCT_ERROR, start=1):
        row = Distortion(
            measure="d·D_prod",
            side="keys",
            nbits=nbits,
            published=published,
            lower=4.0**-nbits,
            upper=_UPPER_PRODUCT * 4.0**-nbits,
            expected=TurboQuant(d, nbits, mode="prod").distortion,
            measured=_product_error(layers, nbits, rotation="haar", mode="prod"),
            tqvec=_product_error(layers, nbits),
        )
        rows.append(row)
    return rows


def _squared_error(x: np.ndarray, nbits: int, **options: Any) -> float:
    """Return the mean squared error of unit vectors, over vectors and rotations."""
    errors = []
    for seed in range(SEEDS):
        codec = TurboQuant(x.shape[1], nbits, seed=seed, **options)
        errors.append(np.mean(np.sum(np.square(codec.decode(codec.encode(x)) - x), axis=1, dtype=np.float64)))
    return float(np.mean(errors))


def _product_error(layers: Sequence[CapturedLayer], nbits: int, **options: Any) -> float:
    """Return d times the mean squared error of products of unit keys and unit queries of the same head."""
    heads, _, d = layers[0].k.shape
    errors = []
    for seed in range(SEEDS):
        codec = TurboQuant(d, nbits, seed=seed, **options)
        for q, k, _ in layers:
            for head in range(heads):
                x, y = normalize(k[head]), normalize(q.reshape(heads, -1, d)[head])
                errors.append(np.mean(np.square((codec.decode_unbiased(codec.encode(x)) - x) @ y.T), dtype=np.float64))
    return d * float(np.mean(errors))

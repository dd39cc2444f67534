"""Codecs of one stage: ``tqvec_scalar``, ``tqvec_trellis`` and ``paper_mse``. Other families share most of the steps.

Every step is a function ``(codec, dtype, *inputs)``. It reads all it needs from the codec's profile and tables, so that
a mistake is a change of those. `dtype` is the type to compute in: float64 gives the exact value, a port's own type the
yardstick for its error.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle.arithmetic import at_least_single, norms, product, scale_rows, softmax_weights, total, weighted_mean
from tqvec.oracle.instance import Instance, Stage
from tqvec.oracle.layouts import LAYOUTS
from tqvec.oracle.rotations import ROTATIONS
from tqvec.reference import trellis


def normalize(codec: Instance, dtype: DTypeLike, x: NDArray) -> NDArray:
    """Return x/‖x‖, group by group, and 0 where ‖x‖ is 0 or counts as 0."""
    groups = x.reshape(-1, codec.profile.group or codec.d)
    norm = norms(groups, codec.norm_type(dtype))
    divisor = norm + np.asarray(codec.profile.epsilon, norm.dtype)
    inverse = np.divide(1, divisor, out=np.zeros_like(norm), where=norm > codec.profile.tiny)
    return (groups.astype(norm.dtype) * inverse[:, None]).astype(dtype).reshape(x.shape)


def rotate(codec: Instance, dtype: DTypeLike, unit: NDArray) -> NDArray:
    """Return y = Πu."""
    return ROTATIONS[codec.profile.rotation][0](codec, dtype, unit)


def unrotate(codec: Instance, dtype: DTypeLike, levels: NDArray) -> NDArray:
    """Return Πᵀc."""
    return ROTATIONS[codec.profile.rotation][1](codec, dtype, levels)


def quantize(codec: Instance, dtype: DTypeLike, rotated: NDArray) -> NDArray:
    """Count the thresholds below each value; a value on a threshold counts it if ties go up."""
    if codec.profile.codebook == "trellis":
        return trellis.encode(rotated.astype(dtype), codec.tables["levels"].astype(dtype)).astype(np.uint8)
    passes = np.greater if codec.profile.ties == "down" else np.greater_equal
    y, thresholds = rotated.astype(dtype), codec.tables["thresholds"].astype(dtype)
    return np.asarray(sum((passes(y, t) for t in thresholds), np.zeros(y.shape, np.uint8)), np.uint8)


def dequantize(codec: Instance, dtype: DTypeLike, codes: NDArray) -> NDArray:
    """Return the level of each code."""
    if codec.profile.codebook == "trellis":
        return trellis.levels(codes.astype(np.int64), codec.tables["levels"].astype(dtype))
    return codec.tables["centroids"].astype(dtype)[codes]


def scale(codec: Instance, dtype: DTypeLike, x: NDArray, rotated: NDArray, codes: NDArray) -> NDArray:
    """Return the scale by the profile's rule: ‖x‖/⟨y, c⟩, ‖x‖⟨y, c⟩/‖c‖² or ‖x‖; 0 for the zero vector."""
    wide = at_least_single(dtype)
    norm = norms(x, codec.norm_type(dtype))
    if codec.profile.scale == "norm":
        return norm
    y, c = rotated.astype(dtype).astype(wide), codec("dequantize", dtype, codes).astype(wide)
    dot = total(y * c)
    above, below = (norm, dot) if codec.profile.scale == "unbiased" else (norm * dot, total(c * c))
    return np.divide(above, below, out=np.zeros_like(above), where=norm > 0)


def pack(codec: Instance, dtype: DTypeLike, codes: NDArray) -> NDArray:
    """Return codes as bytes."""
    return LAYOUTS[codec.profile.layout].pack(codes, codec.profile.nbits)


def unpack(codec: Instance, dtype: DTypeLike, packed: NDArray) -> NDArray:
    """Undo `pack`."""
    return LAYOUTS[codec.profile.layout].unpack(packed, codec.profile.nbits, codec.d)


def encode(codec: Instance, dtype: DTypeLike, x: NDArray) -> tuple[NDArray, NDArray]:
    """Turn rows into bytes and scales: all the stages above."""
    rotated = codec("rotate", dtype, codec("normalize", dtype, x))
    codes = codec("quantize", dtype, rotated)
    return codec("pack", dtype, codes), codec("scale", dtype, x, rotated, codes)


def decode(codec: Instance, dtype: DTypeLike, packed: NDArray, scale: NDArray) -> NDArray:
    """Return scale · Πᵀc, times 1 − D where the profile shrinks."""
    vectors = codec("unrotate", dtype, codec("dequantize", dtype, codec("unpack", dtype, packed)))
    shrink = codec.tables.get("shrink", np.ones(1, np.float32))
    return scale_rows(vectors, shrink.astype(at_least_single(dtype)) * scale, dtype)


def score(codec: Instance, dtype: DTypeLike, queries: NDArray, packed: NDArray, scale: NDArray) -> NDArray:
    """Return scale_i ⟨Πq, c_i⟩ for all queries and rows."""
    levels = codec("dequantize", dtype, codec("unpack", dtype, packed))
    return scale_rows(product(codec("rotate", dtype, queries), levels.T, dtype).T, scale, dtype).T


def attend(codec: Instance, dtype: DTypeLike, scores: NDArray, values: NDArray) -> NDArray:
    """Return softmax(scores/√d) · values."""
    logits = scores.astype(dtype) / np.asarray(math.sqrt(codec.d), dtype)
    return weighted_mean(softmax_weights(logits), values, dtype)


def attention(codec: Instance, dtype: DTypeLike, queries: NDArray, *codes: NDArray) -> NDArray:
    """Return softmax(score/√d) times the decoded values; the first half of `codes` is of keys, the rest of values."""
    half = len(codes) // 2
    return attend(codec, dtype, codec("score", dtype, queries, *codes[:half]), codec("decode", dtype, *codes[half:]))


def first_stages(rotation_dtype: DTypeLike) -> dict[str, Stage]:
    """Return the stages that all families begin with; the bits of the rotation are those of `rotation_dtype`."""
    return {
        "normalize": Stage(("x",), ("unit",), normalize),
        "rotate": Stage(("unit",), ("rotated",), rotate, rotation_dtype),
        "quantize": Stage(("rotated",), ("codes",), quantize, np.float32, rule="codes"),
        "dequantize": Stage(("codes",), ("levels",), dequantize),
        "unrotate": Stage(("levels",), ("vectors",), unrotate),
        "scale": Stage(("x", "rotated", "codes"), ("scale",), scale),
    }


_KEYS = ("packed", "scale")
_LAST = {
    "pack": Stage(("codes",), ("packed",), pack, rule="exact"),
    "unpack": Stage(("packed",), ("codes",), unpack, rule="exact"),
    "encode": Stage(("x",), _KEYS, encode, None, rule="encode"),
    "decode": Stage(_KEYS, ("decoded",), decode),
    "score": Stage(("queries", *_KEYS), ("scores",), score),
    "attention": Stage(("queries", *_KEYS, "packed_v", "scale_v"), ("output",), attention),
}
STAGES = {**first_stages(np.float32), **_LAST}
PAPER_STAGES = {**first_stages(np.float64), **_LAST}

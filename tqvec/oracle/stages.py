"""The steps of each family of codecs, as functions ``(setup, dtype, *inputs)``.

They read everything from the setup's profile and tables, so that a mistake is a change of those. `dtype` is the type to
compute in: float64 gives the truth, a port's own type the yardstick for its error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle.arithmetic import at_least_single, exponential, lengths, product, total
from tqvec.oracle.layouts import LAYOUTS
from tqvec.oracle.setup import Setup, Stage
from tqvec.reference import rotation, trellis

Type = DTypeLike


def normalize(s: Setup, dtype: Type, x: NDArray) -> NDArray:
    """x/‖x‖, and 0 where ‖x‖ is 0."""
    norm = lengths(x, s.profile.norm_dtype)
    inverse = np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)
    return (x.astype(norm.dtype) * inverse[:, None]).astype(dtype)


def _factors(s: Setup, dtype: Type) -> NDArray:
    """Sign over the root of the block's size, for each round and coordinate."""
    sizes = np.repeat(s.tables["blocks"], s.tables["blocks"]).astype(np.float64)
    return (s.tables["signs"] / np.sqrt(sizes)).astype(dtype)


def _hadamard(s: Setup, dtype: Type, v: NDArray) -> NDArray:
    w = v.astype(dtype)
    for permutation, factors in zip(s.tables["permutation"], _factors(s, dtype), strict=True):
        w = rotation.transform_blocks(w[:, permutation] * factors, s.tables["blocks"].tolist())
    return w


def _hadamard_inverse(s: Setup, dtype: Type, v: NDArray) -> NDArray:
    w = v.astype(dtype)
    for permutation, factors in zip(s.tables["permutation"][::-1], _factors(s, dtype)[::-1], strict=True):
        before = np.empty_like(w)
        before[:, permutation] = rotation.transform_blocks(w, s.tables["blocks"].tolist()) * factors
        w = before
    return w


def _dense(s: Setup, dtype: Type, v: NDArray) -> NDArray:
    return product(v, s.tables["matrix"].T, dtype)


def _dense_inverse(s: Setup, dtype: Type, v: NDArray) -> NDArray:
    return product(v, s.tables["matrix"], dtype)


ROTATIONS: dict[str, tuple[Callable[..., NDArray], Callable[..., NDArray]]] = {
    "hadamard": (_hadamard, _hadamard_inverse),
    "dense": (_dense, _dense_inverse),
}


def rotate(s: Setup, dtype: Type, unit: NDArray) -> NDArray:
    """y = Πu."""
    return ROTATIONS[s.profile.rotation][0](s, dtype, unit)


def unrotate(s: Setup, dtype: Type, levels: NDArray) -> NDArray:
    """Πᵀc."""
    return ROTATIONS[s.profile.rotation][1](s, dtype, levels)


def quantize(s: Setup, dtype: Type, rotated: NDArray) -> NDArray:
    """The number of thresholds below each value; a value on one counts it if ties go up."""
    if s.profile.codebook == "trellis":
        return trellis.encode(rotated.astype(dtype), s.tables["levels"].astype(dtype)).astype(np.uint8)
    passes = np.greater if s.profile.ties == "down" else np.greater_equal
    y, thresholds = rotated.astype(dtype), s.tables["thresholds"].astype(dtype)
    return np.asarray(sum((passes(y, t) for t in thresholds), np.zeros(y.shape, np.uint8)), np.uint8)


def dequantize(s: Setup, dtype: Type, codes: NDArray) -> NDArray:
    """The level of each code."""
    if s.profile.codebook == "trellis":
        return trellis.levels(codes.astype(np.int64), s.tables["levels"].astype(dtype))
    return s.tables["centroids"].astype(dtype)[codes]


def scale(s: Setup, dtype: Type, x: NDArray, rotated: NDArray, codes: NDArray) -> NDArray:
    """What is kept of the length: ‖x‖/⟨y, c⟩, or ‖x‖; 0 for the zero vector."""
    wide = at_least_single(dtype)
    norm = lengths(x, s.profile.norm_dtype)
    if s.profile.scale == "norm":
        return norm
    y, c = rotated.astype(dtype).astype(wide), s("dequantize", dtype, codes).astype(wide)
    return _scaled(s.profile.scale, norm, total(y * c), total(c * c))


def _scaled(rule: str, norm: NDArray, dot: NDArray, energy: NDArray) -> NDArray:
    above, below = (norm, dot) if rule == "unbiased" else (norm * dot, energy)
    return np.divide(above, below, out=np.zeros_like(above), where=norm > 0)


def pack(s: Setup, dtype: Type, codes: NDArray) -> NDArray:
    """Codes as bytes."""
    return LAYOUTS[s.profile.layout].pack(codes, s.profile.nbits)


def unpack(s: Setup, dtype: Type, packed: NDArray) -> NDArray:
    """Inverse of `pack`."""
    return LAYOUTS[s.profile.layout].unpack(packed, s.profile.nbits, s.d)


def _times(rows: NDArray, factors: NDArray, dtype: Type) -> NDArray:
    """Rows times a scalar each; the scalar is never rounded to half precision."""
    wide = at_least_single(dtype)
    with np.errstate(over="ignore"):
        return (rows.astype(wide) * factors.astype(wide)[:, None]).astype(dtype)


def encode(s: Setup, dtype: Type, x: NDArray) -> tuple[NDArray, NDArray]:
    """Rows to bytes and scales: all the stages above."""
    rotated = s("rotate", dtype, s("normalize", dtype, x))
    codes = s("quantize", dtype, rotated)
    return s("pack", dtype, codes), s("scale", dtype, x, rotated, codes)


def decode(s: Setup, dtype: Type, packed: NDArray, scale: NDArray) -> NDArray:
    """scale · Πᵀc, by 1 − D where the profile shrinks."""
    vectors = s("unrotate", dtype, s("dequantize", dtype, s("unpack", dtype, packed)))
    shrink = s.tables.get("shrink", np.ones(1, np.float32))
    return _times(vectors, shrink.astype(at_least_single(dtype)) * scale, dtype)


def score(s: Setup, dtype: Type, queries: NDArray, packed: NDArray, scale: NDArray) -> NDArray:
    """scale_i ⟨Πq, c_i⟩ for all queries and rows."""
    levels = s("dequantize", dtype, s("unpack", dtype, packed))
    return _times(product(s("rotate", dtype, queries), levels.T, dtype).T, scale, dtype).T


def attend(s: Setup, dtype: Type, scores: NDArray, values: NDArray) -> NDArray:
    """softmax(scores/√d) · values."""
    logits = scores.astype(dtype) / np.asarray(math.sqrt(s.d), dtype)
    weights = exponential(logits - logits.max(axis=1, keepdims=True))
    return product(weights, values, dtype) / total(weights)[:, None]


def attention(
    s: Setup, dtype: Type, queries: NDArray, packed: NDArray, scale: NDArray, packed_v: NDArray, scale_v: NDArray
) -> NDArray:
    """softmax(score/√d) times the decoded values."""
    return attend(s, dtype, s("score", dtype, queries, packed, scale), s("decode", dtype, packed_v, scale_v))


def residual(s: Setup, dtype: Type, unit: NDArray, codes: NDArray) -> NDArray:
    """r = u − Πᵀc (arXiv 2504.19874 Algorithm 2, line 6)."""
    return unit.astype(dtype) - s("unrotate", dtype, s("dequantize", dtype, codes))


def gamma(s: Setup, dtype: Type, residual: NDArray) -> NDArray:
    """γ = ‖r‖ of unit vectors."""
    return lengths(residual.astype(dtype), at_least_single(dtype))


def project(s: Setup, dtype: Type, residual: NDArray) -> NDArray:
    """S r."""
    return product(residual, s.tables["projection"].T, dtype)


def sign(s: Setup, dtype: Type, projected: NDArray) -> NDArray:
    """z as bits: 1 where positive, 0 otherwise."""
    return np.asarray(projected.astype(dtype) > 0, np.uint8)


def pack_signed(s: Setup, dtype: Type, codes: NDArray, signs: NDArray) -> NDArray:
    """2·code + sign, packed."""
    return pack(s, dtype, 2 * codes + signs)


def unpack_signed(s: Setup, dtype: Type, packed: NDArray) -> tuple[NDArray, NDArray]:
    """Inverse of `pack_signed`."""
    both = unpack(s, dtype, packed)
    return both >> 1, both & 1


def encode_prod(s: Setup, dtype: Type, x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Algorithm 2: bytes, ‖x‖ and γ."""
    unit = s("normalize", dtype, x)
    rotated = s("rotate", dtype, unit)
    codes = s("quantize", dtype, rotated)
    rest = s("residual", dtype, unit, codes)
    packed = s("pack", dtype, codes, s("sign", dtype, s("project", dtype, rest)))
    return packed, s("scale", dtype, x, rotated, codes), s("gamma", dtype, rest)


def correct(s: Setup, dtype: Type, signs: NDArray, gamma: NDArray) -> NDArray:
    """√(π/2)/d · γ · Sᵀz (arXiv 2504.19874 Algorithm 2, line 11)."""
    z = 2.0 * signs - 1
    return _times(product(z, s.tables["projection"], dtype), s.tables["qjl_factor"] * gamma, dtype)


def decode_prod(s: Setup, dtype: Type, packed: NDArray, scale: NDArray, gamma: NDArray) -> NDArray:
    """‖x‖ (Πᵀc + correction)."""
    codes, signs = s("unpack", dtype, packed)
    vectors = s("unrotate", dtype, s("dequantize", dtype, codes)) + s("correct", dtype, signs, gamma)
    return _times(vectors, scale, dtype)


def score_prod(s: Setup, dtype: Type, queries: NDArray, packed: NDArray, scale: NDArray, gamma: NDArray) -> NDArray:
    """‖x‖ (⟨Πq, c⟩ + √(π/2)/d · γ · ⟨Sq, z⟩)."""
    codes, signs = s("unpack", dtype, packed)
    first = product(s("rotate", dtype, queries), s("dequantize", dtype, codes).T, dtype)
    second = product(s("project", dtype, queries), (2.0 * signs - 1).T, dtype)
    return _times((first + _times(second.T, s.tables["qjl_factor"] * gamma, dtype).T).T, scale, dtype).T


def attention_prod(s: Setup, dtype: Type, queries: NDArray, *codes: NDArray) -> NDArray:
    """As `attention`, with γ of keys and of values."""
    return attend(s, dtype, s("score", dtype, queries, *codes[:3]), s("decode", dtype, *codes[3:]))


def _first(rotated: Type) -> dict[str, Stage]:
    """Stages of all families; `rotated` is the type whose bits the rotation has."""
    return {
        "normalize": Stage(("x",), ("unit",), normalize),
        "rotate": Stage(("unit",), ("rotated",), rotate, rotated),
        "quantize": Stage(("rotated",), ("codes",), quantize, np.float32),
        "dequantize": Stage(("codes",), ("levels",), dequantize),
        "unrotate": Stage(("levels",), ("vectors",), unrotate),
        "scale": Stage(("x", "rotated", "codes"), ("scale",), scale),
    }


_KEYS = ("packed", "scale")
_LAST = {
    "pack": Stage(("codes",), ("packed",), pack),
    "unpack": Stage(("packed",), ("codes",), unpack),
    "encode": Stage(("x",), _KEYS, encode, None),
    "decode": Stage(_KEYS, ("decoded",), decode),
    "score": Stage(("queries", *_KEYS), ("scores",), score),
    "attention": Stage(("queries", *_KEYS, "packed_v", "scale_v"), ("output",), attention),
}
_PROD_KEYS = ("packed", "scale", "gamma")
_PROD = {
    "residual": Stage(("unit", "codes"), ("residual",), residual),
    "gamma": Stage(("residual",), ("gamma",), gamma),
    "project": Stage(("residual",), ("projected",), project),
    "sign": Stage(("projected",), ("signs",), sign),
    "correct": Stage(("signs", "gamma"), ("correction",), correct),
    "pack": Stage(("codes", "signs"), ("packed",), pack_signed),
    "unpack": Stage(("packed",), ("codes", "signs"), unpack_signed),
    "encode": Stage(("x",), _PROD_KEYS, encode_prod, None),
    "decode": Stage(_PROD_KEYS, ("decoded",), decode_prod),
    "score": Stage(("queries", *_PROD_KEYS), ("scores",), score_prod),
    "attention": Stage(("queries", *_PROD_KEYS, "packed_v", "scale_v", "gamma_v"), ("output",), attention_prod),
}
FAMILIES: dict[str, dict[str, Stage]] = {
    "scalar": {**_first(np.float32), **_LAST},
    "paper": {**_first(np.float64), **_LAST},
    "prod": {**_first(np.float64), **_PROD},
}
"""Stages of each family, in the order in which they are judged."""

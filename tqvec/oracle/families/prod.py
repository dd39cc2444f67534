"""Codecs of two stages, codes and signs of the projected residual: ``paper_prod`` (arXiv 2504.19874 Algorithm 2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle.arithmetic import at_least_single, norms, product, scale_rows
from tqvec.oracle.families import scalar
from tqvec.oracle.instance import Instance, Stage


def residual(codec: Instance, dtype: DTypeLike, unit: NDArray, codes: NDArray) -> NDArray:
    """Return r = u − Πᵀc (arXiv 2504.19874 Algorithm 2, line 6)."""
    return unit.astype(dtype) - codec("unrotate", dtype, codec("dequantize", dtype, codes))


def gamma(codec: Instance, dtype: DTypeLike, residual: NDArray) -> NDArray:
    """Return γ = ‖r‖ of unit vectors."""
    return norms(residual.astype(dtype), at_least_single(dtype))


def project(codec: Instance, dtype: DTypeLike, residual: NDArray) -> NDArray:
    """Return S r."""
    return product(residual, codec.tables["projection"].T, dtype)


def sign(codec: Instance, dtype: DTypeLike, projected: NDArray) -> NDArray:
    """Return the signs as bits: 1 where positive, 0 otherwise."""
    return np.asarray(projected.astype(dtype) > 0, np.uint8)


def pack(codec: Instance, dtype: DTypeLike, codes: NDArray, signs: NDArray) -> NDArray:
    """Pack 2·code + sign."""
    return scalar.pack(codec, dtype, 2 * codes + signs)


def unpack(codec: Instance, dtype: DTypeLike, packed: NDArray) -> tuple[NDArray, NDArray]:
    """Undo `pack`."""
    both = scalar.unpack(codec, dtype, packed)
    return both >> 1, both & 1


def encode(codec: Instance, dtype: DTypeLike, x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Turn rows into bytes, ‖x‖ and γ."""
    unit = codec("normalize", dtype, x)
    rotated = codec("rotate", dtype, unit)
    codes = codec("quantize", dtype, rotated)
    rest = codec("residual", dtype, unit, codes)
    packed = codec("pack", dtype, codes, codec("sign", dtype, codec("project", dtype, rest)))
    return packed, codec("scale", dtype, x, rotated, codes), codec("gamma", dtype, rest)


def correct(codec: Instance, dtype: DTypeLike, signs: NDArray, gamma: NDArray) -> NDArray:
    """Return √(π/2)/d · γ · Sᵀz (arXiv 2504.19874 Algorithm 2, line 11)."""
    z = 2.0 * signs - 1
    return scale_rows(product(z, codec.tables["projection"], dtype), codec.tables["qjl_factor"] * gamma, dtype)


def decode(codec: Instance, dtype: DTypeLike, packed: NDArray, scale: NDArray, gamma: NDArray) -> NDArray:
    """Return ‖x‖ (Πᵀc + correction)."""
    codes, signs = codec("unpack", dtype, packed)
    vectors = codec("unrotate", dtype, codec("dequantize", dtype, codes)) + codec("correct", dtype, signs, gamma)
    return scale_rows(vectors, scale, dtype)


def score(
    codec: Instance, dtype: DTypeLike, queries: NDArray, packed: NDArray, scale: NDArray, gamma: NDArray
) -> NDArray:
    """Return ‖x‖ (⟨Πq, c⟩ + √(π/2)/d · γ · ⟨Sq, z⟩) for all queries and rows."""
    codes, signs = codec("unpack", dtype, packed)
    first = product(codec("rotate", dtype, queries), codec("dequantize", dtype, codes).T, dtype)
    second = product(codec("project", dtype, queries), (2.0 * signs - 1).T, dtype)
    correction = scale_rows(second.T, codec.tables["qjl_factor"] * gamma, dtype).T
    return scale_rows((first + correction).T, scale, dtype).T


_KEYS = ("packed", "scale", "gamma")
STAGES = {
    **scalar.first_stages(np.float64),
    "residual": Stage(("unit", "codes"), ("residual",), residual),
    "gamma": Stage(("residual",), ("gamma",), gamma),
    "project": Stage(("residual",), ("projected",), project),
    "sign": Stage(("projected",), ("signs",), sign, rule="signs"),
    "correct": Stage(("signs", "gamma"), ("correction",), correct),
    "pack": Stage(("codes", "signs"), ("packed",), pack, rule="exact"),
    "unpack": Stage(("packed",), ("codes", "signs"), unpack, rule="exact"),
    "encode": Stage(("x",), _KEYS, encode, None, rule="encode"),
    "decode": Stage(_KEYS, ("decoded",), decode),
    "score": Stage(("queries", *_KEYS), ("scores",), score),
    "attention": Stage(("queries", *_KEYS, "packed_v", "scale_v", "gamma_v"), ("output",), scalar.attention),
}

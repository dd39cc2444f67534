"""Slots of vLLM's key-value cache: ``vllm_4bit_nc``, ``vllm_k3v4_nc``, ``vllm_3bit_nc``.

Keys are coded by Algorithm 1 with a restored length, values in equal steps.
The "vLLM's presets" page says what is published.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle.arithmetic import at_least_single, product, scale_rows, total
from tqvec.oracle.families import scalar
from tqvec.oracle.instance import Arrays, Instance, Stage
from tqvec.oracle.layouts import LAYOUTS

LEAST_STEP = 1e-8


def renormalize(codec: Instance, dtype: DTypeLike, levels: NDArray) -> NDArray:
    """Return c/‖c‖, with 1e-16 added to ‖c‖²."""
    wide = at_least_single(dtype)
    c = levels.astype(dtype).astype(wide)
    return (c / np.sqrt(total(c * c) + np.asarray(1e-16, wide))[:, None]).astype(dtype)


def value_range(codec: Instance, dtype: DTypeLike, values: NDArray) -> tuple[NDArray, NDArray]:
    """Return the step and the least value of each row."""
    v = values.astype(dtype).astype(at_least_single(dtype))
    least = v.min(axis=1)
    step = (v.max(axis=1) - least) / (2**codec.profile.value_bits - 1)
    return np.maximum(step, np.asarray(LEAST_STEP, step.dtype)), least


def steps_of_values(codec: Instance, dtype: DTypeLike, values: NDArray) -> NDArray:
    """Return (v − least)/step + 1/2, whose integer part is the code; the step is not yet rounded for storage."""
    step, least = codec("value_range", dtype, values)
    v = values.astype(dtype).astype(step.dtype)
    return np.asarray((v - least[:, None]) / step[:, None] + np.asarray(codec.profile.rounding, step.dtype))


def value_codes(codec: Instance, dtype: DTypeLike, values: NDArray) -> NDArray:
    """Return the integer part of `steps_of_values`, clipped to the range of codes."""
    return np.clip(np.floor(steps_of_values(codec, dtype, values)), 0, 2**codec.profile.value_bits - 1).astype(np.uint8)


def _half_bytes(numbers: NDArray) -> NDArray[np.uint8]:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(numbers[:, None], "<f2").view(np.uint8)


def pack(codec: Instance, dtype: DTypeLike, *parts: NDArray) -> NDArray:
    """Pack key codes, ‖x‖, value codes, step and least value."""
    codes, scale, of_values, step, least = parts
    pack_codes = LAYOUTS[codec.profile.layout].pack
    keys, values = pack_codes(codes, codec.profile.nbits), pack_codes(of_values, codec.profile.value_bits)
    return np.concatenate([keys, _half_bytes(scale), values, _half_bytes(step), _half_bytes(least)], axis=1)


def unpack(codec: Instance, dtype: DTypeLike, packed: NDArray) -> Arrays:
    """Undo `pack`."""
    unpack_codes = LAYOUTS[codec.profile.layout].unpack
    keys, values = ((codec.d * b + 7) // 8 for b in (codec.profile.nbits, codec.profile.value_bits))
    scale, step, least = (
        np.ascontiguousarray(packed[:, at : at + 2]).view("<f2")[:, 0]
        for at in (keys, keys + 2 + values, keys + 4 + values)
    )
    codes = unpack_codes(packed[:, :keys], codec.profile.nbits, codec.d)
    of_values = unpack_codes(packed[:, keys + 2 : keys + 2 + values], codec.profile.value_bits, codec.d)
    return codes, scale, of_values, step, least


def encode(codec: Instance, dtype: DTypeLike, x: NDArray, values: NDArray) -> NDArray:
    """Turn a key and a value into a slot."""
    rotated = codec("rotate", dtype, codec("normalize", dtype, x))
    codes = codec("quantize", dtype, rotated)
    scale = codec("scale", dtype, x, rotated, codes)
    of_values = codec("value_codes", dtype, values)
    return codec("pack", dtype, codes, scale, of_values, *codec("value_range", dtype, values))


def _decode_keys(codec: Instance, dtype: DTypeLike, codes: NDArray, scale: NDArray) -> NDArray:
    return scale_rows(codec("renormalize", dtype, codec("dequantize", dtype, codes)), scale, dtype)


def decode(codec: Instance, dtype: DTypeLike, packed: NDArray) -> tuple[NDArray, NDArray]:
    """Return ‖x‖ Πᵀc/‖c‖, and step · code + least value."""
    codes, scale, of_values, step, least = codec("unpack", dtype, packed)
    wide = at_least_single(dtype)
    values = of_values.astype(wide) * step.astype(wide)[:, None] + least.astype(wide)[:, None]
    return codec("unrotate", dtype, _decode_keys(codec, dtype, codes, scale)), values.astype(dtype)


def score(codec: Instance, dtype: DTypeLike, queries: NDArray, packed: NDArray) -> NDArray:
    """Return ⟨Πq, ‖x‖ c/‖c‖⟩ for all queries and keys."""
    codes, scale = codec("unpack", dtype, packed)[:2]
    return product(codec("rotate", dtype, queries), _decode_keys(codec, dtype, codes, scale).T, dtype)


def attention(codec: Instance, dtype: DTypeLike, queries: NDArray, packed: NDArray) -> NDArray:
    """Return softmax(score/√d) times the decoded values; a slot holds a key and a value."""
    return scalar.attend(codec, dtype, codec("score", dtype, queries, packed), codec("decode", dtype, packed)[1])


_SLOT = ("codes", "scale", "value_codes", "value_scale", "value_zero")
STAGES = {
    **scalar.first_stages(np.float32),
    "renormalize": Stage(("levels",), ("normal",), renormalize),
    "value_range": Stage(("values",), ("value_scale", "value_zero"), value_range),
    "value_codes": Stage(("values",), ("value_codes",), value_codes, rule="steps"),
    "pack": Stage(_SLOT, ("packed",), pack, rule="exact"),
    "unpack": Stage(("packed",), _SLOT, unpack, rule="exact"),
    "encode": Stage(("x", "values"), ("packed",), encode, None, rule="encode"),
    "decode": Stage(("packed",), ("decoded", "decoded_values"), decode),
    "score": Stage(("queries", "packed"), ("scores",), score),
    "attention": Stage(("queries", "packed"), ("output",), attention),
}

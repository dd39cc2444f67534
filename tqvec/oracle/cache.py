"""Steps of a slot of a key-value cache: keys by Algorithm 1 with a restored length, values in equal steps.

What is published of it is in docs/spec/vllm.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle.arithmetic import at_least_single, product, total
from tqvec.oracle.layouts import LAYOUTS
from tqvec.oracle.setup import Arrays, Setup

Type = DTypeLike

LEAST_STEP = 1e-8


def renormalize(s: Setup, dtype: Type, levels: NDArray) -> NDArray:
    """c/‖c‖, with 1e-16 added to ‖c‖²."""
    wide = at_least_single(dtype)
    c = levels.astype(dtype).astype(wide)
    return (c / np.sqrt(total(c * c) + np.asarray(1e-16, wide))[:, None]).astype(dtype)


def value_range(s: Setup, dtype: Type, values: NDArray) -> tuple[NDArray, NDArray]:
    """The step and the least value of each row."""
    v = values.astype(dtype).astype(at_least_single(dtype))
    least = v.min(axis=1)
    step = (v.max(axis=1) - least) / (2**s.profile.value_bits - 1)
    return np.maximum(step, np.asarray(LEAST_STEP, step.dtype)), least


def value_place(s: Setup, dtype: Type, values: NDArray) -> NDArray:
    """(v − least)/step + 1/2, whose integer part is the code; the step is not yet rounded for storage."""
    step, least = s("value_range", dtype, values)
    v = values.astype(dtype).astype(step.dtype)
    return np.asarray((v - least[:, None]) / step[:, None] + np.asarray(s.profile.rounding, step.dtype))


def value_codes(s: Setup, dtype: Type, values: NDArray) -> NDArray:
    """Integer part of `value_place`, within the codes there are."""
    return np.clip(np.floor(value_place(s, dtype, values)), 0, 2**s.profile.value_bits - 1).astype(np.uint8)


def _half(numbers: NDArray) -> NDArray[np.uint8]:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(numbers[:, None], "<f2").view(np.uint8)


def pack_slot(s: Setup, dtype: Type, *parts: NDArray) -> NDArray:
    """Key codes, ‖x‖, value codes, step, least value."""
    codes, scale, coded, step, least = parts
    pack = LAYOUTS[s.profile.layout].pack
    keys, values = pack(codes, s.profile.nbits), pack(coded, s.profile.value_bits)
    return np.concatenate([keys, _half(scale), values, _half(step), _half(least)], axis=1)


def unpack_slot(s: Setup, dtype: Type, packed: NDArray) -> Arrays:
    """Inverse of `pack_slot`."""
    unpack = LAYOUTS[s.profile.layout].unpack
    size, more = ((s.d * b + 7) // 8 for b in (s.profile.nbits, s.profile.value_bits))
    halves = [
        np.ascontiguousarray(packed[:, at : at + 2]).view("<f2")[:, 0]
        for at in (size, size + 2 + more, size + 4 + more)
    ]
    coded = unpack(packed[:, size + 2 : size + 2 + more], s.profile.value_bits, s.d)
    return unpack(packed[:, :size], s.profile.nbits, s.d), halves[0], coded, halves[1], halves[2]


def encode_slot(s: Setup, dtype: Type, x: NDArray, values: NDArray) -> NDArray:
    """A key and a value to bytes."""
    rotated = s("rotate", dtype, s("normalize", dtype, x))
    codes = s("quantize", dtype, rotated)
    scale = s("scale", dtype, x, rotated, codes)
    return s("pack", dtype, codes, scale, s("value_codes", dtype, values), *s("value_range", dtype, values))


def _keys(s: Setup, dtype: Type, codes: NDArray, scale: NDArray) -> NDArray:
    wide = at_least_single(dtype)
    c = s("renormalize", dtype, s("dequantize", dtype, codes)).astype(wide)
    return (c * scale.astype(wide)[:, None]).astype(dtype)


def decode_slot(s: Setup, dtype: Type, packed: NDArray) -> tuple[NDArray, NDArray]:
    """‖x‖ Πᵀc/‖c‖, and step · code + least value."""
    codes, scale, coded, step, least = s("unpack", dtype, packed)
    wide = at_least_single(dtype)
    values = coded.astype(wide) * step.astype(wide)[:, None] + least.astype(wide)[:, None]
    return s("unrotate", dtype, _keys(s, dtype, codes, scale)), values.astype(dtype)


def score_slot(s: Setup, dtype: Type, queries: NDArray, packed: NDArray) -> NDArray:
    """⟨Πq, ‖x‖ c/‖c‖⟩ for all queries and keys."""
    codes, scale = s("unpack", dtype, packed)[:2]
    return product(s("rotate", dtype, queries), _keys(s, dtype, codes, scale).T, dtype)

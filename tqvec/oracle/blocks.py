"""Steps of block formats for caches: groups of coordinates with a length of their own, blocks that hold their scale.

What is published of them is in docs/spec/turbo.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle.arithmetic import at_least_single, lengths, product, total
from tqvec.oracle.layouts import pack_fields, unpack_fields
from tqvec.oracle.setup import Setup

Type = DTypeLike


def group_scale(s: Setup, dtype: Type, x: NDArray, codes: NDArray) -> NDArray:
    """‖x‖/‖c‖ of each group, for each of its blocks: decoding restores the length."""
    wide, group = at_least_single(dtype), s.profile.group
    norm = lengths(x.reshape(-1, group), s.length_type(dtype)).astype(wide)
    c = s("dequantize", dtype, codes).astype(wide).reshape(-1, group)
    found = (norm / np.sqrt(total(c * c))).reshape(len(x), -1)
    return np.repeat(found, group // s.profile.block, axis=1)


def pack_blocks(s: Setup, dtype: Type, codes: NDArray, scale: NDArray) -> NDArray:
    """Each block: the scale, little-endian; 4 bits: two zero bytes; low bits of codes; 3 bits: then high bits."""
    b = s.profile.nbits
    c = codes.reshape(-1, s.profile.block)
    low = min(b, 2) if b < 4 else 4
    parts = [np.ascontiguousarray(scale.reshape(-1, 1), "<f2").view(np.uint8)]
    if b == 4:
        parts.append(np.zeros((len(c), 2), np.uint8))
    parts.append(pack_fields(c & (2**low - 1), low))
    if b == 3:
        parts.append(pack_fields(c >> 2, 1))
    return np.concatenate(parts, axis=1).reshape(len(codes), -1)


def unpack_blocks(s: Setup, dtype: Type, packed: NDArray) -> tuple[NDArray, NDArray]:
    """Inverse of `pack_blocks`."""
    b, block = s.profile.nbits, s.profile.block
    rows = packed.reshape(len(packed) * (s.d // block), -1)
    scale = np.ascontiguousarray(rows[:, :2]).view("<f2").reshape(len(packed), -1)
    if b == 4:
        return unpack_fields(rows[:, 4:], 4, block).reshape(len(packed), s.d), scale
    low = 2 + block // 4
    codes = unpack_fields(rows[:, 2:low], 2, block)
    if b == 3:
        codes = codes | unpack_fields(rows[:, low:], 1, block) << 2
    return codes.reshape(len(packed), s.d), scale


def encode_blocks(s: Setup, dtype: Type, x: NDArray) -> NDArray:
    """Rows to blocks."""
    codes = s("quantize", dtype, s("rotate", dtype, s("normalize", dtype, x)))
    scale = s("scale", dtype, x, codes)
    with np.errstate(over="ignore"):
        return s("pack", dtype, codes, scale.astype(s.type_of("scale")))


def _scaled_levels(s: Setup, dtype: Type, packed: NDArray) -> NDArray:
    codes, scale = s("unpack", dtype, packed)
    wide = at_least_single(dtype)
    factors = np.repeat(scale.astype(wide), s.profile.block, axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        return (s("dequantize", dtype, codes).astype(wide) * factors).astype(dtype)


def decode_blocks(s: Setup, dtype: Type, packed: NDArray) -> NDArray:
    """Πᵀ(scale · c), each block with its scale."""
    return s("unrotate", dtype, _scaled_levels(s, dtype, packed))


def score_blocks(s: Setup, dtype: Type, queries: NDArray, packed: NDArray) -> NDArray:
    """⟨Πq, scale · c⟩ for all queries and rows."""
    return product(s("rotate", dtype, queries), _scaled_levels(s, dtype, packed).T, dtype)

"""Blocks of llama.cpp forks: ``turbo2``, ``turbo3``, ``turbo4``.

Groups of coordinates have a length of their own, and blocks hold their scale. Their page says what is published.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle.arithmetic import at_least_single, norms, product, total
from tqvec.oracle.families import scalar
from tqvec.oracle.instance import Instance, Stage
from tqvec.oracle.layouts import pack_fields, unpack_fields


def scale(codec: Instance, dtype: DTypeLike, x: NDArray, codes: NDArray) -> NDArray:
    """Return ‖x‖/‖c‖ of each group, for each of its blocks: decoding restores the length."""
    wide, group = at_least_single(dtype), codec.profile.group
    norm = norms(x.reshape(-1, group), codec.norm_type(dtype)).astype(wide)
    c = codec("dequantize", dtype, codes).astype(wide).reshape(-1, group)
    ratio = (norm / np.sqrt(total(c * c))).reshape(len(x), -1)
    return np.repeat(ratio, group // codec.profile.block, axis=1)


def pack(codec: Instance, dtype: DTypeLike, codes: NDArray, scale: NDArray) -> NDArray:
    """Pack blocks: the scale, little-endian; 4 bits: two zero bytes; low bits of codes; 3 bits: then high bits."""
    b = codec.profile.nbits
    c = codes.reshape(-1, codec.profile.block)
    low = min(b, 2) if b < 4 else 4
    parts = [np.ascontiguousarray(scale.reshape(-1, 1), "<f2").view(np.uint8)]
    if b == 4:
        parts.append(np.zeros((len(c), 2), np.uint8))
    parts.append(pack_fields(c & (2**low - 1), low))
    if b == 3:
        parts.append(pack_fields(c >> 2, 1))
    return np.concatenate(parts, axis=1).reshape(len(codes), -1)


def unpack(codec: Instance, dtype: DTypeLike, packed: NDArray) -> tuple[NDArray, NDArray]:
    """Undo `pack`."""
    b, block = codec.profile.nbits, codec.profile.block
    rows = packed.reshape(len(packed) * (codec.d // block), -1)
    scale = np.ascontiguousarray(rows[:, :2]).view("<f2").reshape(len(packed), -1)
    if b == 4:
        return unpack_fields(rows[:, 4:], 4, block).reshape(len(packed), codec.d), scale
    low = 2 + block // 4
    codes: NDArray = unpack_fields(rows[:, 2:low], 2, block)
    if b == 3:
        codes = codes | unpack_fields(rows[:, low:], 1, block) << 2
    return codes.reshape(len(packed), codec.d), scale


def encode(codec: Instance, dtype: DTypeLike, x: NDArray) -> NDArray:
    """Turn rows into blocks."""
    codes = codec("quantize", dtype, codec("rotate", dtype, codec("normalize", dtype, x)))
    scale = codec("scale", dtype, x, codes)
    with np.errstate(over="ignore"):
        return codec("pack", dtype, codes, scale.astype(codec.type_of("scale")))


def _scaled_levels(codec: Instance, dtype: DTypeLike, packed: NDArray) -> NDArray:
    codes, scale = codec("unpack", dtype, packed)
    wide = at_least_single(dtype)
    factors = np.repeat(scale.astype(wide), codec.profile.block, axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        return (codec("dequantize", dtype, codes).astype(wide) * factors).astype(dtype)


def decode(codec: Instance, dtype: DTypeLike, packed: NDArray) -> NDArray:
    """Return Πᵀ(scale · c), each block with its scale."""
    return codec("unrotate", dtype, _scaled_levels(codec, dtype, packed))


def score(codec: Instance, dtype: DTypeLike, queries: NDArray, packed: NDArray) -> NDArray:
    """Return ⟨Πq, scale · c⟩ for all queries and rows."""
    return product(codec("rotate", dtype, queries), _scaled_levels(codec, dtype, packed).T, dtype)


STAGES = {
    **scalar.first_stages(np.float32),
    "scale": Stage(("x", "codes"), ("scale",), scale),
    "pack": Stage(("codes", "scale"), ("packed",), pack, rule="exact"),
    "unpack": Stage(("packed",), ("codes", "scale"), unpack, rule="exact"),
    "encode": Stage(("x",), ("packed",), encode, None, rule="encode"),
    "decode": Stage(("packed",), ("decoded",), decode),
    "score": Stage(("queries", "packed"), ("scores",), score),
    "attention": Stage(("queries", "packed", "packed_v"), ("output",), scalar.attention),
}

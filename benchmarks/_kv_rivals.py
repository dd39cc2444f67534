"""Formats of other libraries for keys and values, for the same harness and with bits counted in the same way.

quanto and HQQ are coded by transformers' own cache layers, where they are installed:
``pip install --no-deps optimum-quanto hqq einops termcolor``. While a text is generated, those layers code all tokens
again and again. In float32, with a group per token, the result is that of coding them once, as is done here.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator

import numpy as np
import torch
from _kv_coders import Format, Rival, minmax
from _language_model import Floats
from transformers.cache_utils import HQQQuantizedLayer, QuantizedLayer, QuantoQuantizedLayer

_BLOCK = 32  # values of a block of llama.cpp
_HUGGING_FACE_GROUP = 64  # the default of transformers
_FP8_MAX = 448.0


def per_channel(nbits: int, group: int) -> Callable[[Floats], Floats]:
    """KIVI's keys: each channel of a group of tokens is rounded between its extremes, which are kept in float16."""

    def coder(x: Floats) -> Floats:
        heads, n, d = x.shape
        groups = np.pad(x, ((0, 0), (0, -n % group), (0, 0)), mode="edge").reshape(heads, -1, group, d).swapaxes(2, 3)
        rows = minmax(groups.reshape(-1, group), nbits).reshape(groups.shape)
        return rows.swapaxes(2, 3).reshape(heads, -1, d)[:, :n]

    return coder


def per_token(nbits: int, group: int) -> Callable[[Floats], Floats]:
    """KIVI's values: a group of channels of each token is rounded between its extremes, which are kept in float16."""
    return lambda x: minmax(x.reshape(-1, group), nbits).reshape(x.shape)


def q4_0(x: Floats) -> Floats:
    """llama.cpp's q4_0: blocks of 32 values, with a float16 scale at which the largest one is coded as −8."""
    blocks = x.reshape(-1, _BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scale = largest / -8
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.minimum(np.floor(blocks * inverse + 8.5), 15) - 8
    rounded: Floats = codes * scale.astype(np.float16).astype(np.float32)
    return rounded.reshape(x.shape)


def hadamard(coder: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    """Return a coder of vectors that are turned by a Hadamard matrix."""

    def turned(x: Floats) -> Floats:
        matrix = np.ones((1, 1), np.float32)
        while len(matrix) < x.shape[2]:
            matrix = np.kron(np.array([[1, 1], [1, -1]], np.float32) / np.float32(np.sqrt(2)), matrix)
        return coder(x @ matrix) @ matrix

    return turned


def int8(x: Floats) -> Floats:
    """Vectors in int8, with a float16 scale of each."""
    scale = np.abs(x).max(axis=2, keepdims=True) / 127
    scale = np.maximum(scale.astype(np.float16).astype(np.float32), 1e-7)
    rounded: Floats = np.clip(np.rint(x / scale), -127, 127) * scale
    return rounded


def fp8(x: Floats) -> Floats:
    """E4M3, with one scale for all."""
    scale = float(np.abs(x).max()) / _FP8_MAX
    rounded: Floats = (torch.from_numpy(x / scale).to(torch.float8_e4m3fn).float() * scale).numpy()
    return rounded


def hugging_face(kind: type[QuantizedLayer], nbits: int, axis: int) -> Callable[[Floats], Floats]:
    """Return the coder of a cache layer of transformers."""

    def coder(x: Floats) -> Floats:
        layer = kind(nbits=nbits, axis_key=axis, axis_value=axis, q_group_size=_HUGGING_FACE_GROUP)
        tokens = torch.from_numpy(x)[None]
        layer.update(tokens, tokens)
        rounded: Floats = layer._dequantize(layer._quantized_keys)[0].numpy()
        return rounded

    return coder


def rivals() -> Iterator[tuple[str, Rival]]:
    """Names and formats, keys and values alike but for KIVI; by falling bits."""
    yield "int8 per token", _same(Format(int8, 8, 2))
    yield "FP8 (E4M3)", _same(Format(fp8, 8, 0))
    yield "q4_0", _same(Format(q4_0, 4, 2, _BLOCK))
    yield "q4_0 with Hadamard", _same(Format(hadamard(q4_0), 4, 2, _BLOCK))
    for group in (32, 64):  # the former is the paper's
        for nbits in (4, 3, 2):
            sides = (Format(coder(nbits, group), nbits, 4, group) for coder in (per_channel, per_token))
            yield f"KIVI {nbits} bits, groups of {group}", Rival(*sides)
    for name, package, kind, axis in (
        ("quanto", "optimum.quanto", QuantoQuantizedLayer, 0),
        ("HQQ", "hqq", HQQQuantizedLayer, 1),
    ):
        if _installed(package):
            for nbits in (4, 2):
                coder = hugging_face(kind, nbits, axis)
                yield f"{name} {nbits} bits", _same(Format(coder, nbits, 4, _HUGGING_FACE_GROUP))


def _same(both: Format) -> Rival:
    return Rival(both, both)


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that it is part of
        return False


logging.getLogger("hqq").setLevel(logging.ERROR)

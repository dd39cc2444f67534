"""Formats of other engines: their bytes per token, to compare with. Data, no codecs."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from tqvec.kvcache.byte_model import Nbytes


class Coding(NamedTuple):
    """The layout of keys, or of values: blocks of coordinates, each followed by its scales.

    Attributes
    ----------
    nbits : float
        Bits per coordinate.
    scales : int
        Bits of norms, scales and zero points per block.
    block : int or None
        Coordinates per block; the last block of a head is whole too. None: one block per head.
    """

    nbits: float
    scales: int = 0
    block: int | None = None

    def row_bytes(self, head_dim: int) -> tuple[int, int]:
        """Return the bytes of codes and of scales, per token and head."""
        block = head_dim if self.block is None else self.block
        blocks = ceil(head_dim / block)
        return blocks * ceil(block * self.nbits / 8), blocks * ceil(self.scales / 8)


class Format(NamedTuple):
    """A format of another engine: the layouts of keys and values, and their source."""

    keys: Coding
    values: Coding
    source: str

    def nbytes(self, kv_heads: int, head_dim: int, n_tokens: int, page: int = 1) -> Nbytes:
        """Return the bytes of a layer; tokens are held in pages of `page`, whose empty part is bookkeeping."""
        sides = [coding.row_bytes(head_dim) for coding in (self.keys, self.values)]
        codes, scales = (kv_heads * sum(side) for side in zip(*sides, strict=True))
        spare = -n_tokens % page
        return Nbytes(codes * n_tokens, scales * n_tokens, bookkeeping=spare * (codes + scales))


def _turbo(nbits: int, scales: int, block: int, source: str) -> Format:
    coding = Coding(nbits, scales, block)
    return Format(coding, coding, source)


def _prod(nbits: int) -> Format:
    """Keys: nbits - 1 bits and a sign per coordinate, two norms; values: nbits and one norm. Norms in 16 bits."""
    return Format(Coding(nbits, 32), Coding(nbits, 16), "TurboQuant, Algorithms 2 and 1 (arXiv 2504.19874)")


def _both(nbits: float, scales: int, source: str) -> Format:
    return Format(Coding(nbits, scales), Coding(nbits, scales), source)


_LLAMA = "block formats of llama.cpp forks"
_VLLM = "presets of vLLM: norms of keys, scale and zero point of values, 16 bits each"
_SPLIT = "TurboQuant: two groups of channels (arXiv 2504.19874), three 16-bit norms per vector"

FORMATS = {
    "fp16": _both(16, 0, "two bytes per value"),
    "fp8": _both(8, 0, "one byte per value"),
    "norm4": _both(4, 16, "4 bits and a 16-bit norm per vector"),
    "norm3": _both(3, 16, "3 bits and a 16-bit norm per vector"),
    "norm2": _both(2, 16, "2 bits and a 16-bit norm per vector"),
    "turbo2@32": _turbo(2, 16, 32, _LLAMA),
    "turbo3@32": _turbo(3, 16, 32, _LLAMA),
    "turbo2@128": _turbo(2, 16, 128, _LLAMA),
    "turbo3@128": _turbo(3, 16, 128, _LLAMA),
    "turbo4@128": _turbo(4, 32, 128, _LLAMA + "; two 16-bit norms per block, which is always 128"),
    "prod2": _prod(2),
    "prod3": _prod(3),
    "prod4": _prod(4),
    "split2.5": _both(2.5, 48, _SPLIT),
    "split3.5": _both(3.5, 48, _SPLIT),
    "vllm-k8v4": Format(Coding(8), Coding(4, 32), _VLLM),
    "vllm-4bit_nc": Format(Coding(4, 16), Coding(4, 32), _VLLM),
    "vllm-k3v4_nc": Format(Coding(3, 16), Coding(4, 32), _VLLM),
    "vllm-3bit_nc": Format(Coding(3, 16), Coding(3, 32), _VLLM),
}

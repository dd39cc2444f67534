"""The codecs of a cache: a codec per width. Caches of a process share codecs, and codecs of a seed their rotation."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Bytes, CodebookName, Floats, ScaleName
from tqvec.codec.bands import code_bytes
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant, encode_sums
from tqvec.kvcache.half_precision import to_float32, to_half
from tqvec.kvcache.policy import LayerWidths, Policy, Width

KEY_SCALE: ScaleName = "least_squares"  # the "KV cache" page has the measurement
VALUE_SCALE: ScaleName = "unbiased"


class GroupCodes(NamedTuple):
    """Codes of tokens, of the heads of a group.

    Attributes
    ----------
    codes : (heads, tokens, code bytes) uint8
    scales : (heads, tokens) uint16
        Bits of bfloat16.
    """

    codes: Bytes
    scales: NDArray[np.uint16]


SideCodes = tuple[GroupCodes, ...]  # of keys, or of values: an entry per group of heads


class HeadGroup(NamedTuple):
    """Heads of a layer whose keys, or values, have one width."""

    codec: TurboQuant
    heads: tuple[int, ...]

    @property
    def code_bytes(self) -> int:
        """Bytes of the code of a token and head, without the scale."""
        return code_bytes(self.codec.bands)


class SideCodec(NamedTuple):
    """The codecs of a layer's keys, or of its values.

    Attributes
    ----------
    groups : tuple of HeadGroup
    positions : tuple of (int, int)
        The group of each head, and the head's position in the group.
    """

    groups: tuple[HeadGroup, ...]
    positions: tuple[tuple[int, int], ...]

    def encode(self, x: Floats, threads: int | None) -> SideCodes:
        """Encode vectors of all heads, (heads, n, head_dim)."""
        out = []
        n, d = x.shape[1:]
        for group in self.groups:
            rows = x if len(self.groups) == 1 else x[list(group.heads)]
            sums = encode_sums(group.codec, rows.reshape(-1, d), threads=threads)
            scales = sums.scale(group.codec.scale_rule).astype(np.float32)
            shape = (len(group.heads), n)
            out.append(GroupCodes(sums.data.reshape(*shape, -1), to_half(scales, "bfloat16").reshape(shape)))
        return tuple(out)

    def decode(self, codes: SideCodes, rows: slice, threads: int | None) -> Floats:
        """Decode some tokens to the vectors that attention works with, (heads, n, head_dim)."""
        d = self.groups[0].codec.d
        out = np.empty((len(self.positions), len(range(*rows.indices(codes[0].codes.shape[1]))), d), np.float32)
        for group, part in zip(self.groups, codes, strict=True):
            data = np.ascontiguousarray(part.codes[:, rows]).reshape(-1, group.code_bytes)
            scales = to_float32(np.ascontiguousarray(part.scales[:, rows]).reshape(-1))
            vectors = group.codec.decode_unbiased(Codes(data, scales), threads=threads)
            out[list(group.heads)] = vectors.reshape(-1, *out.shape[1:])
        return out


class KVCodecs(NamedTuple):
    """The codecs of a layer's keys and values."""

    keys: SideCodec
    values: SideCodec


class LayerCodecs(NamedTuple):
    """The codecs of a layer, for coded and for recoded tokens; `recoded` is None where no token is recoded."""

    coded: KVCodecs
    recoded: KVCodecs | None


@lru_cache(maxsize=256)
def _codec(d: int, width: Width, codebook: CodebookName, seed: int, scale: ScaleName) -> TurboQuant:
    nbits = tuple(width) if isinstance(width, tuple) else width
    return TurboQuant(d, nbits, codebook=codebook, seed=seed, scale=scale)


@lru_cache(maxsize=16)
def basis(d: int, seed: int) -> Floats:
    """Return the rotation of a seed's codecs as a matrix: ``x @ basis`` rotates rows, ``x @ basis.T`` undoes it."""
    return _codec(d, 1, "scalar", seed, KEY_SCALE).transform.rotate(np.eye(d, dtype=np.float32))


def _side_codec(policy: Policy, widths: tuple[Width, ...], d: int, scale: str) -> SideCodec:
    kinds = list(dict.fromkeys((type(width), width) for width in widths))
    heads: list[list[int]] = [[] for _ in kinds]
    positions = []
    for head, width in enumerate(widths):
        group = kinds.index((type(width), width))
        positions.append((group, len(heads[group])))
        heads[group].append(head)
    codecs = (_codec(d, width, policy.codebook, policy.seed, scale) for _, width in kinds)
    groups = (HeadGroup(codec, tuple(members)) for codec, members in zip(codecs, heads, strict=True))
    return SideCodec(tuple(groups), tuple(positions))


def layer_codecs(policy: Policy, widths: LayerWidths, d: int) -> LayerCodecs:
    """Return the codecs of a layer.

    Raises
    ------
    InputError
        A width does not fit the dimension.
    """

    def both(keys: tuple[Width, ...], values: tuple[Width, ...]) -> KVCodecs:
        return KVCodecs(_side_codec(policy, keys, d, KEY_SCALE), _side_codec(policy, values, d, VALUE_SCALE))

    recoded = both(widths.recoded_keys, widths.recoded_values) if widths.recoded_keys else None
    return LayerCodecs(both(widths.keys, widths.values), recoded)

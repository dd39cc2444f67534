"""Which codec codes which head. Caches of a process share their codecs, and all codecs of a seed their rotation."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Floats
from tqvec.codec.bands import code_bytes
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant, encode_sums
from tqvec.kvcache.half_precision import narrowed, widened
from tqvec.kvcache.policy import LayerWidths, Policy, Width

KEY_SCALE, VALUE_SCALE = "least_squares", "unbiased"  # docs/explanation/kv-cache.md has the measurement


class Coded(NamedTuple):
    """Codes of tokens of some heads.

    Attributes
    ----------
    codes : (heads, tokens, code bytes) uint8
    scales : (heads, tokens) uint16
        Bits of bfloat16.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.uint16]

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.codes.nbytes + self.scales.nbytes


class Group(NamedTuple):
    """Heads of a layer whose keys, or values, have one width."""

    codec: TurboQuant
    heads: tuple[int, ...]

    @property
    def code_bytes(self) -> int:
        """Of a token and head, without the scale."""
        return code_bytes(self.codec.bands)


class Side(NamedTuple):
    """How the keys, or the values, of a layer are coded.

    Attributes
    ----------
    groups : tuple of Group
    places : tuple of (group, place in it)
        Of each head.
    """

    groups: tuple[Group, ...]
    places: tuple[tuple[int, int], ...]

    def encode(self, x: Floats, threads: int | None) -> tuple[Coded, ...]:
        """Code vectors of all heads, (heads, n, head_dim); what comes has an entry for each group."""
        found = []
        n, d = x.shape[1:]
        for group in self.groups:
            rows = x if len(self.groups) == 1 else x[list(group.heads)]
            sums = encode_sums(group.codec, rows.reshape(-1, d), threads=threads)
            scales = sums.scale(group.codec.scale_rule).astype(np.float32)
            shape = (len(group.heads), n)
            found.append(Coded(sums.data.reshape(*shape, -1), narrowed(scales, "bfloat16").reshape(shape)))
        return tuple(found)

    def decode(self, coded: tuple[Coded, ...], rows: slice, threads: int | None) -> Floats:
        """Vectors that codes of some tokens stand for, (heads, n, head_dim): those that attention works with."""
        d = self.groups[0].codec.d
        out = np.empty((len(self.places), len(range(*rows.indices(coded[0].codes.shape[1]))), d), np.float32)
        for group, part in zip(self.groups, coded, strict=True):
            codes = np.ascontiguousarray(part.codes[:, rows]).reshape(-1, group.code_bytes)
            scales = widened(np.ascontiguousarray(part.scales[:, rows]).reshape(-1))
            out[list(group.heads)] = group.codec.decode_unbiased(Codes(codes, scales), threads=threads).reshape(
                -1, *out.shape[1:]
            )
        return out


class Sides(NamedTuple):
    """How a tier of a layer is coded."""

    keys: Side
    values: Side


class LayerCodecs(NamedTuple):
    """How a layer is coded; `old` is None where tokens never grow old."""

    cold: Sides
    old: Sides | None


@lru_cache(maxsize=256)
def _codec(d: int, width: Width, codebook: str, seed: int, scale: str) -> TurboQuant:
    nbits = tuple(width) if isinstance(width, tuple) else width
    return TurboQuant(d, nbits, codebook=codebook, seed=seed, scale=scale)


@lru_cache(maxsize=16)
def basis(d: int, seed: int) -> Floats:
    """The rotation of all codecs of a seed as a matrix: rows times it are rotated, times its transpose rotated back."""
    return _codec(d, 1, "scalar", seed, KEY_SCALE).transform.rotate(np.eye(d, dtype=np.float32))


def _side(policy: Policy, widths: tuple[Width, ...], d: int, scale: str) -> Side:
    kinds = list(dict.fromkeys((type(width), width) for width in widths))
    heads: list[list[int]] = [[] for _ in kinds]
    places = []
    for head, width in enumerate(widths):
        group = kinds.index((type(width), width))
        places.append((group, len(heads[group])))
        heads[group].append(head)
    codecs = (_codec(d, width, policy.codebook, policy.seed, scale) for _, width in kinds)
    return Side(tuple(Group(codec, tuple(mine)) for codec, mine in zip(codecs, heads, strict=True)), tuple(places))


def layer_codecs(policy: Policy, widths: LayerWidths, d: int) -> LayerCodecs:
    """Codecs of a layer.

    Raises
    ------
    InputError
        A width does not fit the dimension.
    """

    def sides(keys: tuple[Width, ...], values: tuple[Width, ...]) -> Sides:
        return Sides(_side(policy, keys, d, KEY_SCALE), _side(policy, values, d, VALUE_SCALE))

    cold = sides(widths.keys, widths.values)
    return LayerCodecs(cold, sides(widths.old_keys, widths.old_values) if widths.old_keys else None)

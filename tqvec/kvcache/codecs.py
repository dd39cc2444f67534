"""The codecs of a cache: a codec per width. Caches of a process share codecs, and codecs of a seed their rotation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Bytes, CodebookName, Doubles, Floats, ScaleName
from tqvec.codec.bands import MAX_NBITS, code_bytes, parse
from tqvec.codec.codebooks import trellis
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant, encode_sums
from tqvec.kvcache.half_precision import to_float32, to_half
from tqvec.kvcache.key_basis import EVENLY, GUARDED, halves
from tqvec.kvcache.policy import LayerWidths, Policy, Width

KEY_SCALE: ScaleName = "least_squares"  # the "KV cache" page has the measurement
VALUE_SCALE: ScaleName = "unbiased"
GUARD_NBITS = 8  # of the keys of a head that fewer can't hold
_SIGN, _SIZE = np.uint16(15), np.uint16(0x7FFF)  # place of the sign bit of a scale; the other bits


class GroupCodes(NamedTuple):
    """Codes of tokens, of the heads of a group.

    Attributes
    ----------
    codes : (heads, tokens, code bytes) uint8
    scales : (heads, tokens) uint16
        Bits of bfloat16. The sign bit of a key's scale says that the mean was not subtracted from the key.
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

    def encode(self, x: Floats, plain: Bytes | None, threads: int | None) -> SideCodes:
        """Encode vectors of all heads, (heads, n, head_dim); `plain`: keys without their mean, (heads, n)."""
        out = []
        n, d = x.shape[1:]
        for group in self.groups:
            rows = x if len(self.groups) == 1 else x[list(group.heads)]
            sums = encode_sums(group.codec, rows.reshape(-1, d), threads=threads)
            scales = sums.scale(group.codec.scale_rule).astype(np.float32)
            shape = (len(group.heads), n)
            bits = to_half(scales, "bfloat16").reshape(shape)
            if plain is not None:
                bits |= plain[list(group.heads)].astype(np.uint16) << _SIGN
            out.append(GroupCodes(sums.data.reshape(*shape, -1), bits))
        return tuple(out)

    def decode(self, codes: SideCodes, rows: slice, threads: int | None) -> Floats:
        """Decode some tokens to the vectors that were coded, (heads, n, head_dim)."""
        d = self.groups[0].codec.d
        out = np.empty((len(self.positions), len(range(*rows.indices(codes[0].codes.shape[1]))), d), np.float32)
        for group, part in zip(self.groups, codes, strict=True):
            data = np.ascontiguousarray(part.codes[:, rows]).reshape(-1, group.code_bytes)
            scales = to_float32(np.ascontiguousarray(part.scales[:, rows] & _SIZE).reshape(-1))
            vectors = group.codec.decode_unbiased(Codes(data, scales), threads=threads)
            out[list(group.heads)] = vectors.reshape(-1, *out.shape[1:])
        return out

    def plain(self, codes: SideCodes, rows: slice) -> Bytes:
        """Return which keys were coded without their mean, (heads, n) uint8."""
        out = np.empty((len(self.positions), len(range(*rows.indices(codes[0].codes.shape[1])))), np.uint8)
        for group, part in zip(self.groups, codes, strict=True):
            out[list(group.heads)] = part.scales[:, rows] >> _SIGN
        return out

    def squared_lengths(self, codes: SideCodes) -> Doubles:
        """Return the mean squared length of coded vectors, (heads,), by their scales: right to a few percent."""
        out = np.empty(len(self.positions))
        for group, part in zip(self.groups, codes, strict=True):
            out[list(group.heads)] = np.square(to_float32(part.scales & _SIZE), dtype=np.float64).mean(axis=1)
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


@lru_cache(maxsize=256)
def _key_codec(d: int, width: Width, codebook: CodebookName, seed: int) -> TurboQuant:
    """Return the codec of keys whose coordinates come in the order of their importance."""
    nbits = key_bands(d, width, codebook)
    if len(nbits) == 1:
        return _codec(d, width, codebook, seed, KEY_SCALE)
    return TurboQuant(d, nbits, codebook=codebook, seed=seed, scale=KEY_SCALE, rotation="bandwise")


def key_bands(d: int, width: Width, codebook: CodebookName) -> tuple[tuple[int, int], ...]:
    """Return the bands of keys in the order of importance: a bit goes from the lower half to the upper one.

    Wider steps and more bands gain more where the importance is known exactly, and lose more where it is not.
    """
    _, bands = parse(tuple(width) if isinstance(width, tuple) else width, d)
    most, least = (trellis.MAX_NBITS, trellis.MIN_COORDINATES) if codebook == "trellis" else (MAX_NBITS, 1)
    whole = 16 if codebook == "trellis" else 2  # halves of a trellis have whole bytes
    if len(bands) == 1 and 1 < bands[0].nbits < most and d % whole == 0 and d // 2 >= least:
        return ((d // 2, bands[0].nbits + 1), (d // 2, bands[0].nbits - 1))
    return tuple((band.stop - band.start, band.nbits) for band in bands)


@lru_cache(maxsize=64)
def basis(codec: TurboQuant) -> Floats:
    """Return the rotation of a codec as a matrix: ``x @ basis`` rotates rows, ``x @ basis.T`` undoes it."""
    return codec.transform.rotate(np.eye(codec.d, dtype=np.float32))


def _side_codec(by_head: Sequence[TurboQuant]) -> SideCodec:
    """Return the codecs of a side, in groups of heads, from that of each head."""
    kinds = list(dict.fromkeys(by_head))
    heads: list[list[int]] = [[] for _ in kinds]
    positions = []
    for head, codec in enumerate(by_head):
        group = kinds.index(codec)
        positions.append((group, len(heads[group])))
        heads[group].append(head)
    groups = (HeadGroup(codec, tuple(members)) for codec, members in zip(kinds, heads, strict=True))
    return SideCodec(tuple(groups), tuple(positions))


@lru_cache(maxsize=1024)
def adapt(codecs: LayerCodecs, kinds: tuple[int, ...]) -> LayerCodecs:
    """Return codecs that code the keys of each head as `KeyBasis.kinds` says."""

    def of_kind(codec: TurboQuant, kind: int) -> TurboQuant:
        if kind == EVENLY and halves(codec.bands):
            return _codec(codec.d, codec.bands[0].nbits - 1, codec.codebook, codec.seed, KEY_SCALE)
        if kind == GUARDED and max(band.nbits for band in codec.bands) < GUARD_NBITS:
            return _codec(codec.d, GUARD_NBITS, "scalar", codec.seed, KEY_SCALE)
        return codec

    def of_kinds(side: SideCodec) -> SideCodec:
        by_head = [side.groups[group].codec for group, _ in side.positions]
        return _side_codec([of_kind(codec, kind) for codec, kind in zip(by_head, kinds, strict=True)])

    coded, recoded = (None if pair is None else pair._replace(keys=of_kinds(pair.keys)) for pair in codecs)
    assert coded is not None
    return LayerCodecs(coded, recoded)


def layer_codecs(policy: Policy, widths: LayerWidths, d: int, turns: bool) -> LayerCodecs:
    """Return the codecs of a layer; `turns`: its keys have a rotary embedding that is known.

    Raises
    ------
    InputError
        A width does not fit the dimension.
    """

    ordered = turns and policy.mean_tokens > 0

    def key_codec(width: Width) -> TurboQuant:
        if ordered:
            return _key_codec(d, width, policy.codebook, policy.seed)
        return _codec(d, width, policy.codebook, policy.seed, KEY_SCALE)

    def value_codec(width: Width) -> TurboQuant:
        return _codec(d, width, policy.codebook, policy.seed, VALUE_SCALE)

    def both(keys: tuple[Width, ...], values: tuple[Width, ...]) -> KVCodecs:
        return KVCodecs(_side_codec([*map(key_codec, keys)]), _side_codec([*map(value_codec, values)]))

    recoded = both(widths.recoded_keys, widths.recoded_values) if widths.recoded_keys else None
    return LayerCodecs(both(widths.keys, widths.values), recoded)

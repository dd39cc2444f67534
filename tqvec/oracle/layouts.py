"""Packed codes: how the bits of a row of codes become bytes. Each layout is a pair of inverse functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Bytes
from tqvec.reference import packing


class Layout(NamedTuple):
    """A pair: ``pack(codes, nbits)`` makes rows of bytes of (n, d) codes, ``unpack(data, nbits, d)`` undoes it."""

    pack: Callable[[NDArray, int], Bytes]
    unpack: Callable[[Bytes, int, int], Bytes]


def pack_planes(codes: NDArray, nbits: int) -> Bytes:
    """Pack bit planes, the most significant first. Each fills bytes from the lowest bit ("File format", section 4)."""
    return packing.pack(codes, [(0, codes.shape[1], nbits)])


def unpack_planes(data: Bytes, nbits: int, d: int) -> Bytes:
    """Undo `pack_planes`."""
    return packing.unpack(data, [(0, d, nbits)]).astype(np.uint8)


def reverse_codes(codes: NDArray, nbits: int) -> Bytes:
    """Return codes with their bits in the opposite order."""
    return np.asarray(sum((codes >> b & 1) << (nbits - 1 - b) for b in range(nbits)), np.uint8)


def pack_planes_low_first(codes: NDArray, nbits: int) -> Bytes:
    """Pack as `pack_planes` does, with the planes in the opposite order."""
    return pack_planes(reverse_codes(codes, nbits), nbits)


def unpack_planes_low_first(data: Bytes, nbits: int, d: int) -> Bytes:
    """Undo `pack_planes_low_first`."""
    return reverse_codes(unpack_planes(data, nbits, d), nbits)


def reverse_bytes(data: Bytes) -> Bytes:
    """Return bytes with their bits in the opposite order."""
    return np.packbits(np.unpackbits(data, axis=1, bitorder="little"), axis=1, bitorder="big")


def pack_planes_high_bit_first(codes: NDArray, nbits: int) -> Bytes:
    """Pack as `pack_planes` does, but fill bytes from the highest bit."""
    return reverse_bytes(pack_planes(codes, nbits))


def unpack_planes_high_bit_first(data: Bytes, nbits: int, d: int) -> Bytes:
    """Undo `pack_planes_high_bit_first`."""
    return unpack_planes(reverse_bytes(data), nbits, d)


def pack_fields(codes: NDArray, nbits: int) -> Bytes:
    """Pack code after code, the lowest bit of each first, into bytes from the lowest bit."""
    bits = codes[:, :, None] >> np.arange(nbits, dtype=np.uint8) & 1
    return np.packbits(bits.reshape(len(codes), -1), axis=1, bitorder="little")


def unpack_fields(data: Bytes, nbits: int, d: int) -> Bytes:
    """Undo `pack_fields`."""
    bits = np.unpackbits(data, axis=1, bitorder="little")[:, : d * nbits].reshape(len(data), d, nbits)
    return np.asarray((bits << np.arange(nbits, dtype=np.uint8)).sum(axis=2), np.uint8)


def pack_fields_high_first(codes: NDArray, nbits: int) -> Bytes:
    """Pack code after code, the highest bit of each first, into bytes from the highest bit."""
    return reverse_bytes(pack_fields(reverse_codes(codes, nbits), nbits))


def unpack_fields_high_first(data: Bytes, nbits: int, d: int) -> Bytes:
    """Undo `pack_fields_high_first`."""
    return reverse_codes(unpack_fields(reverse_bytes(data), nbits, d), nbits)


LAYOUTS: dict[str, Layout] = {
    "planes": Layout(pack_planes, unpack_planes),
    "planes, low first": Layout(pack_planes_low_first, unpack_planes_low_first),
    "planes, high bit first": Layout(pack_planes_high_bit_first, unpack_planes_high_bit_first),
    "fields": Layout(pack_fields, unpack_fields),
    "fields, high first": Layout(pack_fields_high_first, unpack_fields_high_first),
}

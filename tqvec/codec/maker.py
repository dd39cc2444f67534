"""What codes know of the codec that made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from tqvec.codec.bands import Band

CODEC_VERSION = 1  # part of the fingerprint; grows when the same input would give other bytes


class Maker(NamedTuple):
    """The codec that made codes, in the words of its arguments."""

    fingerprint: str
    d: int
    nbits: Any
    mode: str
    codebook: str
    rotation: str
    seed: int
    qjl: str | None
    scale: str

    def difference(self, other: object) -> str:
        """Return why this codec can't read what `other` made, for messages; "" if it can."""
        if not isinstance(other, Maker):
            return f"codes.maker must be a codec's, got {type(other).__name__}"
        if (self.fingerprint, self.scale) == (other.fingerprint, other.scale):
            return ""
        pairs = zip(self._fields[1:], self[1:], other[1:], strict=True)
        found = [f"{name}={theirs!r} in place of {name}={mine!r}" for name, mine, theirs in pairs if mine != theirs]
        kind = "another calibration" if self.rotation == "calibrated" else "other random numbers"
        return f"codes were made by another codec, with {', '.join(found) or kind}; that one reads them"


def hash_codec(settings: dict[str, Any], bands: tuple[Band, ...], arrays: Iterable[NDArray[Any]]) -> str:
    """Return the hash of a codec's arguments, bands and tables: of everything that decides the bytes of codes."""
    header = {"version": CODEC_VERSION, "bands": bands} | settings
    if header["qjl"] is None:
        del header["qjl"]
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for array in arrays:
        digest.update(array.astype("<f4").tobytes())
    return digest.hexdigest()[:32]

"""Originals: the vectors that were handed over, beside the codes of a segment, for exact scores and new codes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from tqvec import _atomic, _safetensors
from tqvec._safetensors import Tensor
from tqvec._types import Floats, Ids
from tqvec.errors import InputError

Kept = Literal["float32", "float16", "int8"]
KEPT: tuple[Kept, ...] = ("float32", "float16", "int8")
_KINDS = {"float32": "F32", "float16": "F16", "int8": "I8"}
_LARGEST = {"float32": np.float32(3.4e38), "float16": np.float32(65504)}
_PART = 16_384  # rows that are checked at once
_KEY, _VERSION = "originals", 1


class Originals:
    """The mapped file of the vectors of a segment.

    Parameters
    ----------
    path : Path
    kept : {"float32", "float16", "int8"}
        Their type. An int8 vector has a scale, the largest of its absolute values over 127.
    """

    def __init__(self, path: Path, kept: Kept) -> None:
        with _safetensors.open_file(path) as file:
            reader = _safetensors.Reader(path, file, _KEY, "file of the vectors of a collection")
            with _safetensors.blame(path):
                fields = _safetensors.check_fields(path, reader.fields, _VERSION)
                n, d = (_safetensors.integer(fields, name, 0) for name in ("n", "d"))
                if fields["kept"] != kept:
                    raise ValueError(f"it has vectors of {fields['kept']}, not of {kept}")
                tensors = _tensors(n, d, kept)
                reader.verify(tensors, _head(n, d, kept))
            arrays = reader.map(tensors)
        self.path, self.kept, self.rows = path, kept, arrays["rows"]
        self._vectors, self._scale = arrays["vectors"], arrays.get("scale")

    def of(self, rows: Ids) -> Floats:
        """Return the vectors of some rows as (n, d) float32; KeyError if one is not there."""
        at = np.searchsorted(self.rows, rows)
        if np.any(at >= self.rows.size) or np.any(self.rows[at] != rows):
            raise KeyError("a row has no original")
        vectors = self._vectors[at].astype(np.float32)
        if self._scale is not None:
            vectors *= self._scale[at][:, None]
        return vectors

    def checksum(self) -> str:
        """Return the checksum of everything in the file behind its head."""
        crc = 0
        for array in self._arrays():
            for first in range(0, len(array), _PART):
                crc = _safetensors.crc32(array[first : first + _PART], crc)
        return f"{crc:08x}"

    def _arrays(self) -> list[NDArray]:
        return [array for array in (self.rows, self._scale, self._vectors) if array is not None]


def _tensors(n: int, d: int, kept: Kept) -> dict[str, Tensor]:
    scale: dict[str, tuple[str, tuple[int, ...]]] = {"scale": ("F32", (n,))} if kept == "int8" else {}
    return _safetensors.place_by_type({"rows": ("I64", (n,)), "vectors": (_KINDS[kept], (n, d)), **scale})


def _head(n: int, d: int, kept: Kept) -> bytes:
    fields = _safetensors.with_checksum({"version": _VERSION, "n": n, "d": d, "kept": kept})
    return _safetensors.make_head(_tensors(n, d, kept), {_KEY: _safetensors.canonical(fields)})


def check_kept(vectors: Floats, kept: Kept, name: str, first: int = 0) -> None:
    """Raise InputError if a value is beyond the type that is kept; it counts rows from the `first`."""
    limit = _LARGEST.get(kept)
    if limit is None or vectors.size == 0:
        return
    beyond = np.flatnonzero(np.abs(vectors).max(axis=1) > limit)
    if beyond.size:
        row = beyond[0]
        raise InputError(
            f"{name} row {first + row} has values up to {np.abs(vectors[row]).max():.3g}, beyond keep={kept!r}: "
            "scale the vectors, or create the collection with keep='float32'"
        )


def write_originals(path: Path, n: int, d: int, kept: Kept, parts: Iterable[tuple[Ids, Floats]]) -> str:
    """Write the vectors of a segment, in the order of their rows, and return the checksum.

    Parameters
    ----------
    path : Path
    n, d : int
    kept : {"float32", "float16", "int8"}
    parts : iterable of ((m,) int64, (m, d) float32)
        Rows and vectors, n in all.
    """
    tensors, head = _tensors(n, d, kept), _head(n, d, kept)
    file = _atomic.create(path)
    try:
        file.truncate(len(head) + _safetensors.total_bytes(tensors))
        file.write(head)
        done = 0
        for rows, vectors in parts:
            for name, array in _converted(rows, vectors, kept).items():
                _put(file, len(head), tensors[name], done, array)
            done += len(rows)
        if done != n:
            raise RuntimeError(f"{n} vectors were announced, {done} written")
        _atomic.publish(file, path)
    finally:
        _atomic.discard(file)
    return Originals(path, kept).checksum()


def as_kept(vectors: Floats, kept: Kept) -> Floats:
    """Return vectors as they are read from a file of originals."""
    arrays = _converted(np.zeros(0, np.int64), vectors, kept)
    values: Floats = arrays["vectors"].astype(np.float32)
    return values * arrays["scale"][:, None] if kept == "int8" else values


def _converted(rows: Ids, vectors: Floats, kept: Kept) -> dict[str, NDArray]:
    if kept == "float32":
        return {"rows": rows, "vectors": vectors}
    if kept == "float16":
        return {"rows": rows, "vectors": vectors.astype(np.float16)}
    scale = np.abs(vectors).max(axis=1) / np.float32(127)
    whole = np.rint(vectors / np.where(scale > 0, scale, np.float32(1))[:, None]).astype(np.int8)
    return {"rows": rows, "vectors": whole, "scale": scale}


def _put(file: BinaryIO, start: int, tensor: Tensor, row: int, array: NDArray) -> None:
    file.seek(start + tensor.start + row * tensor.row_bytes)
    file.write(_safetensors.as_bytes(array))

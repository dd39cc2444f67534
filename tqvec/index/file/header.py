"""What an index file holds and where: its header, the tensors that follow from it, and their places.

docs/format.md is the specification. Nothing here reads or writes a file.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tqvec.codec.bands import MAX_BANDS, MAX_NBITS, Band, Width, code_bytes, parse
from tqvec.codec.turboquant import MAX_D, TurboQuant
from tqvec.errors import FormatError, InputError
from tqvec.index.metrics import METRICS

VERSION = 6  # that is written; older ones are read
BLOCK_ROWS = 65536  # that have a checksum of their own
FIRST_WITH_TANGENTS = 5  # in the low bytes of scales, and with what a calibration knows of errors

_KEY = "tqvec"  # of the metadata
# In the order of the file.
_DTYPES: dict[str, np.dtype[Any]] = {"I64": np.dtype("<i8"), "F32": np.dtype("<f4"), "U8": np.dtype("u1")}
_END_OF_IDS = 2**63
_HEX = re.compile("[0-9a-f]{8}")


class Tensor(NamedTuple):
    """One tensor of a file: its type, its shape, and its bytes, counted from the end of the header."""

    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the array."""
        return _DTYPES[self.kind]

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


class Header(NamedTuple):
    """What the metadata of a file say; docs/format.md has the meaning of each field."""

    version: int
    d: int
    nbits: Width
    bands: tuple[Band, ...]
    mode: str
    codebook: str
    rotation: str
    seed: int
    metric: str
    ntotal: int
    first_id: int
    next_id: int
    block_rows: int
    fingerprint: str
    crc32: dict[str, list[str]]

    @property
    def row_names(self) -> list[str]:
        """Tensors that have a row for each vector."""
        names = ["codes", "scale"]
        names += ["squared_norm"] if self.metric == "l2" else []
        return names + (["ids"] if "ids" in self.crc32 else [])

    @property
    def learned_names(self) -> list[str]:
        """Tensors of the calibration, if there is one."""
        names = ["centre", "matrix", "spreads"] if self.rotation == "calibrated" else []
        return names + (["near"] if names and self.version >= FIRST_WITH_TANGENTS else [])

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, in the order of the file."""
        n, d = self.ntotal, self.d
        shapes: dict[str, tuple[str, tuple[int, ...]]] = dict.fromkeys(self.row_names, ("F32", (n,)))
        shapes["codes"] = ("U8", (n, code_bytes(self.bands)))
        if "ids" in shapes:
            shapes["ids"] = ("I64", (n,))
        learned = ((d,), (d, d), (len(self.bands),), (2,))
        shapes |= {name: ("F32", shape) for name, shape in zip(self.learned_names, learned, strict=False)}
        kinds = list(_DTYPES)
        found: dict[str, Tensor] = {}
        stop = 0
        for name in sorted(shapes, key=lambda name: (kinds.index(shapes[name][0]), name)):
            kind, shape = shapes[name]
            start, stop = stop, stop + _DTYPES[kind].itemsize * math.prod(shape)
            found[name] = Tensor(kind, shape, start, stop)
        return found

    def blocks(self, name: str) -> list[slice]:
        """Rows of a tensor that share a checksum: at least one block, which an index without vectors leaves empty."""
        if name not in self.row_names:
            return [slice(None)]
        starts = range(0, max(1, self.ntotal), self.block_rows)
        return [slice(start, min(start + self.block_rows, self.ntotal)) for start in starts]

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return max(tensor.stop for tensor in self.tensors().values())

    def fields(self) -> dict[str, Any]:
        """As they are stored, for JSON: with a checksum of all others."""
        fields = self._asdict()
        return fields | {"header_crc32": _header_crc(fields)}

    def head(self) -> bytes:
        """The bytes that a file of this header begins with, up to its first tensor."""
        head = {"__metadata__": {_KEY: _canonical(self.fields())}} | _entries(self)
        text = json.dumps(head, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


def new_header(codec: TurboQuant, metric: str, n: int, first_id: int | None, next_id: int | None) -> Header:
    """Header of a file with `n` rows; its checksums, 0 as yet, have the places of the true ones.

    `first_id` None: there is a tensor of ids. `next_id` None: the id after the last row's.

    Raises
    ------
    InputError
        Ids would pass 2^63.
    """
    first = 0 if first_id is None else first_id
    after = first + n if next_id is None else next_id
    if after > _END_OF_IDS:
        raise InputError(f"ids end at 2^63 - 1, the next one would be {after}")
    header = Header(
        version=VERSION,
        d=codec.d,
        nbits=codec.nbits,
        bands=codec.bands,
        mode=codec.mode,
        codebook=codec.codebook,
        rotation=codec.rotation,
        seed=codec.seed,
        metric=metric,
        ntotal=n,
        first_id=first,
        next_id=after,
        block_rows=BLOCK_ROWS,
        fingerprint=codec.fingerprint,
        crc32={"ids": []} if first_id is None else {},
    )
    return header._replace(crc32={name: ["0" * 8] * len(header.blocks(name)) for name in header.tensors()})


def parse_head(path: Path, head: bytes) -> Header:
    """The header that a file begins with.

    Parameters
    ----------
    path : Path
        For messages.
    head : bytes
        All that is before the first tensor.

    Raises
    ------
    FormatError
        Any byte differs from what a writer would have made of the fields.
    """
    try:
        found = json.loads(head[8:].decode())
        text = found.pop("__metadata__", {}).get(_KEY)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path}: not a safetensors file, or damaged or truncated ({error})") from error
    if not isinstance(text, str):
        raise FormatError(f"{path}: a safetensors file, but not a tqvec index")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: damaged: the header is no JSON ({error})") from error
    header = parse_fields(path, fields)
    entries = _entries(header)
    if found != entries:
        differ = sorted(name for name in found.keys() | entries.keys() if found.get(name) != entries.get(name))
        raise FormatError(f"{path}: damaged: the tensors {reprlib.repr(differ)} are not those that its header tells")
    if header.version >= 6 and header.head() != head:
        raise FormatError(f"{path}: damaged: the header has other bytes than a writer would have made of its fields")
    return header


def parse_fields(path: Path, fields: object) -> Header:
    """The header of decoded JSON, every field checked.

    Raises
    ------
    FormatError
        A field is missing, has a wrong type or can't be; or the version is newer than `VERSION`.
    """
    try:
        if not isinstance(fields, dict):
            raise ValueError(f"the header is {reprlib.repr(fields)}")
        version = _integer(fields, "version", 1)
        if version > VERSION:
            raise FormatError(
                f"{path}: written in format version {version}; this tqvec reads up to {VERSION}: upgrade it"
            )
        if fields["header_crc32"] != _header_crc(fields):
            raise ValueError("the header's checksum does not match")
        return _checked(fields if version >= 6 else _modern(fields))
    except FormatError:
        raise
    except KeyError as error:
        raise FormatError(f"{path}: damaged: the header lacks {error}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: damaged: {error}") from error


def _modern(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of version 1 to 5 with those that were added since."""
    n = _integer(fields, "ntotal", 0)
    crc32 = {name: [value] for name, value in dict(fields["crc32"]).items()}
    return fields | {"first_id": 0, "next_id": n, "block_rows": max(1, n), "crc32": crc32}


def _checked(fields: dict[str, Any]) -> Header:
    """Header of fields; ValueError, TypeError or KeyError for what no writer makes."""
    d, n = _integer(fields, "d", 1, MAX_D), _integer(fields, "ntotal", 0)
    for name in ("mode", "codebook", "rotation", "metric", "fingerprint"):
        if not isinstance(fields[name], str):
            raise ValueError(f"{name} is {reprlib.repr(fields[name])}")
    allowed = {
        "mode": ["mse"],
        "codebook": ["scalar", "trellis"],
        "rotation": ["hadamard", "calibrated"],
        "metric": METRICS,
    }
    for name, values in allowed.items():
        if fields[name] not in values:
            raise ValueError(f"{name} is {reprlib.repr(fields[name])}, none of {', '.join(values)}")
    nbits, bands = parse(fields["nbits"], d)
    found = _bands(fields["bands"], d)
    if fields["rotation"] == "hadamard" and found != bands:
        raise ValueError(f"bands are {found}, but nbits {nbits} makes {bands}")
    first = _integer(fields, "first_id", 0, _END_OF_IDS)
    header = Header(
        version=fields["version"],
        d=d,
        nbits=nbits,
        bands=found,
        mode=fields["mode"],
        codebook=fields["codebook"],
        rotation=fields["rotation"],
        seed=_integer(fields, "seed", 0, 2**64 - 1),
        metric=fields["metric"],
        ntotal=n,
        first_id=first,
        next_id=_integer(fields, "next_id", first + (0 if "ids" in fields["crc32"] else n), _END_OF_IDS),
        block_rows=_integer(fields, "block_rows", 1),
        fingerprint=fields["fingerprint"],
        crc32=fields["crc32"],
    )
    _check_checksums(header)
    return header


def _integer(fields: dict[str, Any], name: str, low: int, high: int = 2**63 - 1) -> int:
    value = fields[name]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {reprlib.repr(value)}, no integer from {low} to {high}")
    return value


def _bands(found: object, d: int) -> tuple[Band, ...]:
    """Bands that follow each other from coordinate 0, within `d` coordinates."""
    bands = found if isinstance(found, list) else []
    start, checked = 0, []
    for band in bands[: MAX_BANDS + 1]:
        if not isinstance(band, list) or len(band) != 3 or any(type(value) is not int for value in band):
            break
        one = Band(*band)
        if one.start != start or not start < one.stop <= d or not 1 <= one.nbits <= MAX_NBITS:
            break
        start = one.stop
        checked.append(one)
    if not 1 <= len(checked) <= MAX_BANDS or len(checked) != len(bands):
        raise ValueError(f"bands are {reprlib.repr(found)}")
    return tuple(checked)


def _check_checksums(header: Header) -> None:
    """As many as there are blocks, for each tensor."""
    crc32 = header.crc32
    if not isinstance(crc32, dict) or crc32.keys() != header.tensors().keys():
        raise ValueError(f"crc32 has {reprlib.repr(sorted(crc32))}, not {sorted(header.tensors())}")
    rows = -(-max(1, header.ntotal) // header.block_rows)
    for name, values in crc32.items():
        count = rows if name in header.row_names else 1
        if not isinstance(values, list) or len(values) != count:
            raise ValueError(f"crc32 of {name} is {reprlib.repr(values)}, not {count} checksums")
        if not all(isinstance(value, str) and _HEX.fullmatch(value) for value in values):
            raise ValueError(f"crc32 of {name} has {reprlib.repr(values)}, not 8 hex digits each")


def _entries(header: Header) -> dict[str, dict[str, Any]]:
    """What safetensors says of the tensors."""
    return {
        name: {"dtype": tensor.kind, "shape": list(tensor.shape), "data_offsets": [tensor.start, tensor.stop]}
        for name, tensor in header.tensors().items()
    }


def _canonical(fields: dict[str, Any]) -> str:
    """The one JSON text of some fields: equal indexes shall make equal files."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def _header_crc(fields: dict[str, Any]) -> str:
    rest = {name: value for name, value in fields.items() if name != "header_crc32"}
    return f"{zlib.crc32(_canonical(rest).encode()):08x}"

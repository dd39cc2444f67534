"""Safetensors files with checksums: the container of index files, cache files and the oracle's vectors.

A file begins with its *head*: the length of a JSON text as a 64-bit integer, the text, and spaces up to a multiple of 8
bytes. Its tensors follow without gaps. The text has an entry for each tensor, and strings under ``__metadata__``. Index
and cache files keep their *fields* there, as one string that is again JSON: the checksums are among them.

Equal contents make equal bytes, so one rule verifies a head: parse the fields, make the head that a writer would make
of them, and compare all bytes. Index versions 1 to 5 are the exception: their JSON may have other spaces.

The safetensors library writes only tensors that are in memory, and gives no offsets, which mapping needs. The oracle
has no library but NumPy. So files are written and read here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import reprlib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tqvec import _signatures
from tqvec._mmap import release_pages
from tqvec.errors import FormatError

# In the order of index and cache files. NumPy has no bfloat16: its bits stand for it.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "U16": np.dtype("<u2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_KINDS = {dtype: kind for kind, dtype in _DTYPES.items() if kind != "BF16"}
_LONGEST_TEXT = 1 << 20  # bytes, and a 16th of the file: more is no header, and costs memory to parse
_FIRST = 128  # bytes that tell the format of a foreign file
_CHECKSUM = re.compile("[0-9a-f]{8}")

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]  # type, as safetensors calls it, and shape of each tensor
# The digest of the head of each file that an object was loaded from or saved to, by its real path. All bytes of a head
# follow from its checksums, so another digest is another content.
Seen: TypeAlias = dict[str, str]


class Tensor(NamedTuple):
    """A tensor of a file: its type, its shape, and its bytes, counted from the end of the head."""

    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of the array."""
        return _DTYPES[self.kind]

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


def place(shapes: Shapes) -> dict[str, Tensor]:
    """Lay tensors one behind the other, in the order of the mapping."""
    tensors: dict[str, Tensor] = {}
    stop = 0
    for name, (kind, shape) in shapes.items():
        start, stop = stop, stop + _DTYPES[kind].itemsize * math.prod(shape)
        tensors[name] = Tensor(kind, shape, start, stop)
    return tensors


def place_by_type(shapes: Shapes) -> dict[str, Tensor]:
    """Lay tensors one behind the other, wide types first and those of one type by name: numbers are aligned."""
    kinds = list(_DTYPES)
    return place(dict(sorted(shapes.items(), key=lambda item: (kinds.index(item[1][0]), item[0]))))


def total_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of all tensors."""
    return max((tensor.stop for tensor in tensors.values()), default=0)


def make_head(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes that a file begins with, up to its first tensor."""
    text = json.dumps({"__metadata__": dict(metadata)} | _entries(tensors), separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _entries(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        name: {"dtype": tensor.kind, "shape": list(tensor.shape), "data_offsets": [tensor.start, tensor.stop]}
        for name, tensor in tensors.items()
    }


def canonical(fields: Mapping[str, Any]) -> str:
    """Return the one JSON text of some fields."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def with_checksum(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with ``header_crc32``, the checksum of all others."""
    return {**fields, "header_crc32": _checksum_of(fields)}


def _checksum_of(fields: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in fields.items() if name != "header_crc32"}
    return f"{zlib.crc32(canonical(rest).encode()):08x}"


def as_bytes(array: NDArray[Any]) -> memoryview:
    """Return the memory of an array, as bytes; that of a copy if it isn't contiguous."""
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)


def crc32(array: NDArray[Any], crc: int = 0) -> int:
    """Return the CRC-32 of bytes whose first part has `crc`, and whose second is an array."""
    return zlib.crc32(as_bytes(array), crc)


def verify_block(where: str, kind: str, block: NDArray[Any], checksum: str) -> None:
    """Raise FormatError if rows of a tensor have another checksum, or NaN or Inf, which no writer makes."""
    actual = f"{crc32(block):08x}"
    if actual != checksum:
        raise FormatError(f"{where} has checksum {actual}, the header says {checksum}")
    finite = block & 0x7F80 != 0x7F80 if kind == "BF16" else np.isfinite(block) if block.dtype.kind == "f" else True
    if not np.all(finite):
        raise FormatError(f"{where} holds NaN or Inf")
    release_pages(block)


@contextmanager
def blame(path: Path | str) -> Iterator[None]:
    """Turn what malformed fields raise (ValueError, TypeError, KeyError and the like) into a `FormatError`."""
    try:
        yield
    except FormatError:
        raise
    except KeyError as error:
        raise FormatError(f"{path}: damaged: the header lacks {error}") from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path}: damaged: {error}") from error


def check_fields(path: Path | str, fields: Any, newest: int) -> dict[str, Any]:
    """Return decoded fields if they have a version up to `newest` and their checksum; to be called within `blame`."""
    if not isinstance(fields, dict):
        raise ValueError(f"the header is {reprlib.repr(fields)}")
    version = integer(fields, "version", 1)
    if version > newest:
        raise FormatError(f"{path}: written in format version {version}; this tqvec reads up to {newest}: upgrade it")
    if fields["header_crc32"] != _checksum_of(fields):
        raise ValueError("the header's checksum does not match")
    return fields


def integer(fields: Mapping[str, Any], name: str, low: int, high: int = 2**63 - 1) -> int:
    """Return a field that must be an integer from `low` to `high`; ValueError or KeyError if it isn't."""
    value = fields[name]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {reprlib.repr(value)}, no integer from {low} to {high}")
    return value


def string(fields: Mapping[str, Any], name: str) -> str:
    """Return a field that must be a string; ValueError or KeyError if it isn't."""
    value = fields[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is {reprlib.repr(value)}")
    return value


def in_lists(checksums: Any) -> Any:
    """Return checksums of whole tensors as lists, as if each tensor were one block, for `check_checksums`."""
    return {name: [value] for name, value in checksums.items()} if isinstance(checksums, dict) else checksums


def check_checksums(checksums: Any, counts: Mapping[str, int]) -> None:
    """Raise ValueError unless each tensor of `counts` has a list of so many checksums."""
    if not isinstance(checksums, dict):
        raise ValueError(f"crc32 is {reprlib.repr(checksums)}")
    if checksums.keys() != counts.keys():
        names = reprlib.repr(sorted(checksums)), reprlib.repr(sorted(counts))
        raise ValueError(f"crc32 has {names[0]}, not the tensors {names[1]}")
    for name, values in checksums.items():
        if not isinstance(values, list) or len(values) != counts[name]:
            raise ValueError(f"crc32 of {name} is {reprlib.repr(values)}, not {counts[name]} checksums")
        if not all(isinstance(value, str) and _CHECKSUM.fullmatch(value) for value in values):
            raise ValueError(f"crc32 of {name} has {reprlib.repr(values)}, not 8 hex digits each")


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """Open a file to read; FileNotFoundError, or another OSError, says what is there instead."""
    if not path.is_file():
        there = f"{path}: is a {'folder' if path.is_dir() else 'device or FIFO'}, not a file"
        raise FileNotFoundError(there if path.exists() else f"no such file: {path}")
    with path.open("rb") as file:
        yield file


def head_digest(file: BinaryIO) -> str:
    """Return the digest of the head of a file, which is read from where it is; of a foreign file, of some bytes."""
    first = file.read(8)
    length = min(int.from_bytes(first, "little"), _longest_text(os.fstat(file.fileno()).st_size))
    return digest_of(first + file.read(length))


def digest_of(head: bytes) -> str:
    """Return the digest of a head."""
    return hashlib.sha256(head).hexdigest()


def _longest_text(size: int) -> int:
    """Return the most bytes of text that a file of `size` bytes may begin with."""
    return _LONGEST_TEXT + size // 16


class Reader:
    """The head of an open file, and its tensors; FormatError if there is no head.

    `fields` is the decoded JSON that the metadata hold under `key`; nothing of it is checked. Messages begin with
    `path`, and call a file with this key `kind`.
    """

    def __init__(self, path: Path, file: BufferedReader, key: str, kind: str):
        self.path, self._file = path, file
        size = os.fstat(file.fileno()).st_size
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if not length <= min(size - 8, _longest_text(size)):
            self._refuse(first + file.read(_FIRST), f": a header of {length} bytes in {size}")
        self._size, self._head = size, first + file.read(length)
        try:
            self._entries = json.loads(self._head[8:].decode())
            text = self._entries.pop("__metadata__", {}).get(key)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            self._refuse(self._head + file.read(_FIRST), f" ({error})")
        if not isinstance(text, str):
            raise FormatError(f"{path}: a safetensors file, but not a {kind}")
        try:
            self.fields: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}: damaged: the header is no JSON ({error})") from error

    def _refuse(self, first: bytes, reason: str) -> NoReturn:
        """Raise FormatError for a file of another format, which begins with these bytes, or a damaged one."""
        foreign = _signatures.describe(first)
        raise FormatError(f"{self.path}: not a safetensors file, {foreign or 'or damaged or truncated' + reason}")

    @property
    def digest(self) -> str:
        """The digest of the head."""
        return digest_of(self._head)

    def verify(self, tensors: Mapping[str, Tensor], head: bytes | None) -> None:
        """Raise FormatError unless the file has this head, and the size that follows from the tensors.

        `head` None is for versions whose text may have other spaces: the tensors' entries are compared, and the fields
        have their checksum.
        """
        entries = _entries(tensors)
        if self._entries != entries:
            names = self._entries.keys() | entries.keys()
            differ = sorted(name for name in names if self._entries.get(name) != entries.get(name))
            raise FormatError(f"{self.path}: damaged: the tensors {reprlib.repr(differ)} are not those of its fields")
        if head is not None and head != self._head:
            raise FormatError(
                f"{self.path}: damaged: the header has other bytes than a writer would have made of its fields"
            )
        size = len(self._head) + total_bytes(tensors)
        if size != self._size:
            raise FormatError(f"{self.path}: damaged or truncated: it has {self._size} bytes, its header says {size}")

    def read(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Read the tensors one by one, in the order of the file; FormatError if it became shorter."""
        for name, tensor in tensors.items():
            array = np.empty(tensor.shape, tensor.dtype)
            if self._file.readinto(as_bytes(array)) != array.nbytes:
                raise FormatError(f"{self.path}: became shorter while it was read")
            yield name, array

    def map(self, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """Return all tensors as views of the mapped file."""
        return map_tensors(self._file, tensors, len(self._head))


def map_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], start: int) -> dict[str, NDArray[Any]]:
    """Return all tensors, which begin at byte `start`, as views of one mapping; ValueError if the file is shorter."""
    # Copy on write, since Numba would compile anew for arrays that it may not write to; none is ever written to.
    data = np.memmap(file, np.uint8, "c", shape=(start + total_bytes(tensors),))
    return {
        name: np.ndarray(tensor.shape, tensor.dtype, buffer=data, offset=start + tensor.start)
        for name, tensor in tensors.items()
    }


def dump(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Return a file without fields: arrays in the order of the mapping."""
    little = {name: np.asarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    tensors = place({name: (_KINDS[array.dtype], array.shape) for name, array in little.items()})
    return make_head(tensors, metadata) + b"".join(array.tobytes() for array in little.values())


def load(blob: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return tensors and metadata of a file of any writer; FormatError if it is no such file, or cut short."""
    try:
        start = 8 + int.from_bytes(blob[:8], "little")
        entries = json.loads(blob[8:start])
        metadata = entries.pop("__metadata__", {})
        arrays = {}
        for name, entry in entries.items():
            first, last = entry["data_offsets"]
            data = np.frombuffer(blob[start + first : start + last], _DTYPES[entry["dtype"]])
            arrays[name] = data.reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"not a safetensors file: {error}") from error
    return arrays, metadata

"""Cache files: one safetensors file, a versioned header in its metadata. docs/format.md, section 10, specifies it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import reprlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _atomic
from tqvec.errors import FormatError
from tqvec.kvcache import byte_model
from tqvec.kvcache import state as state_module
from tqvec.kvcache.byte_model import TokenCounts
from tqvec.kvcache.codecs import GroupCodes, KVCodecs, LayerCodecs, SideCodes
from tqvec.kvcache.policy import Policy
from tqvec.kvcache.state import Means, Segments, State, Uncoded

VERSION = 1

_KEY = "tqvec_kvcache"  # of the metadata
_LONGEST_HEAD = 1 << 20  # bytes, and a 16th of the file: more is no header, and costs memory to parse
# In the order of the file.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}
_HEX = re.compile("[0-9a-f]{8}")
_FIELDS = {"old": "recoded", "cold": "coded", "hot": "recent"}  # of `State`, by their names in files


class Tensor(NamedTuple):
    """Type and shape of one tensor of a file."""

    kind: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of all its numbers."""
        return _DTYPES[self.kind].itemsize * math.prod(self.shape)


class Header(NamedTuple):
    """What the metadata of a file say; docs/format.md has the meaning of each field."""

    version: int
    policy: str
    n_layers: int
    n_kv_heads: int
    head_dim: int
    layers: list[TokenCounts]
    fingerprint: str
    crc32: dict[str, str]

    def head(self, tensors: dict[str, Tensor]) -> bytes:
        """The bytes that a file begins with, up to its first tensor."""
        fields = self._asdict() | {"layers": [list(counts) for counts in self.layers]}
        fields["header_crc32"] = f"{zlib.crc32(_canonical(fields).encode()):08x}"
        head: dict[str, Any] = {"__metadata__": {_KEY: _canonical(fields)}}
        stop = 0
        for name, tensor in tensors.items():
            start, stop = stop, stop + tensor.nbytes
            head[name] = {"dtype": tensor.kind, "shape": list(tensor.shape), "data_offsets": [start, stop]}
        text = json.dumps(head, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


class Shape(NamedTuple):
    """Of a cache: its policy, and its layers' codecs."""

    policy: Policy
    n_kv_heads: int
    head_dim: int
    codecs: tuple[LayerCodecs, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of the fingerprints of all codecs, in order of layers, tiers, keys and values, groups of heads."""
        digest = hashlib.sha256()
        for codecs in self.codecs:
            for sides in (codecs.coded, codecs.recoded):
                groups = [] if sides is None else [*sides.keys.groups, *sides.values.groups]
                digest.update("".join(group.codec.fingerprint for group in groups).encode())
        return digest.hexdigest()[:32]

    def tensors(self, layers: list[TokenCounts]) -> dict[str, Tensor]:
        """All tensors, in the order of the file."""
        half = "F16" if self.policy.dtype == "float16" else "BF16"
        found: dict[str, Tensor] = {}
        for number, (counts, codecs) in enumerate(zip(layers, self.codecs, strict=True)):
            if counts.recoded + counts.coded and self.policy.mean_tokens:
                names = ("keys", "values") if self.policy.value_means else ("keys",)
                mean = Tensor("F32", (self.n_kv_heads, self.head_dim))
                found |= {f"{number}.means.{name}": mean for name in names}
            for tier, n in (("sinks", counts.sinks), ("hot", counts.recent)):
                numbers = Tensor(half, (self.n_kv_heads, n, self.head_dim))
                found |= {f"{number}.{tier}.keys": numbers, f"{number}.{tier}.values": numbers}
            for tier, n, sides in (("old", counts.recoded, codecs.recoded), ("cold", counts.coded, codecs.coded)):
                found |= _coded_tensors(f"{number}.{tier}", n, sides)
        kinds = list(_DTYPES)
        return dict(sorted(found.items(), key=lambda item: (kinds.index(item[1].kind), item[0])))


def _coded_tensors(prefix: str, n: int, sides: KVCodecs | None) -> dict[str, Tensor]:
    """Those of a tier; none where it has no tokens."""
    found = {}
    for name, side in zip(("keys", "values"), sides or (), strict=False):
        for at, group in enumerate(side.groups if n else ()):
            heads = len(group.heads)
            found[f"{prefix}.{name}.{at}.codes"] = Tensor("U8", (heads, n, group.code_bytes))
            found[f"{prefix}.{name}.{at}.scales"] = Tensor("BF16", (heads, n))
    return found


def save(path: Path, shape: Shape, states: list[State]) -> None:
    """Write the states of all layers; an old file stays until the new one is complete and on the disk."""
    layers = [state.counts for state in states]
    tensors = shape.tensors(layers)
    header = Header(
        version=VERSION,
        policy=shape.policy.to_json(),
        n_layers=len(states),
        n_kv_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        layers=layers,
        fingerprint=shape.fingerprint,
        crc32=dict.fromkeys(tensors, "0" * 8),
    )
    file = _atomic.create(path)
    try:
        file.write(header.head(tensors))
        for name in tensors:
            crc = 0
            for piece in _pieces(states, name):
                data = _bytes(piece)
                file.write(data)
                crc = zlib.crc32(data, crc)
            header.crc32[name] = f"{crc:08x}"
        file.seek(0)
        file.write(header.head(tensors))
        _atomic.publish(file, path)
    finally:
        _atomic.discard(file)


def _pieces(states: list[State], name: str) -> Iterator[NDArray]:
    """What a tensor is made of, in order."""
    layer, tier, side, *rest = name.split(".")
    held = getattr(states[int(layer)], _FIELDS.get(tier, tier))
    if tier == "means":
        yield getattr(held, side)
    elif tier in ("sinks", "hot"):
        yield getattr(held, side)[:, : held.n]
    else:
        group, what = int(rest[0]), rest[1]
        arrays = [(getattr(getattr(segment, side)[group], what), segment.rows) for segment in held]
        for head in range(arrays[0][0].shape[0]):
            for array, rows in arrays:
                yield array[head, rows]


def read_header(path: Path, file: BinaryIO) -> Header:
    """Header of an open file, every field checked but those that only codecs can check; `load` goes on from there.

    Raises
    ------
    FormatError
        It is damaged, truncated, foreign or newer than this version of tqvec.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not length <= min(size - 8, _LONGEST_HEAD + size // 16):
        raise FormatError(
            f"{path}: not a safetensors file, or damaged or truncated: a header of {length} bytes in {size}"
        )
    try:
        found = json.loads(file.read(length).decode())
        text = found.get("__metadata__", {}).get(_KEY)
        if not isinstance(text, str):
            raise FormatError(f"{path}: a safetensors file, but not a cache of tqvec")
        return _header(path, json.loads(text))
    except FormatError:
        raise
    except KeyError as error:
        raise FormatError(f"{path}: damaged: the header lacks {error}") from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path}: not a safetensors file, or damaged or truncated ({error})") from error


def _header(path: Path, fields: Any) -> Header:
    """Header of decoded JSON; ValueError, TypeError or KeyError for what no writer makes."""
    version = fields["version"]
    if type(version) is int and version > VERSION:
        raise FormatError(f"{path}: written in format version {version}; this tqvec reads up to {VERSION}: upgrade it")
    fields = {name: fields[name] for name in Header._fields}
    whole = (fields[name] for name in ("version", "n_layers", "n_kv_heads", "head_dim"))
    if not all(type(value) is int and value > 0 for value in whole):
        raise ValueError("a number of the header is none")
    if not all(isinstance(fields[name], str) for name in ("policy", "fingerprint")):
        raise ValueError("policy or fingerprint are no text")
    rows = fields["layers"]
    if not isinstance(rows, list) or len(rows) != fields["n_layers"]:
        raise ValueError(f"layers are {reprlib.repr(rows)}")
    for row in rows:
        if not (isinstance(row, list) and len(row) == len(TokenCounts._fields)):
            raise ValueError(f"layers have {reprlib.repr(row)}")
        if not all(type(value) is int and 0 <= value < 2**62 for value in row):
            raise ValueError(f"layers have {reprlib.repr(row)}")
    crc32 = fields["crc32"]
    if not isinstance(crc32, dict) or not all(isinstance(v, str) and _HEX.fullmatch(v) for v in crc32.values()):
        raise ValueError(f"crc32 is {reprlib.repr(crc32)}")
    return Header(**fields | {"layers": [TokenCounts(*row) for row in rows]})


def load(path: Path, file: BinaryIO, header: Header, shape: Shape) -> list[State]:
    """States of all layers of an open file, every byte verified.

    Raises
    ------
    FormatError
        The file is damaged, or this tqvec would misread it.
    """
    if header.fingerprint != shape.fingerprint:
        raise FormatError(
            f"{path}: its codecs have fingerprint {header.fingerprint}, this tqvec makes {shape.fingerprint}"
        )
    for number, counts in enumerate(header.layers):
        if not _possible(shape, number, counts):
            raise FormatError(f"{path}: damaged: layer {number} can't have the tokens {tuple(counts)}")
    tensors = shape.tensors(header.layers)
    if header.crc32.keys() != tensors.keys():
        raise FormatError(f"{path}: damaged: the tensors are not those that its header tells")
    head = header.head(tensors)
    told = len(head) + sum(tensor.nbytes for tensor in tensors.values())
    size = os.fstat(file.fileno()).st_size
    if size != told:
        raise FormatError(f"{path}: damaged or truncated: it has {size} bytes, its header tells {told}")
    file.seek(0)
    if file.read(len(head)) != head:
        raise FormatError(f"{path}: damaged: the header has other bytes than a writer would have made of its fields")
    arrays = {name: _read(path, file, name, tensor, header.crc32[name]) for name, tensor in tensors.items()}
    return [_state(arrays, shape, number, counts) for number, counts in enumerate(header.layers)]


def _possible(shape: Shape, number: int, counts: TokenCounts) -> bool:
    """Whether a layer can hold so many tokens in each tier."""
    policy, coded = shape.policy, counts.recoded + counts.coded
    if counts.sinks > policy.sinks or (coded + counts.recent and counts.sinks < policy.sinks):
        return False
    if (coded and policy.recent is None) or (counts.recoded and shape.codecs[number].recoded is None):
        return False
    if counts.evicted and policy.max_tokens is None:
        return False
    if policy.max_tokens is not None and counts.sinks + coded + counts.recent > policy.max_tokens:
        return False
    recodes = shape.codecs[number].recoded is not None
    return not byte_model.count_to_code(policy, counts.recent, coded > 0) and not (
        recodes and byte_model.count_to_recode(policy, counts.coded)
    )


def _read(path: Path, file: BinaryIO, name: str, tensor: Tensor, told: str) -> NDArray:
    """The next tensor of a file."""
    array = np.empty(tensor.shape, _DTYPES[tensor.kind])
    data = _bytes(array)
    read = file.readinto(data)  # type: ignore[attr-defined]
    if read != array.nbytes:
        raise FormatError(f"{path}: became shorter while it was read")
    crc = f"{zlib.crc32(data):08x}"
    if crc != told:
        raise FormatError(f"{path}: damaged: {name} has checksum {crc}, the header says {told}")
    finite = (array & 0x7F80 != 0x7F80).all() if tensor.kind == "BF16" else np.isfinite(array).all()
    if not finite:
        raise FormatError(f"{path}: damaged: {name} holds NaN or Inf")
    return array


def _state(arrays: dict[str, NDArray], shape: Shape, number: int, counts: TokenCounts) -> State:
    """State of a layer."""

    def pair(tier: str) -> tuple[NDArray, NDArray]:
        return arrays.pop(f"{number}.{tier}.keys"), arrays.pop(f"{number}.{tier}.values")

    owner = object()  # of arrays that no layer owns: they are copied before anything is added

    def uncoded(tier: str) -> Uncoded:
        keys, values = pair(tier)
        return Uncoded(keys[:, :0], values[:, :0], 0).extend((keys, values), owner)

    def coded(tier: str, n: int, sides: KVCodecs | None, size: int) -> Segments:
        if n == 0 or sides is None:
            return ()
        keys, values = (_codes(arrays, f"{number}.{tier}.{name}") for name in ("keys", "values"))
        return state_module.extend((), sides, (keys, values), size, owner)

    codecs = shape.codecs[number]
    mean = arrays.pop(f"{number}.means.keys", None)
    means = None if mean is None else Means(mean, arrays.pop(f"{number}.means.values", None))
    sizes = byte_model.segment_sizes(shape.policy, codecs.recoded is not None)
    return State(
        sinks=uncoded("sinks"),
        recoded=coded("old", counts.recoded, codecs.recoded, sizes.recoded),
        coded=coded("cold", counts.coded, codecs.coded, sizes.coded),
        recent=uncoded("hot"),
        means=means,
        evicted=counts.evicted,
    )


def _codes(arrays: dict[str, NDArray], prefix: str) -> SideCodes:
    """Of all groups of heads."""
    found: list[GroupCodes] = []
    while f"{prefix}.{len(found)}.codes" in arrays:
        at = f"{prefix}.{len(found)}"
        found.append(GroupCodes(arrays.pop(f"{at}.codes"), arrays.pop(f"{at}.scales")))
    return tuple(found)


def _canonical(fields: dict[str, Any]) -> str:
    """The one JSON text of some fields: equal caches shall make equal files."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def _bytes(array: NDArray) -> memoryview:
    """Its memory, as bytes; a copy if it isn't contiguous."""
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)

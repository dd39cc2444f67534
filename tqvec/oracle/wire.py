"""safetensors, written so that equal tensors give equal bytes: for golden files and the subprocess protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tqvec.errors import FormatError

_KINDS = {"U8": "|u1", "I8": "|i1", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
_NAMES = {np.dtype(code): name for name, code in _KINDS.items()}


def dump(tensors: Mapping[str, NDArray], metadata: Mapping[str, str]) -> bytes:
    """The file: tensors in the order of the mapping, without gaps, the header padded to eight bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    blobs, at = [], 0
    for name, tensor in tensors.items():
        kind = tensor.dtype.newbyteorder("<")
        blob = np.ascontiguousarray(tensor, kind).tobytes()
        shape, offsets = list(tensor.shape), [at, at + len(blob)]
        header[name] = {"dtype": _NAMES[kind], "shape": shape, "data_offsets": offsets}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(blobs)


def load(blob: bytes) -> tuple[dict[str, NDArray], dict[str, str]]:
    """Tensors and metadata of a file of any writer.

    Raises
    ------
    FormatError
        It is no safetensors file, or is cut short.
    """
    try:
        size = int.from_bytes(blob[:8], "little")
        header = json.loads(blob[8 : 8 + size])
        metadata = header.pop("__metadata__", {})
        found = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            data = np.frombuffer(blob[8 + size + first : 8 + size + last], _KINDS[entry["dtype"]])
            found[name] = data.reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"not a safetensors file: {error}") from error
    return found, metadata

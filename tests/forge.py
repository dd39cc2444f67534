"""Index files taken apart and put together again, by the safetensors library and the words of docs/format.md alone."""

import json
import zlib

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

ROWS = ("codes", "scale", "squared_norm", "ids")


def taken_apart(path):
    """Fields of the header, and the tensors."""
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["tqvec"]), load_file(path)


def checksums(tensors, block_rows):
    """`crc32` of the header of version 6."""
    blocks = {}
    for name, array in tensors.items():
        step = block_rows if name in ROWS else len(array)
        blocks[name] = [array[i : i + step] for i in range(0, max(1, len(array)), step)]
    return {name: [f"{zlib.crc32(part.tobytes()):08x}" for part in parts] for name, parts in blocks.items()}


def put_together(path, fields, tensors):
    """A file whose header has a true checksum of itself; those of the tensors are as the fields say."""
    fields = {name: value for name, value in fields.items() if name != "header_crc32"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    fields["header_crc32"] = f"{zlib.crc32(text.encode()):08x}"
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(tensors, path, metadata={"tqvec": json.dumps(fields, sort_keys=True, separators=(",", ":"))})
    return path


def forged(path, changes, arrays=None):
    """Change fields and tensors of a file, None removes one, and make all checksums true."""
    fields, tensors = taken_apart(path)
    tensors = {name: array for name, array in (tensors | (arrays or {})).items() if array is not None}
    fields["crc32"] = checksums(tensors, fields["block_rows"])
    fields = {name: value for name, value in (fields | changes).items() if value is not None}
    return put_together(path, fields, tensors)

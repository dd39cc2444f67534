"""Index and cache files taken apart and put together again, by the words of docs/format.md alone."""

import json
import zlib

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

ROWS = ("codes", "scale", "squared_norm", "ids")


def seal(fields):
    """The JSON of fields, with a true checksum of themselves."""
    fields = {name: value for name, value in fields.items() if name != "header_crc32"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    fields["header_crc32"] = f"{zlib.crc32(text.encode()):08x}"
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def split(path):
    """The decoded head of a file, and its other bytes."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def join(path, head, body=b""):
    """Write a file with any head: an object, or bytes in place of its JSON."""
    text = head if isinstance(head, bytes) else json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def forge_fields(path, changes, key):
    """Change fields of a file, None removes one, and make their checksum true; tensors stay."""
    head, body = split(path)
    fields = json.loads(head["__metadata__"][key]) | changes
    fields = {name: value for name, value in fields.items() if value is not None}
    return join(path, head | {"__metadata__": {key: seal(fields)}}, body)


def take_apart(path):
    """Fields of the header of an index file, and its tensors."""
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["tqvec"]), load_file(path)


def make_checksums(tensors, block_rows):
    """`crc32` of the header of version 6."""
    blocks = {}
    for name, array in tensors.items():
        step = block_rows if name in ROWS else len(array)
        blocks[name] = [array[i : i + step] for i in range(0, max(1, len(array)), step)]
    return {name: [f"{zlib.crc32(part.tobytes()):08x}" for part in parts] for name, parts in blocks.items()}


def put_together(path, fields, tensors):
    """An index file whose header has a true checksum of itself; those of the tensors are as the fields say."""
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(tensors, path, metadata={"tqvec": seal(fields)})
    return path


def forge(path, changes, arrays=None):
    """Change fields and tensors of an index file, None removes one, and make all checksums true."""
    fields, tensors = take_apart(path)
    tensors = {name: array for name, array in (tensors | (arrays or {})).items() if array is not None}
    fields["crc32"] = make_checksums(tensors, fields["block_rows"])
    fields = {name: value for name, value in (fields | changes).items() if value is not None}
    return put_together(path, fields, tensors)

"""Files of others that are taken for ours: what they are, by their first bytes, and what to do with them."""

from __future__ import annotations

import re

_BYTES = 96  # that are looked at
_ARRAY = "add its vectors to an index: index.add(numpy.load(path)), or `tqvec build FILE.npy -o FILE.tqv`"
_TABLE = "compress a column of vectors: `tqvec build FILE.parquet:COLUMN -o FILE.tqv`"
_PICKLE = "load it with what wrote it, and add its vectors to an index with index.add"
_UNPACK = "unpack it first"
_FAISS = "compress its vectors into an index with tqvec.faiss.read(path).to_index()"
_HNSWLIB = "its vectors come from hnswlib.Index.get_items(labels) and go into an index with index.add(vectors, labels)"

# A pattern that the first bytes match, the kind of file, and what to do with it.
_SIGNATURES: list[tuple[bytes, str, str]] = [
    (rb"\Z", "but empty", "nothing was written to it"),
    (rb"I[A-Za-z][A-Za-z0-9]{2}", "but probably a FAISS index", _FAISS),
    (rb"\x93NUMPY", "but a NumPy array (.npy)", _ARRAY),
    (
        rb"PK(\x03\x04|\x05\x06)",
        "but a zip file, as .npz and PyTorch's files are",
        "load the array with what wrote it; " + _ARRAY,
    ),
    (rb"PAR1", "but a Parquet file", _TABLE),
    (
        rb"ARROW1|\xff{4}.{3}\0",
        "but an Arrow or Feather file",
        "read it with pyarrow, and add its vectors with index.add",
    ),
    (rb"\x89HDF\r\n\x1a\n", "but an HDF5 file", "compress a dataset of it: `tqvec build FILE.hdf5:NAME -o FILE.tqv`"),
    (rb"\x80[\x02-\x05](?!\0\0)", "but a Python pickle", _PICKLE),
    (rb"SQLite format 3\0", "but an SQLite database", "read its vectors, and add them with index.add"),
    (rb"GGUF", "but a GGUF model", "it holds the weights of a model, not vectors to search"),
    (rb"usearch", "but a USearch index", _PICKLE),
    (rb"\x1f\x8b\x08", "but a gzip file", _UNPACK),
    (rb"BZh|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf", "but a compressed file", _UNPACK),
    (rb"version https://git-lfs", "but a pointer of Git LFS, without the file", "fetch it with `git lfs pull`"),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "but a web page or XML", "a download may have failed: look into it"),
    (rb"\s*[\[{]", "but JSON text", "read it with json, and add its vectors with index.add"),
    (rb"\0{96}", "but the part of an unfinished `tqvec build`", "run the same command again: it goes on"),
]


def describe(first: bytes) -> str | None:
    """Return what a file is whose first bytes are these, and what to do with it; None if nothing is known of it."""
    for pattern, kind, remedy in _SIGNATURES:
        if re.match(pattern, first[:_BYTES], re.DOTALL):
            return f"{kind}: {remedy}"
    return f"but probably an hnswlib index: {_HNSWLIB}" if _is_hnswlib(first) else None


def _is_hnswlib(first: bytes) -> bool:
    """Return whether bytes are sizes as hnswlib writes them: they have no signature, but depend on each other."""
    if len(first) < _BYTES:
        return False
    level0, most, count, size, label, data = (int.from_bytes(first[at : at + 8], "little") for at in range(0, 48, 8))
    return level0 == 0 and count <= most and label + 8 == size and data < label

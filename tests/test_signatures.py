"""Files of other libraries that are given to `load`: the message says what they are, and what to do."""

import gzip
import importlib
import importlib.util
import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest

import tqvec
from tqvec import _signatures
from tqvec.errors import FormatError
from tqvec.kvcache import KVCache

X = np.random.default_rng(10_063).standard_normal((300, 16)).astype(np.float32)


def npy():
    file = io.BytesIO()
    np.save(file, X)
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, x=X)
    return file.getvalue()


def hnswlib(n=300):
    """The head that hnswlib's saveIndex writes, then some data."""
    sizes = struct.pack("<6Q", 0, 2 * n, n, 204, 196, 132)
    return sizes + struct.pack("<iI3QdQ", 2, 5, 16, 32, 16, 0.36, 200) + bytes(100)


FILES = {
    "probably a FAISS index: compress its vectors into an index with tqvec.faiss.read": b"IxF2\x10\0\0\0" + bytes(100),
    "a NumPy array (.npy): add its vectors": npy(),
    "a zip file, as .npz and PyTorch's": npz(),
    "a Parquet file: compress a column": b"PAR1" + bytes(100),
    "an HDF5 file: compress a dataset": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "a Python pickle": pickle.dumps(X),
    "a Python pickle:": pickle.dumps({"x": X.tolist()}, protocol=2),
    "JSON text": json.dumps({"x": [1.0, 2.0] * 50}).encode(),
    "JSON text:": b" \n[[0.5, 0.25]]",
    "a gzip file: unpack it first": gzip.compress(b"content" * 50),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
    "a web page or XML": b"<!DOCTYPE html><html><body>Not found</body></html>",
    "an SQLite database": b"SQLite format 3\0" + bytes(100),
    "a GGUF model": b"GGUF\x03\0\0\0" + bytes(100),
    "probably an hnswlib index": hnswlib(),
    "empty": b"",
    "the part of an unfinished `tqvec build`: run the same command again": bytes(4096),
}


@pytest.mark.parametrize(("words", "content"), FILES.items(), ids=FILES)
def test_they_are_named(tmp_path, words, content):
    path = tmp_path / "a.file"
    path.write_bytes(content)
    for load in (tqvec.Index.load, lambda path: tqvec.Index.load(path, mmap=True), KVCache.load):
        with pytest.raises(FormatError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: not a safetensors file, but {words}")


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="needs FAISS")
@pytest.mark.parametrize(
    "name", ["Flat", "IVF4,Flat", "PQ4x4", "PQ4x4fs", "HNSW8", "SQ8", "PCA8,Flat", "IDMap,Flat", "LSH"]
)
def test_faiss_indexes(tmp_path, name):
    faiss = importlib.import_module("faiss")
    index = faiss.index_factory(16, name)
    index.train(X)
    if "IDMap" in name:
        index.add_with_ids(X, np.arange(300))
    else:
        index.add(X)
    faiss.write_index(index, str(tmp_path / "a"))
    with pytest.raises(FormatError, match="probably a FAISS index"):
        tqvec.Index.load(tmp_path / "a")


@pytest.mark.parametrize("length", [*range(0, 2000, 8), 0x8B18, 0x4B50, 0x2B28])
def test_heads_of_safetensors_files_are_no_signature(length):
    """Whatever their length: a damaged file of tqvec is not called a foreign one."""
    assert _signatures.describe(length.to_bytes(8, "little") + b'{"__metadata__":{"tqvec":"{x' + bytes(100)) is None


@pytest.mark.parametrize("kind", [tqvec.Index, KVCache])
def test_what_is_no_file(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        kind.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file: "):
        kind.load(tmp_path / "a")
    for path in (None, 3, ""):
        with pytest.raises(tqvec.InputError, match="^path must be "):
            kind.load(path)


def test_a_zip_of_another_kind(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w"):
        pass
    with pytest.raises(FormatError, match="but a zip file"):
        tqvec.Index.load(tmp_path / "a")

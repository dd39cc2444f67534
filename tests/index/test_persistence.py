"""Round trips, and files that are damaged, foreign or too new."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import tqvec
from tqvec.codec import tangents
from tqvec.errors import FormatError
from tqvec.index import persistence

X = np.random.default_rng(1).standard_normal((50, 37)).astype(np.float32)


def saved(path, metric="ip", nbits=3):
    index = tqvec.Index(37, nbits=nbits, metric=metric, seed=2**64 - 1)
    index.add(X)
    index.save(path)
    return index


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("nbits", [1, 4, 8])
def test_round_trip(tmp_path, metric, nbits):
    index = saved(tmp_path / "a.tqv", metric, nbits)
    again = tqvec.Index.load(tmp_path / "a.tqv")
    for name in ("d", "nbits", "metric", "ntotal", "nbytes"):
        assert getattr(again, name) == getattr(index, name)
    for one, two in zip(index.search(X, 50), again.search(X, 50), strict=True):
        assert np.array_equal(one, two)
    again.save(str(tmp_path / "b.tqv"))
    assert (tmp_path / "a.tqv").read_bytes() == (tmp_path / "b.tqv").read_bytes()
    again.add(X[:5])
    index.add(X[:5])
    for one, two in zip(index.search(X, 55), again.search(X, 55), strict=True):
        assert np.array_equal(one, two)
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


def test_an_empty_index(tmp_path):
    tqvec.Index(5).save(tmp_path / "a.tqv")
    index = tqvec.Index.load(tmp_path / "a.tqv")
    assert index.ntotal == 0
    index.add(np.eye(5))
    assert index.search(np.eye(5), 1)[1].ravel().tolist() == [0, 1, 2, 3, 4]


def test_any_safetensors_reader_opens_it(tmp_path):
    index = saved(tmp_path / "a.tqv", "l2")
    tensors = load_file(tmp_path / "a.tqv")
    assert {name: (t.shape, t.dtype.str) for name, t in tensors.items()} == {
        "codes": ((50, -(-37 * 3 // 8)), "|u1"),
        "scale": ((50,), "<f4"),
        "squared_norm": ((50,), "<f4"),
    }
    codes = index.codec.encode(X)
    assert np.array_equal(tensors["codes"], codes.data)
    angles = index.codec.tangents(index.codec.encode_sums(X))
    assert np.array_equal(tensors["scale"], tangents.packed(codes.scale, angles))
    with safe_open(tmp_path / "a.tqv", framework="numpy") as file:
        header = json.loads(file.metadata()["tqvec"])
    assert header["version"] == 5
    assert header["bands"] == [[0, 37, 3]]
    assert header["fingerprint"] == index.codec.fingerprint


def test_widths(tmp_path):
    for nbits, stored in ((3, 3), (2.5, 2.5), ([(30, 3), (7, 1)], [[30, 3], [7, 1]])):
        saved(tmp_path / "a.tqv", nbits=nbits)
        with safe_open(tmp_path / "a.tqv", framework="numpy") as file:
            assert json.loads(file.metadata()["tqvec"])["nbits"] == stored
    for nbits in (2.7, [[37, 2]], [[30, 3], [8, 1]], [30, 7], "3"):
        with pytest.raises(FormatError, match=r"a\.tqv"):
            tqvec.Index.load(rewritten(tmp_path / "a.tqv", nbits=nbits))


def test_every_truncation_is_found(tmp_path):
    saved(tmp_path / "a.tqv")
    content = (tmp_path / "a.tqv").read_bytes()
    cut = tmp_path / "cut.tqv"
    for size in [*range(0, len(content), 41), len(content) - 1]:
        cut.write_bytes(content[:size])
        with pytest.raises(FormatError, match=r"cut\.tqv"):
            tqvec.Index.load(cut)
    cut.write_bytes(content + b"x")
    with pytest.raises(FormatError):
        tqvec.Index.load(cut)


def test_every_flipped_bit_is_found(tmp_path):
    index = saved(tmp_path / "a.tqv", "l2")
    content = bytearray((tmp_path / "a.tqv").read_bytes())
    header_end = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(4)
    body = rng.integers(header_end, len(content), 60)
    flipped = tmp_path / "flipped.tqv"
    for byte in [*range(header_end), *body.tolist()]:
        bit = 1 << int(rng.integers(8))
        content[byte] ^= bit
        flipped.write_bytes(content)
        content[byte] ^= bit
        try:
            again = tqvec.Index.load(flipped)
        except FormatError as error:
            assert "flipped.tqv" in str(error)  # noqa: PT017 - most flips raise, the rest must be harmless
            continue
        # JSON allows a few flips without a change of meaning: one kind of white space for another.
        assert byte < header_end
        for one, two in zip(index.search(X, 5), again.search(X, 5), strict=True):
            assert np.array_equal(one, two)


def rewritten(path, **changes):
    """A copy with other metadata whose own checksum is right."""
    with safe_open(path, framework="numpy") as file:
        fields = json.loads(file.metadata()["tqvec"]) | changes
    fields["header_crc32"] = persistence._header_crc(fields)
    save_file(load_file(path), path, metadata={"tqvec": json.dumps(fields)})
    return path


def test_versions_and_fingerprints(tmp_path):
    saved(tmp_path / "a.tqv")
    with pytest.raises(FormatError, match="format version 7; this tqvec reads up to 5: upgrade"):
        tqvec.Index.load(rewritten(tmp_path / "a.tqv", version=7))
    saved(tmp_path / "a.tqv")
    with pytest.raises(FormatError, match="fingerprint 00ff, this tqvec makes"):
        tqvec.Index.load(rewritten(tmp_path / "a.tqv", fingerprint="00ff"))
    for key, value in (
        *(("ntotal", 51), ("ntotal", "x"), ("nbits", 4), ("nbits", 40), ("d", 38), ("d", 0), ("seed", -1)),
        *(("bands", [[0, 37, 4]]), ("bands", "nonsense"), ("bands", [[1]]), ("metric", "l2"), ("metric", "dot")),
        *(("codebook", "none"), ("codebook", "trellis"), ("crc32", {}), ("crc32", None), ("version", None)),
    ):
        saved(tmp_path / "a.tqv")
        with pytest.raises(FormatError, match=r"a\.tqv"):
            tqvec.Index.load(rewritten(tmp_path / "a.tqv", **{key: value}))


def test_foreign_files(tmp_path):
    path = tmp_path / "other"
    save_file({"weights": X}, path)
    with pytest.raises(FormatError, match="not a tqvec index"):
        tqvec.Index.load(path)
    for content in (b"", b"hello", b"\x00" * 100, np.random.default_rng(1).bytes(4096)):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="not a safetensors file"):
            tqvec.Index.load(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        tqvec.Index.load(tmp_path / "missing.tqv")
    with pytest.raises(FileNotFoundError):
        tqvec.Index.load(tmp_path)


def test_a_failing_save_leaves_the_old_file(tmp_path, monkeypatch):
    saved(tmp_path / "a.tqv")
    before = (tmp_path / "a.tqv").read_bytes()

    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(persistence, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        saved(tmp_path / "a.tqv", nbits=5)
    assert (tmp_path / "a.tqv").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.tqv"]

"""Round trips of index files, and files of newer versions and other codecs."""

import json

import numpy as np
import pytest
from craft_files import forge, take_apart
from safetensors.numpy import load, save
from strategies import normal

import tqvec
from tqvec.errors import FormatError
from tqvec.index.file import header as header_module
from tqvec.index.file import io
from tqvec.index.rows import encode_rows

X = normal(50, 37, 10_001)


def save_index(path, metric="ip", nbits=3):
    index = tqvec.Index(37, nbits=nbits, metric=metric, seed=2**64 - 1)
    index.add(X)
    index.save(path)
    return index


def codec_of(path, **options):
    header, _, calibration, _ = io.load(path, **options)
    return io.codec_of(path, header, calibration)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("nbits", [1, 4, 8])
def test_round_trip(tmp_path, metric, nbits):
    index = save_index(tmp_path / "a.tqv", metric, nbits)
    again = tqvec.Index.load(tmp_path / "a.tqv", verify=True)
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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tqv", "b.tqv"]


def kinds():
    """Codecs of every kind that a file can hold."""
    for nbits in (1, 5, 2.5, [(30, 3), (7, 1)]):
        yield tqvec.TurboQuant(37, nbits=nbits, seed=3)
    yield tqvec.TurboQuant(37, nbits=2, codebook="trellis")
    x = (normal(400, 37, 10_002) / np.arange(1, 38)).astype(np.float32)
    for codebook in ("scalar", "trellis"):
        index = tqvec.Index(37, nbits=3, codebook=codebook)
        assert index.train(x).accepted
        yield index.codec


@pytest.mark.parametrize("codec", list(kinds()), ids=repr)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_all_that_a_file_can_hold(tmp_path, monkeypatch, codec, metric):
    """In parts of odd sizes over several blocks, with ids and without; the safetensors library makes the same bytes."""
    monkeypatch.setattr(header_module, "CHECKSUM_ROWS", 16)
    path = tmp_path / "a.tqv"
    rows = encode_rows(codec, metric, X)
    for ids in (None, np.random.default_rng(10_003).permutation(1000)[:50] * 2**53):
        if ids is not None:
            rows["ids"] = ids
        parts = [{name: array[a:b] for name, array in rows.items()} for a, b in ((0, 7), (7, 7), (7, 33), (33, 50))]
        first, end = (5, 60) if ids is None else (None, 2**63)
        io.save(path, codec, metric, 50, parts, first, end)
        for mmap in (False, True):
            header, arrays, calibration, _ = io.load(path, mmap=mmap, verify=True)
            assert (header.ntotal, header.first_id, header.next_id) == (50, first or 0, end)
            assert {len(values) for name, values in header.crc32.items() if name in rows} == {4}
            assert arrays.keys() == rows.keys()
            for name, array in rows.items():
                assert arrays[name].dtype == array.dtype
                assert np.array_equal(arrays[name], array)
            again = io.codec_of(path, header, calibration)
            assert again.fingerprint == codec.fingerprint
            assert np.array_equal(encode_rows(again, metric, X)["codes"], rows["codes"])
        raw = path.read_bytes()
        fields, _ = take_apart(path)
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        assert save(load(raw), metadata={"tqvec": text}) == raw


def test_mapped_rows_are_views_of_one_mapping(tmp_path):
    save_index(tmp_path / "a.tqv", "l2")
    _, rows, *_ = io.load(tmp_path / "a.tqv", mmap=True)
    bases = {id(array.base) for array in rows.values()}
    assert len(bases) == 1
    assert isinstance(rows["codes"].base, np.memmap)
    save_index(tmp_path / "a.tqv", "ip")  # replaced, not changed: the mapping still sees the old file
    assert np.array_equal(rows["codes"], encode_rows(codec_of(tmp_path / "a.tqv"), "l2", X)["codes"])


def test_no_vectors(tmp_path):
    for metric in ("ip", "l2"):
        tqvec.Index(5, metric=metric).save(tmp_path / "a.tqv")
        for mmap in (False, True):
            header, rows, *_ = io.load(tmp_path / "a.tqv", mmap=mmap, verify=True)
            assert [array.shape for array in rows.values()] == [(0, 3), (0,), (0,)][: len(rows)]
        assert set(map(tuple, header.crc32.values())) == {("00000000",)}
    index = tqvec.Index.load(tmp_path / "a.tqv")
    assert index.ntotal == 0
    index.add(np.eye(5))
    assert index.search(np.eye(5), 1)[1].ravel().tolist() == [0, 1, 2, 3, 4]


def test_what_the_header_says(tmp_path):
    index = save_index(tmp_path / "a.tqv", "l2", [(30, 3), (7, 1)])
    fields, tensors = take_apart(tmp_path / "a.tqv")
    assert {name: (t.shape, t.dtype.str) for name, t in tensors.items()} == {
        "codes": ((50, 13), "|u1"),
        "scale": ((50,), "<f4"),
        "squared_norm": ((50,), "<f4"),
    }
    assert np.array_equal(tensors["codes"], index.codec.encode(X).data)
    assert (fields["version"], fields["nbits"]) == (6, [[30, 3], [7, 1]])
    assert (fields["bands"], fields["block_rows"]) == ([[0, 30, 3], [30, 37, 1]], 65536)
    assert fields["fingerprint"] == index.codec.fingerprint


def test_newer_versions_and_other_codecs(tmp_path):
    path = tmp_path / "a.tqv"
    save_index(path)
    newer = header_module.VERSION + 1
    with pytest.raises(
        FormatError, match=rf"a\.tqv: written in format version {newer}; this tqvec reads up to {newer - 1}"
    ):
        io.load(forge(path, {"version": newer, "d": None, "mode": "new"}))
    save_index(path)
    with pytest.raises(FormatError, match="fingerprint 00ff, this tqvec makes"):
        tqvec.Index.load(forge(path, {"fingerprint": "00ff"}))

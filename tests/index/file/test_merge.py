"""Merged files are those of all vectors together."""

from itertools import pairwise

import numpy as np
import pytest
from strategies import normal

import tqvec
from tqvec.errors import FormatError, InputError
from tqvec.index.file import io
from tqvec.index.file.merge import merge
from tqvec.index.rows import encode_rows

X = normal(100, 20, 10_030)


def save(path, x, ids=None, next_id=None, first_id=0, metric="l2", codec=None):
    codec = codec or tqvec.TurboQuant(20, nbits=2.5)
    rows = encode_rows(codec, metric, x)
    if ids is not None:
        rows["ids"], first_id = np.array(ids), None
    io.save(path, codec, metric, len(x), [rows], first_id, next_id)
    return path


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_merge_of_parts_is_the_whole(tmp_path, metric):
    whole = save(tmp_path / "whole.tqv", X, metric=metric)
    cuts = (0, 30, 30, 31, 100)
    parts = [save(tmp_path / f"{i}.tqv", X[a:b], metric=metric) for i, (a, b) in enumerate(pairwise(cuts))]
    header = merge(parts, tmp_path / "merged.tqv")
    assert (header.ntotal, header.next_id) == (100, 100)
    assert (tmp_path / "merged.tqv").read_bytes() == whole.read_bytes()
    before = parts[0].read_bytes()
    with pytest.raises(InputError, match=r"0\.tqv: is the same file as .*0\.tqv"):
        merge(parts, parts[0])
    assert parts[0].read_bytes() == before


def test_trained_indexes(tmp_path):
    x = (normal(500, 20, 10_031) / np.arange(1, 21)).astype(np.float32)
    index = tqvec.Index(20, nbits=2)
    assert index.train(x).accepted
    parts = [save(tmp_path / f"{i}.tqv", part, codec=index.codec) for i, part in enumerate((x[:200], x[200:]))]
    merge(parts, tmp_path / "merged.tqv")
    assert (tmp_path / "merged.tqv").read_bytes() == save(tmp_path / "whole.tqv", x, codec=index.codec).read_bytes()


def ids_of(path):
    header, rows, *_ = io.load(path, verify=True)
    return header.next_id, (rows["ids"] if "ids" in rows else header.first_id + np.arange(header.ntotal)).tolist()


def test_ids(tmp_path):
    plain = save(tmp_path / "plain.tqv", X[:3], first_id=7, next_id=50)
    more = save(tmp_path / "more.tqv", X[3:5], first_id=1)
    own = save(tmp_path / "own.tqv", X[5:8], [90, 2, 60], 100)
    other = save(tmp_path / "other.tqv", X[8:10], [3, 4], 30)
    out = tmp_path / "out.tqv"
    for files, expected in (
        ([plain, more], (50, [7, 8, 9, 10, 11])),
        ([more, plain], (6, [1, 2, 3, 4, 5])),
        ([own, other], (100, [90, 2, 60, 3, 4])),
        ([plain, own, more, other], (102, [7, 8, 9, 90, 2, 60, 100, 101, 3, 4])),
    ):
        merge(files, out)
        assert ids_of(out) == expected
    before = out.read_bytes()
    twin = save(tmp_path / "twin.tqv", X[:2], [61, 60], 70)
    with pytest.raises(InputError, match=r"id 60 is in .*own\.tqv and .*twin\.tqv"):
        merge([own, other, twin], out)
    assert out.read_bytes() == before


def test_what_can_not_be_merged(tmp_path):
    one = save(tmp_path / "one.tqv", X)
    two = save(tmp_path / "two.tqv", X, codec=tqvec.TurboQuant(20, nbits=2.5, seed=1))
    with pytest.raises(InputError, match=r"one\.tqv and .*two\.tqv differ: seed 0 against 1; build one of them again"):
        merge([one, two], tmp_path / "out.tqv")
    with pytest.raises(InputError, match="differ: metric l2 against ip;"):
        merge([one, save(tmp_path / "two.tqv", X, metric="ip")], tmp_path / "out.tqv")
    content = bytearray(one.read_bytes())
    content[-1] ^= 1
    two.write_bytes(content)
    with pytest.raises(FormatError, match=r"two\.tqv: damaged: codes"):
        merge([one, two], tmp_path / "out.tqv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.tqv", "two.tqv"]


def test_old_files_become_new_ones(tmp_path, request):
    """Their tangents are unknown, and their ids those of the new file."""
    golden = request.path.parents[2] / "golden" / "indexes" / "v1.tqv"
    header = merge([golden, golden], tmp_path / "out.tqv")
    assert (header.version, header.ntotal, header.next_id) == (6, 40, 40)
    _, old, *_ = io.load(golden)
    _, new, *_ = io.load(tmp_path / "out.tqv", verify=True)
    for name, array in old.items():
        assert np.array_equal(new[name], np.concatenate([array, array]))

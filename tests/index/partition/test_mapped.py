"""What the system is asked to read of a mapped file with lists."""

import mmap

import numpy as np
import pytest
from strategies import normal

import tqvec
from tqvec import _mmap
from tqvec.errors import FormatError
from tqvec.index import mapped, snapshot
from tqvec.index.partition.partition import Routing

D = 24


@pytest.fixture
def index(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "_MOST_PROBED", 2.0)
    monkeypatch.setattr(snapshot, "_ALONE", np.inf)
    built = tqvec.Index(D, metric="l2")
    built.add(normal(3000, D, 1))
    built.partition(30)
    built.save(tmp_path / "x.tqv")
    return tqvec.Index.load(tmp_path / "x.tqv", mmap=True)


def test_arrays_of_a_mapping(tmp_path):
    numbers = np.arange(10_000, dtype=np.int64)
    numbers.tofile(tmp_path / "x")
    data = np.memmap(tmp_path / "x", np.uint8, "c")
    view = np.ndarray((9_000,), np.int64, buffer=data, offset=8_000)[500:]
    found = _mmap.mapping_of(view)
    assert found.offset == 8_000 + 8 * 500
    assert found.memory[found.offset : found.offset + 8] == numbers[1500].tobytes()
    assert _mmap.mapping_of(numbers[3:]) is None
    assert _mmap.mapping_of(np.frombuffer(bytes(8))) is None


@pytest.mark.skipif(not hasattr(mmap, "MADV_RANDOM"), reason="no advice on this system")
def test_lists_are_read_when_they_are_probed_and_once(index, monkeypatch):
    asked = []
    monkeypatch.setattr(_mmap.Mapping, "read", lambda self, start, stop: asked.append((self.offset, start, stop)))
    block = index._core.store.blocks[0]
    queries = normal(4, D, 2)
    probes = [lists_of(index, query) for query in queries]
    index.search(queries[:1], nprobe=3)
    sizes = {array.strides[0] for array in block.rows.values()}
    expected = {
        (block.starts[i] * size, block.starts[i + 1] * size)
        for i in probes[0]
        for size in sizes
        if block.starts[i] < block.starts[i + 1]
    }
    assert {span[1:] for span in asked} == expected
    before = len(asked)
    index.search(queries[:1], nprobe=3)
    assert len(asked) == before
    index.search(queries, nprobe=3)
    assert len(asked) > before
    assert len(set(asked)) == len(asked)
    index.search(queries, recall=1.0)
    after = len(asked)
    index.search(queries, nprobe=20)
    assert len(asked) == after  # the system reads ahead again


def lists_of(index, query):
    return Routing(index._core.partition, 3, 0.5).probes(query[None], 10, 1).of(0).tolist()


def test_results_are_those_of_memory(index, tmp_path):
    other = tqvec.Index.load(tmp_path / "x.tqv")
    queries = normal(20, D, 3)
    for options in ({"nprobe": 4}, {"recall": 0.9}, {"recall": 1.0}):
        for one, two in zip(index.search(queries, **options), other.search(queries, **options), strict=True):
            np.testing.assert_array_equal(one, two)
    assert index._core.store.blocks[0].mapped is not None
    assert other._core.store.blocks[0].mapped is None
    assert mapped.mapped_lists([normal(3, D)], np.array([0, 3])) is None


def test_ids_of_a_map_are_verified_on_demand(index, tmp_path):
    path = tmp_path / "x.tqv"
    data = bytearray(path.read_bytes())
    data[data.index(index.ids.astype("<i8").tobytes()) + 9] ^= 1
    path.write_bytes(data)
    tqvec.Index.load(path, mmap=True)
    for options in ({"mmap": True, "verify": True}, {}):
        with pytest.raises(FormatError, match="damaged: ids"):
            tqvec.Index.load(path, **options)

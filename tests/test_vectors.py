"""Vectors in files: read part by part, with the results of an array in memory, and no more memory than for a part."""

import tracemalloc

import h5py
import numpy as np
import pytest
from naive_index import same
from strategies import normal

import tqvec
from tqvec._vectors import Vectors
from tqvec.errors import InputError
from tqvec.index import training

N, D = 40_000, 256  # 39 MiB as float32
MIB = 1 << 20
X = normal(N, D)


def mapped(folder, dtype, mode="r"):
    path = folder / f"{np.dtype(dtype).name}.npy"
    if not path.exists():
        np.save(path, np.clip(20 * X + 128, 0, 255).astype(dtype))
    return np.load(path, mmap_mode=mode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture(scope="module")
def dataset(folder):
    with h5py.File(folder / "x.h5", "w") as file:
        yield file.create_dataset("x", data=mapped(folder, np.float16))


def peak(call):
    """Most MiB that a call holds beyond those before it."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


SOURCES = [
    *((dtype, mode) for dtype in (np.float32, np.float16, np.float64, np.uint8) for mode in "rc"),
    ("hdf5", "r"),
]


@pytest.mark.parametrize(("dtype", "mode"), SOURCES)
def test_adding_takes_memory_for_codes_and_a_part(dtype, mode, folder, dataset):
    source = dataset if dtype == "hdf5" else mapped(folder, dtype, mode)
    index, twin = tqvec.Index(D, nbits=1), tqvec.Index(D, nbits=1)
    index.add(X[:300])
    index.reset()
    assert peak(lambda: index.add(source)) < 30
    twin.add(source[:].astype(np.float32))
    assert same(index, twin)
    assert peak(lambda: index.update(ids=range(N), x=source)) < 40
    codec = tqvec.TurboQuant(D, nbits=1)
    assert peak(lambda: codec.encode(source)) < 25
    assert np.array_equal(codec.encode(source).data, codec.encode(source[:].astype(np.float32)).data)


def test_training_draws_rows_before_it_copies_them(folder, dataset, monkeypatch):
    monkeypatch.setattr(training, "_MAX_ROWS", 1000)
    for source in (mapped(folder, np.float32), dataset):
        index, twin = tqvec.Index(D, nbits=1), tqvec.Index(D, nbits=1)
        assert peak(lambda index=index, source=source: index.train(source)) < 30
        twin.train(source[:].astype(np.float32))
        assert index.codec.fingerprint == twin.codec.fingerprint


def test_recoding_reads_the_vectors_part_by_part(folder, monkeypatch):
    monkeypatch.setattr(training, "_MAX_ROWS", 1000)
    source = mapped(folder, np.float32)
    index, twin = tqvec.Index(D, nbits=1), tqvec.Index(D, nbits=1)
    index.add(source)
    assert peak(lambda: index.train(source, vectors=source)) < 40
    twin.train(source)
    twin.add(source)
    assert same(index, twin)


@pytest.mark.slow
def test_diagnosing_copies_no_sample(folder):
    source = mapped(folder, np.float32)
    index = tqvec.Index(D, nbits=2)
    index.add(source[:2000])
    mapped_rows, rows = source[:2000], np.array(source[:2000])
    assert str(index.diagnose(sample=mapped_rows)) == str(index.diagnose(sample=rows))
    small = peak(lambda: index.diagnose(sample=mapped_rows))
    index.add(source[2000:])
    assert peak(lambda: index.diagnose(sample=source)) < small + 40


def test_reranking_reads_the_shortlist_of_a_dataset(dataset):
    index = tqvec.Index(D, nbits=4)
    index.add(dataset)
    queries = dataset[:3].astype(np.float32)
    assert peak(lambda: index.search(queries, k=5, rerank=dataset)) < 20
    for one, two in zip(
        index.search(queries, k=5, rerank=dataset), index.search(queries, k=5, rerank=dataset[:]), strict=True
    ):
        assert np.array_equal(one, two)


def test_a_bad_row_in_a_later_part_is_named_and_nothing_is_added(folder):
    x = np.lib.format.open_memmap(folder / "bad.npy", "w+", np.float32, (N, D))
    x[:] = X
    x[31_000, 7] = np.nan
    x.flush()
    source = np.load(folder / "bad.npy", mmap_mode="r")
    index = tqvec.Index(D, nbits=1)
    index.add(X[:5])
    for name, call in (
        ("x", lambda: index.add(source)),
        ("x", lambda: index.codec.encode(source)),
        ("x", lambda: tqvec.TurboQuant(D, mode="prod", qjl="hadamard").encode(source)),
        ("sample", lambda: index.diagnose(sample=source)),
        ("sample", lambda: index.train(source, vectors=X[:5])),
    ):
        with pytest.raises(InputError, match=f"^{name} row 31000 holds NaN or Inf"):
            call()
    x[31_000] = 3e38
    with pytest.raises(InputError, match="^x row 31000 is too long"):
        index.add(source)
    with pytest.raises(InputError, match="^sample row 31000 is too long"):
        index.train(source, vectors=X[:5])
    assert index.ntotal == 5


def test_some_rows_of_some_rows(dataset):
    x = dataset[:].astype(np.float32)
    for source in (dataset, x):
        vectors = Vectors(source, D, "x").some(slice(1000, 39_000))
        rows = np.array([5, 37_000, 5, 20_000, 36_999, 0])
        assert np.array_equal(vectors.take(rows), x[1000 + rows])
        few = vectors.some(np.array([3, 4, 37_999]))
        assert np.array_equal(few.float32(), x[[1003, 1004, 38_999]])
        assert few.names.of(2) == "x row 38999"
        assert [len(part) for part in vectors.some(slice(0, 0)).parts()] == [0]
        dense = np.arange(0, 38_000, 3)
        assert np.array_equal(vectors.take(dense), x[1000 + dense])
    with pytest.raises(InputError, match=r"^x must have shape \(n, 200\)"):
        Vectors(dataset, 200, "x")


def test_changes_of_a_private_map_survive(folder):
    """Pages of a map that may be changed are never given back: the changes would be lost."""
    x = mapped(folder, np.float32, "c")
    x[0] = 7
    frozen = x[:]
    frozen.flags.writeable = False
    tqvec.Index(D, nbits=1).add(frozen)
    assert (x[0] == 7).all()

"""Vectors in parts are those of the whole file."""

import builtins
import tracemalloc

import numpy as np
import pytest
from strategies import normal

from tqvec.errors import FormatError, InputError, UnsupportedError
from tqvec.eval.streams import open_vectors

X = normal(1000, 7, 10_060)


def write_npy(path, x):
    np.save(path, x)
    return path


def write_fvecs(path, x):
    np.concatenate([np.full((len(x), 1), x.shape[1], "<i4").view("<f4"), x.astype("<f4")], axis=1).tofile(path)
    return path


def write_hdf5(path, x):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["train"], file["other"], file["flat"] = x, x[::-1], x[0]
        file.create_group("group")
    return path


def write_parquet(path, lists, **options):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    options = {"row_group_size": 130} | options
    parquet.write_table(pa.table({"id": range(len(lists)), "x": lists}), path, **options)
    return f"{path}:x"


def arrow(x, kind):
    pa = pytest.importorskip("pyarrow")
    kinds = {
        "list": pa.list_(pa.float32()),
        "large": pa.large_list(pa.float64()),
        "fixed": pa.list_(pa.float32(), x.shape[1]),
        "half": pa.list_(pa.float16()),
    }
    rows = list(x.astype(np.float16)) if kind == "half" else x.tolist()
    return pa.array(rows, type=kinds[kind])


FILES = {
    "npy": lambda folder: write_npy(folder / "x.npy", X),
    "fvecs": lambda folder: write_fvecs(folder / "x.fvecs", X),
    "hdf5": lambda folder: write_hdf5(folder / "x.hdf5", X),
    **{
        kind: lambda folder, kind=kind: write_parquet(folder / "x.parquet", arrow(X, kind))
        for kind in ("list", "large", "fixed", "half")
    },
}


@pytest.mark.parametrize("kind", FILES)
def test_parts_of_all_kinds_of_files(tmp_path, kind):
    stream = open_vectors(FILES[kind](tmp_path))
    assert (stream.n, stream.d, stream.path.parent) == (1000, 7, tmp_path)
    for start in (0, 1, 129, 130, 131, 555, 999, 1000):
        parts = list(stream.parts(start, 64))
        assert all(0 < len(part) <= 64 for part in parts)
        vectors = np.concatenate(parts) if parts else X[:0]
        assert np.array_equal(vectors, X[start:].astype(vectors.dtype))


def test_named_datasets(tmp_path):
    path = write_hdf5(tmp_path / "x.hdf5", X)
    stream = open_vectors(f"{path}:other")
    assert stream.name == "other"
    assert np.array_equal(next(stream.parts(0, 10)), X[::-1][:10])
    with pytest.raises(InputError, match="no dataset 'base'"):
        open_vectors(f"{path}:base")
    for name in ("flat", "group"):
        with pytest.raises(FormatError, match=f"{name} is no 2-D array"):
            open_vectors(f"{path}:{name}")
    with pytest.raises(FileNotFoundError):
        open_vectors(tmp_path / "none.hdf5:other")


def test_no_rows(tmp_path):
    pa = pytest.importorskip("pyarrow")
    path = write_parquet(tmp_path / "x.parquet", pa.array([], pa.list_(pa.float32())))
    assert open_vectors(path).n == 0
    assert open_vectors(write_npy(tmp_path / "x.npy", X[:0])).n == 0


def test_bad_rows_of_parquet_are_named(tmp_path):
    pa = pytest.importorskip("pyarrow")
    good = X.tolist()
    for bad, reason in (
        (None, "x of row 300 is null or empty"),
        ([], "x of row 300 is null or empty"),
        ([1.0] * 6, "x of row 300 has length 6, of row 0 7"),
        ([1.0] * 6 + [None], "x of row 300 holds a null"),
    ):
        rows = [*good[:300], bad, *good[301:]]
        stream = open_vectors(write_parquet(tmp_path / "x.parquet", pa.array(rows, pa.list_(pa.float32()))))
        for start in (0, 290):
            with pytest.raises(InputError, match=reason):
                list(stream.parts(start, 64))
        assert len(np.concatenate(list(stream.parts(301, 64)))) == 699
    for first in (None, []):
        stream = open_vectors(write_parquet(tmp_path / "x.parquet", pa.array([first, *good], pa.list_(pa.float32()))))
        with pytest.raises(InputError, match="row 0 is null or empty"):
            list(stream.parts(0, 64))


def test_columns_that_are_not_vectors(tmp_path):
    path = tmp_path / "x.parquet"
    write_parquet(path, arrow(X, "list"))
    with pytest.raises(InputError, match="name a column, FILE:COLUMN; it has id, x"):
        open_vectors(path)
    with pytest.raises(InputError, match="no column 'y'; it has id, x"):
        open_vectors(f"{path}:y")
    with pytest.raises(InputError, match="column 'id' holds int64, not lists of floats"):
        open_vectors(f"{path}:id")
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match="not lists of floats"):
        open_vectors(write_parquet(path, pa.array([["a"]])))
    with pytest.raises(InputError, match="not lists of floats"):
        open_vectors(write_parquet(path, pa.array([[1, 2]], pa.list_(pa.int32()))))


def test_columns_of_integers_that_float32_holds(tmp_path):
    pa = pytest.importorskip("pyarrow")
    for kind in (pa.uint8(), pa.int16()):
        stream = open_vectors(write_parquet(tmp_path / "x.parquet", pa.array([[1, 2], [3, 4]], pa.list_(kind))))
        assert stream.take(np.array([1])).tolist() == [[3, 4]]


def test_damaged_parquet(tmp_path):
    path = tmp_path / "x.parquet"
    name = write_parquet(path, arrow(X, "list"))
    content = path.read_bytes()
    with pytest.raises(FileNotFoundError):
        open_vectors(tmp_path / "none.parquet:x")
    for broken in (b"", b"junk" * 10, content[:-10]):
        path.write_bytes(broken)
        with pytest.raises(FormatError, match=r"x\.parquet: not a Parquet file, or damaged"):
            open_vectors(name)
    path.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises(FormatError, match=r"x\.parquet: damaged"):
        list(open_vectors(name).parts(0, 64))


def test_without_pyarrow(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnsupportedError, match=r"pip install 'tqvec\[parquet\]'"):
        open_vectors(tmp_path / "x.parquet:x")


@pytest.mark.parametrize("kind", ["hdf5", "parquet"])
def test_memory_of_a_part(tmp_path, kind):
    """Not of the file, nor of a group of its rows."""
    x = normal(50_000, 64, 10_061)
    if kind == "hdf5":
        name = write_hdf5(tmp_path / "x.hdf5", x)
    else:
        name = write_parquet(tmp_path / "x.parquet", arrow(x, "fixed"), row_group_size=50_000)
        import pyarrow as pa

        before = pa.total_allocated_bytes()
    stream = open_vectors(name)
    tracemalloc.start()
    try:
        for part in stream.parts(0, 1000):
            assert part.shape == (1000, 64)
            if kind == "parquet":
                assert pa.total_allocated_bytes() - before < x.nbytes / 2
        assert tracemalloc.get_traced_memory()[1] < x.nbytes / 10
    finally:
        tracemalloc.stop()

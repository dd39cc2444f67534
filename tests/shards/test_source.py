"""Any range of rows can be read from files, whatever they are and however they are cut."""

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from tqvec.errors import FormatError, InputError
from tqvec.shards import source as module
from tqvec.shards.source import FileSource

D = 5
X = np.random.default_rng(1).standard_normal((700, D)).astype(np.float32)


def table(rows, year="int64"):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X[rows].ravel()), D)
    ids = [f"r{row}" for row in range(len(X))[rows]]
    return pa.table({"vector": vectors, "id": ids, "year": pa.array(range(len(X))[rows]).cast(year)})


@pytest.fixture
def parquet(tmp_path):
    for number, (start, stop) in enumerate([(0, 301), (301, 301), (301, 302), (302, 700)]):
        pq.write_table(table(slice(start, stop)), tmp_path / f"part-{number}.parquet", row_group_size=37)
    return tmp_path


@pytest.fixture
def numpy(tmp_path):
    np.save(tmp_path / "a.npy", X[:333])
    np.save(tmp_path / "b.npy", X[333:].astype(np.float64))
    return tmp_path


def read(source, start, stop, columns=()):
    parts = list(source.tables(start, stop, "vector", columns))
    vectors = [np.stack(part.to_numpy(zero_copy_only=False)) if columns else np.asarray(part) for part, _ in parts]
    records = [row for _, records in parts for row in records.to_pylist()]
    return np.concatenate(vectors) if vectors else np.empty((0, D)), records


RANGES = [(0, 700), (0, 1), (36, 38), (300, 303), (301, 302), (299, 700), (699, 700), (5, 5)]


@pytest.mark.parametrize(("start", "stop"), RANGES)
@pytest.mark.parametrize("batch", [7, 16_384])
def test_any_range_of_parquet(parquet, monkeypatch, start, stop, batch):
    monkeypatch.setattr(module, "_MAX_BATCH_ROWS", batch)
    source = FileSource(parquet)
    assert source.n == 700
    vectors, records = read(source, start, stop, ("year", "id"))
    assert np.array_equal(vectors, X[start:stop])
    assert records == [{"year": row, "id": f"r{row}"} for row in range(start, stop)]


@pytest.mark.parametrize(("start", "stop"), RANGES)
@pytest.mark.parametrize("batch", [7, 16_384])
def test_any_range_of_numpy_files(numpy, monkeypatch, start, stop, batch):
    monkeypatch.setattr(module, "_MAX_BATCH_ROWS", batch)
    assert np.array_equal(read(FileSource(numpy), start, stop)[0], X[start:stop])


def test_files_in_the_order_given_and_those_of_a_folder_by_name(numpy):
    given = FileSource([numpy / "b.npy", str(numpy / "a.npy")])
    assert np.array_equal(read(given, 0, 700)[0], np.concatenate([X[333:], X[:333]]))
    inside = FileSource("a.npy", pa.fs.SubTreeFileSystem(str(numpy), pa.fs.LocalFileSystem()))
    assert np.array_equal(read(inside, 0, 333)[0], X[:333])
    assert np.array_equal(read(FileSource(f"file://{numpy}/a.npy"), 0, 333)[0], X[:333])


def test_the_description_changes_with_a_file(numpy):
    before = FileSource(numpy).describe()
    assert FileSource(numpy).describe() == before
    np.save(numpy / "a.npy", X[:334])
    assert FileSource(numpy).describe() != before


def test_the_schema_is_one_for_all_files(parquet):
    assert FileSource(parquet).schema("vector", ("year",)).names == ["year"]
    pq.write_table(table(slice(0, 9), "string"), parquet / "part-4.parquet")
    assert FileSource(parquet).schema("vector", ("id",)).names == ["id"]
    with pytest.raises(InputError, match=r"part-4.*column 'year' is string, elsewhere int64"):
        FileSource(parquet).schema("vector", ("id", "year"))


def test_columns_that_are_not_there(parquet, numpy):
    with pytest.raises(InputError, match="no column 'v'; it has vector, id, year"):
        FileSource(parquet / "part-0.parquet").schema("v", ())
    with pytest.raises(InputError, match=r"a\.npy: there is no column 'id'"):
        FileSource(numpy / "a.npy").schema("vector", ("id",))


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="got none"):
        FileSource(tmp_path)
    with pytest.raises(InputError, match="got none"):
        FileSource([])
    with pytest.raises(FileNotFoundError, match=r"x\.npy"):
        FileSource(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["a.npy", "a.parquet"])
@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00", b"no file of this kind at all, but long enough for one"]
)
def test_damaged_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match="damaged"):
        FileSource(tmp_path)


def test_arrays_of_other_kinds(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(X))
    with pytest.raises(InputError, match="in C order"):
        FileSource(tmp_path)
    np.save(tmp_path / "a.npy", X[0])
    with pytest.raises(InputError, match=r"got shape \(5,\)"):
        FileSource(tmp_path)
    np.save(tmp_path / "a.npy", X)
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-1])
    with pytest.raises(FormatError, match="truncated"):
        FileSource(tmp_path)

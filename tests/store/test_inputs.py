"""Records in the objects of other libraries, and in iterators: the same collection, part by part."""

import tracemalloc
from importlib import import_module

import numpy as np
import pytest
import strategies as sts
from libraries import hugging_face_datasets
from store.records import D, vectors

import tqvec
from tqvec.errors import InputError

N = 25
X = vectors(N, 3)
ROWS = [
    {"id": f"r{i}", "vector": X[i], "document": None if i == 3 else f"text {i}", "year": None if i == 4 else i}
    for i in range(N)
]


def table(rows=ROWS):
    arrow = pytest.importorskip("pyarrow")
    fields = {"id": arrow.string(), "vector": arrow.list_(arrow.float32(), D), "document": arrow.string()}
    plain = [row if row["vector"] is None else {**row, "vector": list(row["vector"])} for row in rows]
    return arrow.Table.from_pylist(plain, schema=arrow.schema({**fields, "year": arrow.int64()}))


def dataset():
    return hugging_face_datasets().Dataset(table())


def arrow_frame():
    return table().to_pandas(types_mapper=pytest.importorskip("pandas").ArrowDtype)


RECORDS = {
    "dicts": lambda: ROWS,
    "iterator of dicts": lambda: iter(ROWS),
    "iterator of lists": lambda: iter([ROWS[:3], [], ROWS[3:19], ROWS[19], ROWS[20:]]),
    "arrow": table,
    "arrow batch": lambda: table().combine_chunks().to_batches()[0],
    "arrow chunks": lambda: import_module("pyarrow").concat_tables([table(ROWS[:2]), table(ROWS[2:])]),
    "reader": lambda: table().to_reader(max_chunksize=4),
    "reader of much": lambda: table().to_reader(),
    "iterator of tables": lambda: iter([table(ROWS[:3]), ROWS[3], ROWS[4:7], table(ROWS[7:])]),
    "pandas": lambda: pytest.importorskip("pandas").DataFrame(ROWS),
    "pandas arrow": arrow_frame,
    "polars": lambda: pytest.importorskip("polars").from_arrow(table()),
    "polars lists": lambda: pytest.importorskip("polars").DataFrame(
        [{**row, "vector": row["vector"].tolist()} for row in ROWS]
    ),
    "polars batches": lambda: pytest.importorskip("polars").from_arrow(table()).iter_slices(4),
    "dataset": dataset,
    "dataset of numpy": lambda: dataset().with_format("numpy", ["vector"], output_all_columns=True),
    "dataset of other rows": lambda: dataset().select(range(N)[::-1]).select(range(N)[::-1]),
    "dataset stream": lambda: dataset().to_iterable_dataset(),
    "torch": lambda: [{**row, "vector": pytest.importorskip("torch").from_numpy(row["vector"])} for row in ROWS],
}


@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.parametrize("batch", [10, 10_000])
def test_the_same_records_in_every_object(tmp_path, monkeypatch, kind, batch):
    monkeypatch.setattr("tqvec.store.records._BATCH", batch)
    with tqvec.Collection(tmp_path / "c", d=D, keep="float32") as collection:
        assert collection.upsert(RECORDS[kind]()) == N
        got = collection.get([f"r{i}" for i in range(N)], include=("documents", "metadatas", "vectors"))
        np.testing.assert_array_equal(got.vectors, X)
        assert got.documents == [row["document"] for row in ROWS]
        assert got.metadatas == [{} if row["year"] is None else {"year": row["year"]} for row in ROWS]
        assert [hits.ids for hits in collection.search(X, k=1)] == [[name] for name in got.ids]


@pytest.mark.parametrize("kind", ["dicts", "arrow", "pandas", "polars", "dataset", "reader", "iterator"])
def test_rows_are_counted_through_all_batches(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("tqvec.store.records._BATCH", 10)
    make = {
        "dicts": lambda rows: rows,
        "arrow": table,
        "pandas": lambda rows: pytest.importorskip("pandas").DataFrame(rows),
        "polars": lambda rows: pytest.importorskip("polars").from_arrow(table(rows)),
        "dataset": lambda rows: hugging_face_datasets().Dataset(table(rows)),
        "reader": lambda rows: table(rows).to_reader(max_chunksize=10),
        "iterator": lambda rows: iter([rows[:7], table(rows[7:])]),
    }[kind]
    bad = [
        ({"vector": None}, "(vectors row 21 (is missing|holds NaN)|records row 21 has no 'vector')"),
        ({"vector": np.full(D, np.nan, np.float32)}, "vectors row 21 holds NaN"),
        ({"vector": np.full(D, 1e5, np.float32)}, "vectors row 21 has values up to 1e"),
        ({"id": "r20"}, "ids row 21 is 'r20', as row 20"),
        ({"id": ""}, "ids row 21 must have 1 to"),
    ]
    with tqvec.Collection(tmp_path / "c", d=D, keep="float16") as collection:
        for change, message in bad:
            rows = [*ROWS[:21], {**ROWS[21], **change}, *ROWS[22:]]
            with pytest.raises(InputError, match=f"^{message}"):
                collection.upsert(make(rows))
        assert set(collection.get(where={}).ids) <= {f"r{i}" for i in range(20)}  # whole transactions before


def test_tables_that_are_refused(tmp_path):
    arrow, polars = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    pandas = pytest.importorskip("pandas")
    twice = pandas.DataFrame([["a", 1, 2]], columns=["id", "x", "x"])
    for given, message in (
        (polars.LazyFrame({"id": ["a"]}), r"^records must be .*, got a LazyFrame; convert it with collect\(\)"),
        (twice, "^records have columns of the same name: 'id', 'x', 'x'"),
        (arrow.table({"x": [1]}), "^records have no column 'id', only 'x'"),
        (iter([ROWS[:2], "x"]), "^records row 2 must be a dict, got a str"),
        (iter([ROWS[:2], iter(ROWS)]), "^records row 2 must be a dict, got a list_iterator"),
        (
            [{"id": "a", "vector": X[0]}, {"id": "b", "vector": X[0, :3]}],
            r"^the vector of records row 1 has the shape \(3,\)",
        ),
        (arrow.table({"id": ["a"], "vector": [["x"]]}), "^vectors must hold floating-point numbers"),
    ):
        with tqvec.Collection(tmp_path / "c", d=D) as collection:
            with pytest.raises(InputError, match=message):
                collection.upsert(given)
            assert len(collection) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrow", "pandas", "polars", "dataset", "reader"])
def test_a_part_is_in_memory(tmp_path, kind, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    monkeypatch.setattr("tqvec.store.records._BATCH", 2_000)
    n, d = 40_000, 256
    x = sts.normal(n, d, 90_100)  # 39 MiB
    given = arrow.table(
        {"id": list(map(str, range(n))), "vector": arrow.FixedSizeListArray.from_arrays(arrow.array(x.ravel()), d)}
    )
    if kind == "pandas":
        given = pytest.importorskip("pandas").DataFrame({"id": list(map(str, range(n))), "vector": list(x)})
    elif kind == "polars":
        given = pytest.importorskip("polars").from_arrow(given)
    elif kind == "dataset":
        given = hugging_face_datasets().Dataset(given)
    elif kind == "reader":
        given = given.to_reader()
    with tqvec.Collection(tmp_path / "c", d=d, nbits=1) as collection:
        tracemalloc.start()
        try:
            assert collection.upsert(given) == n
            assert tracemalloc.get_traced_memory()[1] < 30 << 20
        finally:
            tracemalloc.stop()

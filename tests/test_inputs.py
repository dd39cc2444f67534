"""Vectors in the objects of other libraries, and in iterators: the same codes, part by part, all or nothing."""

import itertools
import re
import subprocess
import sys
import tracemalloc
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from libraries import hugging_face_datasets
from naive_index import same
from strategies import normal

import tqvec
from tqvec.errors import InputError, LossWarning

N, D = 60_000, 256  # 59 MiB as float32
MIB = 1 << 20
X = normal(N, D)
FEW = X[:300, :16].copy()


class OnlyDlpack:
    """An array of a library that NumPy doesn't know."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def arrow_lists(x, kind="float32"):
    arrow = pytest.importorskip("pyarrow")
    return arrow.FixedSizeListArray.from_arrays(arrow.array(x.astype(kind).ravel()), x.shape[1])


def arrow_of(make):
    """A function of vectors that gets PyArrow first."""
    return lambda x: make(pytest.importorskip("pyarrow"), x)


def chunks(arrow, x):
    lists = arrow_lists(x)
    cuts = [0, 0, 1, len(x) // 3, len(x)]
    return arrow.chunked_array([lists[a:b] for a, b in itertools.pairwise(cuts)])


def variable_lists(arrow, x, kind=None):
    offsets = np.arange(0, x.size + 1, x.shape[1])
    large = arrow.LargeListArray.from_arrays(offsets, arrow.array(x.ravel().astype(np.float64)))
    return large if kind is None else large.cast(kind)


def pandas_of(make):
    return lambda x: make(pytest.importorskip("pandas"), x)


def polars_of(make):
    return lambda x: make(pytest.importorskip("polars"), x)


def torch_of(make):
    return lambda x: make(pytest.importorskip("torch").from_numpy(x))


def dataset_of(make):
    def dataset(x):
        datasets, arrow = hugging_face_datasets(), pytest.importorskip("pyarrow")
        return make(datasets.Dataset(arrow.table({"v": arrow_lists(x), "n": np.arange(len(x))})))

    return dataset


def objects(x):
    column = np.empty(len(x), object)
    column[:] = list(x)
    return column


SOURCES = {
    "objects": objects,
    "dlpack": OnlyDlpack,
    "arrow fixed": arrow_lists,
    "arrow sliced": lambda x: arrow_lists(np.concatenate([x[:7], x]))[7:],
    "arrow float64": lambda x: arrow_lists(x, "float64"),
    "arrow chunks": arrow_of(chunks),
    "arrow large lists": arrow_of(variable_lists),
    "arrow lists": arrow_of(lambda arrow, x: variable_lists(arrow, x, arrow.list_(arrow.float32()))),
    "arrow sliced lists": arrow_of(lambda arrow, x: variable_lists(arrow, np.concatenate([x[:7], x]))[7:]),
    "arrow tensors": arrow_of(
        lambda arrow, x: arrow.ExtensionArray.from_storage(
            arrow.fixed_shape_tensor(arrow.float32(), [x.shape[1]]), arrow_lists(x)
        )
    ),
    "arrow table": arrow_of(lambda arrow, x: arrow.table({"v": chunks(arrow, x)})),
    "arrow batch": arrow_of(lambda arrow, x: arrow.record_batch({"v": arrow_lists(x)})),
    "arrow numbers": arrow_of(lambda arrow, x: arrow.table({str(i): column for i, column in enumerate(x.T)})),
    "pandas column": pandas_of(lambda pandas, x: pandas.Series(list(x))),
    "pandas indexed column": pandas_of(lambda pandas, x: pandas.Series(list(x), index=np.arange(len(x))[::-1])),
    "pandas table": pandas_of(lambda pandas, x: pandas.DataFrame({"v": list(x)})),
    "pandas arrow": pandas_of(
        lambda pandas, x: pandas.Series(pandas.arrays.ArrowExtensionArray(chunks(import_module("pyarrow"), x)))
    ),
    "pandas numbers": pandas_of(lambda pandas, x: pandas.DataFrame(x)),
    "pandas columns": pandas_of(lambda pandas, x: pandas.DataFrame({i: column.copy() for i, column in enumerate(x.T)})),
    "pandas nullable": pandas_of(lambda pandas, x: pandas.DataFrame(x).astype("Float32")),
    "polars array": polars_of(lambda polars, x: polars.Series(x)),
    "polars list": polars_of(lambda polars, x: polars.Series(x).arr.to_list()),
    "polars table": polars_of(lambda polars, x: polars.DataFrame({"v": x})),
    "polars numbers": polars_of(lambda polars, x: polars.DataFrame(x)),
    "torch": torch_of(lambda x: x),
    "torch gradient": torch_of(lambda x: x.clone().requires_grad_()),
    "dataset column": dataset_of(lambda dataset: dataset["v"]),
    "dataset numpy": dataset_of(lambda dataset: dataset.with_format("numpy")["v"]),
    "dataset torch": dataset_of(lambda dataset: pytest.importorskip("torch") and dataset.with_format("torch")["v"]),
    "dataset of one column": dataset_of(lambda dataset: dataset.select_columns(["v"])),
    "dataset of other rows": lambda x: dataset_of(lambda d: d.select(np.argsort(-np.arange(len(x))))["v"])(x[::-1]),
}


def made(kind, x):
    """The vectors in another library's object; skip the test if it is not installed."""
    if kind.startswith("pandas"):
        pytest.importorskip("pyarrow")
    return SOURCES[kind](x)


def peak(call):
    """Most MiB that a call holds beyond those before it: of NumPy and Python, and of the process where Linux tells."""
    before = resident("VmRSS")
    tracemalloc.start()
    try:
        call()
        return max(tracemalloc.get_traced_memory()[1] / MIB, resident("VmHWM") - before)
    finally:
        tracemalloc.stop()


def resident(name):
    """MiB of the process now (VmRSS), which begins a new maximum, or its maximum since then (VmHWM)."""
    try:
        if name == "VmRSS":
            Path("/proc/self/clear_refs").write_text("5")
        return float(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    except OSError:
        return 0.0


@pytest.mark.parametrize("kind", SOURCES)
def test_the_same_vectors_in_every_object(kind):
    given = made(kind, FEW)
    index, twin = tqvec.Index(16), tqvec.Index(16)
    index.add(given, ids=np.arange(300, 0, -1))
    twin.add(FEW, ids=np.arange(300, 0, -1))
    assert same(index, twin)
    index.update(ids=range(1, 301), x=given)
    twin.update(ids=range(1, 301), x=FEW)
    assert same(index, twin)
    for options in ({}, {"confidence": 0.9}):
        for one, two in zip(twin.search(given, 3, **options), twin.search(FEW, 3, **options), strict=True):
            np.testing.assert_array_equal(one, two)
    assert str(index.train(given, vectors=given)) == str(twin.train(FEW, vectors=FEW))
    assert same(index, twin)
    exact = tqvec.Index(16)
    exact.add(FEW)
    for one, two in zip(exact.search(FEW[:9], 3, rerank=given), exact.search(FEW[:9], 3, rerank=FEW), strict=True):
        np.testing.assert_array_equal(one, two)
    codec = tqvec.TurboQuant(16)
    np.testing.assert_array_equal(codec.encode(given).data, codec.encode(FEW).data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind != "dataset of other rows"])
def test_adding_takes_memory_for_codes_and_a_part(kind):
    given = made(kind, X)
    index, twin = tqvec.Index(D, nbits=1), tqvec.Index(D, nbits=1)
    index.add(X[:300])
    index.reset()
    assert peak(lambda: index.add(given)) < 40
    twin.add(X)
    assert same(index, twin)


def test_halves_and_gradients():
    torch = pytest.importorskip("torch")
    half = torch.from_numpy(FEW).bfloat16()
    index, twin = tqvec.Index(16), tqvec.Index(16)
    index.add(part.requires_grad_() for part in half.split(100))
    twin.add(half.float().numpy())
    assert same(index, twin)
    arrow = pytest.importorskip("pyarrow")
    index.reset()
    twin.reset()
    index.add(arrow_lists(FEW, np.float16))
    twin.add(FEW.astype(np.float16))
    assert same(index, twin)
    index.reset()
    index.add(arrow.array(list(FEW.astype(np.float16)), arrow.list_(arrow.float16())))
    assert same(index, twin)


def missing_lists(arrow):
    return arrow.chunked_array([arrow.array([[1.0, 2.0]] * 5), arrow.array([[1.0, 2.0], None])])


NULLS = {
    "arrow lists": missing_lists,
    "arrow fixed": lambda arrow: missing_lists(arrow).cast(arrow.list_(arrow.float32(), 2)),
    "arrow table": lambda arrow: arrow.table({"v": missing_lists(arrow)}),
    "arrow null number": lambda arrow: arrow.array([[1.0, 2.0]] * 6 + [[None, 1.0]]),
    "arrow null half": lambda arrow: arrow.array(
        [[np.float16(1)] * 2] * 6 + [[None, np.float16(1)]], arrow.list_(arrow.float16())
    ),
    "arrow null column": lambda arrow: arrow.table({"a": [1.0] * 7, "b": [1.0] * 6 + [None]}),
    "pandas objects": lambda arrow: import_module("pandas").Series([[1.0, 2.0]] * 6 + [None]),
    "pandas arrow": lambda arrow: missing_lists(arrow).to_pandas(types_mapper=import_module("pandas").ArrowDtype),
    "polars list": lambda arrow: import_module("polars").Series([[1.0, 2.0]] * 6 + [None]),
    "polars array": lambda arrow: import_module("polars").from_arrow(NULLS["arrow fixed"](arrow)),
    "dataset": lambda arrow: hugging_face_datasets().Dataset(arrow.table({"v": missing_lists(arrow)})),
}


@pytest.mark.parametrize("kind", NULLS)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: iter([[[1.0, 2.0]] * 3, x])], ids=["whole", "batch"])
def test_what_is_missing_is_named_by_its_row(kind, wrap, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    if kind.partition(" ")[0] in ("pandas", "polars", "dataset"):
        hugging_face_datasets() if kind == "dataset" else pytest.importorskip(kind.partition(" ")[0])
    monkeypatch.setattr("tqvec._vectors._PART", 2 * 2 * 4)  # two rows
    given = wrap(NULLS[kind](arrow))
    row = 6 if wrap.__name__ and not hasattr(given, "__next__") else 9
    index = tqvec.Index(2)
    with pytest.raises(InputError, match=f"^x row {row} (is missing|holds NaN)"):
        index.add(given)
    assert index.ntotal == 0


def test_rows_of_other_lengths_are_named(monkeypatch):
    monkeypatch.setattr("tqvec._vectors._PART", 2 * 2 * 4)
    arrow = pytest.importorskip("pyarrow")
    index = tqvec.Index(2)
    for given in (arrow.array([[1.0, 2]] * 4 + [[3.0]] * 2), objects([[1.0, 2]] * 4 + [[3.0]] * 2)):
        with pytest.raises(InputError, match="^x row 4 has length 1, row 0 2"):
            index.add(given)
    chunked = arrow.chunked_array([[[1.0, 2]], [[3.0]]])
    with pytest.raises(InputError, match="^queries row 1 has length 1, row 0 2"):
        index.search(chunked)
    for given in (arrow.array([[1.0]] * 3), arrow.table({"v": [[1.0]] * 3}), objects([[1.0]] * 3)):
        with pytest.raises(InputError, match=r"^x must have shape \(n, 2\) or \(2,\), got \(3, 1\)"):
            index.add(given)


def test_columns_of_single_numbers_are_no_rows():
    """As many as there are coordinates: they would pass for a row, or for as many rows."""
    arrow = pytest.importorskip("pyarrow")
    numbers = arrow.array([1.0, 2.0])
    index, twin = tqvec.Index(2), tqvec.Index(2)
    for given in (numbers, numbers.dictionary_encode(), arrow.chunked_array([numbers])):
        index.add(given)
        twin.add([1.0, 2.0])
    assert same(index, twin)
    datasets = hugging_face_datasets()
    column = datasets.Dataset(arrow.table({"v": numbers}))
    for given in (column["v"], column.with_format("numpy")["v"], arrow.table({"v": numbers})):
        with pytest.raises(InputError, match=r"^x must have (rows of 2 numbers|shape .*, got \(2, 1\))"):
            index.add(given)
    assert index.ntotal == 3


def test_columns_without_rows_are_no_vectors():
    arrow = pytest.importorskip("pyarrow")
    index = tqvec.Index(2)
    lists = arrow.list_(arrow.float32())
    for given in (
        arrow.array([], lists),
        arrow.chunked_array([], lists),
        arrow.table({"v": arrow.array([], lists)}),
        arrow.array([], arrow.list_(arrow.float32(), 2)),
    ):
        index.add(given)
    with pytest.raises(InputError, match="^x must have shape"):
        index.add(arrow.array([], arrow.list_(arrow.float32(), 3)))
    assert index.ntotal == 0


def test_tables_with_other_columns_say_so():
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"id": ["a"], "v": [[1.0, 2.0]]})
    tables = [table, iter([table])]
    for name, make in (("pandas", lambda _: table.to_pandas()), ("polars", lambda m: m.from_arrow(table))):
        if (module := sys.modules.get(name)) is not None:
            tables.append(make(module))
    for given in tables:
        with pytest.raises(InputError, match="^x .*hand over one of"):
            tqvec.Index(2).add(given)
    datasets = hugging_face_datasets()
    for call in (tqvec.Index(2).add, tqvec.Index(2).search):
        with pytest.raises(InputError, match="has the columns id, v: hand over one of them"):
            call(datasets.Dataset(table))
    kind = arrow.fixed_shape_tensor(arrow.float32(), [2, 1])
    tensors = arrow.ExtensionArray.from_storage(kind, arrow_lists(np.ones((1, 2))))
    with pytest.raises(InputError, match=r"got tensors of shape \(2, 1\)"):
        tqvec.Index(2).add(tensors)


def test_dlpack_of_other_devices():
    index = tqvec.Index(16)
    index.add(OnlyDlpack(FEW, (3, 0)))
    for device in ((2, 0), (10, 1)):
        with pytest.raises(InputError, match=rf"^x lies on a device that can't be read \({device[0]}\): copy it"):
            index.add(OnlyDlpack(FEW, device))
    with pytest.raises(InputError, match="^x can't be read as an array"):
        index.add(OnlyDlpack(np.array(["a"])))
    assert index.ntotal == 300


def batches(x, sizes=(1, 0, 7, 100, 3000, 40_000)):
    first = 0
    for size in sizes:
        yield x[first : first + size]
        first += size


def mixed_batches(x):
    """Batches of many kinds, of float32's values."""
    cuts = np.linspace(0, len(x), len(SOURCES) + 1).astype(int)
    for kind, first, last in zip(SOURCES, cuts, cuts[1:], strict=False):
        yield made(kind, x[first:last])


def one_buffer(x):
    """A producer that fills the same memory again and again."""
    buffer = np.empty((50, x.shape[1]), np.float32)
    for first in range(0, len(x), 50):
        buffer[:] = x[first : first + 50]
        yield buffer
        buffer[:] = np.nan


def collected(lazy):
    if not hasattr(lazy, "collect_batches"):
        pytest.skip("Polars 1.34 or newer")
    return lazy.collect_batches(chunk_size=100)


STREAMS = {
    "batches": batches,
    "rows": iter,
    "map": lambda x: map(np.float64, x),
    "one buffer": one_buffer,
    "reader": arrow_of(
        lambda arrow, x: arrow.RecordBatchReader.from_batches(
            arrow.schema({"v": arrow.list_(arrow.float32(), x.shape[1])}),
            (arrow.record_batch({"v": arrow_lists(part)}) for part in batches(x)),
        )
    ),
    "lazy": polars_of(lambda polars, x: collected(polars.LazyFrame({"v": x}))),
    "dataset stream": dataset_of(lambda dataset: dataset.to_iterable_dataset()["v"]),
}


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("kind", STREAMS)
def test_the_same_vectors_in_batches(kind, metric, monkeypatch):
    monkeypatch.setattr("tqvec._vectors._PART", 16 * 4 * 64)
    index, twin = tqvec.Index(16, metric=metric), tqvec.Index(16, metric=metric)
    for given, ids in (("x", None), ("x", np.arange(1000, 1300)), ("y", None)):
        x = FEW if given == "x" else FEW + 1
        index.add(STREAMS[kind](x), ids)
        twin.add(x, ids)
        assert same(index, twin)
    index.add(STREAMS[kind](FEW + 2), np.arange(1299, 999, -1), upsert=True)
    twin.add(FEW + 2, np.arange(1299, 999, -1), upsert=True)
    index.update(ids=np.arange(300), x=STREAMS[kind](FEW + 3))
    twin.update(ids=np.arange(300), x=FEW + 3)
    assert same(index, twin)


@pytest.mark.parametrize("library", ["torch", "pandas", "polars", "datasets", "pyarrow"])
def test_batches_may_be_of_every_kind(library):
    pytest.importorskip(library)
    if not all(map(sys.modules.get, ("torch", "pandas", "polars", "datasets", "pyarrow"))):
        pytest.skip("needs all of them")
    index, twin = tqvec.Index(16), tqvec.Index(16)
    index.add(mixed_batches(FEW))
    twin.add(FEW)
    assert same(index, twin)


@pytest.mark.slow
def test_adding_batches_takes_memory_for_codes_and_a_part():
    index, twin = tqvec.Index(D, nbits=1), tqvec.Index(D, nbits=1)
    index.add(X[:300])
    index.reset()
    for sizes in ((N // 7 + 1,) * 7, (100,) * (N // 100)):
        assert peak(lambda sizes=sizes: index.add(part.astype(np.float32) for part in batches(X, sizes))) < 45
        twin.add(X)
        assert same(index, twin)


def fail(x, number, error):
    for row, part in enumerate(batches(x, (100,) * 3)):
        if row == number:
            raise error
        yield part


def replaced(x, row, value):
    x = x.copy()
    x[row, 3] = value
    return batches(x, (100,) * 3)


BAD_STREAMS = [
    (lambda: fail(FEW, 2, OSError("no network")), None, OSError, "no network"),
    (lambda: replaced(FEW, 250, np.nan), None, InputError, "^x row 250 holds NaN or Inf"),
    (lambda: replaced(FEW.astype(float), 250, 1e300), None, InputError, "^x row 250 holds a value too large for float"),
    (lambda: replaced(FEW, 250, 3e38), None, InputError, "^x row 250 is too long"),
    (
        lambda: iter([FEW, FEW[:, :8]]),
        None,
        InputError,
        r"^x batch 1 must have shape \(n, 16\) or \(16,\), got \(300, 8",
    ),
    (lambda: iter([FEW, FEW > 0]), None, InputError, "^x batch 1 must hold floating-point numbers, got dtype bool"),
    (lambda: iter([FEW, iter(FEW)]), None, InputError, "^x batch 1 must hold floating-point numbers, got a "),
    (lambda: iter([1.0]), None, InputError, "^x batch 0 must have shape"),
    (
        lambda: batches(FEW),
        range(500, 799),
        InputError,
        "^ids must be as many as the rows of x: got 299 ids and more rows",
    ),
    (
        lambda: batches(FEW),
        range(500, 801),
        InputError,
        "^ids must be as many as the rows of x: got 301 ids and 300 rows",
    ),
    (lambda: iter([]), [3], InputError, "^ids must be as many as the rows of x: got 1 ids and 0 rows"),
    (lambda: batches(FEW), np.zeros(300, int), InputError, "^ids row 1: id 0 is given twice"),
    (lambda: batches(FEW), np.arange(300), InputError, "^ids row 0: id 0 is in the index"),
    (lambda: batches(FEW), iter([range(300)]), InputError, "^ids must be a 1-D array of integers"),
]


@pytest.mark.parametrize(("given", "ids", "error", "message"), BAD_STREAMS, ids=range(len(BAD_STREAMS)))
def test_an_iterator_that_fails_changes_nothing(given, ids, error, message, monkeypatch):
    monkeypatch.setattr("tqvec._vectors._PART", 16 * 4 * 64)
    index, twin = tqvec.Index(16, metric="l2"), tqvec.Index(16, metric="l2")
    for each in (index, twin):
        each.add(FEW[:5])
    with pytest.raises(error, match=message):
        index.add(given(), ids)
    assert same(index, twin)
    for each in (index, twin):
        each.add(FEW)
    assert same(index, twin)


def test_a_bad_row_ends_the_reading(monkeypatch):
    monkeypatch.setattr("tqvec._vectors._PART", 16 * 4 * 64)
    read = []
    index = tqvec.Index(16)
    for wrong, ids in ((np.full(16, np.nan), None), (FEW[0], range(3))):
        read.clear()
        with pytest.raises(InputError):
            index.add((read.append(row) or wrong for row in range(10**6)), ids)
        assert len(read) <= 64


def test_changes_while_an_iterator_is_read():
    sample = normal(2000, 16) * np.geomspace(1, 0.01, 16, dtype=np.float32)
    index = tqvec.Index(16)
    index.add(sample)

    def during(call):
        yield FEW[:200]
        call()
        yield FEW[200:]

    index.add(during(lambda: index.partition(4)))
    index.add(during(lambda: index.remove_ids([0])))
    index.add(during(lambda: index.add(FEW[:1])))
    assert index.ntotal == 2000 + 3 * 300
    found = index.search(FEW, 1, recall=1.0)[1].ravel()
    assert np.mean(found >= 2000) > 0.9
    with pytest.raises(InputError, match="was trained while x was read"):
        index.add(during(lambda: index.train(sample, vectors=np.concatenate([sample, FEW, FEW, FEW])[: index.ntotal])))
    assert index.codec.calibration is not None
    assert index.ntotal == 2000 + 3 * 300
    index.add(during(index.reset))
    assert index.ntotal == 300


def test_batches_far_from_the_origin_warn_once():
    index = tqvec.Index(16, metric="l2")
    with pytest.warns(LossWarning) as caught:
        index.add(batches(100 + FEW))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.raises(LossWarning):  # warnings are errors here
        tqvec.Index(16, metric="l2").add(batches(100 + FEW))


def test_iterators_are_read_by_add_and_update_alone():
    index = tqvec.Index(16)
    index.add(FEW)
    for call in (index.train, index.search, index.codec.encode, lambda x: index.search(FEW, rerank=x)):
        with pytest.raises(InputError, match="got a generator; convert it with "):
            call(row for row in FEW)
    arrow = pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match=r"convert it with read_all\(\)"):
        index.train(arrow.RecordBatchReader.from_batches(arrow.schema({}), []))


def test_no_library_is_imported():
    code = """
import sys, numpy as np, tqvec
x = np.ones((3, 16))
index = tqvec.Index(16)
for given in (x, x.tolist(), list(x), iter(x), (row for row in x)):
    index.add(given)
print([name for name in ("pandas", "polars", "pyarrow", "torch", "datasets", "jax") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

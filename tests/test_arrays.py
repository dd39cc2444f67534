"""Arrays of other libraries, lists and columns: read as they are meant, or refused with a remedy that helps."""

import re

import numpy as np
import pytest
from strategies import normal

import tqvec
from tqvec._arrays import as_array
from tqvec._validate import numbers, vectors
from tqvec.errors import InputError

X = normal(6, 16)
MASKED = np.ma.array(X, mask=np.arange(6)[:, None] * np.ones(16) == 3)


def is_read(given, expected=X):
    assert np.array_equal(vectors(given, 16, "x"), expected)


def test_lists():
    is_read([list(map(float, row)) for row in X])
    is_read(list(X))
    is_read(tuple(memoryview(row) for row in X))
    is_read([[1] * 16, [2] * 16], np.repeat([[1], [2]], 16, axis=1))
    is_read([2**24] * 16, np.full((1, 16), 2**24))
    is_read([[0.5] * 15 + [1]], np.array([[0.5] * 15 + [1]]))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, ">i2"])
def test_integers_that_float32_holds(dtype):
    whole = np.iinfo(dtype)
    x = np.linspace(int(whole.min), int(whole.max), 96).astype(dtype).reshape(6, 16)
    is_read(x, x.astype(np.float32))
    one, two = tqvec.Index(16), tqvec.Index(16)
    one.add(x)
    two.add(x.astype(np.float32))
    for given in (one.search(x, 3), one.search(x, 3, rerank=x)):
        assert given[1][:, 0].tolist() == two.search(x.astype(np.float32), 3)[1][:, 0].tolist()


def test_columns_of_rows():
    column = np.empty(6, object)
    column[:] = list(X)
    is_read(column)
    is_read(column[:, None])
    column[:] = [row.tolist() for row in X]
    is_read(column)
    column[2] = None
    with pytest.raises(InputError, match="^x row 2 is missing, or no list of numbers: None"):
        vectors(column, 16, "x")
    column[2] = [1.0] * 15
    with pytest.raises(InputError, match="^x row 2 has length 15, row 0 16"):
        vectors(column, 16, "x")


REFUSED = [
    ({"a": [1.0] * 16}, "a dict; convert it with {}", lambda x: np.array(list(x.values()))),
    ({1.0, 2.0}, "a set; convert it with {}", lambda x: np.array(list(x))),
    ((row for row in X), "a generator; convert it with {}", lambda x: np.array(list(x))),
    (X > 0, "dtype bool; convert it with {}", lambda x: x.astype(np.float32)),
    ((100 * X).astype(int), "dtype int64; convert it with {}", lambda x: x.astype(np.float32)),
    (X.astype(object), "dtype object; convert it with {}", lambda x: x.astype(np.float32)),
    (X + 1j, "dtype complex64; take its real part", lambda x: x.real),
]


@pytest.mark.parametrize(("given", "message", "remedy"), REFUSED, ids=range(len(REFUSED)))
def test_the_remedy_of_a_refusal_helps(given, message, remedy):
    text = {"values": "np.array(list(x.values()))", "list": "np.array(list(x))", "astype": "astype(np.float32)"}
    name = "values" if isinstance(given, dict) else "astype" if isinstance(given, np.ndarray) else "list"
    with pytest.raises(
        InputError, match=re.escape(f"x must hold floating-point numbers, got {message.format(text[name])}")
    ):
        numbers(given, "x")
    numbers(remedy(given), "x")


def test_what_is_no_vector():
    for given, message in (
        (None, "got None"),
        ("some text", "got dtype <U9; make vectors of text with an embedding model"),
        (b"some text", "make vectors of text"),
        ([2**24 + 1] * 16, "got dtype int64"),
        ([True] * 16, "got dtype bool"),
        ([[1.0, None]], "got dtype object"),
    ):
        with pytest.raises(InputError, match=f"^x must hold floating-point numbers, .*{message}"):
            numbers(given, "x")
    with pytest.raises(
        InputError, match=r"^x must have shape \(n, 16\) .*; no vectors at all are np.zeros\(\(0, 16\)\)"
    ):
        vectors([], 16, "x")
    vectors(np.zeros((0, 16)), 16, "x")


def test_masked_entries_are_refused_wherever_an_array_is_taken():
    index = tqvec.Index(16)
    index.add(X)
    cache = tqvec.kvcache.KVCache(1, 1, 16)
    ids = np.ma.array([1, 2, 3], mask=[0, 0, 1])
    chosen = np.ma.array(np.ones(6, bool), mask=np.arange(6) < 2)
    for name, call in (
        ("x row 3", lambda: index.add(MASKED)),
        ("x row 3 row 0", lambda: index.add([*X[:3], MASKED[3]])),
        ("x row 3", lambda: tqvec.TurboQuant(16).encode(MASKED)),
        ("queries row 3", lambda: index.search(MASKED)),
        ("rerank row 3", lambda: index.search(X, rerank=MASKED)),
        ("sample row 3", lambda: index.train(MASKED)),
        ("sample row 3", lambda: index.diagnose(sample=MASKED)),
        ("filter row 0", lambda: index.search(X, filter=chosen)),
        ("filter row 2", lambda: index.search(X, filter=ids)),
        ("a mask row 0", lambda: tqvec.selectors.Mask(chosen)),
        ("ids row 2", lambda: tqvec.selectors.Ids(ids)),
        ("ids row 2", lambda: index.remove_ids(ids)),
        ("ids row 2", lambda: index.add(X[:3], ids=ids + 10)),
        ("k row 0", lambda: cache.append(0, np.ma.masked_less(X[None], 9), X[None])),
    ):
        with pytest.raises(InputError, match=f"^{name} is masked: fill it"):
            call()
    assert index.ntotal == 6
    index.search(MASKED.filled(0), filter=chosen.filled(False))
    is_read(MASKED.data)
    is_read(np.ma.array(X))
    with pytest.raises(InputError, match="^x "):
        vectors([[1.0] * 15 + [np.ma.masked]], 16, "x")


class Refusing:
    """An array of a library that doesn't want to be copied."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("copy it to the host first")


def test_errors_of_other_libraries_are_told_in_ours():
    for given in (Refusing(), [Refusing()]):
        with pytest.raises(InputError, match="^x( row 0)? can't be read as an array: copy it to the host first"):
            as_array(given, "x")


def test_arrow():
    pa = pytest.importorskip("pyarrow")
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 16)
    for given in (fixed, pa.array(list(X)), pa.chunked_array([fixed[:2], fixed[2:]]), pa.table({"v": fixed})):
        is_read(given)
    is_read(pa.table({f"{i}": X[:, i] for i in range(16)}))
    with pytest.raises(InputError, match="^x row 1 is missing"):
        vectors(pa.array([X[0], None]), 16, "x")
    with pytest.raises(InputError, match="^x row 1 holds NaN"):
        vectors(pa.array([X[0].tolist(), [None, *X[1, 1:].tolist()]]), 16, "x")
    with pytest.raises(InputError, match="^ids must be a 1-D array of integers, got float64"):
        tqvec.selectors.Ids(pa.array([1, None]))
    assert tqvec.selectors.Ids(pa.array([1, 2])).holds(np.array([1, 2]))


def test_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X)
    for given in (frame, frame.astype("Float32"), pd.Series(list(X)), pd.DataFrame({"v": list(X)}), frame.astype("f8")):
        is_read(given)
    is_read(frame.iloc[0], X[:1])
    is_read(frame.astype("Float32").iloc[0], X[:1])
    frame = frame.astype("Float32")
    frame.iloc[2, 1] = pd.NA
    with pytest.raises(InputError, match="^x row 2 holds NaN"):
        vectors(frame, 16, "x")
    with pytest.raises(InputError, match="^x row 1 is missing"):
        vectors(pd.Series([X[0], None]), 16, "x")
    for given in (pd.Series([True, None], dtype="boolean"), pd.Series(["a", "b"])):
        with pytest.raises(InputError, match="^filter must be a 1-D array of integers"):
            tqvec.Index(16).search(X, filter=given)


def test_polars():
    pl = pytest.importorskip("polars")
    rows = X.tolist()
    for given in (pl.Series(rows), pl.Series(rows, dtype=pl.Array(pl.Float32, 16)), pl.DataFrame(X)):
        is_read(given)
    is_read(pl.DataFrame({"v": rows}))
    with pytest.raises(InputError, match=r"got a LazyFrame; convert it with collect\(\)"):
        vectors(pl.DataFrame(X).lazy(), 16, "x")
    with pytest.raises(InputError, match="^x row 1 is missing"):
        vectors(pl.Series([rows[0], None]), 16, "x")


def test_torch():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(X)
    for given in (
        x,
        x.clone().requires_grad_(),
        torch.nn.Parameter(x),
        x.double(),
        list(x),
        list(x.clone().requires_grad_()),
    ):
        is_read(given)
    half = x.bfloat16()
    for given in (half, half.requires_grad_(), list(half), half.T.contiguous().T):
        is_read(given, half.detach().float().numpy())
    is_read(half[0].detach(), half[:1].detach().float().numpy())
    index = tqvec.Index(16)
    index.add(half)
    assert index.search(half, k=1, rerank=half)[1].ravel().tolist() == list(range(6))
    cache = tqvec.kvcache.KVCache(1, 1, 16)
    cache.append(0, half[None], x[None].requires_grad_())
    assert cache.attend(0, half[None, -1:]).shape == (1, 1, 16)
    for given in (torch.ones(6, 16).to_sparse(), torch.ones(6, 16, device="meta")):
        with pytest.raises(InputError, match="^x can't be read as an array: "):
            vectors(given, 16, "x")
    with pytest.raises(InputError, match="^x must hold floating-point numbers, got dtype int64"):
        vectors(torch.ones(6, 16, dtype=torch.long), 16, "x")

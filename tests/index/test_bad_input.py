"""Every argument of every call: a bad one gets an InputError that names it, and leaves the index as it was; an odd but
sound one gets the right result."""

import copy

import numpy as np
import pytest
from naive_index import contents, same

import tqvec
from tqvec.errors import InputError
from tqvec.index.metrics import METRICS

GOOD = np.random.default_rng(10_001).standard_normal((4, 8)).astype(np.float32)
IDS = [30, -7, 10, 2]
CODES = tqvec.TurboQuant(8).encode(GOOD)


@pytest.fixture(params=METRICS)
def index(request):
    """An index of four vectors; after the test it must hold them, and nothing else."""
    index = tqvec.Index(8, metric=request.param)
    index.add(GOOD, ids=IDS)
    ids, rows = contents(index)
    yield index
    ids_after, rows_after = contents(index)
    assert np.array_equal(ids, ids_after)
    assert all(np.array_equal(rows[name], rows_after[name]) for name in rows)
    assert index._core.store.next_id == 31


def broken(row, value):
    x = GOOD.copy()
    x[row, 3] = value
    return x


# Each takes vectors, (n, 8), as the argument of that name; those of OPTIONAL take None too.
OPTIONAL = [
    ("queries", lambda index, x: index.train(GOOD, queries=x)),
    ("vectors", lambda index, x: index.train(GOOD, vectors=x)),
    ("rerank", lambda index, x: index.search(GOOD, rerank=x)),
    ("queries", lambda index, x: index.diagnose(queries=x)),
    ("sample", lambda index, x: index.diagnose(sample=x)),
]
REQUIRED = [
    ("x", lambda index, x: index.add(x)),
    ("x", lambda index, x: index.add(x, ids=[5, 6, 7, 8])),
    ("x", lambda index, x: index.add(x, ids=[30, 5, 6, 7], upsert=True)),
    ("x", lambda index, x: index.update(ids=IDS, x=x)),
    ("queries", lambda index, x: index.search(x)),
    ("queries", lambda index, x: index.search(x, confidence=0.9)),
    ("queries", lambda index, x: index.range_search(x, 0.5)),
    ("sample", lambda index, x: index.train(x)),
    ("x", lambda index, x: index.codec.encode(x)),
    ("x", lambda index, x: tqvec.TurboQuant(8, mode="prod").encode(x)),
    ("queries", lambda index, x: index.codec.inner_product(x, CODES)),
]
BAD_VECTORS = [
    (GOOD.astype(np.int32), "floating-point"),
    (GOOD.astype(np.complex64), "floating-point"),
    (GOOD > 0, "floating-point"),
    (GOOD.astype(object), "floating-point"),
    (GOOD.astype("M8[s]"), "floating-point"),
    (GOOD.view([("a", np.float32), ("b", np.float32)]), "floating-point"),
    (np.array([["a"] * 8]), "floating-point"),
    (np.array([["1.0"] * 8]), "floating-point"),
    ("text", "floating-point"),
    (b"bytes of eight", "floating-point"),
    (None, "floating-point"),
    ({"x": GOOD}, "floating-point"),
    ({1.0, 2.0}, "floating-point"),
    ([[1.0, 2.0], [3.0]], "read as an array"),
    ([GOOD, GOOD[:2]], "read as an array"),
    (GOOD[:, :7], r"\(n, 8\)"),
    (GOOD[None], r"\(n, 8\)"),
    (np.float32(1), r"\(n, 8\)"),
    (3.5, r"\(n, 8\)"),
    ([], r"\(n, 8\)"),
    (np.zeros((0, 7), np.float32), r"\(n, 8\)"),
    (np.zeros((8, 0), np.float32), r"\(n, 8\)"),
    (GOOD.T.copy(), r"\(n, 8\)"),
    (broken(2, np.nan), "row 2 holds NaN or Inf"),
    (broken(3, np.inf), "row 3 holds NaN or Inf"),
    (broken(1, -np.inf), "row 1 holds NaN or Inf"),
    (broken(1, np.nan).astype(np.float16), "row 1 holds NaN or Inf"),
    (np.where(np.eye(4, 8, dtype=bool), np.nan, GOOD), "row 0 holds NaN or Inf"),
    (broken(0, 1).astype(np.float64) * 1e300, "row 0 holds a value too large for float32"),
    (broken(2, 1) * np.array([[1], [1], [1e40], [1]]), "row 2 holds a value too large for float32"),
]


@pytest.mark.parametrize(("x", "message"), BAD_VECTORS, ids=range(len(BAD_VECTORS)))
def test_bad_vectors(index, x, message):
    for name, call in REQUIRED if x is None else REQUIRED + OPTIONAL:
        with pytest.raises(InputError, match=f"^{name} .*{message}"):
            call(index, x)


def test_lengths_beyond_float32():
    x = np.full((2, 8), 3e38, np.float32)
    x[0] = 1
    with pytest.raises(InputError, match="x row 1 is too long"):
        tqvec.Index(8).add(x)
    tqvec.Index(8, metric="cosine").add(x)
    with pytest.raises(InputError, match="x row 1 is too long: its squared length"):
        tqvec.Index(8, metric="l2").add(np.where(x > 1, np.float32(1e20), x))


def test_a_sum_that_overflows_is_not_an_infinity():
    index = tqvec.Index(8, metric="cosine")
    index.add(np.full((3, 8), 3e38, np.float32))
    assert index.search(np.full(8, 3e38, np.float32), k=3)[0][0] == pytest.approx([1, 1, 1], rel=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_bad_row_is_found_among_rows_whose_squares_overflow(bad):
    index = tqvec.Index(8, metric="cosine")
    index.add(GOOD)
    x = np.full((5, 8), 3e38, np.float32) * np.where(np.arange(8) % 2, -1, 1).astype(np.float32)
    index.search(x, k=1)
    x[3, 4] = x[4, 0] = bad
    with pytest.raises(InputError, match="^queries row 3 holds NaN or Inf"):
        index.search(x, k=1)


TAKE_NEW_IDS = [
    lambda index, ids: index.add(GOOD, ids=ids),
    lambda index, ids: index.add(GOOD, ids=ids, upsert=True),
]
TAKE_KNOWN_IDS = [
    lambda index, ids: index.update(ids=ids, x=GOOD),
    lambda index, ids: index.reconstruct(ids),
    lambda index, ids: index.search_by_id(ids),
]
TAKE_ANY_IDS = [lambda index, ids: index.remove_ids(ids), lambda index, ids: tqvec.selectors.Ids(ids)]
BAD_IDS = [
    ("text", "must be a 1-D array of integers, got <U4"),
    (b"text", "must be a 1-D array of integers"),
    (1.0, "must be a 1-D array of integers, got float64"),
    ([1.0, 2.0, 3.0, 4.0], "must be a 1-D array of integers, got float64"),
    ([1, 2, 3, np.nan], "must be a 1-D array of integers, got float64"),
    (True, "must be a 1-D array of integers, got bool"),
    ([True, False, True, True], "must be a 1-D array of integers, got bool"),
    (["1", "2", "3", "4"], "must be a 1-D array of integers"),
    ([1, None, 2, 3], "must be a 1-D array of integers, got object"),
    (np.array([1, 2, 3, 4], object), "must be a 1-D array of integers, got object"),
    (np.array([1, 2, 3, 4], "M8[s]"), "must be a 1-D array of integers, got datetime64"),
    ({1, 2, 3, 4}, "must be a 1-D array of integers, got object"),
    ({1: 2}, "must be a 1-D array of integers, got object"),
    ([[1, 2], [3, 4]], r"must be a 1-D array of integers, got int64 of shape \(2, 2\)"),
    ([[1], [2, 3], 4, 5], "can't be read as an array"),
    ([1, 2, 3, 2**64], "row 3 is beyond int64: 18446744073709551616"),
    ([1, -(2**63) - 1, 2, 3], "row 1 is beyond int64: -9223372036854775809"),
    ((-1, 2, 2**63, 3), "row 2 is beyond int64: 9223372036854775808"),
    ([1, 2, 2**63, 3], "row 2 is beyond int64: 9223372036854775808"),
    (np.array([1, 2**63, 2**64 - 1, 3], np.uint64), "row 1 is beyond int64: 9223372036854775808"),
]


@pytest.mark.parametrize(("ids", "message"), BAD_IDS, ids=range(len(BAD_IDS)))
def test_bad_ids(index, ids, message):
    for call in (*TAKE_NEW_IDS, *TAKE_KNOWN_IDS, *TAKE_ANY_IDS):
        with pytest.raises(InputError, match=f"^ids {message}"):
            call(index, ids)


def test_no_ids(index):
    for call in (*TAKE_KNOWN_IDS, *TAKE_ANY_IDS):
        with pytest.raises(InputError, match="^ids must be a 1-D array of integers, got object"):
            call(index, None)


@pytest.mark.parametrize("ids", [[1, 2, 3], [1, 2, 3, 4, 5], 7, [], np.zeros((0, 4), int)])
def test_as_many_ids_as_vectors(index, ids):
    for call in TAKE_NEW_IDS:
        with pytest.raises(InputError, match=rf"^ids must be as many as the 4 rows of x, got {np.size(ids)}"):
            call(index, ids)
    with pytest.raises(InputError, match=r"^ids must be as many as the 0 rows of x, got 1"):
        index.add(GOOD[:0], ids=[5])
    with pytest.raises(InputError, match=r"^ids must be as many as the 4 rows of x, got 2"):
        index.update(ids=[30, 2], x=GOOD)


def test_ids_twice(index):
    for ids, row in (([5, 6, 7, 5], 3), ([5, 5, 5, 5], 1), ([2**63 - 1, 8, -(2**63), -(2**63)], 3), ([0, 0, 1, 1], 1)):
        for call in TAKE_NEW_IDS:
            with pytest.raises(InputError, match=f"^ids row {row}: id {ids[row]} is given twice"):
                call(index, ids)
    with pytest.raises(InputError, match="^ids row 2: id 30 is given twice"):
        index.update(ids=[30, 2, 30, 2], x=GOOD)


def test_the_id_of_no_result(index):
    for call in TAKE_NEW_IDS:
        with pytest.raises(InputError, match="^ids row 2: -1 can't be an id, since results use it for nothing"):
            call(index, [5, 6, -1, 8])
    with pytest.raises(InputError, match="^ids row 0: -1 is not in the index"):
        index.update(ids=[-1], x=GOOD[0])
    assert index.remove_ids([-1]) == 0
    assert index.search(GOOD, k=1, filter=-1)[1].tolist() == [[-1]] * 4


def test_ids_that_are_taken_or_not_there(index):
    with pytest.raises(InputError, match="^ids row 3: id -7 is in the index"):
        index.add(GOOD, ids=[5, 6, 7, -7])
    for ids, row in (([30, 3, 10, 2], 1), ([2**63 - 1, 30, 2, -(2**63)], 0), ([30, 2, 10, -2], 3)):
        for call in TAKE_KNOWN_IDS:
            with pytest.raises(InputError, match=f"^ids row {row}: {ids[row]} is not in the index"):
                call(index, ids)
    assert index.remove_ids([3, 4, 2**63 - 1, -(2**63)]) == 0


TAKE_K = [
    lambda index, k, **more: index.search(GOOD, k, **more),
    lambda index, k, **more: index.search_by_id(IDS, k=k, **more),
]


@pytest.mark.parametrize(
    "k",
    [0, -1, -(2**70), 1.5, 3.0, np.float32(3), "3", None, True, np.bool_(True), 2**40, 2**31, [3], np.array([3, 4])],
)
def test_k(index, k):
    for call in (*TAKE_K, lambda index, k: index.diagnose(k=k)):
        with pytest.raises(InputError, match="^k must be an integer"):
            call(index, k)


TAKE_THREADS = [
    lambda index, threads: index.add(GOOD, threads=threads),
    lambda index, threads: index.add(GOOD, ids=IDS, upsert=True, threads=threads),
    lambda index, threads: index.update(ids=IDS, x=GOOD, threads=threads),
    lambda index, threads: index.search(GOOD, threads=threads),
    lambda index, threads: index.search(GOOD, rerank=GOOD, threads=threads),
    lambda index, threads: index.range_search(GOOD, 0.5, threads=threads),
    lambda index, threads: index.search_by_id(IDS, threads=threads),
    lambda index, threads: index.reconstruct(IDS, threads=threads),
    lambda index, threads: index.train(GOOD, threads=threads),
    lambda index, threads: index.diagnose(queries=GOOD, threads=threads).recall,
    lambda index, threads: index.codec.encode(GOOD, threads=threads).data,
    lambda index, threads: index.codec.decode(CODES, threads=threads),
    lambda index, threads: index.codec.inner_product(GOOD, CODES, threads=threads),
]


@pytest.mark.parametrize("threads", [0, -2, -(2**70), "many", "", 1.5, 2.0, True, [2], b"2", np.nan])
def test_threads(index, threads):
    for call in TAKE_THREADS:
        with pytest.raises(InputError, match="^threads must be a positive integer"):
            call(index, threads)


def test_threads_from_the_environment(monkeypatch, index):
    monkeypatch.setenv("TQVEC_NUM_THREADS", "none")
    for call in TAKE_THREADS:
        with pytest.raises(InputError, match="^TQVEC_NUM_THREADS"):
            call(index, None)


@pytest.mark.parametrize("value", ["", "  ", " 2 "])
def test_an_empty_number_of_threads_in_the_environment_is_none(monkeypatch, value):
    monkeypatch.setenv("TQVEC_NUM_THREADS", value)
    tqvec.Index(8).add(GOOD)


@pytest.mark.parametrize("threads", [1, np.int8(3), 64, 10**6, 2**40, 2**70, "2"])
def test_any_number_of_threads_gives_the_same(index, threads):
    for call in TAKE_THREADS[3:]:
        found = call(index, threads)
        if isinstance(found, np.ndarray) or type(found) is tuple:
            assert all(np.array_equal(one, two) for one, two in zip(found, call(index, 1), strict=True))
    other = copy.copy(index)
    other.reset()
    other.add(GOOD, ids=IDS, threads=threads)
    assert same(other, index)


@pytest.mark.parametrize("radius", [np.nan, "0.5", None, True, np.bool_(True), [0.5], np.array([0.5]), 1j, 10**400])
def test_radius(index, radius):
    with pytest.raises(InputError, match="^radius must"):
        index.range_search(GOOD, radius)


@pytest.mark.parametrize("confidence", [0, 1, 0.0, 1.0, -0.5, 1.5, np.nan, np.inf, "0.9", True, [0.9], 1j])
def test_confidence(index, confidence):
    for more in ({}, {"rerank": GOOD}, {"return_error": True}):
        with pytest.raises(InputError, match="^confidence must be a number above 0 and below 1"):
            index.search(GOOD, confidence=confidence, **more)


@pytest.mark.parametrize("rows", [0, 1, 3, 5])
def test_as_many_vectors_as_are_stored(index, rows):
    x = np.resize(GOOD, (rows, 8)) if rows else GOOD[:0]
    if rows != 1:
        with pytest.raises(InputError, match=f"^rerank must have the 4 vectors that were added, got {rows} rows"):
            index.search(GOOD, rerank=x)
    with pytest.raises(InputError, match=f"^vectors must be the 4 that were added, got {rows} rows"):
        index.train(GOOD, vectors=x)


@pytest.mark.parametrize("other", [None, "index", GOOD, tqvec.TurboQuant(8), tqvec.Index], ids=range(5))
def test_merging_with_what_is_no_index(index, other):
    with pytest.raises(InputError, match="^other must be an Index, got "):
        index.merge_from(other)


def test_merging_with_another_codec(index):
    another = METRICS[METRICS.index(index.metric) - 1]
    for other, difference in (
        (tqvec.Index(8, metric=another), f"metric {index.metric} against {another}"),
        (tqvec.Index(8, metric=index.metric, seed=1), "seed 0 against 1"),
        (tqvec.Index(8, metric=index.metric, nbits=3), "4 bits against 3"),
        (tqvec.Index(9, metric=index.metric), "d 8 against 9"),
        (tqvec.Index(16, metric=index.metric, codebook="trellis"), "d 8 against 16, codebook scalar against trellis"),
    ):
        with pytest.raises(InputError, match=f"^indexes of different codecs can't be merged: {difference}"):
            index.merge_from(other)


def test_an_empty_index_takes_no_bad_queries_either():
    index = tqvec.Index(8)
    for x in (broken(0, np.nan), GOOD[:, :7], GOOD.astype(int)):
        for call in (index.search, lambda x: index.range_search(x, 0.1)):
            with pytest.raises(InputError, match="^queries "):
                call(x)
    for ids in ([0], [5, -1]):
        for call in TAKE_KNOWN_IDS[1:]:
            with pytest.raises(InputError, match="^ids row 0: .* is not in the index"):
                call(index, ids)
    assert index.remove_ids([0, 1]) == 0


# ---- what is odd, but sound --------------------------------------------------------------------------------------


def frozen(x):
    x = np.array(x)
    x.setflags(write=False)
    return x


ODD_VECTORS = [
    frozen(GOOD),
    np.asfortranarray(GOOD),
    np.repeat(GOOD, 2, axis=0)[::2],
    np.repeat(GOOD, 3, axis=1)[:, ::3],
    GOOD[::-1, ::-1].copy()[::-1, ::-1],
    frozen(np.broadcast_to(GOOD[:1], (4, 8))),
    np.broadcast_to(GOOD[0], (4, 8)),
    GOOD.astype(np.float64),
    GOOD.astype(np.longdouble),
    GOOD.astype(">f4"),
    GOOD.astype(np.float16),
    GOOD.tolist(),
    tuple(map(tuple, GOOD.tolist())),
    list(GOOD),
    memoryview(GOOD),
    GOOD.view(np.matrix) if hasattr(np, "matrix") else GOOD,
    np.zeros((4, 8)),
    GOOD * np.float32(1e-42),
    GOOD[:1],
    GOOD[0],
    GOOD[0].tolist(),
    GOOD[:0],
    np.zeros((0, 8)),
]


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("x", ODD_VECTORS, ids=range(len(ODD_VECTORS)))
def test_odd_vectors(index, x):
    plain = np.array(np.asarray(x, np.float32).reshape(-1, 8))
    n = len(plain)
    for call in (
        lambda index, x: index.search(x, k=5),
        lambda index, x: index.search(x, k=2, return_error=True),
        lambda index, x: index.range_search(x, 0.1),
        lambda index, x: (index.codec.inner_product(x, CODES),),
        lambda index, x: (index.codec.encode(x).data, index.codec.encode(x).scale),
        lambda index, x: (tqvec.TurboQuant(8, mode="prod").encode(x).gamma,),
    ):
        for found, expected in zip(call(index, x), call(index, plain), strict=True):
            assert np.array_equal(found, expected)
    one, two = copy.copy(index), copy.copy(index)
    for changed, rows in ((one, x), (two, plain)):
        changed.add(rows)
        changed.add(rows, ids=range(100, 100 + n), upsert=True)
        changed.update(ids=[30, 10, 100, 2][:n] if n else [], x=rows)
    assert same(one, two)
    if n == 4:
        for found, expected in zip(index.search(GOOD, 2, rerank=x), index.search(GOOD, 2, rerank=plain), strict=True):
            assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "ids",
    [
        (30, 2),
        np.array([30, 2], np.int8),
        np.array([30, 2], np.uint64),
        np.array([30, 2], ">i8"),
        frozen([30, 2]),
        np.array([30, 7, 2, 7])[::2],
        np.array([2, 30])[::-1],
        [np.int32(30), 2],
        range(30, 1, -28),
    ],
    ids=range(9),
)
def test_odd_ids(index, ids):
    assert np.array_equal(index.reconstruct(ids), index.reconstruct([30, 2]))
    for found, expected in zip(index.search_by_id(ids, k=2), index.search_by_id([30, 2], k=2), strict=True):
        assert np.array_equal(found, expected)
    other = copy.copy(index)
    other.update(ids=ids, x=GOOD[:2])
    assert other.ids.tolist() == [-7, 10, 30, 2]
    assert other.remove_ids(ids) == 2
    other.add(GOOD[:2], ids=ids)
    assert other.ids.tolist() == [-7, 10, 30, 2]


@pytest.mark.parametrize("one", [30, np.int64(30), np.uint8(30), np.array(30), [30], np.array([30], np.int16)])
def test_a_single_id(index, one):
    assert index.reconstruct(one).shape == (1, 8)
    assert index.search_by_id(one, k=3)[1].shape == (1, 3)
    other = copy.copy(index)
    other.update(ids=one, x=GOOD[0])
    assert other.remove_ids(one) == 1
    other.add(GOOD[0], ids=one)
    assert other.ids.tolist() == [-7, 10, 2, 30]


@pytest.mark.parametrize("none", [[], (), np.zeros(0), np.zeros(0, np.int8), range(0), np.zeros((0, 3))], ids=range(6))
def test_no_ids_at_all(index, none):
    assert index.remove_ids(none) == 0
    assert index.reconstruct(none).shape == (0, 8)
    assert index.search_by_id(none, k=3)[0].shape == (0, 3)
    assert index.search(GOOD, k=1, filter=none)[1].tolist() == [[-1]] * 4
    index.add(GOOD[:0], ids=none)
    index.update(ids=none, x=GOOD[:0])


@pytest.mark.parametrize("k", [1, np.int8(2), np.uint64(3), np.array(4), 5, 100_000])
def test_odd_k(index, k):
    for call in TAKE_K:
        scores, ids = call(index, k)
        expected, expected_ids = call(index, 5)
        n = min(int(k), 5)
        assert scores.shape == ids.shape == (4, int(k))
        assert np.array_equal(scores[:, :n], expected[:, :n])
        assert np.array_equal(ids[:, :n], expected_ids[:, :n])
        assert np.all(ids[:, 4:] == -1)


# ---- codecs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        *(({"d": d}, "d") for d in (0, -5, 8.0, 70000, 2**70, True, None, "8", [8], np.float64(8))),
        *(({"d": 8, "nbits": b}, "nbits") for b in (0, 9, -1, "4", None, True, 2.6, 4.0, np.nan, 2**70, [], {8: 2})),
        *(({"d": 8, "nbits": b}, "nbits") for b in ([(4, 2)], [(8, 2), (1, 2)], [(1, 2)] * 9, np.array([[8, 2]]))),
        *(({"d": 8, "nbits": b}, r"nbits\[0\]") for b in ([2], [8, 2], [(8,)], [(8, 2, 1)], ["82"], [{8, 2}])),
        *(
            ({"d": 8, "nbits": [b]}, r"coordinates of nbits\[0\]")
            for b in ((0, 2), (9, 2), (8.0, 2), (-8, 2), ("8", 2))
        ),
        *(({"d": 8, "nbits": [b]}, r"width of nbits\[0\]") for b in ((8, 0), (8, 9), (8, 2.5), (8, "2"), (8, True))),
        *(({"d": 8, "codebook": c}, "codebook") for c in ("vector", None, 3, ["scalar"], "Scalar", b"scalar")),
        *(({"d": 8, "seed": s}, "seed") for s in (-1, 2**64, 1.5, None, "0", True)),
    ],
)
def test_parameters(arguments, name):
    with pytest.raises(InputError, match=f"^{name} must "):
        tqvec.Index(**arguments)
    with pytest.raises(InputError, match=f"^{name} must "):
        tqvec.TurboQuant(**arguments)


@pytest.mark.parametrize("bad", ["best", None, 1, [], "IP", b"ip"])
def test_names(bad):
    with pytest.raises(InputError, match="^metric must be one of 'ip', 'cosine', 'l2', got "):
        tqvec.Index(8, metric=bad)
    for name in ("rotation", "mode", "scale", "qjl"):
        if bad is not None or name != "scale":
            with pytest.raises(InputError, match=f"^{name} must be one of '"):
                tqvec.TurboQuant(8, **{name: bad})


def test_codes_of_another_codec():
    codes = tqvec.TurboQuant(8, nbits=2).encode(GOOD)
    with pytest.raises(InputError, match=r"codes.data must be \(4, 4\) uint8"):
        tqvec.TurboQuant(8, nbits=4).decode(codes)
    with pytest.raises(InputError, match=r"codes.scale must be"):
        tqvec.TurboQuant(8, nbits=2).decode(tqvec.Codes(codes.data, codes.scale[:2]))


DATA, SCALE = CODES.data, CODES.scale
GAMMA = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("codes", "name"),
    [
        *((bad, "codes") for bad in (None, "codes", DATA, (DATA, SCALE), [CODES], tqvec.Codes, {})),
        (tqvec.Codes(DATA[:, :3], SCALE), "codes.data"),
        (tqvec.Codes(DATA[0], SCALE), "codes.data"),
        (tqvec.Codes(DATA.astype(np.int64), SCALE), "codes.data"),
        (tqvec.Codes(DATA.tolist(), SCALE), "codes.data"),
        (tqvec.Codes(None, SCALE), "codes.data"),
        (tqvec.Codes(DATA, SCALE[:3]), "codes.scale"),
        (tqvec.Codes(DATA, SCALE[:, None]), "codes.scale"),
        (tqvec.Codes(DATA, SCALE.astype(np.float64)), "codes.scale"),
        (tqvec.Codes(DATA, SCALE.tolist()), "codes.scale"),
        (tqvec.Codes(DATA, None), "codes.scale"),
        (tqvec.Codes(DATA, SCALE, GAMMA), "codes.gamma"),
    ],
)
def test_bad_codes(codes, name):
    codec = tqvec.TurboQuant(8)
    for call in (codec.decode, codec.decode_unbiased, lambda codes: codec.inner_product(GOOD, codes)):
        with pytest.raises(InputError, match=f"^{name} must be "):
            call(codes)


@pytest.mark.parametrize("gamma", [None, GAMMA[:3], GAMMA[:, None], GAMMA.astype(np.float64), GAMMA.tolist(), "text"])
def test_bad_gamma(gamma):
    codec = tqvec.TurboQuant(8, mode="prod")
    codes = codec.encode(GOOD)
    for call in (codec.decode, lambda codes: codec.inner_product(GOOD, codes)):
        with pytest.raises(InputError, match="^codes.gamma must be "):
            call(tqvec.Codes(codes.data, codes.scale, gamma))


@pytest.mark.slow
def test_odd_codes():
    codec = tqvec.TurboQuant(8)
    vectors, products = codec.decode(CODES), codec.inner_product(GOOD, CODES)
    for data, scale in (
        (frozen(DATA), frozen(SCALE)),
        (np.asfortranarray(DATA), np.repeat(SCALE, 2)[::2]),
        (np.repeat(DATA, 2, axis=1)[:, ::2], SCALE[::-1].copy()[::-1]),
        (DATA.astype(">u1"), SCALE.copy()),
    ):
        codes = tqvec.Codes(data, scale)
        assert np.array_equal(codec.decode(codes), vectors)
        assert np.array_equal(codec.inner_product(GOOD, codes), products)
    assert codec.decode(CODES[:0]).shape == (0, 8)
    assert codec.inner_product(GOOD, CODES[:0]).shape == (4, 0)
    assert codec.inner_product(GOOD[:0], CODES).shape == (0, 4)


@pytest.mark.parametrize("calibration", [None, "text", GOOD, tqvec.TurboQuant(8)], ids=range(4))
def test_bad_calibration(calibration):
    with pytest.raises(InputError, match="^calibration must be a Calibration, got "):
        tqvec.TurboQuant(8).calibrated(calibration)

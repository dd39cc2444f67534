"""Every bad argument gets an InputError that names it, and leaves the index as it was."""

import numpy as np
import pytest

import tqvec
from tqvec.errors import InputError

GOOD = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)


def broken(row, value):
    x = GOOD.copy()
    x[row, 3] = value
    return x


BAD_VECTORS = [
    (GOOD.astype(np.int32), "floating-point"),
    (GOOD.astype(np.complex64), "floating-point"),
    (GOOD > 0, "floating-point"),
    (GOOD.astype(object), "floating-point"),
    (np.array([["a"] * 8]), "floating-point"),
    ("text", "floating-point"),
    (None, "floating-point"),
    ([[1.0, 2.0], [3.0]], "read as an array"),
    (GOOD[:, :7], r"\(n, 8\)"),
    (GOOD[None], r"\(n, 8\)"),
    (np.float32(1), r"\(n, 8\)"),
    (GOOD.T.copy(), r"\(n, 8\)"),
    (broken(2, np.nan), "row 2 holds NaN or Inf"),
    (broken(3, np.inf), "row 3 holds NaN or Inf"),
    (broken(1, -np.inf), "row 1 holds NaN or Inf"),
    (broken(0, 1).astype(np.float64) * 1e300, "row 0 holds a value too large for float32"),
]


@pytest.mark.parametrize(("x", "message"), BAD_VECTORS, ids=range(len(BAD_VECTORS)))
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_vectors_and_queries(x, message, metric):
    index = tqvec.Index(8, metric=metric)
    index.add(GOOD)
    before = index.search(GOOD, k=4)
    with pytest.raises(InputError, match="^x .*" + message):
        index.add(x)
    with pytest.raises(InputError, match="^queries .*" + message):
        index.search(x)
    assert index.ntotal == 4
    after = index.search(GOOD, k=4)
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    with pytest.raises(InputError, match="^x .*" + message):
        index.codec.encode(x)
    with pytest.raises(InputError, match="^queries .*" + message):
        index.codec.inner_product(x, index.codec.encode(GOOD))


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


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None, True, np.bool_(True), 2**40])
def test_k(k):
    index = tqvec.Index(8)
    index.add(GOOD)
    with pytest.raises(InputError, match="^k must be an integer"):
        index.search(GOOD, k=k)


@pytest.mark.parametrize("threads", [0, -2, "many", 1.5])
def test_threads(threads):
    index = tqvec.Index(8)
    with pytest.raises(InputError, match="^threads must be a positive integer"):
        index.search(GOOD, threads=threads)
    with pytest.raises(InputError, match="^threads must be a positive integer"):
        index.add(GOOD, threads=threads)


def test_threads_from_the_environment(monkeypatch):
    monkeypatch.setenv("TQVEC_NUM_THREADS", "none")
    with pytest.raises(InputError, match="^TQVEC_NUM_THREADS"):
        tqvec.Index(8).add(GOOD)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"d": 0}, "d"),
        ({"d": -5}, "d"),
        ({"d": 8.0}, "d"),
        ({"d": 70000}, "d"),
        ({"d": 8, "nbits": 0}, "nbits"),
        ({"d": 8, "nbits": 9}, "nbits"),
        ({"d": 8, "nbits": "4"}, "nbits"),
        ({"d": 8, "codebook": "vector"}, "codebook"),
        ({"d": 8, "seed": -1}, "seed"),
        ({"d": 8, "seed": 2**64}, "seed"),
    ],
)
def test_parameters(arguments, name):
    with pytest.raises(InputError, match=f"^{name} must be"):
        tqvec.Index(**arguments)
    with pytest.raises(InputError, match=f"^{name} must be"):
        tqvec.TurboQuant(**arguments)


def test_names():
    with pytest.raises(InputError, match="metric must be one of 'ip', 'cosine', 'l2', got 'dot'"):
        tqvec.Index(8, metric="dot")
    with pytest.raises(InputError, match="rotation must be one of"):
        tqvec.TurboQuant(8, rotation="dense")
    with pytest.raises(InputError, match="mode must be one of"):
        tqvec.TurboQuant(8, mode="fast")
    with pytest.raises(InputError, match="scale must be one of"):
        tqvec.TurboQuant(8, scale="best")


def test_codes_of_another_codec():
    codes = tqvec.TurboQuant(8, nbits=2).encode(GOOD)
    with pytest.raises(InputError, match=r"codes.data must be \(n, 4\) uint8"):
        tqvec.TurboQuant(8, nbits=4).decode(codes)
    with pytest.raises(InputError, match=r"codes.scale must be"):
        tqvec.TurboQuant(8, nbits=2).decode(tqvec.Codes(codes.data, codes.scale[:2]))

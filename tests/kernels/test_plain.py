"""NumPy, which serves while kernels compile, gives what the kernels give, to the last bit."""

from contextlib import contextmanager

import numpy as np
import pytest
from strategies import mixed, normal, rng

import tqvec
from tqvec import Index, TurboQuant
from tqvec.errors import InputError, LossWarning
from tqvec.index.scanner import Scanner
from tqvec.kernels import background, plain

DIMS = (1, 2, 3, 7, 31, 33, 64, 97, 100, 128, 200, 384)
CODECS = {
    "1 bit": {"nbits": 1},
    "4 bits": {"nbits": 4},
    "8 bits": {"nbits": 8},
    "two bands": {"nbits": 2.5},
    "dense": {"nbits": 4, "rotation": "haar"},
    "bandwise": {"nbits": [(8, 5), (25, 3)], "rotation": "bandwise", "scale": "least_squares"},
}


@contextmanager
def numpy_alone():
    """Serve by NumPy, as if nothing were compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TQVEC_COMPILE", "never")
        patch.setattr(background, "_ready", set())
        patch.setattr(background, "_is_marked", lambda operation: False)
        yield


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setenv("TQVEC_COMPILE", "now")
    monkeypatch.setattr(background, "_ready", set())


def both(function):
    """What a function returns by kernels and by NumPy."""
    with numpy_alone():
        by_numpy = function()
    return function(), by_numpy


def same(first, second):
    return all(np.array_equal(a, b, equal_nan=True) and a.dtype == b.dtype for a, b in zip(first, second, strict=True))


def codec(kind, d):
    settings = dict(CODECS[kind])
    if kind == "bandwise":
        d = 33
    return TurboQuant(d, **settings), d


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("kind", CODECS)
def test_codes_vectors_and_products(kind, d):
    tq, d = codec(kind, d)
    x = mixed(plain.LANES + 37, d)
    by_kernels, by_numpy = both(lambda: tq.encode(x, threads=1))
    assert same((by_kernels.data, by_kernels.scale), (by_numpy.data, by_numpy.scale))
    assert same(*both(lambda: (tq.decode(by_kernels, threads=1), tq.inner_product(x[:5], by_kernels, threads=1))))


@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 5, 2.5])
@pytest.mark.parametrize("d", [16, 33, 100])
def test_trellis_codes_are_read(nbits, d):
    if nbits == 2.5 and d // 4 < 16:
        pytest.skip("bands too short")
    tq = TurboQuant(d, nbits=nbits, codebook="trellis")
    codes = tq.encode(normal(40, d), threads=1)
    assert same(*both(lambda: (tq.decode(codes), tq.inner_product(normal(3, d, 1), codes))))


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("nbits", [1, 4, 2.5, 7])
@pytest.mark.parametrize("d", [7, 96, 200])
def test_results_of_searches(metric, nbits, d, monkeypatch):
    monkeypatch.setattr(Scanner, "_choose", lambda *arguments: "full")  # staged searches may miss a result
    x = normal(700, d)
    x[300:400] = x[:100]  # ties
    x[5] = 0
    index = Index(d, nbits=nbits, metric=metric)
    index.add(x, threads=1)
    queries = np.vstack([x[:3], np.zeros((1, d), np.float32), normal(9, d, 1)])
    for filter in (None, rng(2).random(700) < 0.2, np.arange(100) * 3):
        for rows in (queries[:1], queries):
            for k in (1, 20, 700):
                first, second = both(lambda rows=rows, k=k, filter=filter: index.search(rows, k=k, filter=filter))
                assert same(first, second)


def test_infinite_scores():
    index = Index(8)
    index.add(np.full((100, 8), 1e38, np.float32) * np.sign(normal(100, 8)))
    query = np.full((1, 8), 1e38, np.float32)

    def message():
        with pytest.raises(InputError) as error:
            index.search(query, k=100)
        return str(error.value)

    first, second = both(message)
    assert first == second


def test_rest_of_an_index(tmp_path):
    """Training, recoded rows, error bars, rescoring and files."""
    basis = normal(32, 32) * np.exp(-np.arange(32) / 5)[:, None]
    x = (normal(1200, 32, 1) @ basis).astype(np.float32)

    def use():
        index = Index(32, metric="cosine", nbits=2)
        index.add(x[:300], threads=1)
        with pytest.warns(LossWarning):
            assert index.train(x, threads=1).accepted
        index.add(x, threads=1)
        index.save(tmp_path / "index.tqv", overwrite=True)
        with_error = index.search(x[:4], k=5, return_error=True, threads=1)
        return (*with_error, *index.search(x[:4], k=5, rerank=np.vstack([x[:300], x])), index.reconstruct([3, 700]))

    first, second = both(use)
    assert same(first, second)


@pytest.mark.parametrize("row", [0, 7, plain.LANES, 2 * background.ROWS + 3])
def test_bad_rows_are_named(row):
    x = normal(3 * background.ROWS, 4)
    x[row, 1] = np.nan
    with numpy_alone(), pytest.raises(InputError, match=f"x row {row} holds"):
        TurboQuant(4).encode(x)


def test_kernels_take_over_within_a_call(monkeypatch):
    x = normal(3 * background.ROWS + 5, 20)
    tq = TurboQuant(20)
    expected = tq.encode(x, threads=2)
    vectors, products = tq.decode(expected), tq.inner_product(x[:2], expected)
    served, whole = [], plain.encode_rows
    with numpy_alone():

        def encode_rows(rows, rotation, quantizer, out):
            served.append(len(rows))
            background._ready.update({"encode"} if len(served) == 2 else ())
            return whole(rows, rotation, quantizer, out)

        monkeypatch.setattr(plain, "encode_rows", encode_rows)
        codes = tq.encode(x, threads=2)
    assert served == [background.ROWS] * 2
    assert same((codes.data, codes.scale), (expected.data, expected.scale))
    for name in ("decode_rows", "adc_rows"):
        kept = getattr(plain, name)

        def once(*arguments, kept=kept):
            background._ready.add("decode")
            return kept(*arguments)

        monkeypatch.setattr(plain, name, once)
        with numpy_alone():
            result = tq.decode(expected) if name == "decode_rows" else tq.inner_product(x[:2], expected)
        assert np.array_equal(result, vectors if name == "decode_rows" else products)


def test_rows_of_length_zero():
    with numpy_alone():
        tq = TurboQuant(5)
        codes = tq.encode(np.zeros((0, 5), np.float32))
        assert tq.decode(codes).shape == (0, 5)
        assert tq.inner_product(normal(2, 5), codes).shape == (2, 0)
        assert tqvec.Index(5).search(normal(1, 5), k=3)[1].tolist() == [[-1, -1, -1]]

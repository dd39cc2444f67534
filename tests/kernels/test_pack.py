"""Packed layouts, of one band and of several, against np.packbits."""

import numpy as np
import pytest
import strategies as sts
from hypothesis import given
from hypothesis import strategies as st

from tqvec.kernels.dispatch import kernel
from tqvec.kernels.pack.portable import SPREAD
from tqvec.reference import packing


def check(layout, seed):
    high = np.concatenate([np.full(end - first, 2**width) for first, end, width in layout])
    codes = sts.rng(seed).integers(0, high, (5, high.size)).astype(np.uint8)
    codes[0], codes[1] = 0, high - 1
    expected = packing.pack(codes, layout)
    bands = np.array(layout, np.int64)
    data = np.full_like(expected, 0xA5)
    kernel("pack_rows")(codes, bands, 0, 5, data)
    np.testing.assert_array_equal(data, expected)
    back = np.full_like(codes, 0xA5)
    kernel("unpack_rows")(data, bands, SPREAD, 0, 5, back)
    np.testing.assert_array_equal(back, codes)


@pytest.mark.parametrize("nbits", range(1, 9))
@pytest.mark.parametrize("d", sts.ODD_DIMS)
def test_one_band(d, nbits):
    check([(0, d, nbits)], seed=d)


@pytest.mark.parametrize(
    "layout",
    [
        [(0, 32, 3), (32, 128, 2)],  # the paper's 2.5 bits
        [(0, 32, 4), (32, 128, 3)],  # and 3.5
        [(0, 7, 5), (7, 8, 1), (8, 33, 8)],
    ],
)
def test_several_bands(layout):
    check(layout, seed=0)


@given(st.lists(st.tuples(st.integers(1, 40), sts.nbits), min_size=2, max_size=4), st.integers(0, 99))
def test_any_bands(shape, seed):
    ends = np.cumsum([n for n, _ in shape])
    check([(int(end) - n, int(end), width) for end, (n, width) in zip(ends, shape, strict=True)], seed)


def test_only_the_rows_asked_for():
    codes = sts.rng(0).integers(0, 8, (6, 11)).astype(np.uint8)
    bands = np.array([(0, 11, 3)], np.int64)
    data = np.full((6, 5), 0xA5, np.uint8)
    kernel("pack_rows")(codes, bands, 2, 4, data)
    np.testing.assert_array_equal(data[2:4], packing.pack(codes, [(0, 11, 3)])[2:4])
    assert np.all(data[[0, 1, 4, 5]] == 0xA5)


def test_the_example_of_the_format():
    data = np.zeros((1, 1), np.uint8)
    kernel("pack_rows")(np.array([[2, 1, 3]], np.uint8), np.array([(0, 3, 2)], np.int64), 0, 1, data)
    assert data[0, 0] == 0x35

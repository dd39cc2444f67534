"""Lists of allowed rows and blocks, against NumPy."""

import numpy as np
import pytest
import strategies as sts

from tqvec.kernels.scan.allowed import SPARE, allowed_blocks, allowed_rows, count_allowed

MASKS = (0, 0.003, 0.05, 0.5, 1)
LAST = 64 * 9 + 23


def words(mask):
    bits = np.zeros(-(-len(mask) // 64) * 64, bool)
    bits[: len(mask)] = mask
    return np.packbits(bits, bitorder="little").view(np.uint64)


@pytest.mark.parametrize("share", MASKS)
@pytest.mark.parametrize(
    ("first", "stop"), [(0, LAST), (0, 64), (64, 128), (70, 75), (5, 300), (130, 130), (600, LAST)]
)
def test_rows(share, first, stop):
    mask = sts.rng(1).random(LAST) < share
    for allowed, expected in ((words(mask), mask), (np.zeros(0, np.uint64), np.ones(LAST, bool))):
        rows = np.flatnonzero(expected[first:stop]) + first
        for most in (1, 7, 64, 100, 1000):
            actual, at = [], first
            while at < stop:
                row_numbers = np.full(most + SPARE, -1, np.int32)
                count, after = allowed_rows(allowed, at, stop, most, row_numbers)
                assert at < after <= stop
                assert count == min(most, rows.size - len(actual))
                actual += row_numbers[:count].tolist()
                at = after
            np.testing.assert_array_equal(actual, rows)


@pytest.mark.parametrize("share", MASKS)
@pytest.mark.parametrize(("start", "stop"), [(0, LAST), (0, 64), (64, 65), (128, 300), (128, 336), (192, 192)])
def test_blocks(share, start, stop):
    mask = sts.rng(2).random(LAST) < share
    row_numbers = np.full((stop - start) // 16 + 4, -1, np.int32)
    rows = allowed_blocks(words(mask), start, stop, row_numbers)
    expected = np.unique(np.flatnonzero(mask[start:stop]) // 16) * 16 + start
    assert count_allowed(words(mask), start, stop) == (mask[start:stop].sum(), expected.size)
    assert count_allowed(words(mask)[:0], start, stop) == (stop - start, -(-(stop - start) // 16))
    if expected.size == 0:
        assert rows == 0
        return
    assert rows == 16 * (expected.size - 1) + min(16, stop - expected[-1])
    padded = np.pad(expected, (0, -expected.size % 4), mode="edge")
    np.testing.assert_array_equal(row_numbers[: padded.size], padded)

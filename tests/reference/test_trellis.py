"""The trellis reference against its definition: loops, and exhaustive search over all codes."""

import numpy as np
import pytest
import strategies as sts

from tqvec.reference import trellis


def small_table(nbits, nu, seed):
    """Random levels, ascending in each window."""
    return np.sort(sts.rng(seed).standard_normal((2 ** (nbits - 1), 2 ** (nu + 1))), axis=0)


def squared_error(y, codes, table):
    return float(np.sum((y - trellis.levels(codes, table)) ** 2))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("nu", [1, 3, 6])
def test_windows_wrap_around(n, nu):
    path = sts.rng(n).integers(0, 2, (4, n))
    expected = [[sum(int(row[(j - k) % n]) << k for k in range(nu + 1)) for j in range(n)] for row in path]
    assert trellis.windows(path, nu).tolist() == expected


def test_levels_by_hand():
    table = np.arange(8.0).reshape(2, 4)  # 2 bits, 2 states
    codes = np.array([[0b10, 0b01, 0b11]])  # s = 1, 0, 1; p = 0, 1, 1; windows 0b10, 0b01, 0b11
    assert trellis.levels(codes, table).tolist() == [[4 + 2, 0 + 1, 4 + 3]]


@pytest.mark.parametrize(
    ("nbits", "nu", "n"), [(1, 1, 6), (1, 2, 6), (1, 6, 6), (1, 3, 12), (2, 1, 6), (2, 3, 6), (3, 2, 4)]
)
def test_viterbi_is_optimal_for_every_start_state(nbits, nu, n):
    table = small_table(nbits, nu, seed=n)
    for y in sts.normal(5, n, seed=nu).astype(np.float64):
        least = trellis.exhaustive(y, table)
        assert len(least) == 2 ** min(n, nu)  # states that a closed path can start in
        for start, expected in least.items():
            codes = trellis.closed_codes(y[None], table, np.array([start]))
            assert squared_error(y, codes, table) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("nbits", "nu", "n"), [(1, 2, 10), (2, 1, 6), (2, 3, 6)])
def test_the_seam_is_closed_and_mostly_best(nbits, nu, n):
    table = small_table(nbits, nu, seed=1)
    y = sts.normal(40, n, seed=7).astype(np.float64)
    start = trellis.start_states(y, table)
    codes = trellis.encode(y, table)
    best = 0
    for i, row in enumerate(y):
        least = trellis.exhaustive(row, table)
        found = squared_error(row, codes[i : i + 1], table)
        assert found == pytest.approx(least[int(start[i])], rel=1e-12)
        best += found <= min(least.values()) + 1e-12
    assert best >= 20


def test_nearest_level():
    table = small_table(4, 2, seed=2)
    y = sts.normal(1, 100)[0].astype(np.float64)
    found = trellis.nearest_level(y, trellis.thresholds(table))
    np.testing.assert_array_equal(found, np.argmin(np.abs(y[:, None, None] - table), axis=1))
    on_it = trellis.thresholds(table)[3, :1]
    assert trellis.nearest_level(on_it, trellis.thresholds(table))[0, 0] == 3

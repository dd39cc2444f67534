"""Queries as all searches take them."""

import numpy as np
import pytest
import strategies as sts

from tqvec.codec.transforms import hadamard
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.scan.queries import BY_LENGTH, BY_NOTHING, BY_TWICE_THE_LENGTH
from tqvec.reference import quantize, rotation

FACTORS = {BY_LENGTH: lambda length: length, BY_NOTHING: np.sign, BY_TWICE_THE_LENGTH: lambda length: 2 * length}


@pytest.mark.parametrize("form", FACTORS)
@pytest.mark.parametrize("d", [1, 31, 128, 384])
def test_directions(d, form):
    queries = sts.mixed(9, d, seed=d)
    directions, worth, unit = np.empty_like(queries), np.empty(9), np.empty(9, np.float32)
    kernel("query_directions")(queries, hadamard(d, 5), form, 0.25, directions, worth, unit)
    length = np.linalg.norm(queries.astype(np.float64), axis=1)
    np.testing.assert_allclose(worth, FACTORS[form](length), rtol=1e-12)
    np.testing.assert_allclose(unit, worth / 32767 * 0.25, rtol=1e-6)
    np.testing.assert_allclose(directions, rotation.hadamard(quantize.directions(queries), 5), atol=1e-6)


@pytest.mark.parametrize(("unit", "places"), [(8, (0, 16, 24)), (64, (0, 64, 128))])
def test_integers_of_bands_are_padded(unit, places):
    directions = sts.unit(3, 30).astype(np.float32)
    bands = np.array([[0, 9, 3], [9, 17, 2], [17, 30, 1]])
    found = np.full((3, 200), 7, np.int16)
    kernel("integer_queries")(directions, bands, unit, found)
    expected = np.zeros((3, 200))
    for (start, stop, _), at in zip(bands, places, strict=True):
        expected[:, at : at + stop - start] = np.rint(directions[:, start:stop] * np.float32(32767))
    np.testing.assert_array_equal(found, expected)

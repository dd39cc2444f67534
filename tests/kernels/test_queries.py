"""Queries as all searches take them."""

import numpy as np
import pytest
import strategies as sts

from tqvec.codec.transforms import hadamard
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.scan.queries import NORM, TWICE_NORM, UNIT
from tqvec.kernels.tables import QueryTables
from tqvec.reference import quantize, rotation

FACTORS = {NORM: lambda norm: norm, UNIT: np.sign, TWICE_NORM: lambda norm: 2 * norm}


@pytest.mark.parametrize("score_scale", FACTORS)
@pytest.mark.parametrize("d", [1, 31, 128, 384])
def test_directions(d, score_scale):
    queries = sts.mixed(9, d, seed=d)
    directions, weight, unit = np.empty_like(queries), np.empty(9), np.empty(9, np.float32)
    tables = QueryTables(hadamard(d, 5), np.array([[0, d, 4]]), score_scale, 0.25)
    kernel("query_directions")(queries, tables, directions, weight, unit)
    length = np.linalg.norm(queries.astype(np.float64), axis=1)
    np.testing.assert_allclose(weight, FACTORS[score_scale](length), rtol=1e-12)
    np.testing.assert_allclose(unit, weight / 32767 * 0.25, rtol=1e-6)
    np.testing.assert_allclose(directions, rotation.hadamard(quantize.directions(queries), 5), atol=1e-6)


@pytest.mark.parametrize(("unit", "starts"), [(8, (0, 16, 24)), (64, (0, 64, 128))])
def test_integers_of_bands_are_padded(unit, starts):
    directions = sts.unit(3, 30).astype(np.float32)
    bands = np.array([[0, 9, 3], [9, 17, 2], [17, 30, 1]])
    actual = np.full((3, 200), 7, np.int16)
    kernel("integer_queries")(directions, bands, unit, actual)
    expected = np.zeros((3, 200))
    for (start, stop, _), at in zip(bands, starts, strict=True):
        expected[:, at : at + stop - start] = np.rint(directions[:, start:stop] * np.float32(32767))
    np.testing.assert_array_equal(actual, expected)

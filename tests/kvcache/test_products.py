"""Matrix products that are computed in parts, against those of NumPy."""

import numpy as np
import pytest
import strategies as sts

from tqvec.kvcache.products import multiply, rotate


@pytest.mark.parametrize("alone", [1, 4 * 30 * 7, 1 << 17])
@pytest.mark.parametrize("g", [1, 2, 3, 5, 8, 9])
def test_products_in_parts(g, alone, monkeypatch):
    monkeypatch.setattr("tqvec.kvcache.products._ALONE", alone)
    x, y = sts.normal(3 * g, 30).reshape(3, g, 30), sts.normal(3 * 7, 30, 1).reshape(3, 7, 30).swapaxes(1, 2)
    out = np.full((3, g, 9), np.nan, np.float32)
    multiply(x, y, out[:, :, 1:8])
    np.testing.assert_allclose(out[:, :, 1:8], x @ y, rtol=1e-5, atol=1e-5)
    assert np.isnan(out[:, :, [0, 8]]).all()


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 4, 5)])
def test_rotations(shape):
    x, rotation = sts.normal(1, int(np.prod(shape))).reshape(shape), sts.normal(5, 5, 1)
    np.testing.assert_allclose(rotate(x, rotation.T), x @ rotation.T, rtol=1e-5, atol=1e-5)

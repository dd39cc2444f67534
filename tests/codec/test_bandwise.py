"""rotation="bandwise": vectors whose coordinates come in the order of their importance, with widths by band."""

import numpy as np
import pytest
import strategies as sts

from tqvec import TurboQuant
from tqvec.errors import InputError

BANDS = [((64, 4), (64, 2)), ((32, 5), (16, 3), (48, 1))]


def codec(bands, **options):
    return TurboQuant(sum(n for n, _ in bands), bands, rotation="bandwise", scale="least_squares", **options)


def vectors(bands, n=400):
    """Rows whose coordinates have, band by band, the standard deviations that the codec takes them to have."""
    std = np.concatenate([np.full(size, 2 ** (nbits / 4)) for size, nbits in bands])
    return sts.normal(n, len(std), 8_500) * std.astype(np.float32)


@pytest.mark.parametrize("bands", BANDS)
def test_standard_deviations_of_bands(bands):
    tq, sizes = codec(bands), np.array([n for n, _ in bands])
    np.testing.assert_allclose(
        tq.band_std / tq.band_std[0], [2 ** ((b - bands[0][1]) / 4) for _, b in bands], rtol=1e-6
    )
    assert np.sum(sizes * np.square(tq.band_std)) == pytest.approx(sizes.sum(), rel=1e-6)


@pytest.mark.parametrize("bands", BANDS)
@pytest.mark.parametrize("codebook", ["scalar", "trellis"])
def test_the_error_is_that_of_each_band(bands, codebook):
    tq, x = codec(bands, codebook=codebook), vectors(bands)
    error = tq.decode(tq.encode(x)) - x
    assert np.square(error).sum() / np.square(x).sum() == pytest.approx(tq.distortion, rel=0.05)
    start = 0
    for n, nbits in bands:
        part = slice(start, start + n)
        alone = TurboQuant(tq.d, nbits, codebook=codebook).distortion
        found = np.square(error[:, part]).sum() / np.square(x[:, part]).sum()
        assert found == pytest.approx(alone, rel=0.15)
        start += n


@pytest.mark.parametrize("bands", BANDS)
def test_no_coordinate_leaves_its_band(bands):
    tq, start = codec(bands), 0
    matrix = tq.transform.rotate(np.eye(tq.d, dtype=np.float32))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(tq.d), atol=1e-5)
    for n, _ in bands:
        assert not matrix[start : start + n, :start].any()
        assert not matrix[start : start + n, start + n :].any()
        start += n


def test_products_are_those_of_decoded_vectors():
    tq, x = codec(BANDS[0]), vectors(BANDS[0])
    codes, queries = tq.encode(x), sts.normal(3, tq.d, 8_501)
    np.testing.assert_allclose(tq.inner_product(queries, codes), queries @ tq.decode(codes).T, rtol=1e-4, atol=1e-3)


def test_fingerprints():
    """Codes of another rotation, seed or other bands can't be mixed."""
    mine = codec(BANDS[0])
    others = [codec(BANDS[0], seed=1), codec(BANDS[1]), codec(((64, 2), (64, 4)))]
    others.append(TurboQuant(128, BANDS[0], scale="least_squares"))
    assert len({tq.fingerprint for tq in (mine, *others)}) == 5
    assert codec(BANDS[0]).fingerprint == mine.fingerprint
    with pytest.raises(InputError, match="another codec"):
        others[-1].decode(mine.encode(vectors(BANDS[0])))


@pytest.mark.parametrize("rule", [None, "unbiased", "norm"])
def test_needs_the_least_squares_scale(rule):
    with pytest.raises(InputError, match="needs scale='least_squares'"):
        TurboQuant(128, BANDS[0], rotation="bandwise", scale=rule)

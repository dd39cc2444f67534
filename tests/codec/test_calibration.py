"""Calibration: its parts against what they shall compute, and codecs made of it."""

import itertools

import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec.codec import axes, calibration
from tqvec.codec.bands import Band
from tqvec.codec.calibration import Budget, Calibration, calibrate, distortions
from tqvec.errors import InputError
from tqvec.kernels.arguments import EncodedRows
from tqvec.kernels.dispatch import implementation
from tqvec.kernels.features import available_levels
from tqvec.kernels.pack.portable import SPREAD
from tqvec.reference import packing
from tqvec.reference.calibrated import dense, in_bytes, whole
from tqvec.reference.calibrated import encode as reference_encode
from tqvec.reference.quantize import directions

SEED = 7


def spread_out(n, d, seed=0, power=1.0):
    """Rows around (1, 1, …) whose variances fall as 1/j^power, in a basis of their own."""
    basis = np.linalg.qr(sts.rng(99).standard_normal((d, d)))[0]
    x = sts.normal(n, d, seed) * np.arange(1, d + 1) ** (-power / 2)
    return (x @ basis + 1).astype(np.float32)


def calibrated(x, nbits=2, codebook="scalar"):
    codec = tqvec.TurboQuant(x.shape[1], nbits=nbits, codebook=codebook, seed=SEED)
    bits = sum((band.stop - band.start) * band.nbits for band in codec.bands)
    budget = Budget(bits, codebook, SEED)
    return codec.calibrated(calibrate(axes.find_axes(x), budget))


def test_spatial_median():
    x = spread_out(500, 20)
    x[:25] += 1e4
    assert np.linalg.norm(axes.spatial_median(x) - 1) < 0.5
    same = np.ones((5, 3), np.float32)
    assert np.array_equal(axes.spatial_median(same), same[0])
    assert np.allclose(axes.spatial_median(np.array([[0], [0], [0], [9]], np.float32)), 0, atol=1e-2)


def test_principal_axes_are_those_of_the_data():
    d = 24
    x = spread_out(20_000, d, power=3) - 1
    found, shares = axes.principal_axes(x)
    assert np.allclose(found.T @ found, np.eye(d), atol=1e-5)
    assert np.all(np.diff(shares) <= 0)
    assert shares.sum() == pytest.approx(1)
    basis = np.linalg.qr(sts.rng(99).standard_normal((d, d)))[0]
    assert abs(found[:, 0] @ basis[0]) > 0.999


@pytest.mark.parametrize("n", [30, 400, 20_000])
def test_isotropic_data_are_shrunk_to_equal_shares(n):
    shares = axes.principal_axes(sts.normal(n, 64))[1]
    assert shares.max() < 1.5 * shares.min()


def test_shares_hold_for_rows_that_were_not_in_the_sample():
    x = spread_out(4000, 128) - 1
    found, shares = axes.principal_axes(x[:150])
    other = x[1000:] / np.linalg.norm(x[1000:], axis=1, keepdims=True)
    true = np.square(other @ found).mean(axis=0)
    assert true[:32].sum() == pytest.approx(shares[:32].sum(), rel=0.25)
    assert shares[-32:].sum() > 0.3 * true[-32:].sum()


@pytest.mark.parametrize("codebook", ["scalar", "trellis"])
def test_allocation_is_the_best_there_is(codebook):
    table = distortions(64, codebook)
    edges = np.arange(0, 65, 16)
    for seed in range(10):
        weights = np.repeat(np.sort(sts.rng(seed).exponential(1, 4) ** 2)[::-1], 16)
        bands = calibration.allocate(weights, edges, Budget(128, codebook, 0), table)
        widths = np.zeros(64, int)
        for band in bands:
            widths[band.start : band.stop] = band.nbits
        cost = weights @ np.array(table)[widths]
        choices = itertools.product(range(len(table)), repeat=4)
        best = min(weights[::16] @ np.array(table)[list(c)] * 16 for c in choices if sum(c) == 8)
        assert cost == pytest.approx(best)
        assert widths.sum() == 128


@pytest.mark.parametrize(("nbits", "power", "size"), [(2, 0.6, 32), (2, 1.0, 16), (4, 1.0, 16), (1, 0.8, 16)])
def test_short_trellis_bands_are_chosen_where_they_err_less(nbits, power, size, monkeypatch):
    """By the errors measured along each axis, in the weights of the allocation: seams cost more at few bits."""
    d, costs = 50, {}
    x = sts.normal(12_000, d) * np.arange(1, d + 1, dtype=np.float32) ** np.float32(-power / 2)
    shares = np.square(x).mean(axis=0)
    for least in (16, 32):
        monkeypatch.setattr(calibration, "LEAST_GROUPS", {"trellis": (least,)})
        codec = calibrated(x[:6000], nbits, "trellis")
        errs = np.square(codec.decode(codec.encode(x[6000:])) - x[6000:]).mean(axis=0)
        costs[least] = float(np.sum(shares**0.5 * errs)), codec.bands
    monkeypatch.undo()
    assert costs[16][1] != costs[32][1]
    assert min(costs, key=lambda least: costs[least][0]) == size
    assert calibrated(x[:6000], nbits, "trellis").bands == costs[size][1]


@pytest.mark.parametrize("codebook", ["scalar", "trellis"])
@pytest.mark.parametrize("nbits", [1, 2, 2.5, 4, 5])
@pytest.mark.parametrize("d", [64, 72, 100, 384])
def test_layout(d, nbits, codebook):
    codec = calibrated(spread_out(300, d, power=1.5), nbits, codebook)
    plain = tqvec.TurboQuant(d, nbits=nbits, codebook=codebook)
    assert codec.code_size <= plain.code_size
    assert 1 <= len(codec.bands) <= 8
    least = 16 if codebook == "trellis" else 8
    for band in codec.bands:
        assert band.start % 8 == 0
        assert band.stop % 8 == 0 or band.stop == d
        assert band.stop - band.start >= min(least, d)
    widths = [band.nbits for band in codec.bands]
    assert widths == sorted(widths, reverse=True)
    matrix = codec.transform.rotate(np.eye(d, dtype=np.float32)).T.astype(np.float64)
    rounding = 2e-2 if codec.calibration.in_bytes else 0
    lengths = np.linalg.norm(matrix, axis=1)
    assert lengths.max() <= 1 + 1e-5 + rounding
    unit = matrix / lengths[:, None]
    assert np.abs(unit @ unit.T - np.eye(d)).max() < 1e-5 + rounding


@pytest.mark.parametrize("d", [2, 3, 7, 15])
def test_small_dimensions_have_one_band(d):
    codec = calibrated(spread_out(300, d), 3)
    assert codec.bands == (Band(0, d, 3),)


@pytest.mark.parametrize("codebook", ["scalar", "trellis"])
@pytest.mark.parametrize("nbits", [1, 2, 4])
def test_errors_are_the_predicted_ones(nbits, codebook):
    """Of Gaussian data, whose spread is known, the decoded vectors and the scores."""
    x = spread_out(6000, 128)
    codec = calibrated(x[:4000], nbits, codebook)
    test, queries = x[4000:], spread_out(50, 128, seed=5)
    codes = codec.encode(test)
    error = np.square(codec.decode(codes) - test).sum() / np.square(test - codec.centre).sum()
    assert error == pytest.approx(codec.distortion, rel=0.15)
    plain = tqvec.TurboQuant(128, nbits=nbits, codebook=codebook)
    assert error * np.square(test - codec.centre).sum() < 0.5 * plain.distortion * np.square(test).sum()
    exact = queries.astype(np.float64) @ test.T
    found = codec.inner_product(queries, codes)
    ours = np.mean((found - exact) ** 2)
    theirs = np.mean((plain.inner_product(queries, plain.encode(test)) - exact) ** 2)
    assert ours < 0.5 * theirs
    assert abs(np.mean(found - exact)) < 0.2 * np.sqrt(ours)


@pytest.mark.parametrize("codebook", ["scalar", "trellis"])
def test_products_of_a_vector_with_itself_are_exact(codebook):
    """The scale's meaning, ⟨r, r̃⟩ = ‖r‖², with the centre added."""
    x = spread_out(300, 48)
    for codec in forms(calibrated(x, 2, codebook)):
        r = (x - codec.centre).astype(np.float64)
        queries = x - codec.centre
        found = np.diag(codec.inner_product(queries, codec.encode(x))) - codec.transform.centre_products(queries)
        rounding = 5e-3 if codec.calibration.in_bytes else 0  # of the vector, which as a query is not rounded
        np.testing.assert_allclose(found, np.square(r).sum(axis=1), rtol=2e-5 + rounding)


def forms(codec):
    """The codec with its matrix in bytes, and in float32."""
    calibration = codec.calibration
    assert calibration.in_bytes
    matrix = whole(calibration.matrix, calibration.row_steps).astype(np.float32)
    return codec, codec.calibrated(calibration._replace(matrix=matrix, row_steps=np.zeros(0, np.float32)))


@pytest.mark.parametrize(("d", "nbits"), [(3, 3), (24, 2), (97, 2.5), (100, 3), (200, 4), (1100, 1)])
def test_bytes_and_scales_equal_the_reference(d, nbits):
    x = spread_out(300, d)
    rows = np.concatenate([x[:19], np.full((1, d), 1e-30, np.float32)])
    for codec in forms(calibrated(x, nbits)):
        given = codec.calibration
        r = rows - given.centre
        u = directions(r)
        y = in_bytes(u, given.matrix, given.row_steps) if given.in_bytes else dense(u, given.matrix)
        expected = reference_encode(r, y, given.bands, given.band_std)
        for level in available_levels():
            if level in ("portable", "avx512"):
                out = EncodedRows(np.empty((20, codec.code_size - 4), np.uint8), *np.empty((3, 20)))
                implementation("encode_rows", level)(r, codec.transform.tables, codec.quantizer, 0, 20, out)
                assert out.data.tobytes() == packing.pack(expected.codes, given.bands).tobytes()
                for name in ("norm", "dot", "energy"):
                    assert getattr(out, name).tobytes() == getattr(expected, name).tobytes()


@pytest.mark.parametrize("d", [3, 24, 97, 200, 1100])
def test_queries_are_not_rounded_to_bytes(d):
    """At any level they have the same bits; vectors in bytes are decoded by the same matrix."""
    x = spread_out(200, d)
    codec = calibrated(x, 2)
    tables, given = codec.transform.tables, codec.calibration
    matrix = whole(given.matrix, given.row_steps)
    queries = np.concatenate([sts.normal(18, d).astype(np.float32), np.zeros((1, d), np.float32)])
    expected = queries.astype(np.float64) @ matrix.T
    codes = codec.encode(x[:37])
    decoded = []
    for level in available_levels():
        if level in ("portable", "avx512"):
            out = np.empty_like(queries)
            implementation("rotate_rows", level)(queries, tables, 0, 19, out)
            assert np.abs(out - expected).max() <= 2e-6 * np.abs(expected).max()
            assert out.tobytes() == codec.transform.rotate(queries).tobytes()
            vectors = np.empty((37, d), np.float32)
            decode = implementation("decode_rows", level)
            decode(codes.data, codes.scale, tables, codec.quantizer, SPREAD, 0, 37, vectors)
            decoded.append(vectors.tobytes())
    assert len(set(decoded)) == 1
    products = codec.inner_product(queries, codes) - queries @ codec.centre[:, None]
    assert np.abs(vectors @ queries.T - products.T).max() <= 1e-5 * np.abs(products).max() * np.sqrt(d)


def test_many_bits_keep_a_matrix_of_floats():
    x = spread_out(300, 48)
    assert calibrated(x, 2).calibration.in_bytes
    assert not calibrated(x, 8).calibration.in_bytes


@pytest.mark.parametrize("nbits", [1, 2, 4])
def test_rounding_to_bytes_costs_little(nbits):
    x = spread_out(3000, 128)
    one, other = (np.square(c.decode(c.encode(x)) - x).sum() for c in forms(calibrated(x, nbits)))
    assert one < 1.03 * other


@pytest.mark.parametrize("d", [24, 100])
def test_codes_do_not_depend_on_batch_threads_or_level(d):
    x = spread_out(600, d)
    codec = calibrated(x, 3)
    whole = codec.encode(x, threads=1)
    for other in (codec.encode(x, threads=2), codec.encode(x.astype(np.float64))):
        assert np.array_equal(other.data, whole.data)
        assert np.array_equal(other.scale, whole.scale)
    one = codec.encode(x[17])
    assert np.array_equal(one.data[0], whole.data[17])
    out = EncodedRows(np.empty_like(whole.data), np.empty(600), np.empty(600), np.empty(600))
    residuals = x - codec.centre
    implementation("encode_rows", "portable")(residuals, codec.transform.tables, codec.quantizer, 0, 600, out)
    assert np.array_equal(out[0], whole.data)


def test_what_can_not_be_calibrated():
    good = calibrated(spread_out(300, 32)).calibration
    for options in ({"scale": "norm"}, {"scale": "least_squares"}, {"mode": "prod", "nbits": 2}):
        with pytest.raises(InputError, match="scale='unbiased'"):
            tqvec.TurboQuant(32, **options).calibrated(good)
    with pytest.raises(InputError, match="calibration must have arrays of shapes"):
        tqvec.TurboQuant(33).calibrated(good)
    bad = np.full(32, np.nan, np.float32)
    changes = [
        ({"centre": bad}, "NaN or Inf"),
        ({"matrix": np.full((32, 32), np.inf, np.float32)}, "NaN or Inf"),
        ({"row_steps": bad}, "row_steps"),
        ({"row_steps": bad[1:]}, "row_steps"),
        ({"matrix": good.matrix.astype(np.float32)}, "row_steps"),
        ({"band_std": -good.band_std}, "must be positive"),
        ({"band_std": good.band_std * np.float32(np.nan)}, "must be positive"),
        ({"bands": (), "band_std": np.zeros(0, np.float32)}, "1 to 8 bands within"),
    ]
    one = np.ones(1, np.float32)
    for band, message in (((0, 40, 2), "within 32"), ((8, 16, 2), "out of place"), ((0, 8, 9), "out of place")):
        changes.append(({"bands": (Band(*band),), "band_std": one}, message))
    for change, message in changes:
        with pytest.raises(InputError, match=message):
            tqvec.TurboQuant(32).calibrated(good._replace(**change))


def test_fingerprints():
    x = spread_out(300, 32)
    codec = calibrated(x)
    prints = {codec.fingerprint, tqvec.TurboQuant(32, nbits=2, seed=SEED).fingerprint}
    given = codec.calibration
    for change in (
        {"centre": given.centre + 1},
        {"matrix": given.matrix[::-1].copy()},
        {"row_steps": given.row_steps[::-1].copy()},
        {"matrix": given.matrix.astype(np.float32), "row_steps": np.zeros(0)},
        {"band_std": given.band_std * np.float32(1.5)},
    ):
        prints.add(codec.calibrated(given._replace(**change)).fingerprint)
    assert len(prints) == 7
    assert isinstance(given, Calibration)
    assert codec.calibrated(given).fingerprint == codec.fingerprint

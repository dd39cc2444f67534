"""Codecs of several bands: 2.5 and 3.5 bits, and bands given one by one."""

import math

import numpy as np
import pytest
import strategies as sts
from hypothesis import given
from hypothesis import strategies as st

import tqvec
from tqvec import TurboQuant
from tqvec.codec.bands import Band, integer_levels
from tqvec.codec.codebooks import scalar
from tqvec.codec.turboquant import encode_sums
from tqvec.errors import InputError
from tqvec.reference import packing, quantize, rotation, scoring

SEED = 11
WIDTHS = {
    32: [2.5, 3.5, [(32, 4)]],
    97: [2.5, [(1, 8), (95, 1), (1, 5)]],
    128: [2.5, 3.5, [(96, 2), (32, 3)]],
    200: [2.5, [(7, 5), (1, 1), (92, 8), (100, 4)]],
    384: [3.5, [(48, width) for width in range(8, 0, -1)]],
}
CASES = [(d, nbits) for d, widths in WIDTHS.items() for nbits in widths]


def levels(tq, codes):
    """Centroids (n, d) of packed rows, from the reference."""
    unpacked = sts.unpacked(tq, codes)
    parts = [
        scalar.centroids(tq.d, band.nbits)[unpacked[:, band.start : band.stop]].astype(np.float32) for band in tq.bands
    ]
    return np.concatenate(parts, axis=1)


def test_what_the_widths_stand_for():
    assert TurboQuant(128, nbits=2.5).bands == (Band(0, 32, 3), Band(32, 128, 2))
    assert TurboQuant(97, nbits=3.5).bands == (Band(0, 24, 4), Band(24, 97, 3))
    assert TurboQuant(3, nbits=2.5).bands == (Band(0, 3, 2),)
    assert TurboQuant(9, nbits=[[4, 8], (5, np.int64(1))]).bands == (Band(0, 4, 8), Band(4, 9, 1))
    assert TurboQuant(128, nbits=np.float64(2.5)).nbits == 2.5
    assert TurboQuant(9, nbits=[[4, 8], [5, 1]]).nbits == ((4, 8), (5, 1))


def test_bytes_a_vector():
    assert TurboQuant(128, nbits=2.5).code_size == 40  # 2.5 · 128 / 8, the scale included
    assert TurboQuant(128, nbits=3.5).code_size == 56
    assert TurboQuant(9, nbits=[(4, 8), (5, 1)]).code_size == 5 + 4  # 37 bits
    assert tqvec.Index(128, nbits=2.5, metric="l2").code_size == 44


def test_fingerprints_cover_the_bands():
    """Equal bands are equal codecs, however they were asked for."""
    made = {
        name: TurboQuant(128, nbits=nbits).fingerprint
        for name, nbits in {
            "2": 2,
            "3": 3,
            "2.5": 2.5,
            "narrow first": [(96, 2), (32, 3)],
            "split": [(64, 2), (64, 2)],
        }.items()
    }
    assert len(set(made.values())) == len(made)
    assert TurboQuant(128, nbits=[(32, 3), (96, 2)]).fingerprint == made["2.5"]
    assert TurboQuant(128, nbits=[(128, 2)]).fingerprint == made["2"]


@pytest.mark.parametrize(
    ("nbits", "message"),
    [
        (2.7, "^nbits must be an integer from 1 to 8, 2.5, 3.5 or a list"),
        (4.0, "^nbits must be"),
        (float("nan"), "^nbits must be"),
        ("2.5", "^nbits must be"),
        ([], "^nbits must have 1 to 8 bands, got 0"),
        ([(1, 2)] * 9, "^nbits must have 1 to 8 bands, got 9"),
        ([(4, 2), (5, 2)], "^nbits must have bands that add up to d=8 coordinates, got 9"),
        ([(4, 2), 4], r"^nbits\[1\] must be a pair"),
        ([(4, 2, 1), (4, 2)], r"^nbits\[0\] must be a pair"),
        ([(4, 2), (4, 9)], r"^width of nbits\[1\] must be an integer from 1 to 8"),
        ([(4, 2), (4, 2.5)], r"^width of nbits\[1\] must be an integer"),
        ([(8, 2), (0, 2)], r"^coordinates of nbits\[1\] must be an integer from 1"),
    ],
)
def test_bad_widths(nbits, message):
    for make in (TurboQuant, tqvec.Index):
        with pytest.raises(InputError, match=message):
            make(8, nbits=nbits)


@pytest.mark.parametrize(("d", "nbits"), CASES)
def test_bytes_scales_and_scores_equal_the_reference(d, nbits):
    x = sts.mixed(19, d, seed=d)
    layout = sts.bands(TurboQuant(d, nbits=nbits))
    expected = quantize.encode_bands(x, layout, SEED)
    queries = sts.normal(5, d, seed=d + 1)
    for rule, scale in quantize.SCALES.items():
        tq = TurboQuant(d, nbits=nbits, seed=SEED, scale=rule)
        codes = tq.encode(x)
        np.testing.assert_array_equal(codes.data, packing.pack(expected.codes, layout))
        assert codes.scale.tobytes() == scale(expected).astype(np.float32).tobytes()
        parts = [tq.encode(x[i : i + 7], threads=2) for i in range(0, 19, 7)]
        assert b"".join(part.data.tobytes() for part in parts) == codes.data.tobytes()
        shrink = 1 - tq.distortion if rule == "unbiased" else 1.0
        decoded = rotation.hadamard_inverse(levels(tq, codes).astype(np.float64), SEED)
        exact = decoded * (codes.scale.astype(np.float64) * shrink)[:, None]
        assert np.all(np.abs(tq.decode(codes) - exact) <= 1e-5 * codes.scale[:, None])
        rotated = rotation.hadamard(queries, SEED, np.float32)
        terms = scoring.magnitude(rotated, levels(tq, codes), codes.scale)
        scores = scoring.scores(rotated, levels(tq, codes), codes.scale)
        assert np.all(np.abs(tq.inner_product(queries, codes) - scores) <= 1e-5 * terms)


@st.composite
def rows_and_bands(draw):
    """Rows, and bands that share out their coordinates."""
    x = draw(sts.rows())
    cuts = sorted(draw(st.sets(st.integers(1, x.shape[1]), max_size=4)) | {x.shape[1]})
    return x, [(count, draw(sts.nbits)) for count in np.diff([0, *cuts]).tolist()]


@given(rows_and_bands(), sts.seeds)
def test_properties_of_every_vector(case, seed):
    x, nbits = case
    tq = TurboQuant(x.shape[1], nbits=nbits, seed=seed)
    squares = np.einsum("ij,ij->i", x, x, dtype=np.float64)
    np.testing.assert_allclose(np.diag(tq.inner_product(x, tq.encode(x))), squares, rtol=1e-5)  # property 14
    sums = encode_sums(tq, x, threads=1)
    assert np.all((sums.dot > 0) == x.any(axis=1))  # 15
    assert np.array_equal(tq.encode(np.ldexp(x, 9)).data, sums.data)  # 11
    y = tq.transform.rotate(quantize.directions(x)).astype(np.float64)
    codes = packing.unpack(sums.data, sts.bands(tq))
    for band in tq.bands:  # 9
        values, c = y[:, band.start : band.stop], scalar.centroids(tq.d, band.nbits)
        clear = np.abs(values[..., None] - scalar.thresholds(tq.d, band.nbits)).min(axis=-1) > 1e-5 * np.abs(c).min()
        nearest = quantize.nearest(values, c)
        np.testing.assert_array_equal(codes[:, band.start : band.stop][clear], nearest[clear])


@pytest.mark.parametrize("nbits", [2.5, 3.5, [(16, 6), (112, 1)]])
def test_mean_distortion(nbits):
    """Property 19 with the tolerance of the widest band; between the neighbouring widths."""
    d, n = 128, 8192
    x = sts.unit(n, d, seed=19).astype(np.float32)
    tq = TurboQuant(d, nbits=nbits, seed=1, scale="norm")
    error = x - tq.decode(tq.encode(x))
    mean = np.einsum("ij,ij->", error, error, dtype=np.float64) / n
    assert mean == pytest.approx(tq.distortion, rel=0.024)
    shares = [(band.stop - band.start) / d * scalar.distortion(d, band.nbits) for band in tq.bands]
    assert tq.distortion == pytest.approx(sum(shares), rel=1e-12)
    if isinstance(nbits, float):
        below, above = int(nbits), int(nbits) + 1
        assert scalar.distortion(d, above) < mean < scalar.distortion(d, below)
        assert scalar.entropy(d, below) < tq.entropy < scalar.entropy(d, above)


@pytest.mark.parametrize("cosine", [0.0, 0.6])
@pytest.mark.parametrize("nbits", [2.5, 3.5, [(16, 6), (112, 1)]])
def test_unbiased_scores_and_their_error_bars(nbits, cosine):
    """Properties 20, 21 and 23: one scale a vector keeps the estimate unbiased whatever the widths are."""
    d, n = 128, 2048
    x, y = (v.astype(np.float32) for v in sts.pairs(n, d, cosine, seed=5))
    tq = TurboQuant(d, nbits=nbits, seed=2)
    sums = encode_sums(tq, x, threads=1)
    sigma = scoring.error_bar(np.full(n, cosine), scoring.tan_theta(sums.dot, sums.energy), d)
    error = sts.diagonal_scores(tq, y, tq.encode(x)) - cosine
    assert abs(error.sum()) / math.sqrt(np.sum(sigma**2)) <= 7
    assert abs(np.sum(error**2 - sigma**2)) / math.sqrt(2 * np.sum(sigma**4)) <= 9
    gap = sums.dot - sums.energy
    assert abs(gap.mean()) <= 7 * gap.std() / math.sqrt(n)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize(("d", "nbits"), CASES)
def test_index(d, nbits, metric, tmp_path):
    """Searching is sorting all scores; saved and loaded, it is the same."""
    x, queries = sts.normal(700, d, seed=d), sts.normal(3, d, seed=d + 1)
    index = tqvec.Index(d, nbits=nbits, metric=metric, seed=SEED)
    index.add(x)
    scores, ids = index.search(queries, k=700)
    dense = index.codec.inner_product(queries, index.codec.encode(x)).astype(np.float64)
    lengths, squares = np.linalg.norm(x, axis=1), np.linalg.norm(queries, axis=1)[:, None] ** 2
    expected = {
        "ip": dense,
        "cosine": dense / lengths / np.sqrt(squares),
        "l2": np.maximum(squares + lengths.astype(np.float64) ** 2 - 2 * dense, 0),
    }[metric]
    tolerance = {"ip": 1, "cosine": 1 / np.sqrt(squares).min() / lengths.min(), "l2": 2}[metric]
    tolerance *= 1e-3 * np.sqrt(squares).max() * lengths.max()
    np.testing.assert_allclose(scores, np.take_along_axis(expected, ids, axis=1), atol=tolerance)
    assert np.array_equal(
        index.search(queries, k=2)[1], ids[:, :2]
    )  # few results: no shortcut that knows one width only
    index.save(tmp_path / "a.tqv")
    again = tqvec.Index.load(tmp_path / "a.tqv")
    assert (again.nbits, again.codec.bands) == (index.nbits, index.codec.bands)
    assert np.array_equal(again.search(queries, k=5)[0], scores[:, :5])


def test_overflow_bound_holds_for_several_bands():
    """kernels/scan/README.md: the levels of all bands share one step, which the largest of them decides."""
    for d, nbits in ((1536, 2.5), (128, 3.5), (16384, [(1, 8), (16383, 1)])):
        tq = TurboQuant(d, nbits=nbits)
        words = integer_levels(d, tq.quantizer).levels.astype(np.uint16).view(np.int16).astype(np.int64)
        worst = math.sqrt(
            sum((b.stop - b.start) * np.abs(row).max() ** 2 for b, row in zip(tq.bands, words, strict=True))
        )
        assert worst * (32767 + math.sqrt(d) / 2) < 2**31

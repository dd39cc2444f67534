"""TurboQuant with the trellis codebook: bytes, and properties of every vector. test_statistics.py has the means."""

import math

import numpy as np
import pytest
import strategies as sts
from hypothesis import given
from hypothesis import strategies as st

from tqvec import Codes, TurboQuant
from tqvec.codec.codebooks import scalar, trellis
from tqvec.codec.turboquant import encode_sums
from tqvec.errors import InputError
from tqvec.reference import packing, quantize, rotation, scoring
from tqvec.reference import trellis as reference

SEED = 11
WIDTHS = (1, 2, 3, 4, 5)
CASES = [(d, nbits) for d in (16, 31, 33, 64, 97, 200) for nbits in WIDTHS]
CASES += [(384, 2), (1536, 1), (1536, 4), (64, 2.5), (100, 3.5), (97, [(16, 5), (17, 1), (64, 2)])]
rows = sts.rows(st.sampled_from((16, 17, 24, 31, 40)))
widths = st.sampled_from(WIDTHS)


def made(d, nbits, **options):
    return TurboQuant(d, nbits=nbits, codebook="trellis", **options)


def tables(tq):
    """Levels (in-subset bits, window) of each band, float32, from the reference."""
    return [reference.frozen(tq.d, band.nbits).astype(np.float32) for band in tq.bands]


def levels(tq, codes):
    """Levels (n, d) of packed rows, from the reference."""
    unpacked = sts.unpacked(tq, codes)
    parts = [
        reference.levels(unpacked[:, band.start : band.stop], table)
        for band, table in zip(tq.bands, tables(tq), strict=True)
    ]
    return np.concatenate(parts, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(("d", "nbits"), CASES)
def test_bytes_vectors_and_scores_equal_the_reference(d, nbits):
    """Property 18 with the rest: what is stored bit for bit, what is computed from it closely."""
    x, queries = sts.mixed(19, d, seed=d), sts.normal(5, d, seed=d + 1)
    layout = sts.bands(made(d, nbits))
    expected = quantize.encode_trellis(x, layout, SEED)
    for rule, scale in quantize.SCALES.items():
        tq = made(d, nbits, seed=SEED, scale=rule)
        codes = tq.encode(x)
        np.testing.assert_array_equal(codes.data, packing.pack(expected.codes, layout))
        assert codes.scale.tobytes() == scale(expected).astype(np.float32).tobytes()
        shrink = 1 - tq.distortion if rule == "unbiased" else 1.0
        decoded = rotation.hadamard_inverse(levels(tq, codes).astype(np.float64), SEED)
        exact = decoded * (codes.scale.astype(np.float64) * shrink)[:, None]
        assert np.all(np.abs(tq.decode(codes) - exact) <= 1e-5 * codes.scale[:, None])
        rotated = rotation.hadamard(queries, SEED, np.float32)
        terms = scoring.magnitude(rotated, levels(tq, codes), codes.scale)
        scores = scoring.scores(rotated, levels(tq, codes), codes.scale)
        assert np.all(np.abs(tq.inner_product(queries, codes) - scores) <= 1e-5 * terms)


@pytest.mark.parametrize(("d", "nbits"), [(31, 1), (97, 3), (64, 2.5)])
def test_batches_and_threads_change_nothing(d, nbits):
    """Property 13; test_invariance.py has the SIMD levels."""
    x = np.tile(sts.mixed(37, d, seed=d), (20, 1))  # several times the rows that a thread takes at least
    tq = made(d, nbits, seed=SEED)
    whole = tq.encode(x, threads=1)
    again = tq.encode(x, threads=3)
    assert (again.data.tobytes(), again.scale.tobytes()) == (whole.data.tobytes(), whole.scale.tobytes())
    assert tq.encode(x[::-1]).data[::-1].tobytes() == whole.data.tobytes()
    for size in (1, 15, 17):
        parts = [tq.encode(x[i : min(i + size, 37)]).data.tobytes() for i in range(0, 37, size)]
        assert b"".join(parts) == whole.data[:37].tobytes()
    assert len({tq.decode(whole, threads=threads).tobytes() for threads in (1, 3)}) == 1
    assert len({tq.inner_product(x[:3], whole, threads=threads).tobytes() for threads in (1, 3)}) == 1


@given(rows, widths, sts.seeds)
def test_every_level_is_the_nearest_of_its_window(x, nbits, seed):
    """In place of property 9: the path is chosen for the sum of all errors, and the nearest level given the path."""
    tq = made(x.shape[1], nbits, seed=seed)
    y = tq.transform.rotate(quantize.directions(x))
    codes = sts.unpacked(tq, tq.encode(x))
    table = tables(tq)[0]
    windows = reference.windows(codes & 1, trellis.states(nbits).bit_length() - 1)
    choices = np.abs(y[:, :, None].astype(np.float64) - table.T[windows])
    found = np.take_along_axis(choices, (codes >> 1)[:, :, None], axis=2)[:, :, 0]
    assert np.all(found <= choices.min(axis=2) + 1e-6 / math.sqrt(tq.d))


@pytest.mark.parametrize("nbits", WIDTHS)
def test_no_other_path_bit_would_be_better(nbits):
    """In place of property 9: with best levels, no path that differs in one bit, not at the seam, has less error."""
    d, nu = 64, trellis.states(nbits).bit_length() - 1
    tq = made(d, nbits, seed=3)
    x = sts.normal(40, d)
    y, table = tq.transform.rotate(quantize.directions(x)).astype(np.float64), tables(tq)[0].astype(np.float64)
    path = sts.unpacked(tq, tq.encode(x)) & 1

    def error(bits):
        return np.sum(np.min((y[:, :, None] - table.T[reference.windows(bits, nu)]) ** 2, axis=2), axis=1)

    for j in range(d - nu):  # the last ν bits are the start state, which a short search chooses
        other = path.copy()
        other[:, j] ^= 1
        assert np.all(error(path) <= error(other) + 1e-6)


@given(rows, widths, sts.seeds)
def test_quantizing_twice_changes_nothing(x, nbits, seed):
    """Property 10 at tables without equal levels: the path of a vector's own levels has no error, others have."""
    tq = made(x.shape[1], nbits, seed=seed, scale="norm")
    codes = tq.encode(x)
    again = tq.transform.rotate(tq.decode(Codes(codes.data, np.ones(len(codes), np.float32))))
    np.testing.assert_array_equal(reference.encode(again, tables(tq)[0]), sts.unpacked(tq, codes))


@given(rows, widths, sts.seeds, st.integers(-60, 60), st.sampled_from(sts.RULES))
def test_powers_of_two_change_only_the_scale(x, nbits, seed, power, rule):
    tq = made(x.shape[1], nbits, seed=seed, scale=rule)
    codes, scaled = tq.encode(x), tq.encode(np.ldexp(x, power))
    np.testing.assert_array_equal(codes.data, scaled.data)
    np.testing.assert_array_equal(np.ldexp(codes.scale, power), scaled.scale)


@pytest.mark.parametrize("nbits", WIDTHS)
def test_negation_mirrors_the_codes(nbits):
    """Property 12 on vectors without ties. They are between whole paths here, so no coordinate can be exempted."""
    tq = made(100, nbits, seed=4)
    x = sts.normal(200, 100)
    codes, mirrored = tq.encode(x), tq.encode(-x)
    np.testing.assert_array_equal(sts.unpacked(tq, mirrored), 2**nbits - 1 - sts.unpacked(tq, codes))
    np.testing.assert_array_equal(codes.scale, mirrored.scale)


@given(rows, widths, sts.seeds, st.integers(-126, 100))
def test_inner_product_with_itself_and_its_sign(x, nbits, seed, power):
    """Properties 14 and 15."""
    tq = made(x.shape[1], nbits, seed=seed)
    squares = np.einsum("ij,ij->i", x, x, dtype=np.float64)
    np.testing.assert_allclose(np.diag(tq.inner_product(x, tq.encode(x))), squares, rtol=1e-5)
    sums = encode_sums(tq, np.ldexp(x, power), threads=1)  # down to subnormal numbers
    assert np.array_equal(sums.dot > 0, x.any(axis=1))
    assert np.all(sums.dot[~x.any(axis=1)] == 0)
    assert np.array_equal(tq.encode(x).scale > 0, x.any(axis=1))


@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize("d", [16, 17, 64])
def test_vectors_that_rotate_to_few_coordinates(d, nbits):
    """Property 15 where the trellis has least to gain: all coordinates but one or two, or a half, are 0."""
    tq = made(d, nbits, seed=5)
    y = np.concatenate([np.eye(d), np.eye(d) + np.roll(np.eye(d), 1, axis=1), np.eye(d) - np.roll(np.eye(d), 3, 1)])
    y = np.concatenate([y, np.tril(np.ones((d, d))), np.ones((1, d)), (-1.0) ** np.arange(d)[None]])
    sums = encode_sums(tq, rotation.hadamard_inverse(y, 5).astype(np.float32), threads=1)
    assert np.all(sums.dot > 1 / math.sqrt(d))  # the scalar codebook's own for one coordinate at 1 bit: 0.8/√d


@given(rows, widths, sts.seeds)
def test_least_squares_never_loses(x, nbits, seed):
    """Property 16."""
    errors = {}
    for rule in ("norm", "least_squares"):
        tq = made(x.shape[1], nbits, seed=seed, scale=rule)
        errors[rule] = np.linalg.norm(x.astype(np.float64) - tq.decode(tq.encode(x)), axis=1)
    slack = 1e-5 * np.linalg.norm(x.astype(np.float64), axis=1)
    assert np.all(errors["least_squares"] <= errors["norm"] + slack)


@given(rows, widths, sts.seeds, st.integers(0, 10**6))
def test_errors_stay_within_their_bounds(x, nbits, seed, query_seed):
    """Property 17."""
    d = x.shape[1]
    y = sts.normal(3, d, seed=query_seed)
    lengths, y_lengths = np.linalg.norm(x.astype(np.float64), axis=1), np.linalg.norm(y.astype(np.float64), axis=1)
    true = y.astype(np.float64) @ x.T.astype(np.float64)
    slack = 3e-5 * y_lengths[:, None] * lengths
    tq = made(d, nbits, seed=seed, scale="norm")
    codes = tq.encode(x)
    missing = np.linalg.norm(x.astype(np.float64) - tq.decode(codes), axis=1)
    assert np.all(np.abs(tq.inner_product(y, codes) - true) <= y_lengths[:, None] * missing + slack)
    tq = made(d, nbits, seed=seed)
    codes, sums = tq.encode(x), encode_sums(tq, x, threads=1)
    alive = lengths > 0
    tangent = scoring.tan_theta(sums.dot[alive], sums.energy[alive])
    across = y_lengths[:, None] ** 2 - (true[:, alive] / lengths[alive]) ** 2
    bound = lengths[alive] * np.sqrt(np.maximum(across, 0)) * tangent
    error = np.abs(tq.inner_product(y, codes) - true)
    assert np.all(error[:, alive] <= bound + slack[:, alive] * (1 + tangent))
    assert np.all(error[:, ~alive] == 0)


def test_bytes_a_vector_and_names():
    assert [made(128, nbits).code_size for nbits in (1, 2, 2.5, 5)] == [20, 36, 40, 84]
    assert repr(made(32, 2)) == "TurboQuant(d=32, nbits=2, codebook='trellis', rotation='hadamard', seed=0)"
    assert "codebook" not in repr(TurboQuant(32, nbits=2))
    assert made(128, 3).entropy == trellis.entropy(3)
    assert trellis.entropy(2) < made(128, 2.5).entropy < trellis.entropy(3)


def test_fingerprints(monkeypatch):
    codecs = [made(32, nbits, seed=seed) for nbits in (2, 3, [(16, 3), (16, 2)]) for seed in (0, 1)]
    prints = {tq.fingerprint for tq in (*codecs, TurboQuant(32, nbits=2), TurboQuant(32, nbits=3))}
    assert len(prints) == 8
    table = trellis.table(32, 2)
    monkeypatch.setattr(trellis, "table", lambda d, nbits: table * (1 + 1e-6))
    assert made(32, 2).fingerprint not in prints  # it covers the levels


@pytest.mark.parametrize("nbits", WIDTHS)
def test_the_shortest_band_is_worth_having(nbits):
    """From 16 coordinates on; at 1 bit the scalar codebook is better up to 19."""
    for d in (trellis.MIN_COORDINATES, 20):
        ratio = made(d, nbits).distortion / scalar.distortion(d, nbits)
        assert ratio < (0.82 if nbits > 1 else 1.13 if d < 20 else 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nbits": 6}, r"^codebook='trellis' has widths of 1 to 5 bits, got 6"),
        ({"nbits": [(32, 5), (32, 6)]}, r"^codebook='trellis' has widths of 1 to 5 bits, got 6"),
        ({"nbits": [(49, 5), (15, 1)]}, r"^codebook='trellis' needs at least 16 coordinates a band, got 15"),
        ({"d": 15}, r"^codebook='trellis' needs at least 16 coordinates a band, got 15"),
        ({"d": 63, "nbits": 2.5}, r"^codebook='trellis' needs at least 16 coordinates a band, got 15"),
        ({"mode": "prod"}, r"^codebook of mode 'prod' must be one of 'scalar', got 'trellis'"),
        ({"codebook": "lattice"}, r"^codebook must be one of 'scalar', 'trellis', got 'lattice'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        TurboQuant(**{"d": 64, "codebook": "trellis"} | arguments)


def test_bad_rows():
    x = np.zeros((40, 20))
    x[33, 3] = np.nan
    with pytest.raises(InputError, match="x row 33 holds NaN"):
        made(20, 2).encode(x)
    assert made(20, 2).encode(x[:0]).data.shape == (0, 5)


def test_forged_codes_decode_to_something_finite():
    tq = made(17, 5)
    data = np.full((3, tq.code_size - 4), 255, np.uint8)  # padding bits set as well
    clean = data.copy()
    clean[:, -1] = (1 << 17 * 5 % 8) - 1
    scale = np.ones(3, np.float32)
    np.testing.assert_array_equal(tq.decode(Codes(data, scale)), tq.decode(Codes(clean, scale)))

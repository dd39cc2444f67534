"""The kernels of the staged and the batched search against NumPy."""

from functools import cache

import numba
import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec.codec import codebook
from tqvec.codec.stages import batch_tables, byte_levels, prefix_means, stage_tables, staged_query
from tqvec.index.signs import SignBlocks
from tqvec.kernels import features
from tqvec.kernels.dispatch import implementation

DIMS = (8, 32, 64, 72, 128, 200, 384, 1000)
needs_avx512 = pytest.mark.skipif("avx512" not in features.available_levels(), reason="needs AVX-512 VBMI and VNNI")


def rows_of(d, nbits, n, seed=1):
    """Codes with 64 spare rows, and their values as an (n, d) array."""
    codes = sts.rng(seed).integers(0, 2**nbits, (n, d))
    planes = [(codes >> p) & 1 for p in range(nbits - 1, -1, -1)]
    data = np.packbits(np.concatenate(planes, axis=1).astype(np.uint8), axis=1, bitorder="little")
    return np.concatenate([data, sts.rng(9).integers(0, 256, (64, data.shape[1])).astype(np.uint8)]), codes


def direction(d, seed=2):
    q = sts.rng(seed).standard_normal(d)
    return (q / np.linalg.norm(q)).astype(np.float32)


@pytest.mark.parametrize("nbits", range(1, 9))
@pytest.mark.parametrize("d", [8, 100, 384])
def test_prefix_means_are_conditional_means(d, nbits):
    """Means nest, energies rise from 2/π-like to 1 - D, and E<c, L_p> = e_p (staged/README.md)."""
    c, p = codebook.centroids(d, nbits), codebook.probabilities(d, nbits)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    energies = []
    for planes in range(1, nbits + 1):
        means, energy = prefix_means(d, nbits, planes)
        spread = np.repeat(means, 2 ** (nbits - planes))
        assert d * np.sum(p * c * spread) == pytest.approx(energy, rel=1e-9)
        energies.append(energy)
    assert np.all(np.diff(energies) > 0)
    np.testing.assert_allclose(prefix_means(d, nbits, nbits)[0], c, rtol=1e-12)
    assert energies[-1] == pytest.approx(1 - codebook.distortion(d, nbits), rel=1e-9)


def test_sign_blocks_are_the_sign_plane():
    data, codes = rows_of(72, 3, 200)
    blocks = SignBlocks(72)
    for ntotal in (1, 50, 64, 130, 200):  # as rows are added
        found = blocks.of(data, ntotal)
        words = found.reshape(-1, 3, 16, 4).transpose(0, 2, 1, 3).reshape(-1, 12)
        signs = np.unpackbits(words, axis=1, bitorder="little")[:ntotal, :72]
        np.testing.assert_array_equal(signs, codes[:ntotal] >> 2)
    assert found.shape[0] % 4 == 0


@needs_avx512
@pytest.mark.parametrize("d", DIMS)
def test_sign_estimates(d):
    from tqvec.kernels.staged.avx512 import sign_estimates_avx512

    n = 150
    data, codes = rows_of(d, 2, n)
    query = staged_query(direction(d), 1.0, np.float32(1))
    factor = sts.rng(3).uniform(0.5, 2, n + 64).astype(np.float32)
    bias = sts.rng(4).standard_normal(n + 64).astype(np.float32)
    signs = SignBlocks(d).of(data, n)
    exact = np.where(codes >= 2, 1.0, -1.0) @ direction(d).astype(np.float64)
    a, b = np.float32(query.table_step), np.float32(-query.table_zero)
    for start, added in ((0, np.zeros(0, np.float32)), (64, bias)):
        out = np.zeros(n - start + 64, np.float32)
        sign_estimates_avx512(signs, query.table, a, b, factor, added, start, n, out)
        expected = exact[start:] * factor[start:n] + (added[start:n] if added.size else 0)
        # Each of d/4 table entries is off by at most half a step.
        np.testing.assert_allclose(out[: n - start], expected, atol=query.table_step * (d / 8 + 4) * 2 + 1e-4)
        assert np.abs(out[: n - start] - expected).mean() < query.table_step * (0.5 * np.sqrt(d / 4) + 1)


@needs_avx512
def test_candidates():
    from tqvec.kernels.staged.avx512 import candidates_avx512

    estimates, factor = sts.rng(1).standard_normal((2, 200)).astype(np.float32)
    out = np.zeros(200, np.int64)
    count = candidates_avx512(estimates, np.abs(factor), 32, 96, np.float32(0.3), np.float32(0.8), out)
    upper = estimates[:96] + np.abs(factor)[32:128] * np.float32(0.3)
    np.testing.assert_array_equal(out[:count], 32 + np.flatnonzero(upper >= np.float32(0.8)))


@needs_avx512
@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 6])
def test_prefix_and_full_dots(d, nbits):
    from tqvec.kernels.staged.avx512 import full_dot_avx512, prefix_dot_avx512

    data, codes = rows_of(d, nbits, 5)
    query = staged_query(direction(d), 1.0, np.float32(1))
    table = sts.rng(5).integers(0, 256, 64).astype(np.uint8)
    words = sts.rng(6).integers(-32767, 32768, 32).astype(np.int16)
    n_words = query.bytes_.size // 64
    for i in range(5):
        row = data.ctypes.data + i * data.shape[1]
        for planes in range(1, min(nbits, 4) + 1):
            prefix = codes[i] >> (nbits - planes)
            found = prefix_dot_avx512(row, d // 8, planes, table.ctypes.data, query.bytes_.ctypes.data, n_words)
            assert found == table[prefix].astype(np.int64) @ query.bytes_[:d].astype(np.int64)
        if nbits <= 4:
            small = query.integers // 8  # keeps random levels within int32
            found = full_dot_avx512(row, d // 8, nbits, words.ctypes.data, small.ctypes.data, n_words)
            assert found == words[codes[i]].astype(np.int64) @ small[:d].astype(np.int64)


@needs_avx512
@pytest.mark.parametrize("level", ["avx512", "amx"])
@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 7])
def test_byte_products_of_a_batch(d, nbits, level):
    if level not in features.available_levels():
        pytest.skip(f"needs {level}")
    from tqvec.kernels.staged.batch import unpack_levels_avx512

    data, codes = rows_of(d, nbits, 32)
    directions = np.stack([direction(d, seed) for seed in range(20)])
    batch = batch_tables(d, nbits, directions, np.ones(20), np.ones(20, np.float32))
    words = batch.packed.shape[1]
    levels = np.zeros((32, 64 * words), np.uint8)
    unpack_levels_avx512(data, 0, 32, d // 8, batch.planes, batch.table, words, levels)
    np.testing.assert_array_equal(levels[:, :d], batch.table[codes >> (nbits - batch.planes)])
    out = np.zeros((32, 32), np.int32)
    products(level)(batch.config, levels, batch.packed, words, out)
    step = np.abs(directions).max(axis=1, keepdims=True) / 127
    rounded = np.rint(directions.astype(np.float32) / step).astype(np.int64)
    np.testing.assert_array_equal(out[:, :20], levels[:, :d].astype(np.int64) @ rounded.T)
    assert not out[:, 20:].any()


@cache
def products(level):
    begin, pairs, end = (implementation(f"{name}_products", level) for name in ("begin", "pair", "end"))

    @numba.njit
    def run(config, levels, packed, words, out):
        begin(config)
        pairs(levels.ctypes.data, packed.ctypes.data, words, out.ctypes.data)
        end()

    return run


@pytest.mark.parametrize("nbits", [1, 2, 4, 6])
def test_slack_is_what_the_estimates_err(nbits):
    """Estimates from prefixes, computed in NumPy, differ from the full score by the standard error that is claimed."""
    d, n = 256, 3000
    rng = sts.rng(11)
    x = rng.standard_normal((n, d)).astype(np.float32)
    q = direction(d, seed=12)
    tq = tqvec.TurboQuant(d, nbits=nbits, seed=99)
    codes = tq.encode(x)
    values = np.unpackbits(codes.data, axis=1, bitorder="little").reshape(n, nbits, d)
    codes_of = sum(values[:, p].astype(int) << (nbits - 1 - p) for p in range(nbits))
    rotated = tq.rotate(q[None])[0].astype(np.float64)
    full = codes.scale * (codebook.centroids(d, nbits)[codes_of] @ rotated)
    stages = stage_tables(d, nbits)
    from tqvec.codec.stages import Z

    signs = np.where(values[:, 0] == 1, 1.0, -1.0)
    estimates = {1: (stages.sign_level * signs @ rotated, stages.slack[0])}
    for planes in stages.planes.tolist():
        step = byte_levels(d, nbits, planes)
        estimates[planes] = (step.unit * step.levels[codes_of >> (nbits - planes)] @ rotated, step.slack)
    for planes, (estimate, slack) in estimates.items():
        error = (codes.scale * estimate - full) / (slack / Z * codes.scale)
        # The claim includes the rounding of queries and tables, which is left out here: at most as large.
        assert np.sqrt(np.mean(error**2)) < 1.06
        if planes < min(nbits, 4):
            assert np.sqrt(np.mean(error**2)) > 0.94
            assert abs(error.mean()) < 0.1

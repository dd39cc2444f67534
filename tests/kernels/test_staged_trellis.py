"""The parts of the staged and the batched search that read trellis codes, against NumPy."""

import numba
import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec.codec.bands import Band, integer_levels
from tqvec.codec.codebooks import trellis
from tqvec.codec.tables.batch import byte_levels
from tqvec.codec.tables.staged import level_bytes, plane_order, prefix_planes, stage_tables
from tqvec.index.prefixes import PrefixBlocks
from tqvec.kernels import features
from tqvec.kernels.dispatch import available, implementation, module
from tqvec.kernels.simd.integers import sum_i32x16
from tqvec.kernels.simd.memory import load_i32x16
from tqvec.kernels.staged.prefetch import RowList
from tqvec.kernels.staged.unpack import BandShape, parity_plane
from tqvec.kernels.tables import Z
from tqvec.reference.trellis import windows as windows_of

WIDTHS = (1, 2, 3, 4, 5)
DIMS = (8, 17, 64, 72, 91, 128, 200, 259, 384)
LEVELS = ("avx2", "avx512")
PARITY = np.array([bin(i).count("1") % 2 for i in range(128)])


def needs(level):
    if level not in features.available_levels():
        pytest.skip(f"this process can't run {level} (LLVM would abort it)")


def rows_of(d, nbits, n):
    """Any codes, with 64 spare rows; their windows and their indices, (n, d)."""
    codes = sts.rng(nbits).integers(0, 2**nbits, (n, d))
    planes = [codes >> p & 1 for p in range(nbits - 1, -1, -1)]
    data = np.packbits(np.concatenate(planes, axis=1).astype(np.uint8), axis=1, bitorder="little")
    spare = sts.rng(9).integers(0, 256, (64, data.shape[1])).astype(np.uint8)
    windows = windows_of(codes & 1, 7 - nbits)
    return np.concatenate([data, spare]), windows, codes >> 1 << (8 - nbits) | windows


@pytest.mark.parametrize("windows", [0, 3, 7])
def test_plane_order(windows):
    def reverse(index):
        bits = f"{index:07b}"
        return int(bits[: 7 - windows] + bits[7 - windows :][::-1], 2)

    assert plane_order(windows).tolist() == [reverse(index) for index in range(128)]


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("nbits", WIDTHS)
def test_full_dots(d, nbits, level):
    needs(level)
    add, load, total = implementation("add_dots", level), load_i32x16, sum_i32x16
    data, _, index = rows_of(d, nbits, 5)
    levels = np.zeros(256, np.uint32)
    words = sts.rng(6).integers(-32767, 32768, 128).astype(np.int16)
    levels[:128] = words.view(np.uint16)
    table = level_bytes(levels, nbits, 8 - nbits)
    query = np.zeros(-(-d // 64) * 64, np.int16)
    query[:d] = sts.rng(7).integers(-100, 101, d)
    before = sts.rng(5).integers(-1000, 1000, 16).astype(np.int32)

    @numba.njit
    def run(before, data, i, plane_bits, planes, table, query):
        at, words = 8 * (data.ctypes.data + i * data.shape[1]), query.size // 64
        sums = load(before.ctypes.data)
        return total(add(sums, at, plane_bits, planes, 8 - planes, table.ctypes.data, query.ctypes.data, words))

    for i in range(5):
        expected = words[index[i]].astype(np.int64) @ query[:d].astype(np.int64) + before.sum()
        assert run(before, data, i, d, nbits, table, query) == expected


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("nbits", WIDTHS)
def test_unpacked_levels(d, nbits, level):
    needs(level)
    unpack = implementation("unpack_levels", level)

    @numba.njit
    def run(data, numbers, band, table, out):
        rows = RowList(data.ctypes.data, data.shape[1], numbers.ctypes.data, 32)
        unpack(rows, band, table.ctypes.data, out.ctypes.data, out.shape[1])

    data, _, index = rows_of(d, nbits, 33)
    words, windows = -(-d // 64), 8 - nbits
    table = sts.rng(3).integers(0, 256, 128).astype(np.uint8)
    actual = np.zeros((32, 64 * words), np.uint8)
    band = BandShape(0, d, nbits, windows, words)
    run(data, np.arange(1, 33, dtype=np.int32), band, table[plane_order(windows)], actual)
    np.testing.assert_array_equal(actual[:, :d], table[index[1:]])


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0b0110010, 0b0101111, 0b1010111, 1])
@pytest.mark.parametrize("d", [*DIMS, 1000])
@pytest.mark.parametrize("nbits", [1, 2])
def test_parities(d, nbits, mask):
    @numba.njit
    def run(data, i, first, plane_bits, mask, out):
        parity_plane(8 * (data.ctypes.data + i * data.shape[1]) + first, plane_bits, mask, out.ctypes.data)

    data, _, _ = rows_of(d, nbits, 3)
    path = np.unpackbits(data[:3], axis=1, bitorder="little")[:, (nbits - 1) * d : nbits * d]
    expected = sum(np.roll(path, k, axis=1) for k in range(7) if mask >> k & 1) & 1
    for i in range(3):
        out = np.zeros(d // 8 + 64, np.uint8)
        run(data, i, (nbits - 1) * d, d, mask, out)
        np.testing.assert_array_equal(np.unpackbits(out, bitorder="little")[:d], expected[i])


@pytest.mark.skipif(not available("search_few"), reason="no staged search at this level")
@pytest.mark.parametrize("d", [16, 72, 91])
def test_sign_blocks_of_one_bit(d):
    data, windows, _ = rows_of(d, 1, 130)
    signs = np.packbits(PARITY[windows & trellis.sign_mask(1)].astype(np.uint8), axis=1, bitorder="little")
    expected, blocks = (PrefixBlocks(prefix_planes((Band(0, d, 1),), np.array([windows]), (1,))) for windows in (0, 7))
    for ntotal in (70, 130):
        np.testing.assert_array_equal(blocks.of(data, ntotal)[:5], expected.of(signs, ntotal)[:5])


@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize("d", [64, 384])
def test_slack_is_what_the_estimates_err(d, nbits):
    """Estimates from one and two bits, and from bytes, differ from the full score by the error that is claimed."""
    n = 4000
    windows = 8 - nbits
    x = sts.rng(11).standard_normal((n, d)).astype(np.float32)
    q = sts.unit(n, d, seed=12)
    tq = tqvec.TurboQuant(d, nbits=nbits, codebook="trellis", seed=99)
    codes = tq.encode(x)
    planes = np.unpackbits(codes.data, axis=1, bitorder="little").reshape(n, nbits, d).astype(np.int64)
    index = sum(planes[:, p] << (6 - p) for p in range(nbits - 1)) + windows_of(planes[:, -1], windows - 1)
    rotated = tq.transform.rotate(q.astype(np.float32)).astype(np.float64)

    def score(values):
        return np.einsum("ij,ij->i", values, rotated)

    full = score(tq.quantizer.centroids[0][index])
    levels = integer_levels(d, tq.quantizer).levels
    stages = stage_tables(d, tq.bands, np.array([windows]), tq.band_std, levels, (1,))
    first, second = (score(2.0 * PARITY[index & mask] - 1) for mask in trellis.parity_masks(nbits)[:2])
    by_signs = stages.prefix_level[0] * first
    estimates = {1: (by_signs, Z * np.sqrt(stages.unknown[0]))}
    estimates[2] = (stages.sign_share * by_signs + stages.second_level * second, stages.second_slack)
    for steps in (127, 15):
        step = byte_levels(d, nbits, windows, steps)
        levels = np.empty(128)
        levels[plane_order(windows)] = step.levels
        slack = Z * np.sqrt(step.variance)
        estimates[steps] = (step.unit * score(levels[index]), slack)
    for bits, (estimate, slack) in estimates.items():
        error = (estimate - full) / (slack / Z)
        # The claim includes the rounding of queries and tables for one and two bits, which is left out here.
        assert 0.93 < np.sqrt(np.mean(error**2)) < 1.05, bits
        assert abs(error.mean()) < 0.1


def test_tables_of_a_batch_have_the_levels_of_all_indices():
    steps = module("pair_products").PRODUCT_STEPS[0] if available("search_batch") else 127
    for nbits in WIDTHS:
        step = byte_levels(384, nbits, 8 - nbits, steps)
        table = step.table
        assert step.planes == nbits
        assert (table.min(), table.max()) == (1, 2 * steps + 1)
        expected = trellis.table(384, nbits).ravel()[plane_order(8 - nbits)]
        levels = (table.astype(np.float64) - step.zero) * step.unit
        np.testing.assert_allclose(levels, expected, atol=0.6 * step.unit)

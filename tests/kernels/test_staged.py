"""The kernels of the staged and the batched search against NumPy."""

from functools import cache

import numba
import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec.codec.bands import Band
from tqvec.codec.codebooks import scalar
from tqvec.codec.tables.batch import batch_tables, byte_levels
from tqvec.codec.tables.staged import level_bytes, prefix_means, prefix_planes, stage_tables
from tqvec.index.prefixes import PrefixBlocks
from tqvec.kernels import features
from tqvec.kernels.arguments import Estimator, RowBlocks, Rows
from tqvec.kernels.dispatch import available, implementation, module
from tqvec.kernels.simd.amx import tile_config
from tqvec.kernels.simd.integers import sum_i32x16
from tqvec.kernels.simd.memory import load_i32x16, store_i32x16
from tqvec.kernels.staged.prefetch import RowList
from tqvec.kernels.staged.unpack import BandShape
from tqvec.kernels.tables import Z
from tqvec.kernels.topk.portable import EMPTY_ID

DIMS = (8, 32, 64, 72, 128, 200, 384, 1000)
LEVELS = ("avx2", "avx512")
needs_staged = pytest.mark.skipif(not available("search_few"), reason="no staged search at this level")


ALL, EVERYWHERE = np.zeros(0, np.uint64), np.zeros(0, np.int32)  # no filter
SOME = np.delete(np.arange(33, dtype=np.int32), 7)


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
    c, p = scalar.centroids(d, nbits), scalar.probabilities(d, nbits)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    energies = []
    for planes in range(1, nbits + 1):
        means, energy = prefix_means(d, nbits, planes)
        spread = np.repeat(means, 2 ** (nbits - planes))
        assert d * np.sum(p * c * spread) == pytest.approx(energy, rel=1e-9)
        energies.append(energy)
    assert np.all(np.diff(energies) > 0)
    np.testing.assert_allclose(prefix_means(d, nbits, nbits)[0], c, rtol=1e-12)
    assert energies[-1] == pytest.approx(1 - scalar.distortion(d, nbits), rel=1e-9)


def needs(level):
    if level not in features.available_levels():
        pytest.skip(f"this process can't run {level} (LLVM would abort it)")


SCALAR = np.zeros(1, np.int64)  # windows of a scalar one
NO_LEVELS = np.zeros((1, 256), np.uint32)


def bands_of(d, nbits):
    return np.array([[0, d, nbits]])


def stages_of(d, nbits):
    return stage_tables(d, (Band(0, d, nbits),), SCALAR, np.ones(1, np.float32), NO_LEVELS, (1,))


def query_of(d, nbits=4):
    from tqvec.kernels.staged.query import fill_query, query_at, staged_queries

    stages = stages_of(d, nbits)
    staged = staged_queries(1, stages)
    fill_query(direction(d), bands_of(d, nbits), stages, 1.0, np.float32(1), staged, 0)
    return query_at(staged, 0)


def signs_of(d, nbits):
    return PrefixBlocks(prefix_planes((Band(0, d, nbits),), SCALAR, (1,)))


def sign_blocks(plane_bytes, axes):
    """Signs of whole blocks of 16 rows, (rows, 4 * groups) uint8, in the order of a level."""
    groups = plane_bytes.shape[1] // 4
    return np.ascontiguousarray(plane_bytes.reshape(-1, 16, groups, 4).transpose(axes)).reshape(-1, groups, 64)


@needs_staged
def test_sign_blocks_are_the_sign_plane():
    data, codes = rows_of(72, 3, 200)
    signs = np.zeros((208, 96), np.uint8)
    signs[:200, :72] = codes >> 2
    expected = sign_blocks(np.packbits(signs, axis=1, bitorder="little"), module("prefix_totals").PREFIX_AXES)
    blocks = signs_of(72, 3)
    for ntotal in (1, 50, 64, 130, 200):  # as rows are added
        actual = blocks.of(data, ntotal)
        np.testing.assert_array_equal(actual[: ntotal // 16], expected[: ntotal // 16])
    np.testing.assert_array_equal(actual[:13], expected)
    assert actual.shape[0] % 4 == 0


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("groups", [1, 2, 3, 12, 255, 256, 257, 600])
def test_sign_totals(groups, level):
    needs(level)
    totals = implementation("prefix_totals", level)
    store = store_i32x16

    @numba.njit
    def run(signs, table, out):
        size = 64 * signs.shape[1]
        p0 = signs.ctypes.data
        p1, p2, p3 = p0 + size, p0 + 2 * size, p0 + 3 * size
        # in any order
        x3, x0, x2, x1 = totals((p3, p0, p2, p1), (p0, p1, p2, p3), table.ctypes.data, signs.shape[1])
        for i, x in enumerate((x0, x1, x2, x3)):
            store(out.ctypes.data + 64 * i, x)

    rows = sts.rng(1).integers(0, 256, (64, 4 * groups)).astype(np.uint8)
    signs = sign_blocks(rows, module("prefix_totals", level).PREFIX_AXES)
    nibbles = np.stack([rows & 15, rows >> 4], axis=2).reshape(64, groups, 8)
    for table in (sts.rng(2).integers(0, 64, (groups, 128)).astype(np.uint8), np.full((groups, 128), 63, np.uint8)):
        out = np.zeros(64, np.int32)
        run(signs, table, out)
        entries = table.reshape(groups, 2, 4, 16).transpose(0, 2, 1, 3).reshape(groups, 8, 16)
        expected = np.take_along_axis(entries[None], nibbles[..., None], axis=3).sum(axis=(1, 2, 3), dtype=np.int64)
        np.testing.assert_array_equal(out, expected)


@needs_staged
@pytest.mark.parametrize("d", DIMS)
def test_estimates_from_signs(d):
    from tqvec.kernels.staged.one_query import prefix_estimates

    n = 150
    data, codes = rows_of(d, 2, n)
    query = query_of(d, 2)
    factor = sts.rng(3).uniform(0.5, 2, n + 64).astype(np.float32)
    bias = sts.rng(4).standard_normal(n + 64).astype(np.float32)
    signs = signs_of(d, 2).of(data, n)
    exact = np.where(codes >= 2, 1.0, -1.0) @ direction(d).astype(np.float64) * stages_of(d, 2).prefix_level[0]
    a, b = np.float32(query.table_step), np.float32(-query.table_zero)
    for start, added in ((0, np.zeros(0, np.float32)), (64, bias)):
        out, tops = np.zeros(n - start + 64, np.float32), np.zeros((3, 16), np.float32)
        rows = Rows(data, factor, added, 0)
        blocks = RowBlocks(ALL, EVERYWHERE, start, -(-(n - start) // 16))
        prefix_estimates(signs, rows, blocks, Estimator(query.table, a, b, np.float32(0.3)), out, tops)
        whole = (n - start) // 64
        upper = out[: 64 * whole] + np.float32(0.3) * factor[start : start + 64 * whole]
        np.testing.assert_allclose(tops[:whole], upper.reshape(whole, 4, 16).max(axis=1), rtol=1e-6)
        expected = exact[start:] * factor[start:n] + (added[start:n] if added.size else 0)
        # Each of d/4 table entries is off by at most half a step.
        np.testing.assert_allclose(out[: n - start], expected, atol=query.table_step * (d / 8 + 4) * 2 + 1e-4)
        assert np.abs(out[: n - start] - expected).mean() < query.table_step * (0.5 * np.sqrt(d / 4) + 1)


@needs_staged
def test_estimates_of_allowed_rows():
    """Those of the blocks that have any, in their order; rows that are not allowed are at -inf."""
    from tqvec.kernels.scan.allowed import allowed_blocks
    from tqvec.kernels.staged.one_query import prefix_estimates

    n, d = 1000, 72
    data, _ = rows_of(d, 2, n)
    query = query_of(d, 2)
    slack = np.float32(0.3)
    estimator = Estimator(query.table, np.float32(query.table_step), np.float32(-query.table_zero), slack)
    factor, bias = (sts.rng(seed).uniform(0.5, 2, n + 64).astype(np.float32) for seed in (3, 4))
    signs = signs_of(d, 2).of(data, n)
    whole, tops = np.zeros(n + 64, np.float32), np.zeros((20, 16), np.float32)
    rows = Rows(data, factor, bias, 0)
    prefix_estimates(signs, rows, RowBlocks(ALL, EVERYWHERE, 0, -(-n // 16)), estimator, whole, tops)
    for share in (0.0, 0.004, 0.03, 0.5, 1.0):
        chosen = sts.rng(5).random(n) < share
        words = np.zeros(-(-n // 64) * 8, np.uint8)
        words[: -(-n // 8)] = np.packbits(chosen, bitorder="little")
        starts = np.zeros(n // 16 + 8, np.int32)
        covered = allowed_blocks(words.view(np.uint64), 128, n, starts)
        blocks = [i for i in range(128, n, 16) if chosen[i : i + 16].any()]
        assert starts[: len(blocks)].tolist() == blocks
        assert covered == sum(min(16, n - i) for i in blocks)
        out = np.zeros(16 * len(blocks) + 64, np.float32)
        count = len(blocks)
        prefix_estimates(signs, rows, RowBlocks(words.view(np.uint64), starts, 0, count), estimator, out, tops)
        for i, start in enumerate(blocks):
            here = slice(start, min(start + 16, n))
            expected = np.where(chosen[here], whole[here], -np.inf)
            np.testing.assert_array_equal(out[16 * i :][: expected.size], expected)
        upper = out[: 16 * (count // 4 * 4)].reshape(-1, 4, 16).copy()
        upper += slack * np.array([factor[i : i + 16] for i in blocks[: count // 4 * 4]]).reshape(-1, 4, 16)
        np.testing.assert_allclose(tops[: count // 4], upper.max(axis=1), rtol=1e-6)


@needs_staged
@pytest.mark.parametrize("d", [8, 40, 104, 384])
def test_query_in_the_forms_that_stages_take(d):
    query, q, stages = query_of(d), direction(d), stages_of(d, 4)
    padded = np.zeros(-(-d // 64) * 64, np.float32)
    padded[:d] = q
    level = stages.prefix_level[:d]
    assert np.ptp(level) == 0
    assert not stages.prefix_level[d:].any()
    signs = 1 - 2 * (1 - (np.arange(16)[:, None] >> np.arange(4) & 1))  # bit i of the entry set: +1
    sums = (padded * level[0])[: -(-d // 32) * 32].reshape(-1, 4) @ signs.T
    entries = query.table.reshape(-1, 2, 4, 16).transpose(0, 2, 1, 3).reshape(-1, 16)  # even nibbles come first
    assert query.table.max() <= 63
    np.testing.assert_allclose((entries.astype(np.float64) - 32) * query.table_step, sums, atol=query.table_step * 0.51)
    assert query.table_zero == pytest.approx(32 * query.table_step * entries.shape[0])
    np.testing.assert_allclose(query.bytes_ * query.byte_unit, padded, atol=query.byte_unit * 0.51)
    assert query.byte_sum == query.bytes_.sum(dtype=np.int64)
    np.testing.assert_array_equal(query.integers, np.rint(padded * np.float32(32767)))


def upper_bounds(seed, slack):
    """Estimates of 256 rows, factors of 320, and the tops of the rows for a slack."""
    estimates, factor = sts.rng(seed).standard_normal((2, 320)).astype(np.float32)
    factor = np.abs(factor)
    upper = estimates[:256] + factor[64:320] * np.float32(slack)
    return estimates[:256], factor, upper, np.ascontiguousarray(upper.reshape(4, 4, 16).max(axis=1))


@needs_staged
@pytest.mark.parametrize("threshold", [-10, 0.8, 2, 10])
def test_candidates(threshold):
    from tqvec.kernels.staged.one_query import candidates

    estimates, factor, upper, tops = upper_bounds(1, 0.3)
    for count in (256, 150):
        out = np.zeros(256 + 64, np.int32)
        blocks = RowBlocks(ALL, EVERYWHERE, 64, count)
        actual = candidates(estimates, tops, factor, blocks, count, np.float32(0.3), np.float32(threshold), out)
        whole = -(-count // 64) * 64
        np.testing.assert_array_equal(out[:actual], np.flatnonzero(upper[:whole] >= np.float32(threshold)))


@needs_staged
@pytest.mark.parametrize("probes", [1, 26, 100])
def test_first_probes(probes):
    from tqvec.kernels.staged.one_query import first_probes

    estimates, _, _, tops = upper_bounds(2, 0.0)
    best, rows = np.full(probes, -np.inf, np.float32), np.full(probes, EMPTY_ID, np.int64)
    count = first_probes(estimates, tops, 256, best, rows)
    assert count == min(probes, 64)  # of the 64 sets of rows v, v + 16, v + 32, v + 48, the best of each
    best_of_each = estimates.reshape(4, 4, 16).max(axis=1).ravel()
    np.testing.assert_array_equal(np.sort(estimates[rows[:count]]), np.sort(best_of_each)[-count:])


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("d", [*DIMS, 20_000])
def test_plane_dots(d, level):
    needs(level)
    arrange, dot = implementation("plane_query", level), implementation("plane_dot", level)
    bits = np.zeros((4, -(-d // 64) * 64), np.uint8)
    bits[:, :d] = sts.rng(1).integers(0, 2, (4, d))
    bits[3] = 1
    planes = np.concatenate([np.packbits(bits, axis=1, bitorder="little").ravel(), bytes_of(64)])
    query = np.zeros(bits.shape[1], np.int8)
    query[:d] = sts.rng(2).integers(-127, 128, d)

    @numba.njit
    def run(planes, query, at):
        return dot(planes.ctypes.data + at, query.ctypes.data, query.size)

    for entries in (query, np.where(np.arange(query.size) < d, -127, 0).astype(np.int8)):
        for i in range(4):
            expected = bits[i].astype(np.int64) @ entries.astype(np.int64)
            assert run(planes, arrange(entries), i * bits.shape[1] // 8) == expected


def bytes_of(count):
    return sts.rng(7).integers(0, 256, count).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("d", [*DIMS, 192, 320])
def test_full_dots(d, level):
    """Of every width; the sums of what came before stay."""
    needs(level)
    add, load, total = implementation("add_dots", level), load_i32x16, sum_i32x16

    @numba.njit
    def run(before, data, i, plane_bytes, planes, table, query):
        at = data.ctypes.data + i * data.shape[1]
        sums = load(before.ctypes.data)
        return total(add(sums, at, plane_bytes, planes, 0, table.ctypes.data, query.ctypes.data, query.size // 64))

    before = sts.rng(5).integers(-1000, 1000, 16).astype(np.int32)
    query = np.zeros(-(-d // 64) * 64, np.int16)
    query[:d] = np.rint(direction(d) * 32767) // 8  # keeps random levels within int32
    words = sts.rng(6).integers(-32767, 32768, 256).astype(np.int16)
    for nbits in range(1, 9):
        data, codes = rows_of(d, nbits, 5)
        table = level_bytes(words.view(np.uint16).astype(np.uint32), nbits, 0)
        for i in range(5):
            expected = words[codes[i]].astype(np.int64) @ query[:d].astype(np.int64) + before.sum()
            assert run(before, data, i, d // 8, nbits, table, query) == expected


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("d", DIMS)
def test_unpacked_levels(d, level):
    """Of the first planes of any width, of 32 out of 33 rows, into the middle of wider ones."""
    needs(level)
    unpack = implementation("unpack_levels", level)

    @numba.njit
    def run(data, numbers, band, table, out):
        rows = RowList(data.ctypes.data, data.shape[1], numbers.ctypes.data, 32)
        unpack(rows, band, table.ctypes.data, out.ctypes.data + 64, out.shape[1])

    words = -(-d // 64)
    for nbits in range(1, 9):
        data, codes = rows_of(d, nbits, 33)
        planes = min(nbits, 7)
        table = np.resize(sts.rng(3).integers(0, 256, max(16, 2**planes)).astype(np.uint8), 128)
        actual = np.full((32, 64 * words + 128), 9, np.uint8)
        run(data, SOME, BandShape(d // 8, planes, 0, words), table, actual)
        np.testing.assert_array_equal(actual[:, 64 : 64 + d], table[codes[SOME] >> (nbits - planes)])
        assert np.all(actual[:, :64] == 9)
        assert np.all(actual[:, -64:] == 9)


@pytest.mark.parametrize("level", ["avx2", "avx512", "amx"])
@pytest.mark.parametrize("words", [1, 2, 3, 6, 24])
def test_byte_products(words, level):
    needs(level)
    level_steps, query_steps = module("pair_products", level).PRODUCT_STEPS
    levels = sts.rng(4).integers(0, 2 * level_steps + 2, (32, 64 * words)).astype(np.uint8)
    queries = sts.rng(5).integers(-query_steps, query_steps + 1, (32, 64 * words)).astype(np.int8)
    levels[:2], queries[:2], queries[2:4] = 2 * level_steps + 1, query_steps, -query_steps  # the largest sums
    packed = queries.reshape(2, 16, words, 16, 4).transpose(0, 2, 3, 1, 4).reshape(2, words, 16, 64)
    out = np.zeros((32, 32), np.int32)
    products(level)(tile_config(), levels, np.ascontiguousarray(packed), words, out)
    np.testing.assert_array_equal(out, levels.astype(np.int64) @ queries.T.astype(np.int64))


@pytest.mark.parametrize("steps", [127, 15])
@pytest.mark.parametrize("nbits", range(1, 9))
def test_rounded_levels_have_the_right_length(nbits, steps):
    """E<c, levels> = e_b: long vectors would be judged too low or too high otherwise."""
    d, planes = 384, min(nbits, 7)
    step = byte_levels(d, nbits, 0, steps)
    spread = np.repeat(step.levels, 2 ** (nbits - planes)) * step.unit
    mean = d * np.sum(scalar.probabilities(d, nbits) * scalar.centroids(d, nbits) * spread)
    assert mean == pytest.approx(1 - scalar.distortion(d, nbits), rel=1e-9)


@needs_staged
def test_tables_of_a_batch():
    d, nbits = 200, 4
    directions = np.stack([direction(d, seed) for seed in range(20)])
    ones = np.ones(20, np.float32)
    batch = batch_tables(bands_of(d, nbits), SCALAR, ones[:1], directions, np.ones(20), ones)
    level_steps, query_steps = module("pair_products").PRODUCT_STEPS
    assert batch.packed.shape == (2, 4, 16, 64)
    queries = batch.packed.reshape(2, 4, 16, 16, 4).transpose(0, 3, 1, 2, 4).reshape(32, 256)
    step = np.abs(directions).max(axis=1, keepdims=True) / query_steps
    np.testing.assert_array_equal(queries[:20, :d], np.rint(directions / step))
    assert not queries[20:].any()
    assert batch.planes.tolist() == [4]
    table = batch.table[0]
    assert (table[:16].min(), table[:16].max()) == (1, 2 * level_steps + 1)
    np.testing.assert_array_equal(table, np.tile(table[:16], 8))


@cache
def products(level):
    begin, pairs, end = (implementation(f"{name}_products", level) for name in ("begin", "pair", "end"))

    @numba.njit
    def run(config, levels, packed, words, out):
        begin(config)
        pairs(levels.ctypes.data, packed.ctypes.data, words, out.ctypes.data)
        end()

    return run


@pytest.mark.parametrize("nbits", [1, 2, 4, 6, 8])
def test_slack_is_what_the_estimates_err(nbits):
    """Estimates of second bits and of bytes, computed in NumPy, err by the standard error that is claimed."""
    d, n = 256, 3000
    rng = sts.rng(11)
    x = rng.standard_normal((n, d)).astype(np.float32)
    q = direction(d, seed=12)
    tq = tqvec.TurboQuant(d, nbits=nbits, seed=99)
    codes = tq.encode(x)
    values = np.unpackbits(codes.data, axis=1, bitorder="little").reshape(n, nbits, d)
    codes_of = sum(values[:, p].astype(int) << (nbits - 1 - p) for p in range(nbits))
    rotated = tq.transform.rotate(q[None])[0].astype(np.float64)
    full = codes.scale * (scalar.centroids(d, nbits)[codes_of] @ rotated)
    stages = stages_of(d, nbits)
    estimates = {}
    if nbits > 1:
        signs, seconds = (np.where(values[:, p] == 1, 1.0, -1.0) @ rotated for p in (0, 1))
        by_signs = stages.prefix_level[0] * signs
        estimates[2] = (stages.sign_share * by_signs + stages.second_level * seconds, stages.second_slack)
    steps_of_products = ((127, 127), (15, 33))
    for steps in steps_of_products:
        step = byte_levels(d, nbits, 0, steps[0])
        unit = np.abs(rotated).max() / steps[1]
        slack = Z * np.sqrt(step.variance + step.energy * (step.unit * unit) ** 2 / 12)
        rounded = np.rint(rotated / unit) * unit
        estimates[steps] = (step.unit * step.levels[codes_of >> max(nbits - 7, 0)] @ rounded, slack)
    for planes, (estimate, slack) in estimates.items():
        error = (codes.scale * estimate - full) / (slack / Z * codes.scale)
        # Second bits: the rounding of the sign tables is left out here, at most as large.
        assert np.sqrt(np.mean(error**2)) < 1.06
        if planes in steps_of_products or planes < nbits:
            assert np.sqrt(np.mean(error**2)) > 0.94
            assert abs(error.mean()) < 0.1

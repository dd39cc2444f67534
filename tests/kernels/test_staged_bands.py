"""Several bands in the staged and the batched search, against NumPy."""

import numba
import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec.codec.bands import Band
from tqvec.codec.calibration import Calibration, distortions
from tqvec.codec.codebooks import trellis
from tqvec.codec.tables.batch import batch_tables
from tqvec.codec.tables.staged import layout, level_bytes, plane_order, prefix_counts, prefix_planes, stage_tables
from tqvec.index.prefixes import PrefixBlocks
from tqvec.kernels import features
from tqvec.kernels.arguments import Estimator, RowBlocks, Rows
from tqvec.kernels.dispatch import available, implementation, module
from tqvec.kernels.scan.queries import integer_queries_portable
from tqvec.kernels.simd.integers import sum_i32x16
from tqvec.kernels.simd.memory import zero_i32x16
from tqvec.kernels.staged.prefetch import RowList
from tqvec.kernels.staged.unpack import BandShape
from tqvec.kernels.tables import TABLE_BYTES, Z
from tqvec.reference.trellis import windows as windows_of

LEVELS = ("avx2", "avx512")
PARITY = np.array([bin(i).count("1") % 2 for i in range(128)])
PAIRS = {  # of odd numbers of words, and words that are not full
    "scalar": ((8, 3), (64, 8), (72, 1), (136, 5), (24, 2), (40, 7)),
    "trellis": ((16, 5), (72, 1), (64, 2), (136, 3), (24, 4), (32, 2)),
}
SPREAD = ((32, 5), (64, 4), (96, 3), (96, 2), (64, 1))  # 32 of 384 axes have no bits
needs_staged = pytest.mark.skipif(not available("search_few"), reason="no staged search at this level")


def needs(level):
    if level not in features.available_levels():
        pytest.skip(f"this process can't run {level} (LLVM would abort it)")


def bands_of(pairs, codebook):
    """Bands and windows of (coordinates, width) pairs."""
    stops = np.cumsum([size for size, _ in pairs]).tolist()
    bands = tuple(Band(stop - size, stop, nbits) for (size, nbits), stop in zip(pairs, stops, strict=True))
    return bands, np.array([8 - nbits if codebook == "trellis" else 0 for _, nbits in pairs])


def rows_of(codebook, n):
    """Bands, windows, any codes of `n` rows, with 64 spare rows, and by band their codes or indices of levels."""
    bands, windows = bands_of(PAIRS[codebook], codebook)
    planes, indices = [], []
    for b, (start, stop, nbits) in enumerate(bands):
        codes = sts.rng(b).integers(0, 2**nbits, (n, stop - start))
        planes += [codes >> p & 1 for p in range(nbits - 1, -1, -1)]
        paths = codes >> 1 << (8 - nbits) | windows_of(codes & 1, 7 - nbits) if windows[b] else codes
        indices.append(paths)
    data = np.packbits(np.concatenate(planes, axis=1).astype(np.uint8), axis=1, bitorder="little")
    return bands, windows, np.concatenate([data, sts.rng(9).integers(0, 256, (64, data.shape[1]), np.uint8)]), indices


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("codebook", PAIRS)
def test_full_scores(codebook, level):
    """Bands are added up after each other; `row_dot` does so at the level of this process."""
    needs(level)
    add, zero, total = implementation("add_dots", level), zero_i32x16, sum_i32x16

    @numba.njit
    def one_by_one(data, i, fields, tables, query):
        sums = zero()
        for b in range(fields.shape[0]):
            start, size, planes, windows, entry, words = fields[b]
            row, table = data.ctypes.data + i * data.shape[1] + start, tables.ctypes.data + tables.shape[1] * b
            sums = add(sums, row, size, planes, windows, table, query.ctypes.data + 2 * entry, words)
        return total(sums)

    bands, windows, data, indices = rows_of(codebook, 5)
    fields = layout(bands, windows)
    levels = sts.rng(6).integers(-32767, 32768, (len(bands), 256)).astype(np.int16)
    words = levels.view(np.uint16).astype(np.uint32)
    tables = np.array([level_bytes(words[b], band.nbits, int(windows[b])) for b, band in enumerate(bands)])
    query = sts.rng(7).uniform(-100, 100, bands[-1].stop) / 32767
    integers = np.full((1, 64 * fields[:, 5].sum()), 9, np.int16)
    integer_queries_portable(query.astype(np.float32)[None], np.array(bands), 64, integers)
    assert tables.shape[1] == TABLE_BYTES
    for i in range(5):
        expected = 0
        for b, (start, stop, _) in enumerate(bands):
            entries = integers[0, fields[b, 4] :][: stop - start].astype(np.int64)
            np.testing.assert_array_equal(entries, np.rint(query[start:stop].astype(np.float32) * np.float32(32767)))
            expected += levels[b, indices[b][i]].astype(np.int64) @ entries
        assert one_by_one(data, i, fields, tables, integers[0]) == expected
        if available("add_dots"):
            assert own_row_dot()(data, i, fields, tables, integers[0]) == expected


def own_row_dot():
    from tqvec.kernels.staged.full_score import row_dot

    @numba.njit
    def run(data, i, fields, tables, query):
        row = data.ctypes.data + i * data.shape[1]
        return row_dot(row, fields.ctypes.data, fields.shape[0], tables.ctypes.data, query.ctypes.data)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("codebook", PAIRS)
def test_unpacked_levels(codebook, level):
    """Every band to its place, of all but the first of 33 rows."""
    needs(level)
    unpack = implementation("unpack_levels", level)

    @numba.njit
    def run(data, numbers, fields, planes, tables, out):
        for b in range(fields.shape[0]):
            rows = RowList(data.ctypes.data + fields[b, 0], data.shape[1], numbers.ctypes.data, 32)
            band = BandShape(fields[b, 1], planes[b], fields[b, 3], fields[b, 5])
            unpack(rows, band, tables.ctypes.data + 128 * b, out.ctypes.data + fields[b, 4], out.shape[1])

    bands, windows, data, indices = rows_of(codebook, 33)
    fields = layout(bands, windows)
    planes = np.array([min(band.nbits, 7) for band in bands])
    tables = sts.rng(3).integers(0, 256, (len(bands), 128), np.uint8)
    ordered = np.array([table[plane_order(int(w))] if w else table for table, w in zip(tables, windows, strict=True)])
    for b, band in enumerate(bands):
        if windows[b] == 0 and band.nbits <= 4:
            ordered[b] = tables[b] = np.tile(tables[b, :16], 8)
    actual = np.zeros((32, 64 * fields[:, 5].sum()), np.uint8)
    run(data, np.arange(1, 33, dtype=np.int32), fields, planes, ordered, actual)
    for b, (start, stop, nbits) in enumerate(bands):
        codes = indices[b][1:] if windows[b] else indices[b][1:] >> (nbits - planes[b])
        np.testing.assert_array_equal(actual[:, fields[b, 4] :][:, : stop - start], tables[b, codes])


@needs_staged
@pytest.mark.parametrize("codebook", PAIRS)
def test_prefix_blocks(codebook):
    """Planes and parities of several bands follow each other; paths close around each band, not around the row."""
    counts = (2, 0, 1, 2, 2, 1)
    bands, windows, data, indices = rows_of(codebook, 200)
    bits = []
    for band, count, index in zip(bands, counts, indices, strict=True):
        for p in range(count):
            scalar = index >> (band.nbits - 1 - p) & 1
            bits.append(PARITY[index & trellis.parity_masks(band.nbits)[p]] if codebook == "trellis" else scalar)
    prefix = np.concatenate(bits, axis=1)
    groups = -(-prefix.shape[1] // 32)
    packed = np.zeros((208, 4 * groups), np.uint8)
    packed[:200, : prefix.shape[1] // 8] = np.packbits(prefix.astype(np.uint8), axis=1, bitorder="little")
    expected = packed.reshape(13, 16, groups, 4).transpose(module("prefix_totals").PREFIX_AXES).reshape(13, groups, 64)
    blocks = PrefixBlocks(prefix_planes(bands, windows, counts))
    for ntotal in (1, 50, 64, 130, 200):  # as rows are added
        actual = blocks.of(data, ntotal)
        np.testing.assert_array_equal(actual[: ntotal // 16], expected[: ntotal // 16])
    np.testing.assert_array_equal(actual[:13], expected)


def calibrated(codebook, spreads):
    """A codec of bands `SPREAD` whose axes have standard deviations in these proportions, and a maker of such rows."""
    bands, _ = bands_of(SPREAD, codebook)
    table = distortions(384, codebook)
    g = np.array([1 / (1 - table[band.nbits]) for band in bands])
    factors = np.sqrt(g / g.max())
    axes = np.linalg.qr(sts.rng(20).standard_normal((384, 384)))[0]
    matrix = axes.copy()
    for band, factor in zip(bands, factors, strict=True):
        matrix[band.start : band.stop] *= factor
    spreads = np.asarray(spreads) / np.sqrt(np.sum([size for size, _ in SPREAD] * np.square(spreads)) / 384)
    calibration = Calibration(
        centre=np.zeros(384, np.float32),
        matrix=matrix.astype(np.float32),
        bands=bands,
        band_std=(spreads * factors).astype(np.float32),
    )
    codec = tqvec.TurboQuant(384, nbits=2, codebook=codebook).calibrated(calibration)
    widths = np.concatenate([np.repeat(spreads, [size for size, _ in SPREAD]), np.zeros(32)])

    def rows(n, seed):
        return (sts.rng(seed).standard_normal((n, 384)) * widths @ axes).astype(np.float32)

    return codec, rows


def estimates(codec, stages, blocks, codes, direction):
    """What the kernels make of a rotated query: estimates of rows of scale 1, and the slack."""
    from tqvec.kernels.staged.one_query import prefix_estimates
    from tqvec.kernels.staged.query import fill_query, query_at, staged_queries

    n = len(codes)
    staged = staged_queries(1, stages)
    fill_query(direction, codec.quantizer.bands, stages, 1.0, np.float32(1), staged, 0)
    query = query_at(staged, 0)
    out, tops, ones = np.zeros(n + 64, np.float32), np.zeros((n // 64 + 1, 16), np.float32), np.ones(n + 64, np.float32)
    numbers = np.float32(query.table_step), np.float32(-query.table_zero), np.float32(query.slack)
    everywhere = RowBlocks(np.zeros(0, np.uint64), np.zeros(0, np.int32), 0, -(-n // 16))
    rows = Rows(codes.data, ones, ones[:0], 0)
    prefix_estimates(blocks, rows, everywhere, Estimator(query.table, *numbers), out, tops)
    return out[:n], query.slack


@needs_staged
@pytest.mark.parametrize("counts", [(1, 1, 1, 1, 1), (2, 2, 2, 2, 1), (2, 1, 1, 0, 1), (2, 2, 0, 0, 0)])
@pytest.mark.parametrize("spreads", [(1, 1, 1, 1, 1), (2, 1.5, 1, 0.7, 0.4)])
@pytest.mark.parametrize("codebook", PAIRS)
def test_slack_is_what_prefixes_err(codebook, spreads, counts):
    """Estimates of random rows differ from their full scores by the standard error that is claimed, with no bias."""
    codec, rows = calibrated(codebook, spreads)
    windows, tables = codec.quantizer.windows, np.zeros((5, 256), np.uint32)
    codes = codec.encode(rows(2000, 21))
    stages = stage_tables(384, codec.bands, windows, codec.band_std, tables, counts)
    blocks = PrefixBlocks(prefix_planes(codec.bands, windows, counts)).of(codes.data, 2000)
    queries = rows(20, 22)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    full = codec.inner_product(queries, codes) / codes.scale
    off = []
    for direction, exact in zip(codec.transform.rotate(queries), full, strict=True):
        actual, slack = estimates(codec, stages, blocks, codes, direction)
        off.append((actual - exact) / (slack / Z))
    assert 0.97 < np.sqrt(np.mean(np.square(off))) < 1.03
    assert abs(np.mean(off)) < 0.05


@needs_staged
@pytest.mark.parametrize("spreads", [(1, 1, 1, 1, 1), (2, 1.5, 1, 0.7, 0.4)])
@pytest.mark.parametrize("codebook", PAIRS)
def test_slack_is_what_byte_products_err(codebook, spreads):
    """A batch takes z standard errors more than the full score on average, and is off by one of them."""
    codec, rows = calibrated(codebook, spreads)
    codes = codec.encode(rows(2000, 23))
    queries = rows(20, 24)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    known = codec.quantizer.bands, codec.quantizer.windows, codec.band_std
    batch = batch_tables(*known, codec.transform.rotate(queries), np.ones(20), np.ones(20, np.float32))
    fields = layout(codec.bands, codec.quantizer.windows)
    levels = np.zeros((2000, 64 * fields[:, 5].sum()), np.int64)
    for (start, stop, nbits), (first, size, _, w, entry, _), table in zip(
        codec.bands, fields, batch.table, strict=True
    ):
        planes = codes.data[:, first : first + nbits * size].reshape(2000, nbits, size)
        bits = np.unpackbits(planes, axis=2, bitorder="little").astype(np.int64)
        if w:
            windows = windows_of(bits[:, -1], int(w) - 1)
            index = np.argsort(plane_order(int(w)))[sum(bits[:, p] << (6 - p) for p in range(nbits - 1)) + windows]
        else:
            index = sum(bits[:, p] << (nbits - 1 - p) for p in range(nbits))
        levels[:, entry : entry + stop - start] = table[index]
    packed = batch.packed.reshape(2, -1, 16, 16, 4).transpose(0, 3, 1, 2, 4).reshape(32, -1).astype(np.int64)
    upper = (packed @ levels.T)[:20] * batch.weight[:20, None].astype(np.float64) + batch.slack[:20, None]
    over = upper - codec.inner_product(queries, codes) / codes.scale
    ratio = over.std(axis=1) / (over.mean(axis=1) / Z)
    assert 0.98 < ratio.mean() < 1.02


def counts_of(d, nbits, codebook="scalar", spreads=None):
    codec = tqvec.TurboQuant(d, nbits=nbits, codebook=codebook)
    spreads = codec.band_std if spreads is None else spreads
    return prefix_counts(d, codec.bands, codec.quantizer.windows, spreads)


@pytest.mark.parametrize("codebook", PAIRS)
def test_one_band_has_its_signs(codebook):
    for nbits in (1, 2, 4, 5):
        assert counts_of(384, nbits, codebook) == (1,)


@pytest.mark.parametrize("d", [128, 384, 1536])
@pytest.mark.parametrize("codebook", PAIRS)
def test_signs_of_all_coordinates_if_they_are_alike(codebook, d):
    for nbits in (2.5, 3.5):
        assert min(counts_of(d, nbits, codebook)) >= 1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("codebook", PAIRS)
def test_a_prefix_has_some_bits_and_at_most_two_of_a_band(codebook, seed):
    """Whatever the bands and their spreads; and the first band, if it is by far the widest, never goes without."""
    rng = sts.rng(seed)
    n = int(rng.integers(2, 9))
    pairs = [(16 * int(size), int(w)) for size, w in zip(rng.integers(1, 9, n), rng.integers(1, 6, n), strict=True)]
    d = sum(size for size, _ in pairs)
    spreads = np.exp(rng.normal(size=n) * 2).astype(np.float32)
    counts = counts_of(d, pairs, codebook, spreads)
    most = [1 if codebook == "scalar" and width == 1 else 2 for _, width in pairs]
    assert max(counts) > 0
    assert all(0 <= count <= limit for count, limit in zip(counts, most, strict=True))
    spreads[0] = 100 * spreads.max()
    assert counts_of(d, pairs, codebook, spreads)[0] > 0

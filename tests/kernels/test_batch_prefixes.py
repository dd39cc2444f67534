"""Batches by prefixes: sums of table entries, queries, and rows that come in an order that misleads."""

import numba
import numpy as np
import pytest
import strategies as sts
from batches import batch_tables, prefix_tables

import tqvec
from tqvec.codec.bands import integer_levels
from tqvec.codec.tables.batch import byte_levels
from tqvec.codec.tables.staged import prefix_counts, stage_tables
from tqvec.index import scanner
from tqvec.kernels import features
from tqvec.kernels.dispatch import available, implementation, kernel, module
from tqvec.kernels.tables import Z

needs_prefixes = pytest.mark.skipif(not available("search_prefixes"), reason="no staged search at this level")
CODECS = [
    (64, 4, "scalar"),
    (200, 1, "scalar"),
    (72, [(24, 6), (48, 2)], "scalar"),
    (64, 8, "scalar"),
    (64, 2, "trellis"),
    (64, [(24, 3), (40, 2)], "trellis"),
]


@pytest.mark.parametrize("level", ["avx2", "avx512"])
@pytest.mark.parametrize("groups", [1, 2, 3, 12, 255, 256, 257, 600])
def test_totals_of_a_tile(groups, level):
    """Sums of the entries that the nibbles of each row select, up to the largest entries."""
    if level not in features.available_levels():
        pytest.skip(f"this process can't run {level} (LLVM would abort it)")
    totals, tile = implementation("tile_totals", level), module("tile_totals", level).QUERY_TILE

    @numba.njit
    def run(prefixes, tables, out):
        totals(prefixes.ctypes.data, tables.ctypes.data, prefixes.shape[1], out.ctypes.data, 4 * out.shape[1])

    rows = sts.rng(1).integers(0, 256, (64, 4 * groups)).astype(np.uint8)
    axes = {(4, 1): (0, 2, 1, 3), (1, 16): (0, 2, 3, 1)}[module("prefix_totals", level).PREFIX_STRIDES]
    prefixes = np.ascontiguousarray(rows.reshape(-1, 16, groups, 4).transpose(axes)).reshape(-1, groups, 64)
    nibbles = np.stack([rows & 15, rows >> 4], axis=2).reshape(64, groups, 8)
    tables = sts.rng(2).integers(0, 64, (tile, groups, 128)).astype(np.uint8)
    tables[1] = 63
    out = np.full((tile, 70), -1, np.int32)
    run(prefixes, tables, out)
    entries = tables.reshape(tile, groups, 2, 4, 16).swapaxes(2, 3).reshape(tile, 1, groups, 8, 16)
    selected = np.take_along_axis(entries, nibbles[None, ..., None].astype(np.int64), axis=4)
    np.testing.assert_array_equal(out[:, :64], selected.sum(axis=(2, 3, 4), dtype=np.int64))
    assert np.all(out[:, 64:] == -1)


def prepared(d, nbits, codebook, nq):
    """A codec, its stages, and queries as the kernels take them."""
    codec = tqvec.TurboQuant(d, nbits=nbits, codebook=codebook, seed=31)
    known = codec.d, codec.bands, codec.quantizer.windows, codec.band_std
    levels = integer_levels(codec.d, codec.quantizer)
    stages = stage_tables(*known, levels.levels, prefix_counts(*known))
    directions = codec.transform.rotate(sts.unit(nq, d).astype(np.float32))
    directions[nq // 2] = 0
    weight = np.linspace(0.3, 2, nq)
    weight[nq // 2] = 0
    return codec, stages, (directions, weight, (weight * 0.01).astype(np.float32))


@needs_prefixes
@pytest.mark.parametrize(("d", "nbits", "codebook"), CODECS)
def test_queries_for_prefixes(d, nbits, codebook):
    """They are those of single queries; the last tile is filled up with empty ones."""
    from tqvec.kernels.staged.query import fill_query, query_at, staged_queries

    codec, stages, queries = prepared(d, nbits, codebook, 7)
    bands = codec.quantizer.bands
    batch = prefix_tables(bands, stages, *queries)
    assert batch.table.shape == (8, stages.prefix_source.size // 32, 128)
    assert not batch.table[7].any()
    assert batch.table.ctypes.data % 64 == 0
    staged = staged_queries(7, stages)
    for q in range(7):
        fill_query(queries[0][q], bands, stages, queries[1][q], queries[2][q], staged, q)
        one = query_at(staged, q)
        length = one.length
        np.testing.assert_array_equal(batch.table[q], one.table)
        np.testing.assert_array_equal(batch.integers[q], one.integers)
        np.testing.assert_array_equal(batch.bytes_[q], kernel("plane_query")(one.bytes_))
        assert batch.unit[q] == one.unit
        expected = one.table_step * length, -one.table_zero * length, one.slack * length
        actual = batch.slope[q], batch.shift[q], batch.slack[q]
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
        bit = stages.second_level * one.byte_unit * length
        expected = bit, stages.second_slack * length - one.byte_sum * bit
        np.testing.assert_allclose((batch.bit_unit[q], batch.bit_shift[q]), expected, rtol=1e-5, atol=1e-7)


@needs_prefixes
@pytest.mark.parametrize(("d", "nbits", "codebook"), CODECS)
def test_queries_for_products(d, nbits, codebook):
    """Against NumPy."""
    codec, _, queries = prepared(d, nbits, codebook, 35)
    directions, weight, unit = queries
    bands, windows, spreads = codec.quantizer.bands, codec.quantizer.windows, codec.band_std
    batch = batch_tables(bands, windows, spreads, *queries)
    level_steps, query_steps = module("pair_products").PRODUCT_STEPS
    words = -(-(bands[:, 1] - bands[:, 0]) // 64)
    padded, energies = np.zeros((64, 64 * words.sum()), np.float32), np.zeros(64 * words.sum())
    variance = np.zeros(64)
    for (start, stop, width), window, at, spread in zip(bands, windows, np.cumsum(words) - words, spreads, strict=True):
        one, part = byte_levels(d, int(width), int(window), level_steps), directions[:, start:stop]
        here = slice(64 * at, 64 * at + stop - start)
        padded[:35, here] = part * np.float32(float(spread) * one.unit)
        variance[:35] += np.square(part, dtype=np.float64).sum(axis=1) * one.variance * float(spread) ** 2
        energies[here] = one.energy / d
    step = np.maximum(np.abs(padded).max(axis=1, keepdims=True), np.float32(1e-30)) / np.float32(query_steps)
    rounded = np.rint(padded / step).astype(np.int8)
    actual = batch.packed.reshape(4, -1, 16, 16, 4).transpose(0, 3, 1, 2, 4).reshape(64, -1)
    np.testing.assert_array_equal(actual, rounded)
    factors = np.concatenate([weight, np.zeros(29)])
    np.testing.assert_allclose(batch.weight, factors * step[:, 0], rtol=1e-6)
    error = variance + np.square(padded - rounded * step, dtype=np.float64) @ energies
    zero = (level_steps + 1) * step[:, 0] * rounded.sum(axis=1, dtype=np.int64)
    np.testing.assert_allclose(batch.slack, factors * (Z * np.sqrt(error) - zero), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(batch.unit, unit)


@needs_prefixes
@pytest.mark.parametrize("k", [40, 60])
@pytest.mark.parametrize("nq", [1, 5])
def test_rows_whose_first_step_misleads(k, nq, monkeypatch):
    """Nearly all results lie in the first step, so their scores give a floor that the threshold won't reach."""
    n, d = 40_000, 64
    rng = sts.rng(4)
    x, queries = rng.standard_normal((n, d)).astype(np.float32), rng.standard_normal((nq, d)).astype(np.float32)
    steps = -(-n // 1024)
    first = np.concatenate([np.arange(64) + 64 * steps * w for w in range(16)])  # its rows
    for q in range(nq):
        x[rng.choice(first[first < n], k - 5, replace=False)] = queries[q] * np.linspace(2, 3, k - 5)[:, None]
    index = tqvec.Index(d, nbits=4, seed=2)
    index.add(x)
    monkeypatch.setattr(scanner, "choose_search", lambda work, survivors: "prefixes")
    scores, ids = index.search(queries, k=k, threads=1)
    monkeypatch.setattr(scanner, "available", lambda operation: False)
    full = index.search(queries, k=k, threads=1)
    assert sum(np.sum(~np.isin(*pair)) for pair in zip(full[1], ids, strict=True)) <= 1
    same = full[1] == ids
    assert same.mean() > 0.9
    np.testing.assert_array_equal(scores[same], full[0][same])


@needs_prefixes
def test_share_of_survivors():
    """Few where directions differ in length, as those of embeddings do; many where data are isotropic."""
    rng = sts.rng(3)
    shares = []
    for spectrum in (np.ones(128), np.arange(1, 129) ** -1.0):
        x = (rng.standard_normal((20_000, 128)) * spectrum).astype(np.float32)
        index = tqvec.Index(128, nbits=4, metric="cosine")
        index.add(x[:-50])
        core = index._snapshot()
        shares.append(core.scanner._survivors(core.blocks, core.allowed, x[-50:], 10))
    assert 0 < shares[1] < shares[0] / 2 < 0.3

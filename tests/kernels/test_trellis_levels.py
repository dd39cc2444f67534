"""`encode_trellis_rows` of every level that this machine has against the portable tile kernels, to the last bit."""

import numpy as np
import pytest
import strategies as sts

from tqvec.codec.bands import Band, code_bytes
from tqvec.codec.codebooks import trellis
from tqvec.codec.transforms import ROTATIONS, hadamard
from tqvec.kernels._jit import LANES
from tqvec.kernels.arguments import EncodedRows
from tqvec.kernels.dispatch import implementation, levels
from tqvec.kernels.fwht.portable import forward_tile_portable
from tqvec.kernels.pack.portable import pack_rows_portable
from tqvec.kernels.quantize.portable import add_products, load_tile_portable, tree_sum
from tqvec.kernels.tables import TrellisTables
from tqvec.kernels.trellis.portable import decode_tile_portable, encode_tile_portable
from tqvec.reference import trellis as reference

LEVELS = levels("encode_trellis_rows")
WIDTHS = range(1, trellis.MAX_NBITS + 1)
DIMS = (1, 2, 3, 7, 16, 31, 64, 97, 200, 384)
BANDS = {
    "long": ((0, 64, 4), (64, 120, 1), (120, 200, 2)),
    "odd": ((0, 61, 3), (61, 95, 5), (95, 200, 4)),
    "ending early": ((0, 64, 4), (64, 120, 2)),
    "short": ((0, 23, 4), (23, 63, 2), (63, 200, 1)),
}
NO_ROUNDS = {"perm": np.empty((0, 1), np.int32), "mult": np.empty((0, 1), np.float32)}
NO_ROTATION = hadamard(1, 0)._replace(**NO_ROUNDS, blocks=np.empty((0, 2), np.int64))


def empty_rows(n, bands):
    size = code_bytes(tuple(Band(*band) for band in bands.tolist()))
    return EncodedRows(np.zeros((n, size), np.uint8), np.zeros(n), np.zeros(n), np.zeros(n))


def encoded(level, x, rotation, bands, tables, start=0, stop=None):
    """What the kernel of a level returns, and the bytes of all that it fills."""
    out = empty_rows(len(x), bands)
    encode = implementation("encode_trellis_rows", level)
    return encode(x, rotation, bands, tables, start, len(x) if stop is None else stop, out), as_bytes(out)


def expected(x, rotation, bands, tables, start=0, stop=None):
    """The same, put together from the portable kernels of one tile."""
    n, d = x.shape
    stop = n if stop is None else stop
    out = empty_rows(n, bands)
    data, norm, dot, energy = out
    all_codes = np.zeros((n, d), np.uint8)
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        tile, spare, part = np.zeros((d, LANES), np.float32), np.zeros((d, LANES), np.float32), np.empty(8 * LANES)
        load_tile_portable(x, i, count, tile, part, norm)
        y = forward_tile_portable(tile, spare, rotation)
        codes, chosen = np.zeros((d, LANES), np.uint8), np.zeros((d, LANES), np.float32)
        for (first, end, _), table in zip(bands, tables, strict=True):
            encode_tile_portable(y[first:end], table, codes[first:end])
            decode_tile_portable(codes[first:end], table.levels, chosen[first:end])
        for values, sums in ((y, dot), (chosen, energy)):
            part[:] = 0
            add_products(values.reshape(-1), chosen.reshape(-1), 0, part)
            sums[i : i + count] = [tree_sum(part[lane::LANES]) for lane in range(count)]
        all_codes[i : i + count] = codes.T[:count]
    pack_rows_portable(all_codes, bands, start, stop, data)
    return stop, as_bytes(out)


def as_bytes(arrays):
    return [array.tobytes() for array in arrays]


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize("d", DIMS)
def test_dimensions(level, d, nbits):
    x, rotation, bands = sts.mixed(21, d, seed=d), ROTATIONS["hadamard"](d, 3), np.array([[0, d, nbits]])
    tables = (trellis.tables(d, nbits),)
    assert encoded(level, x, rotation, bands, tables) == expected(x, rotation, bands, tables)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", BANDS)
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_bands(level, kind, rotation):
    x, bands, rotation = sts.mixed(37, 200), np.array(BANDS[kind]), ROTATIONS[rotation](200, 3)
    tables = tuple(trellis.tables(200, nbits) for _, _, nbits in BANDS[kind])
    assert encoded(level, x, rotation, bands, tables) == expected(x, rotation, bands, tables)
    part = encoded(level, x, rotation, bands, tables, 2, 36)
    assert part == expected(x, rotation, bands, tables, 2, 36)
    assert part[0] == 36


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_bad_row_is_told(level, bad):
    for d in (1, 24, 33):
        bands, tables, rotation = np.array([[0, d, 4]]), (trellis.tables(d, 4),), ROTATIONS["hadamard"](d, 3)
        for row in (0, 15, 16, 36):
            x = sts.normal(37, d)
            x[row, d - 1] = x[36, 0] = bad
            assert encoded(level, x, rotation, bands, tables)[0] == row


def whole_rows(n, d, length, seed):
    """Rows of small whole numbers whose length is the whole number `length`, so each y is exact."""
    x = sts.rng(seed).integers(-6, 7, (n, d)).astype(np.float32)
    x[:, -16:] = 0
    for row in x:
        for j in range(d - 16, d):
            row[j] = np.floor(np.sqrt(length * length - row @ row))
        assert row @ row == length * length
    return x


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize("shift", [0, 1 / 32])
def test_ties(level, nbits, shift):
    """Values, levels and so all costs are small multiples of powers of two: values meet thresholds and costs tie.

    Thresholds off the middle, as rounded ones are by little, tell whether they decide, or the distance.
    """
    table = np.sort(np.round(reference.frozen(1, nbits) * 2) / 16, axis=0).astype(np.float32)
    thresholds = reference.thresholds(table.astype(np.float64)) + shift
    tables = (TrellisTables(thresholds.astype(np.float32), table),)
    bands = np.array([[0, 64, nbits]])
    x = whole_rows(48, 64, 32, nbits)
    x[0], x[1] = 4, -4
    x[2], x[3] = 0, np.resize([4, -4], 64)
    assert encoded(level, x, NO_ROTATION, bands, tables) == expected(x, NO_ROTATION, bands, tables)

"""`encode_rows` of every level that this machine has, to the last bit: odd sizes, bands, part tiles, bad rows."""

import numpy as np
import pytest
import strategies as sts

from tqvec.codec.bands import Band, code_bytes
from tqvec.codec.codebooks.scalar import quantizer_tables
from tqvec.codec.transforms import ROTATIONS
from tqvec.kernels.arguments import EncodedRows
from tqvec.kernels.dispatch import implementation, levels
from tqvec.reference.quantize import directions

LEVELS = levels("encode_rows")
BANDS = {
    "whole bytes": ((0, 8, 3), (8, 80, 2), (80, 200, 4)),
    "odd": ((0, 9, 3), (9, 80, 2), (80, 200, 1)),
    "ending early": ((0, 64, 4), (64, 120, 2)),
    "wide": ((0, 64, 5), (64, 200, 2)),
    "wide and odd": ((0, 70, 8), (70, 77, 6), (77, 130, 4), (130, 199, 7)),
}


def encoded(level, x, rotation, bands, start=0, stop=None):
    n, d = x.shape
    tables = quantizer_tables(d, bands)
    out = EncodedRows(np.zeros((n, code_bytes(bands)), np.uint8), np.zeros(n), np.zeros(n), np.zeros(n))
    encode = implementation("encode_rows", level)
    end = encode(x, ROTATIONS[rotation](d, 3), tables, start, n if stop is None else stop, out)
    return end, [array.tobytes() for array in out]


@pytest.mark.parametrize("level", levels("unit_rows"))
@pytest.mark.parametrize("d", sts.ODD_DIMS)
def test_unit_rows(level, d):
    x = sts.mixed(37, d, seed=d)
    out = np.zeros((2, 37, d), np.float32)
    implementation("unit_rows", level)(x, 3, 36, out[0])
    implementation("unit_rows", "portable")(x, 3, 36, out[1])
    assert out[0].tobytes() == out[1].tobytes()
    np.testing.assert_array_equal(out[0, 3:36], directions(x)[3:36])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("d", [*sts.ODD_DIMS, 4096, 5000])
def test_dimensions(level, d):
    x = sts.mixed(37, d, seed=d)
    for nbits in (1, 2, 3, 4, 5, 8) if d < 4096 else (4,):
        bands = (Band(0, d, nbits),)
        assert encoded(level, x, "hadamard", bands) == encoded("portable", x, "hadamard", bands)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", BANDS)
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_bands(level, kind, rotation):
    x, bands = sts.mixed(21, 200), tuple(Band(*band) for band in BANDS[kind])
    assert encoded(level, x, rotation, bands) == encoded("portable", x, rotation, bands)
    part = encoded(level, x, rotation, bands, 2, 20)
    assert part == encoded("portable", x, rotation, bands, 2, 20)
    assert part[0] == 20


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_bad_row_is_told(level, bad):
    for d in (1, 24, 33):
        for row in (0, 15, 16, 36):
            x = sts.normal(37, d)
            x[row, d - 1] = x[36, 0] = bad
            assert encoded(level, x, "hadamard", (Band(0, d, 4),))[0] == row

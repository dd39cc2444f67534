"""The trellis codebook's kernels against the reference: codes, levels, indices and whole rows, bit for bit."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import strategies as sts

from tqvec.codec.bands import Band, code_bytes
from tqvec.codec.codebooks import trellis
from tqvec.codec.transforms import ROTATIONS
from tqvec.kernels._jit import LANES
from tqvec.kernels.arguments import EncodedRows
from tqvec.kernels.dispatch import implementation, levels
from tqvec.kernels.tables import TrellisTables
from tqvec.kernels.trellis.portable import decode_tile_portable, encode_tile_portable
from tqvec.kernels.trellis.windows import indices_of_row_portable
from tqvec.reference import packing, quantize
from tqvec.reference import trellis as reference

WIDTHS = range(1, trellis.MAX_NBITS + 1)
DIMS = (1, 2, 3, 7, 31, 64, 97, 200)
SEED = 11
BANDS = {
    "one": ((0, 200, 2),),
    "whole bytes": ((0, 16, 3), (16, 80, 2), (80, 200, 4)),
    "odd": ((0, 9, 3), (9, 80, 5), (80, 81, 1), (81, 200, 1)),
}


def tile(d, seed=0):
    """(d, LANES) float32 unit vectors, among them a zero, a one-hot and a constant."""
    y = sts.unit(LANES, d, seed).astype(np.float32)
    y[0] = 0
    y[1] = 0
    y[1, d // 2] = -1
    y[2] = 1 / np.sqrt(d)
    return np.ascontiguousarray(y.T)


def encoded(y, tables):
    codes = np.full(y.shape, 0xA5, np.uint8)
    encode_tile_portable(y, tables, codes)
    return codes


@pytest.mark.parametrize("nbits", WIDTHS)
@pytest.mark.parametrize("d", DIMS)
def test_codes_and_levels_equal_the_reference(d, nbits):
    tables = trellis.tables(d, nbits)
    y = tile(d, seed=nbits)
    codes = encoded(y, tables)
    table = reference.frozen(d, nbits).astype(np.float32)
    np.testing.assert_array_equal(codes.T, reference.encode(y.T, table))
    out = np.full_like(y, np.nan)
    decode_tile_portable(codes, tables.levels, out)
    np.testing.assert_array_equal(out.T, reference.levels(codes.T.astype(np.int64), table))


@pytest.mark.parametrize("nbits", WIDTHS)
def test_ties_go_to_the_lower_state(nbits):
    """Levels, values and so all costs are small multiples of powers of two: sums are exact, and ties are common."""
    table = np.sort(np.round(reference.frozen(4, nbits) * 4) / 4, axis=0).astype(np.float32)
    tables = TrellisTables(reference.thresholds(table.astype(np.float64)).astype(np.float32), table)
    y = sts.rng(nbits).integers(-6, 7, (50, LANES)).astype(np.float32) / np.float32(4)
    np.testing.assert_array_equal(encoded(y, tables).T, reference.encode(y.T, table))


@pytest.mark.parametrize("lengths", [(1,), (7,), (8,), (9,), (40,), (3, 16, 5, 33), (2, 1, 64)])
def test_indices_of_codes(lengths):
    """In-subset bits, then the window; scalar bands, here every third, keep their codes."""
    generator = sts.rng(len(lengths))
    bits = [(7 - i % 3 * 2) if i % 3 < 2 else 0 for i in range(len(lengths))]
    ends = np.cumsum(lengths)
    bands = np.array([(end - n, end, 3) for n, end in zip(lengths, ends, strict=True)])
    codes = [generator.integers(0, 2 ** (8 - window), n) for window, n in zip(bits, lengths, strict=True)]
    words = np.zeros(sum(-(-n // 8) for n in lengths), np.uint64)
    starts = np.cumsum([0, *(-(-n // 8) * 8 for n in lengths)])
    flat = words.view(np.uint8)
    for part, first in zip(codes, starts, strict=False):
        flat[first : first + len(part)] = part
    indices_of_row_portable(words, bands, np.array(bits))
    for part, first, window in zip(codes, starts, bits, strict=False):
        path = reference.windows(part[None] & 1, window - 1)[0] if window else part
        expected = (part >> 1) << window | path if window else part
        assert flat[first : first + len(part)].tolist() == expected.tolist()


def encoded_rows(level, x, rotation, bands, start=0, stop=None):
    """End, and the bytes of what `encode_trellis_rows` fills."""
    n, d = x.shape
    tables = trellis.encoder_tables(d, bands)
    out = EncodedRows(np.zeros((n, code_bytes(bands)), np.uint8), np.zeros(n), np.zeros(n), np.zeros(n))
    encode = implementation("encode_trellis_rows", level)
    basis = ROTATIONS[rotation](d, SEED)
    end = encode(x, basis, np.array(bands, np.int64), tables, start, n if stop is None else stop, out)
    return end, [array.tobytes() for array in out]


def reference_rows(x, bands):
    expected = quantize.encode_trellis(x, bands, SEED)
    return [part.tobytes() for part in (packing.pack(expected.codes, bands), *expected[1:])]


@pytest.mark.parametrize("level", levels("encode_trellis_rows"))
@pytest.mark.parametrize("d", [*DIMS, 33, 384, 1536])
def test_rows_equal_the_reference(level, d):
    x = sts.mixed(37, d, seed=d)
    for nbits in WIDTHS if d < 384 else (2, 5):
        bands = (Band(0, d, nbits),)
        for n in (37, 16, 15, 1) if d == 33 else (19,):
            assert encoded_rows(level, x[:n], "hadamard", bands) == (n, reference_rows(x[:n], bands))


@pytest.mark.parametrize("level", levels("encode_trellis_rows"))
@pytest.mark.parametrize("kind", BANDS)
def test_bands_of_rows(level, kind):
    x, bands = sts.mixed(21, 200), tuple(Band(*band) for band in BANDS[kind])
    assert encoded_rows(level, x, "hadamard", bands) == (21, reference_rows(x, bands))
    for rotation in ROTATIONS:
        part = encoded_rows(level, x, rotation, bands, 2, 20)
        assert part == encoded_rows("portable", x, rotation, bands, 2, 20)
        assert part[0] == 20


@pytest.mark.parametrize("level", levels("encode_trellis_rows"))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_bad_row_is_told(level, bad):
    for row in (0, 15, 16, 36):
        x = sts.normal(37, 24)
        x[row, 23] = x[36, 0] = bad
        assert encoded_rows(level, x, "hadamard", (Band(0, 24, 4),))[0] == row


def test_lanes_stand_alone():
    tables = trellis.tables(64, 4)
    y = tile(64)
    codes = encoded(y, tables)
    order = sts.rng(3).permutation(LANES)
    np.testing.assert_array_equal(encoded(np.ascontiguousarray(y[:, order]), tables), codes[:, order])
    for lane in (0, 5, LANES - 1):
        alone = tile(64, seed=9)
        alone[:, lane] = y[:, lane]
        np.testing.assert_array_equal(encoded(alone, tables)[:, lane], codes[:, lane])


def digest():
    """Hash of a few codes."""
    sums = hashlib.sha256()
    for nbits in WIDTHS:
        sums.update(encoded(tile(9), trellis.tables(9, nbits)).tobytes())
    return sums.hexdigest()


def test_without_the_compiler():
    code = f"import sys; sys.path[:0] = {sys.path!r}; import runpy; print(runpy.run_path({__file__!r})['digest']())"
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == digest(), result.stderr

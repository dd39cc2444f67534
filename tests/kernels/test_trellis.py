"""The trellis codebook's kernels against the reference: codes and levels, bit for bit."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import strategies as sts

from tqvec.codec import trellis
from tqvec.kernels._jit import LANES
from tqvec.kernels.tables import TrellisTables
from tqvec.kernels.trellis.portable import decode_tile_portable, encode_tile_portable
from tqvec.reference import trellis as reference

WIDTHS = range(1, trellis.MAX_NBITS + 1)
DIMS = (1, 2, 3, 7, 31, 64, 97, 200)


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

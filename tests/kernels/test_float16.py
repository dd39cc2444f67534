"""Conversions of 16-bit numbers, over all of them and all places where rounding turns."""

import numpy as np
import pytest
from strategies import rng

from tqvec.kernels.dispatch import kernel

FINITE = np.arange(1 << 16, dtype=np.uint16)[np.isfinite(np.arange(1 << 16, dtype=np.uint16).view(np.float16))]


def converted(operation, x, dtype):
    out = np.full(x.size + 1, 9, dtype)
    kernel(operation)(x, out[:-1])
    assert out[-1] == 9
    return out[:-1]


def numbers():
    """Every float16, the middle between each two and its neighbours, and numbers of all sizes."""
    halves = np.sort(FINITE.view(np.float16).astype(np.float32))
    middles = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    bits = rng(8_500).integers(0, 1 << 32, 300_000, dtype=np.uint32).view(np.float32)
    sides = (np.nextafter(middles, np.float32(side)) for side in (-np.inf, np.inf))
    x = np.concatenate([halves, middles, *sides, bits])
    return x[np.abs(x) <= 65504]


def test_float16_is_that_of_numpy():
    x = numbers()
    expected = x.astype(np.float16)
    assert np.array_equal(converted("narrow_float16", x, np.uint16), expected.view(np.uint16))
    widened = expected.astype(np.float32).view(np.uint32)
    assert np.array_equal(converted("round_float16", x, np.float32).view(np.uint32), widened)
    actual = converted("widen_float16", FINITE, np.float32)
    assert np.array_equal(actual.view(np.uint32), FINITE.view(np.float16).astype(np.float32).view(np.uint32))


def test_bfloat16_is_the_nearest():
    x = rng(8_501).integers(0, 1 << 32, 300_000, dtype=np.uint32).view(np.float32)
    ties = (np.arange(4000, dtype=np.uint32) * np.uint32(0x107) << np.uint32(16) | np.uint32(0x8000)).view(np.float32)
    x = np.concatenate([x, ties, np.array([0.0, -0.0, 1e-40], np.float32)])
    x = x[np.abs(x) < 3e38]
    bits = converted("narrow_bfloat16", x, np.uint16)
    wide = converted("widen_bfloat16", bits, np.float32)
    assert np.array_equal(converted("round_bfloat16", x, np.float32).view(np.uint32), wide.view(np.uint32))
    assert np.array_equal(wide.view(np.uint32), bits.astype(np.uint32) << 16)
    away = np.abs(wide.astype(np.float64) - x)
    for step in (-1, 1):
        other = ((bits.astype(np.int64) + step) & 0xFFFF).astype(np.uint32) << 16
        beside = other.astype(np.uint32).view(np.float32).astype(np.float64)
        closer = np.abs(beside - x) < away
        equal = np.abs(beside - x) == away
        assert not closer[np.isfinite(beside)].any()
        assert np.all(bits[equal] % 2 == 0)


@pytest.mark.parametrize("n", [0, 1, 7, 31, 33, 97, 256, 257])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_odd_sizes(n, name):
    x = rng(n).standard_normal(n).astype(np.float32)
    bits = converted(f"narrow_{name}", x, np.uint16)
    assert np.allclose(converted(f"widen_{name}", bits, np.float32), x, rtol=2**-8)
    assert np.array_equal(converted(f"round_{name}", x, np.float32), converted(f"widen_{name}", bits, np.float32))

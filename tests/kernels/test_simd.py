"""Every vector operation against its NumPy twin (the table in kernels/simd/README.md)."""

import numba
import numpy as np
import pytest
import strategies as sts

from tqvec.kernels import features
from tqvec.kernels.simd import base, x86

NEEDS = {16: "avx512", 8: "avx2"}


def operations(lanes):
    """The operations of a width, by their names without it."""
    names = ("load", "splat_load", "store", "zero", "add")
    ops = {name: getattr(base, f"{name}_i32x{lanes}") for name in names}
    return ops | {"dot_pairs": getattr(x86, f"dot_pairs_i32x{lanes}")}


def numbers(count, seed=0):
    values = sts.rng(seed).integers(-(2**31), 2**31 - 1, count, endpoint=True).astype(np.int32)
    values[:3] = -(2**31), 2**31 - 1, -1
    return values


@pytest.mark.parametrize("lanes", [8, 16])
def test_memory(lanes):
    ops = operations(lanes)
    load, splat_load, store, zero = (ops[name] for name in ("load", "splat_load", "store", "zero"))

    @numba.njit
    def run(memory, out):
        at, to = memory.ctypes.data, out.ctypes.data
        store(to, load(at + 4))
        store(to + 4 * lanes, splat_load(at + 8))
        store(to + 8 * lanes, zero())

    memory, out = numbers(lanes + 3), np.full(3 * lanes + 2, 99, np.int32)
    run(memory, out)
    np.testing.assert_array_equal(out[:lanes], memory[1 : lanes + 1])
    np.testing.assert_array_equal(out[lanes : 2 * lanes], np.full(lanes, memory[2]))
    np.testing.assert_array_equal(out[2 * lanes : 3 * lanes], np.zeros(lanes, np.int32))
    assert np.all(out[3 * lanes :] == 99)


@pytest.mark.parametrize("lanes", [8, 16])
def test_memory_needs_no_alignment(lanes):
    load, store = operations(lanes)["load"], operations(lanes)["store"]

    @numba.njit
    def copy(source, target):
        store(target.ctypes.data + 3, load(source.ctypes.data + 1))

    source = sts.rng(1).integers(0, 256, 4 * lanes + 4).astype(np.uint8)
    target = np.zeros(4 * lanes + 4, np.uint8)
    copy(source, target)
    np.testing.assert_array_equal(target[3:-1], source[1:-3])
    assert not target[:3].any()
    assert target[-1] == 0


@pytest.mark.parametrize("lanes", [8, 16])
def test_add_wraps_around(lanes):
    add, load, store = (operations(lanes)[name] for name in ("add", "load", "store"))

    @numba.njit
    def run(a, b, out):
        store(out.ctypes.data, add(load(a.ctypes.data), load(b.ctypes.data)))

    a, b, out = numbers(lanes), numbers(lanes, seed=1), np.zeros(lanes, np.int32)
    run(a, b, out)
    np.testing.assert_array_equal(out, a + b)


@pytest.mark.parametrize("lanes", [8, 16])
def test_dot_pairs(lanes):
    if NEEDS[lanes] not in features.available_levels():
        pytest.skip(f"this process can't run {NEEDS[lanes]} (LLVM would abort it)")
    dot_pairs, load, store = (operations(lanes)[name] for name in ("dot_pairs", "load", "store"))

    @numba.njit
    def run(acc, a, b, out):
        value = dot_pairs(load(acc.ctypes.data), load(a.ctypes.data), load(b.ctypes.data))
        store(out.ctypes.data, value)

    for seed in range(20):
        halves = sts.rng(seed).integers(-32768, 32767, (2, 2 * lanes), endpoint=True).astype(np.int16)
        halves[:, :4] = 32767, -32767, 32767, 32767
        acc, out = numbers(lanes, seed), np.zeros(lanes, np.int32)
        run(acc, halves[0].view(np.int32), halves[1].view(np.int32), out)
        products = (halves[0].astype(np.int64) * halves[1]).reshape(lanes, 2).sum(axis=1)
        np.testing.assert_array_equal(out, (acc + products).astype(np.int32))

"""Every vector operation against its NumPy twin (the table in kernels/simd/README.md)."""

import numba
import numpy as np
import pytest
import strategies as sts

from tqvec.kernels import features
from tqvec.kernels.simd import memory as base
from tqvec.kernels.simd import tuples as rows
from tqvec.kernels.simd import x86
from tqvec.kernels.simd.bits import (
    add_where_i8x64,
    add_where_i32x16,
    and_i8x64,
    and_i32x16,
    and_nonzero_i16x32,
    and_nonzero_i32x16,
    append_bits_i8x64,
    count_bits,
    drop_lowest_bits_i8x32,
    extract_fields_i8x64,
    extract_high_bytes_i16x16,
    extract_high_nibbles_i8x64,
    extract_low_nibbles_i8x64,
    extract_lowest_bits_i8x32,
    find_lowest_bit,
    funnel_shift_i64x8,
    keep_i8x64,
    or_i8x64,
    raise_low_bytes_i16x16,
    select_f32x16,
    select_i32x16,
    select_negative_i8x64,
    shift_left_i32x16,
    shift_right_i32x16,
    xor_i64x8,
)
from tqvec.kernels.simd.floats import (
    add_f32x16,
    convert_f32x16,
    greater_equal_f32x16,
    greater_f32x16,
    max_f32x16,
    min_f32x16,
    mul_f32x16,
    mul_f64x8,
    multiply_add_f32x16,
    multiply_add_f64x8,
    narrow_f32x16,
    round_i32x16,
    sub_f32x16,
    widen_f64x8,
)
from tqvec.kernels.simd.integers import (
    add_halves_i8x32,
    add_i8x64,
    add_i16x16,
    add_i16x32,
    add_i32x8,
    add_i32x16,
    add_pairs_i32x16,
    sub_i16x16,
    sum_i32x8,
    sum_i32x16,
    widen_high_i16x32,
    widen_low_i16x32,
)
from tqvec.kernels.simd.memory import (
    load_bytes_i32x8,
    load_bytes_i32x16,
    load_f32x8,
    load_f32x16,
    load_f64x8,
    load_fourfold_f32x16,
    load_halves_f32x16,
    load_i8x32,
    load_i8x64,
    load_i16x32,
    load_i32,
    load_i32x8,
    load_i32x16,
    load_i64x8,
    load_nibbles_i32x16,
    load_u8,
    load_u64,
    load_where_f32x16,
    load_where_i8x64,
    load_words_i32x16,
    make_load,
    make_store,
    prefetch,
    splat_f32x16,
    splat_i8x64,
    splat_i16x16,
    splat_i16x32,
    splat_i32x8,
    splat_i32x16,
    splat_load_f64x8,
    splat_load_i32x16,
    store_f32x16,
    store_f64x8,
    store_i8x64,
    store_i32x8,
    store_i32x16,
    store_i64x8,
    store_u16,
    store_u64,
    store_where_f32x16,
    table_offsets_i8x64,
    zero_f64x8,
    zero_i8x64,
    zero_i16x16,
    zero_i16x32,
    zero_i64x8,
)
from tqvec.kernels.simd.shuffles import (
    extract_high_f32x8,
    extract_low_f32x8,
    interleave_high_f32x16,
    interleave_high_i16x32,
    interleave_low_f32x16,
    interleave_low_i16x32,
    join_even_quarters_f32x16,
    join_high_halves_f32x16,
    join_low_halves_f32x16,
    join_odd_quarters_f32x16,
    prepend_i64x8,
    tile_high_bytes_i8x64,
    tile_low_bytes_i8x64,
    view_i8x32_as_i16x16,
    view_i8x64_as_i32x16,
    view_i16x32_as_i8x64,
    view_i16x32_as_i32x16,
    view_i32x16_as_f32x16,
    view_i32x16_as_i8x64,
)
from tqvec.kernels.simd.tuples import (
    dot_bytes_16,
    dot_words_16,
    gather_16,
    load_4,
    store_16,
    sum_lanes_16,
    transpose_16,
    zeros_16,
)
from tqvec.kernels.simd.vector import i8x32, i16x16, i16x32

NEEDS = {16: "avx512", 8: "avx2"}


def operations(lanes):
    """The operations of a width, by their names without it."""
    names = ("load", "splat_load", "store", "zero")
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


def test_add_wraps_around():
    @numba.njit
    def run(a, b, out):
        x, y = load_i32x16(a.ctypes.data), load_i32x16(b.ctypes.data)
        store_i32x16(out.ctypes.data, add_i32x16(x, y))

    a, b, out = numbers(16), numbers(16, seed=1), np.zeros(16, np.int32)
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


def bytes_of(count, seed=0):
    return sts.rng(seed).integers(0, 256, count).astype(np.uint8)


def needs(level):
    if level not in features.available_levels():
        pytest.skip(f"this process can't run {level} (LLVM would abort it)")


def test_bytes():
    @numba.njit
    def run(a, b, out):
        x, y, to = load_i8x64(a.ctypes.data), load_i8x64(b.ctypes.data), out.ctypes.data
        store_i8x64(to, extract_low_nibbles_i8x64(x))
        store_i8x64(to + 64, extract_high_nibbles_i8x64(x))
        store_i8x64(to + 128, or_i8x64(x, y))
        store_i8x64(to + 192, splat_i8x64(np.int8(-7)))
        store_i8x64(to + 256, table_offsets_i8x64())
        store_i8x64(to + 320, view_i32x16_as_i8x64(splat_load_i32x16(a.ctypes.data)))

    a, b, out = bytes_of(64), bytes_of(64, seed=1), np.zeros((6, 64), np.uint8)
    run(a, b, out)
    np.testing.assert_array_equal(out[0], a & 15)
    np.testing.assert_array_equal(out[1], a >> 4)
    np.testing.assert_array_equal(out[2], a | b)
    np.testing.assert_array_equal(out[3], np.full(64, 256 - 7))
    np.testing.assert_array_equal(out[4], np.tile([0, 16, 32, 48], 16))
    np.testing.assert_array_equal(out[5], np.tile(a[:4], 16))


def test_bits_and_widening():
    @numba.njit
    def run(bits, a, out, wide):
        mask, x = load_u64(bits.ctypes.data + 1), load_i8x64(a.ctypes.data)
        store_i8x64(out.ctypes.data, keep_i8x64(mask, x))
        store_i8x64(out.ctypes.data + 64, append_bits_i8x64(x, mask))
        store_i8x64(out.ctypes.data + 128, append_bits_i8x64(zero_i8x64(), mask))
        store_i8x64(out.ctypes.data + 192, add_i8x64(x, x))
        store_words(wide.ctypes.data, widen_low_i16x32(x))
        store_words(wide.ctypes.data + 64, widen_high_i16x32(x))
        return count_bits(mask)

    store_words = make_store(i16x32)
    bits, a, out, wide = bytes_of(9), bytes_of(64, seed=1), np.zeros((4, 64), np.uint8), np.zeros(64, np.int16)
    count = run(bits, a, out, wide)
    ones = np.unpackbits(bits[1:], bitorder="little")
    np.testing.assert_array_equal(out[0], np.where(ones, a, 0))
    np.testing.assert_array_equal(out[1], 2 * a + ones)
    np.testing.assert_array_equal(out[2], ones)
    np.testing.assert_array_equal(out[3], 2 * a)
    np.testing.assert_array_equal(wide, a)
    assert count == ones.sum()


def test_select_negative():
    @numba.njit
    def run(condition, a, b, out):
        where, x = load_i8x64(condition.ctypes.data), load_i8x64(a.ctypes.data)
        store_i8x64(out.ctypes.data, select_negative_i8x64(where, x, load_i8x64(b.ctypes.data)))

    condition, a, b, out = (bytes_of(64, seed) for seed in range(4))
    condition[:4] = 0, 127, 128, 255
    run(condition, a, b, out)
    np.testing.assert_array_equal(out, np.where(condition.view(np.int8) < 0, a, b))


def test_half_registers():
    store_bytes, store_words = make_store(i8x32), make_store(i16x16)
    load_words = make_load(i16x16)

    @numba.njit
    def run(a, w, out, words, sums):
        x, y = load_i8x32(a.ctypes.data), load_words(w.ctypes.data)
        z, to = load_words(w.ctypes.data + 32), words.ctypes.data
        store_bytes(out.ctypes.data, add_halves_i8x32(load_i8x64(a.ctypes.data)))
        store_bytes(out.ctypes.data + 32, extract_lowest_bits_i8x32(x))
        store_bytes(out.ctypes.data + 64, drop_lowest_bits_i8x32(x))
        store_words(to, view_i8x32_as_i16x16(x))
        store_words(to + 32, extract_high_bytes_i16x16(y))
        store_words(to + 64, raise_low_bytes_i16x16(y))
        store_words(to + 96, add_i16x16(y, z))
        store_words(to + 128, sub_i16x16(y, splat_i16x16(np.int16(3))))
        store_words(to + 160, zero_i16x16())
        pairs = add_pairs_i32x16(load_i32x16(sums.ctypes.data), y, z)
        eight = load_bytes_i32x8(a.ctypes.data)
        eight = add_i32x8(eight, splat_i32x8(np.int32(-7)))
        store_i32x16(sums.ctypes.data, pairs)
        store_i32x8(sums.ctypes.data + 64, eight)
        return sum_i32x8(eight)

    a, w = bytes_of(64), bytes_of(64, seed=1).view(np.uint16)
    y, z = w[:16], w[16:]
    out, words, sums = np.zeros((3, 32), np.uint8), np.full((6, 16), 9, np.uint16), numbers(24)
    before = sums.copy()
    total = run(a, w, out, words, sums)
    np.testing.assert_array_equal(out[0], a[:32] + a[32:])
    np.testing.assert_array_equal(out[1], a[:32] & 1)
    np.testing.assert_array_equal(out[2] & 127, a[:32] >> 1)
    np.testing.assert_array_equal(words[0], a[:32].view(np.uint16))
    np.testing.assert_array_equal(words[1], y >> 8)
    np.testing.assert_array_equal(words[2], y << 8)
    np.testing.assert_array_equal(words[3], y + z)
    np.testing.assert_array_equal(words[4], y - np.uint16(3))
    assert not words[5].any()
    pairs = np.stack([y, z]).astype(np.int32).reshape(2, 2, 8).sum(axis=1).T.ravel()
    np.testing.assert_array_equal(sums[:16], (before[:16] + pairs).astype(np.int32))
    np.testing.assert_array_equal(sums[16:], a[:8].astype(np.int32) - 7)
    assert total == sums[16:].sum()


def test_words_and_bytes():
    @numba.njit
    def run(a, b, out):
        x, y, to = load_i8x64(a.ctypes.data), load_i8x64(b.ctypes.data), out.ctypes.data
        low, high = interleave_low_i16x32(x, y), interleave_high_i16x32(x, y)
        store_words(to, low)
        store_words(to + 64, high)
        store_words(to + 128, add_i16x32(low, splat_i16x32(np.int16(-2))))
        store_words(to + 192, zero_i16x32())
        store_i8x64(to + 256, tile_low_bytes_i8x64(low))
        store_i8x64(to + 320, tile_high_bytes_i8x64(low))

    store_words = make_store(i16x32)
    a, b, out = bytes_of(64), bytes_of(64, seed=1), np.full((6, 32), 9, np.uint16)
    run(a, b, out)
    words = a + 256 * b.astype(np.uint16)
    np.testing.assert_array_equal(out[:2].ravel(), words)
    np.testing.assert_array_equal(out[2], words[:32] - np.uint16(2))
    assert not out[3].any()
    np.testing.assert_array_equal(out[4].view(np.uint8), np.tile(a[:16], 4))
    np.testing.assert_array_equal(out[5].view(np.uint8), np.tile(b[:16], 4))


def test_avx2_lookups_and_products():
    needs("avx2")
    store_words, store_half = make_store(i16x32), make_store(i16x16)
    load_half = make_load(i16x16)

    @numba.njit
    def run(table, index, u, s, a, b, found, bytes_, words):
        x, y = load_i8x64(u.ctypes.data), load_i8x64(s.ctypes.data)
        looked_up = x86.lookup_i8x64(load_i8x64(table.ctypes.data), load_i8x64(index.ctypes.data))
        store_i8x64(found.ctypes.data, looked_up)
        store_words(bytes_.ctypes.data, x86.multiply_bytes_i16x32(x, y))
        half = x86.multiply_bytes_i16x16(load_i8x32(u.ctypes.data), load_i8x32(s.ctypes.data))
        store_half(bytes_.ctypes.data + 64, half)
        products = x86.multiply_words_i32x16(load_i16x32(a.ctypes.data), load_i16x32(b.ctypes.data))
        store_i32x16(words.ctypes.data, products)
        eight = load_i32x8(words.ctypes.data)
        dots = x86.dot_words_i32x8(eight, load_half(a.ctypes.data), load_half(b.ctypes.data))
        store_i32x8(words.ctypes.data + 64, dots)

    for seed in range(10):
        table, index = bytes_of(64, seed), bytes_of(64, seed + 20) & 15
        u, s = bytes_of(64, seed + 40), bytes_of(64, seed + 60).view(np.int8)
        u[:4], s[:4] = 255, (127, 127, -128, -128)
        a, b = sts.rng(seed).integers(-32767, 32767, (2, 32), endpoint=True).astype(np.int16)
        found, bytes_, words = np.zeros(64, np.uint8), np.zeros(48, np.int16), np.zeros(24, np.int32)
        run(table, index, u, s, a, b, found, bytes_, words)
        np.testing.assert_array_equal(found, table[np.arange(64) // 16 * 16 + index])
        twos = np.clip((u.astype(np.int64) * s).reshape(32, 2).sum(axis=1), -32768, 32767)
        np.testing.assert_array_equal(bytes_, np.concatenate([twos, twos[:16]]))
        products = (a.astype(np.int64) * b).reshape(16, 2).sum(axis=1)
        np.testing.assert_array_equal(words, np.concatenate([products, 2 * products[:8]]).astype(np.int32))


def test_sums_floats_and_masks():
    @numba.njit
    def run(a, b, f, out, bits):
        x, g = load_i32x16(a.ctypes.data), load_f32x16(f.ctypes.data)
        to = out.ctypes.data
        store_f32x16(to, convert_f32x16(x))
        store_f32x16(to + 64, add_f32x16(g, splat_f32x16(np.float32(1.5))))
        store_f32x16(to + 128, mul_f32x16(g, g))
        bits[0] = greater_equal_f32x16(g, load_f32x16(b.ctypes.data))
        prefetch(to)
        return sum_i32x16(x)

    a = numbers(16)
    f = sts.rng(3).standard_normal((2, 16)).astype(np.float32)
    f[1, :3] = f[0, 0], np.inf, np.nan
    out, bits = np.zeros((3, 16), np.float32), np.zeros(1, np.uint64)
    total = run(a, f[1], f[0], out, bits)
    assert total == a.sum(dtype=np.int32)
    np.testing.assert_array_equal(out[0], a.astype(np.float32))
    np.testing.assert_array_equal(out[1], f[0] + np.float32(1.5))
    np.testing.assert_array_equal(out[2], f[0] * f[0])
    expected = f[0] >= f[1]
    assert int(bits[0]) == sum(1 << i for i in range(16) if expected[i])


@pytest.mark.parametrize("bits", [1, 6, 1 << 63, (1 << 40) | (1 << 63)])
def test_lowest_bit(bits):
    @numba.njit
    def run(x):
        return find_lowest_bit(x)

    assert run(np.uint64(bits)) == (bits & -bits).bit_length() - 1


def test_permutes():
    needs("avx512")
    load_words, store_words = make_load(i16x32), make_store(i16x32)

    @numba.njit
    def run(table, index, out, words, places, wide):
        x = x86.permute_i8x64(load_i8x64(table.ctypes.data), load_i8x64(index.ctypes.data))
        store_i8x64(out.ctypes.data, x)
        y = x86.permute_i16x32(load_words(words.ctypes.data), load_words(places.ctypes.data))
        store_words(wide.ctypes.data, y)

    table, index, out = bytes_of(64), bytes_of(64, seed=1), np.zeros(64, np.uint8)
    words = sts.rng(2).integers(-32768, 32767, 32, endpoint=True).astype(np.int16)
    places = sts.rng(3).integers(0, 1000, 32).astype(np.int16)
    wide = np.zeros(32, np.int16)
    run(table, index, out, words, places, wide)
    np.testing.assert_array_equal(out, table[index % 64])
    np.testing.assert_array_equal(wide, words[places % 32])


def test_byte_and_word_products():
    needs("avx512")
    load_words = make_load(i16x32)

    @numba.njit
    def run(acc, u, s, a, b, out):
        x = load_i32x16(acc.ctypes.data)
        y = x86.dot_bytes_i32x16(x, load_i8x64(u.ctypes.data), load_i8x64(s.ctypes.data))
        z = x86.dot_words_i32x16(x, load_words(a.ctypes.data), load_words(b.ctypes.data))
        store_i32x16(out.ctypes.data, y)
        store_i32x16(out.ctypes.data + 64, z)

    for seed in range(10):
        u, s = bytes_of(64, seed), bytes_of(64, seed + 50).view(np.int8)
        u[:4], s[:4] = 255, -128
        a, b = sts.rng(seed).integers(-32767, 32767, (2, 32), endpoint=True).astype(np.int16)
        acc, out = numbers(16, seed), np.zeros((2, 16), np.int32)
        run(acc, u, s, a, b, out)
        fours = (u.astype(np.int64) * s).reshape(16, 4).sum(axis=1)
        twos = (a.astype(np.int64) * b).reshape(16, 2).sum(axis=1)
        np.testing.assert_array_equal(out[0], (acc + fours).astype(np.int32))
        np.testing.assert_array_equal(out[1], (acc + twos).astype(np.int32))


def test_tiles():
    needs("amx")
    from tqvec.kernels.simd import amx

    zero, load_a, load_b, dot, store = (
        amx.make_zero(2), amx.make_load(3), amx.make_load(5), amx.make_dot(2, 3, 5), amx.make_store(2)
    )  # fmt: skip

    @numba.njit
    def run(config, a, b, out):
        amx.load_config(config.ctypes.data)
        zero()
        load_a(a.ctypes.data, 100)
        load_b(b.ctypes.data, 64)
        dot()
        dot()
        store(out.ctypes.data, 80)
        amx.release_tiles()

    a, b = bytes_of(1600).reshape(16, 100), bytes_of(1024, seed=1).view(np.int8).reshape(16, 64)
    out = np.zeros((16, 20), np.int32)
    run(amx.tile_config(), a, b, out)
    right = b.reshape(16, 16, 4).transpose(0, 2, 1).reshape(64, 16).astype(np.int64)
    np.testing.assert_array_equal(out[:, :16], 2 * (a[:, :64].astype(np.int64) @ right))
    assert not out[:, 16:].any()


def test_comparisons():
    @numba.njit
    def run(f, g, a, u, v, bits, out):
        x = greater_f32x16(load_f32x16(f.ctypes.data), load_f32x16(g.ctypes.data))
        bits[0] = x
        bits[1] = and_nonzero_i16x32(load_words(u.ctypes.data), load_words(v.ctypes.data))
        store_u64(bits.ctypes.data + 16, x)
        store_i32x16(out.ctypes.data, add_where_i32x16(load_i32x16(a.ctypes.data), x, np.int32(5)))

    load_words = make_load(i16x32)
    f, g = sts.rng(3).standard_normal((2, 16)).astype(np.float32)
    f[:4], g[:4] = (np.nan, np.inf, -0.0, 1), (0, np.inf, 0.0, np.nan)
    a, u, v = numbers(16), bytes_of(64), bytes_of(64, seed=1)
    u[:20] = 0
    bits, out = np.zeros(3, np.uint64), np.zeros(16, np.int32)
    run(f, g, a, u.view(np.int16), v.view(np.int16), bits, out)
    words = (u.view(np.int16) & v.view(np.int16)) != 0
    for found, expected in zip(bits, (f > g, words, f > g), strict=True):
        assert int(found) == int.from_bytes(np.packbits(expected, bitorder="little").tobytes(), "little")
    np.testing.assert_array_equal(out, a + np.where(f > g, 5, 0).astype(np.int32))


def test_float64():
    @numba.njit
    def run(f, a, b, out, narrow):
        x = load_f32x16(f.ctypes.data)
        low, high = widen_f64x8(extract_low_f32x8(x)), widen_f64x8(extract_high_f32x8(x))
        y, to = load_f64x8(a.ctypes.data), out.ctypes.data
        store_f64x8(to, low)
        store_f64x8(to + 64, widen_f64x8(load_f32x8(f.ctypes.data + 32)))
        store_f64x8(to + 128, mul_f64x8(y, splat_load_f64x8(b.ctypes.data)))
        store_f64x8(to + 192, multiply_add_f64x8(low, high, y))
        store_f64x8(to + 256, zero_f64x8())
        store_f32x16(narrow.ctypes.data, narrow_f32x16(y, load_f64x8(b.ctypes.data)))

    f = sts.rng(5).standard_normal(16).astype(np.float32)
    a, b = sts.rng(6).standard_normal((2, 8))
    out, narrow = np.ones((5, 8)), np.zeros(16, np.float32)
    run(f, a, b, out, narrow)
    wide = f.astype(np.float64)
    products = wide[:8] * wide[8:]  # exact, so adding is the only rounding
    for found, expected in zip(out, (wide[:8], wide[8:], a * b[0], products + a, np.zeros(8)), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(narrow, np.concatenate([a, b]).astype(np.float32))


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_rows(n):
    load, store, hadamard = (getattr(rows, f"{name}_{n}") for name in ("load", "store", "hadamard"))

    @numba.njit
    def run(x, out):
        store(out.ctypes.data, 128, hadamard(load(x.ctypes.data, 192)))

    x = sts.rng(7).standard_normal((n, 48)).astype(np.float32)
    out = np.zeros((n, 32), np.float32)
    run(x, out)
    expected = x[:, :16].copy()
    stride = 1
    while stride < n:
        pairs = expected.reshape(-1, 2, stride, 16)
        expected = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(n, 16)
        stride *= 2
    np.testing.assert_array_equal(out[:, :16], expected)
    assert not out[:, 16:].any()


def test_gather_and_transpose():
    @numba.njit
    def run(x, order, factors, out):
        values = gather_16(x.ctypes.data, order.ctypes.data, factors.ctypes.data)
        store_16(out.ctypes.data, 64, values)
        store_16(out.ctypes.data + 1024, 64, transpose_16(values))

    x = sts.rng(8).standard_normal((40, 16)).astype(np.float32)
    order = sts.rng(9).permutation(40)[:16].astype(np.int32)
    factors = sts.rng(10).standard_normal(16).astype(np.float32)
    out = np.zeros((2, 16, 16), np.float32)
    run(x, order, factors, out)
    np.testing.assert_array_equal(out[0], x[order] * factors[:, None])
    np.testing.assert_array_equal(out[1], out[0].T)


def test_float_permute():
    needs("avx512")

    @numba.njit
    def run(table, index, out):
        x = x86.permute_f32x16(load_f32x16(table.ctypes.data), load_i32x16(index.ctypes.data))
        store_f32x16(out.ctypes.data, x)

    table, index, out = sts.normal(1, 16)[0], numbers(16), np.zeros(16, np.float32)
    run(table, index, out)
    np.testing.assert_array_equal(out, table[index % 16])


def test_permute_of_two():
    needs("avx512")

    @numba.njit
    def run(table, index, out):
        low, high = load_f32x16(table.ctypes.data), load_f32x16(table.ctypes.data + 64)
        x = x86.permute_two_f32x16(low, high, load_i32x16(index.ctypes.data))
        store_f32x16(out.ctypes.data, x)

    table, index, out = sts.normal(1, 32)[0], numbers(16), np.zeros(16, np.float32)
    run(table, index, out)
    np.testing.assert_array_equal(out, table[index % 32])


def test_integers_of_32_bits():
    @numba.njit
    def run(a, b, counts, out, bits):
        x, y = load_i32x16(a.ctypes.data), load_i32x16(b.ctypes.data)
        n, to = load_i32x16(counts.ctypes.data), out.ctypes.data
        bits[0] = and_nonzero_i32x16(x, y)
        store_u16(bits.ctypes.data + 8, bits[0])
        store_i32x16(to, and_i32x16(x, y))
        store_i32x16(to + 64, shift_left_i32x16(x, n))
        store_i32x16(to + 128, shift_right_i32x16(x, n))
        store_i32x16(to + 192, select_i32x16(bits[0], x, y))
        store_i32x16(to + 256, splat_i32x16(np.int32(-7)))
        return load_i32(b.ctypes.data + 8)

    a, b, counts = numbers(16), numbers(16, seed=1) & 0x10101, np.arange(16, dtype=np.int32) * 2
    out, bits = np.zeros((5, 16), np.int32), np.full(2, 2**64 - 1, np.uint64)
    assert run(a, b, counts, out, bits) == b[2]
    both = (a & b) != 0
    mask = int.from_bytes(np.packbits(both, bitorder="little").tobytes(), "little")
    assert [int(number) for number in bits] == [mask, 2**64 - 2**16 + mask]
    shifted = (a << counts, (a.view(np.uint32) >> counts.view(np.uint32)).view(np.int32))
    for found, expected in zip(out, (a & b, *shifted, np.where(both, a, b), np.full(16, -7)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_loads_of_small_numbers():
    @numba.njit
    def run(memory, out):
        at, to = memory.ctypes.data + 1, out.ctypes.data
        store_i32x16(to, load_bytes_i32x16(at))
        store_i32x16(to + 64, load_words_i32x16(at))
        store_i32x16(to + 128, load_nibbles_i32x16(at))

    memory, out = bytes_of(33), np.zeros((3, 16), np.int32)
    run(memory, out)
    np.testing.assert_array_equal(out[0], memory[1:17])
    np.testing.assert_array_equal(out[1], memory[1:].view(np.uint16))
    np.testing.assert_array_equal(out[2], np.stack([memory[1:9] & 15, memory[1:9] >> 4], axis=1).ravel())


def test_picks_of_floats():
    @numba.njit
    def run(f, bits, out):
        at, to = f.ctypes.data, out.ctypes.data
        a, b = load_f32x16(at), load_f32x16(at + 64)
        store_f32x16(to, sub_f32x16(a, b))
        store_f32x16(to + 64, min_f32x16(a, b))
        store_f32x16(to + 128, max_f32x16(a, b))
        store_f32x16(to + 192, select_f32x16(bits[0], a, b))
        store_f32x16(to + 256, join_low_halves_f32x16(a, b))
        store_f32x16(to + 320, join_high_halves_f32x16(a, b))
        store_f32x16(to + 384, join_even_quarters_f32x16(a, b))
        store_f32x16(to + 448, join_odd_quarters_f32x16(a, b))
        store_f32x16(to + 512, interleave_low_f32x16(a, b))
        store_f32x16(to + 576, interleave_high_f32x16(a, b))
        store_f32x16(to + 640, load_halves_f32x16(at + 8, at + 64))
        store_f32x16(to + 704, load_fourfold_f32x16(at + 4))

    f = sts.normal(2, 16, seed=4)
    a, b = f
    bits, out = np.array([0xA5C3], np.uint64), np.zeros((12, 16), np.float32)
    run(f, bits, out)
    chosen = np.unpackbits(bits.view(np.uint8), bitorder="little")[:16] == 1
    quarters, pairs = f.reshape(4, 2, 4), np.stack([a, b], axis=1).reshape(2, 16)
    results = (
        *(a - b, np.minimum(a, b), np.maximum(a, b), np.where(chosen, a, b)),
        *(f[:, :8].ravel(), f[:, 8:].ravel(), quarters[:, 0].ravel(), quarters[:, 1].ravel(), *pairs),
        *(np.concatenate([a[2:10], b[:8]]), np.repeat(a[1:5], 4)),
    )
    for found, expected in zip(out, results, strict=True):
        np.testing.assert_array_equal(found, expected)


def streams(memory):
    """Bits 0 … 127 of 16 bytes, and the eight from each of the first 64 on as bytes."""
    bits = np.unpackbits(memory[:16], bitorder="little")
    fields = np.lib.stride_tricks.sliding_window_view(bits, 8)[:64]
    return np.packbits(fields, axis=1, bitorder="little").ravel()


@pytest.mark.parametrize("level", ["portable", "avx512"])
def test_bit_fields(level):
    needs(level)
    fields = extract_fields_i8x64 if level == "portable" else x86.multishift_fields_i8x64

    @numba.njit
    def run(memory, out):
        at = memory.ctypes.data
        store_i8x64(out.ctypes.data, fields(load_u64(at), load_u64(at + 8)))

    for seed in range(10):
        memory, out = bytes_of(16, seed), np.zeros(64, np.uint8)
        run(memory, out)
        np.testing.assert_array_equal(out, streams(memory))


def test_shifts_across_lanes():
    @numba.njit
    def run(a, k, out, bytes_):
        x, to = load_i64x8(a.ctypes.data), out.ctypes.data
        before = prepend_i64x8(load_u8(a.ctypes.data + 65) << np.uint64(56), x)
        store_i64x8(to, funnel_shift_i64x8(x, before, k))
        store_i64x8(to + 64, xor_i64x8(x, zero_i64x8()))
        store_i64x8(to + 128, xor_i64x8(x, before))
        value = and_i8x64(load_i8x64(a.ctypes.data), splat_i8x64(np.int8(31)))
        bits = load_u64(a.ctypes.data + 3)
        store_i8x64(bytes_.ctypes.data, add_where_i8x64(value, bits, np.int8(64)))

    a, out, bytes_ = bytes_of(66), np.zeros((3, 8), np.uint64), np.zeros(64, np.uint8)
    words = a[:64].view(np.uint64)
    before = np.concatenate([a[65:].astype(np.uint64) << np.uint64(56), words[:-1]])
    for k in (0, 1, 6, 63):
        run(a, k, out, bytes_)
        both = [(int(x) << k | int(y) >> (64 - k)) % 2**64 for x, y in zip(words, before, strict=True)]
        assert out[0].tolist() == both
        np.testing.assert_array_equal(out[1], words)
        np.testing.assert_array_equal(out[2], words ^ before)
    np.testing.assert_array_equal(bytes_, (a[:64] & 31) + 64 * np.unpackbits(a[3:11], bitorder="little"))


@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_tables_of_128_entries(level):
    needs(level)

    @numba.njit
    def run_avx512(table, index, out):
        low, high = load_i8x64(table.ctypes.data), load_i8x64(table.ctypes.data + 64)
        store_i8x64(out.ctypes.data, x86.permute_two_i8x64(low, high, load_i8x64(index.ctypes.data)))

    @numba.njit
    def run_avx2(table, index, out):
        entries = x86.load_table_128(table.ctypes.data)
        store_i8x64(out.ctypes.data, x86.lookup_128_i8x64(entries, load_i8x64(index.ctypes.data)))

    table, out = bytes_of(128), np.zeros(64, np.uint8)
    for index in (np.arange(64), np.arange(64, 128), bytes_of(64, seed=1) & 127):
        (run_avx2 if level == "avx2" else run_avx512)(table, index.astype(np.uint8), out)
        np.testing.assert_array_equal(out, table[index])


def test_loads_and_stores_of_some_lanes():
    @numba.njit
    def run(bits, source, other, target):
        found = load_where_i8x64(bits, source.ctypes.data + 1, load_i8x64(other.ctypes.data))
        store_i8x64(target.ctypes.data, found)

    @numba.njit
    def run_floats(bits, source, other, target):
        found = load_where_f32x16(bits, source.ctypes.data + 4, load_f32x16(other.ctypes.data))
        store_where_f32x16(bits, target.ctypes.data + 4, found)

    source, other, target = bytes_of(65), bytes_of(64, seed=1), np.zeros(64, np.uint8)
    bits = np.array([0xF0F1234567800001], np.uint64)
    run(bits[0], source, other, target)
    chosen = np.unpackbits(bits.view(np.uint8), bitorder="little").astype(bool)
    np.testing.assert_array_equal(target, np.where(chosen, source[1:], other))
    floats, rest, out = sts.normal(1, 17)[0], sts.normal(1, 16, seed=1)[0], np.full(18, 7, np.float32)
    run_floats(bits[0], floats, rest, out)
    np.testing.assert_array_equal(out[1:17], np.where(chosen[:16], floats[1:], 7))
    assert out[0] == out[17] == 7


def test_rounding_and_the_same_bits():
    @numba.njit
    def run(a, b, acc, fused, rounded, seen):
        x, y = load_f32x16(a.ctypes.data), load_f32x16(b.ctypes.data)
        store_f32x16(fused.ctypes.data, multiply_add_f32x16(x, y, load_f32x16(acc.ctypes.data)))
        store_i32x16(rounded.ctypes.data, round_i32x16(x))
        numbers_ = view_i8x64_as_i32x16(load_i8x64(seen.ctypes.data))
        store_f32x16(seen.ctypes.data + 64, view_i32x16_as_f32x16(numbers_))
        words = load_i16x32(seen.ctypes.data)
        store_i8x64(seen.ctypes.data + 128, view_i16x32_as_i8x64(words))
        store_i32x16(seen.ctypes.data + 192, view_i16x32_as_i32x16(words))

    a, b, acc = sts.normal(3, 16) * np.float32(100)
    a[:6] = 0.5, 1.5, 2.5, -0.5, -1.5, -7.49
    fused, rounded, seen = np.zeros(16, np.float32), np.zeros(16, np.int32), np.tile(bytes_of(64), (4, 1))
    seen[1:] = 0
    run(a, b, acc, fused, rounded, seen)
    exact = a.astype(np.float64) * b + acc  # but for a second rounding, which float64 hides
    np.testing.assert_allclose(fused, exact.astype(np.float32), rtol=2e-7)
    np.testing.assert_array_equal(rounded, np.rint(a))
    np.testing.assert_array_equal(seen, np.tile(seen[0], (4, 1)))


def test_a_fused_product_is_rounded_once():
    @numba.njit
    def run(a, out):
        x = load_f32x16(a.ctypes.data)
        rest = sub_f32x16(splat_f32x16(np.float32(0)), mul_f32x16(x, x))
        store_f32x16(out.ctypes.data, multiply_add_f32x16(x, x, rest))

    a, out = sts.normal(1, 16)[0], np.zeros(16, np.float32)
    run(a, out)
    np.testing.assert_array_equal(out, a.astype(np.float64) ** 2 - a * a)
    assert out.any()


def test_fields_and_transposed_bits():
    needs("avx512")

    @numba.njit
    def run(a, first, out):
        x = load_i8x64(a.ctypes.data)
        store_i8x64(out.ctypes.data, x86.multishift_i8x64(x, load_i8x64(first.ctypes.data)))
        store_i8x64(out.ctypes.data + 64, x86.transpose_bits_i8x64(x))

    a, first, out = bytes_of(64), bytes_of(64, seed=1), np.zeros((2, 64), np.uint8)
    run(a, first, out)
    words = [int(word) | int(word) << 64 for word in a.view(np.uint64)]
    np.testing.assert_array_equal(out[0], [words[i // 8] >> int(first[i]) % 64 & 255 for i in range(64)])
    bits = np.unpackbits(a.reshape(8, 8)[:, ::-1], axis=1, bitorder="little").reshape(8, 8, 8).transpose(0, 2, 1)
    np.testing.assert_array_equal(out[1], np.packbits(bits, axis=2, bitorder="little").ravel())


def test_products_of_16_rows():
    needs("avx512")

    @numba.njit
    def run(bytes_, words, b, c, out):
        sums = dot_bytes_16(zeros_16(), bytes_.ctypes.data, 70, load_i8x64(b.ctypes.data))
        sums = dot_bytes_16(sums, bytes_.ctypes.data, 70, load_i8x64(b.ctypes.data))
        store_i32x16(out.ctypes.data, sum_lanes_16(sums))
        sums = dot_words_16(zeros_16(), words.ctypes.data, 72, load_i8x64(c.ctypes.data))
        store_i32x16(out.ctypes.data + 64, sum_lanes_16(sums))

    bytes_, b, out = bytes_of(16 * 70).reshape(16, 70), bytes_of(64, seed=1).view(np.int8), np.zeros((2, 16), np.int32)
    words, c = (sts.rng(seed).integers(-3000, 3000, shape).astype(np.int16) for seed, shape in ((2, (16, 36)), (3, 32)))
    run(bytes_, words, b, c, out)
    np.testing.assert_array_equal(out[0], 2 * bytes_[:, :64].astype(np.int64) @ b)
    np.testing.assert_array_equal(out[1], words[:, :32].astype(np.int64) @ c)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_multiples_of_four_registers(count):
    add = getattr(rows, f"add_multiples_{count}")
    load, store = getattr(rows, f"load_{4 * count}"), getattr(rows, f"store_{4 * count}")

    @numba.njit
    def run(sums, values, factors):
        found = add(load(sums.ctypes.data, 64), load_4(values.ctypes.data, 64), factors.ctypes.data, 12)
        store(sums.ctypes.data, 64, found)

    sums, values, factors = sts.normal(count, 64), sts.normal(4, 16, seed=1), sts.normal(count, 3, seed=2)
    expected = sums + factors[:, :1].astype(np.float64) * values.ravel()
    run(sums, values, factors)
    np.testing.assert_allclose(sums, expected, rtol=1e-6, atol=1e-6)

"""Bits of lanes, and lanes that bits of a 64-bit number choose: bit i stands for lane i."""

from __future__ import annotations

from llvmlite import ir
from numba.core import types

from tqvec.kernels.simd.vector import (
    INDEX,
    Vector,
    broadcast,
    call,
    constant,
    f32x16,
    i8x16,
    i8x32,
    i8x64,
    i16x16,
    i16x32,
    i32x8,
    i32x16,
    i64x4,
    i64x8,
    make_binary,
    mask_lanes,
    operation,
    pack_mask,
    take,
)

and_i8x32, and_i8x64 = make_binary(i8x32, "and_"), make_binary(i8x64, "and_")
and_i32x8, and_i32x16 = make_binary(i32x8, "and_"), make_binary(i32x16, "and_")
or_i8x64, xor_i8x64, xor_i64x8 = make_binary(i8x64, "or_"), make_binary(i8x64, "xor"), make_binary(i64x8, "xor")
shift_left_i32x8, shift_left_i32x16 = make_binary(i32x8, "shl"), make_binary(i32x16, "shl")
shift_right_i32x16 = make_binary(i32x16, "lshr")


@operation(types.int64, (types.uint64,))
def count_bits(builder, bits):
    """Count the set bits of a 64-bit number."""
    return builder.ctpop(bits)


@operation(types.int64, (types.uint64,))
def find_lowest_bit(builder, bits):
    """Find the position of the lowest set bit of a 64-bit number other than 0."""
    return builder.cttz(bits, ir.Constant(ir.IntType(1), 1))


@operation(i8x16, (i8x16,))
def count_bits_i8x16(builder, a):
    """Count the set bits of each byte."""
    return call(builder, "llvm.ctpop.v16i8", i8x16.llvm, a)


@operation(i8x64, (types.uint64, i8x64))
def keep_i8x64(builder, bits, a):
    """Keep ``a[i]`` where bit i is set; 0 elsewhere."""
    return builder.select(mask_lanes(builder, i8x64, bits), a, constant(i8x64, 0))


def make_select(vector: Vector):
    """Make ``select(bits, a, b) -> vector``: lane i is ``a[i]`` where bit i is set, else ``b[i]``."""

    @operation(vector, (types.uint64, vector, vector))
    def select(builder, bits, a, b):
        return builder.select(mask_lanes(builder, vector, bits), a, b)

    return select


select_i32x16, select_f32x16 = make_select(i32x16), make_select(f32x16)


def make_select_negative(vector: Vector):
    """Make ``select(condition, a, b)``: `a` in the lanes whose condition has its highest bit set, `b` elsewhere."""

    @operation(vector, (vector, vector, vector))
    def select_negative(builder, condition, a, b):
        return builder.select(builder.icmp_signed("<", condition, constant(vector, 0)), a, b)

    return select_negative


select_negative_i8x32, select_negative_i8x64 = make_select_negative(i8x32), make_select_negative(i8x64)


def make_add_where(vector: Vector):
    """Make ``add_where(a, bits, number) -> vector``: `number` is added in the lanes whose bit is set."""

    @operation(vector, (vector, types.uint64, vector.number))
    def add_where(builder, a, bits, number):
        mask = mask_lanes(builder, vector, bits)
        return builder.select(mask, builder.add(a, broadcast(builder, vector, number)), a)

    return add_where


add_where_i8x64, add_where_i32x16 = make_add_where(i8x64), make_add_where(i32x16)


@operation(i8x64, (i8x64, types.uint64))
def append_bits_i8x64(builder, a, bits):
    """Append a bit below those of each lane: ``2 a``, plus 1 where the bit is set."""
    return builder.sub(builder.add(a, a), builder.sext(mask_lanes(builder, i8x64, bits), i8x64.llvm))


@operation(i8x32, (i8x32, i8x32))
def append_high_bits_i8x32(builder, a, before):
    """Append the highest bit of a lane of `before` below those of `a`: ``2 a + (before >> 7)``."""
    negative = builder.icmp_signed("<", before, constant(i8x32, 0))
    return builder.sub(builder.add(a, a), builder.sext(negative, i8x32.llvm))


def make_and_nonzero(vector: Vector):
    """Make ``and_nonzero(a, b)``: bit i of the result is set where ``a[i] & b[i]`` is not 0."""

    @operation(types.uint64, (vector, vector))
    def and_nonzero(builder, a, b):
        return pack_mask(builder, builder.icmp_unsigned("!=", builder.and_(a, b), constant(vector, 0)))

    return and_nonzero


and_nonzero_i16x32, and_nonzero_i32x16 = make_and_nonzero(i16x32), make_and_nonzero(i32x16)


@operation(i8x64, (i8x64,))
def extract_low_nibbles_i8x64(builder, a):
    """Extract the lower four bits of each byte."""
    return builder.and_(a, constant(i8x64, 15))


@operation(i8x64, (i8x64,))
def extract_high_nibbles_i8x64(builder, a):
    """Extract the upper four bits of each byte, as 0 … 15."""
    # shifted as 16-bit lanes, since x86 can't shift bytes
    shifted = builder.lshr(builder.bitcast(a, i16x32.llvm), constant(i16x32, 4))
    return builder.bitcast(builder.and_(shifted, constant(i16x32, 0x0F0F)), i8x64.llvm)


@operation(i8x32, (i8x32,))
def extract_lowest_bits_i8x32(builder, a):
    """Extract the lowest bit of each byte: ``a & 1``."""
    return builder.and_(a, constant(i8x32, 1))


@operation(i8x32, (i8x32,))
def drop_lowest_bits_i8x32(builder, a):
    """Shift each byte down by one bit; the highest bit of every other byte is noise (x86 shifts 16 bits)."""
    return builder.bitcast(builder.lshr(builder.bitcast(a, i16x16.llvm), constant(i16x16, 1)), i8x32.llvm)


@operation(i16x16, (i16x16,))
def extract_high_bytes_i16x16(builder, a):
    """Extract the upper byte of each lane: ``a >> 8``."""
    return builder.lshr(a, constant(i16x16, 8))


@operation(i16x16, (i16x16,))
def raise_low_bytes_i16x16(builder, a):
    """Shift the lower byte of each lane up, the upper one out: ``a << 8``."""
    return builder.shl(a, constant(i16x16, 8))


@operation(i8x64, (types.uint64, types.uint64))
def extract_fields_i8x64(builder, low, high):
    """Extract bits ``i … i + 7`` of the 128-bit number ``low + 2**64 * high`` into lane i."""
    both = ir.Constant(ir.VectorType(ir.IntType(64), 2), ir.Undefined)
    for i, word in enumerate((low, high)):
        both = builder.insert_element(both, word, ir.Constant(INDEX, i))
    pairs = take(builder, builder.bitcast(both, i8x16.llvm), [i // 8 + byte for i in range(64) for byte in (0, 1)])
    words = Vector("i16", 64)
    shifted = builder.lshr(builder.bitcast(pairs, words.llvm), constant(words, [i % 8 for i in range(64)]))
    return builder.trunc(shifted, i8x64.llvm)


def make_funnel_shift(vector: Vector):
    """Make ``shift(a, before, k)``: lanes of `a` go up by `k` bits, 0 … 63, above the top `k` of `before`."""

    @operation(vector, (vector, vector, types.int64))
    def funnel_shift(builder, a, before, k):
        return call(builder, f"llvm.fshl.v{vector.n}i64", vector.llvm, a, before, broadcast(builder, vector, k))

    return funnel_shift


funnel_shift_i64x4, funnel_shift_i64x8 = make_funnel_shift(i64x4), make_funnel_shift(i64x8)

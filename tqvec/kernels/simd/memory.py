"""Registers from memory and from numbers, and back. Addresses are integers and need no alignment."""

from __future__ import annotations

from llvmlite import ir
from numba.core import types

from tqvec.kernels.simd.vector import (
    Vector,
    broadcast,
    call,
    constant,
    f32x8,
    f32x16,
    f64x8,
    i8x16,
    i8x32,
    i8x64,
    i16x8,
    i16x16,
    i16x32,
    i32x4,
    i32x8,
    i32x16,
    i64x4,
    i64x8,
    load_from,
    mask_lanes,
    operation,
    store_to,
    take,
    take_from_two,
)

_U8, _U16, _I32, _U64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def make_load(vector: Vector):
    """Make ``load(address) -> vector``."""

    @operation(vector, (types.intp,))
    def load(builder, address):
        return load_from(builder, address, vector.llvm)

    return load


load_i8x16, load_i8x32, load_i8x64 = (make_load(vector) for vector in (i8x16, i8x32, i8x64))
load_i16x8, load_i16x16, load_i16x32 = (make_load(vector) for vector in (i16x8, i16x16, i16x32))
load_i32x4, load_i32x8, load_i32x16 = (make_load(vector) for vector in (i32x4, i32x8, i32x16))
load_f32x8, load_f32x16 = (make_load(vector) for vector in (f32x8, f32x16))
load_f64x8 = make_load(f64x8)


def make_store(vector: Vector):
    """Make ``store(address, value)``."""

    @operation(types.void, (types.intp, vector))
    def store(builder, address, value):
        store_to(builder, address, value)

    return store


store_i8x16, store_i8x32, store_i8x64 = (make_store(vector) for vector in (i8x16, i8x32, i8x64))
store_i16x16, store_i64x4, store_f32x8 = (make_store(vector) for vector in (i16x16, i64x4, f32x8))
store_i32x4, store_i32x8, store_i32x16 = (make_store(vector) for vector in (i32x4, i32x8, i32x16))
store_f32x16, store_i64x8, store_f64x8 = (make_store(vector) for vector in (f32x16, i64x8, f64x8))


def make_load_where(vector: Vector):
    """Make ``load_where(bits, address, other) -> vector``: lanes from memory where bits are set, else those of `other`.

    Memory of the other lanes is not touched.
    """

    @operation(vector, (types.uint64, types.intp, vector))
    def load_where(builder, bits, address, other):
        pointer = builder.inttoptr(address, vector.llvm.as_pointer())
        name = f"llvm.masked.load.v{vector.n}{vector.lane}.p0"
        return call(builder, name, vector.llvm, pointer, _I32(1), mask_lanes(builder, vector, bits), other)

    return load_where


load_where_i8x64, load_where_f32x16 = (make_load_where(vector) for vector in (i8x64, f32x16))


@operation(types.void, (types.uint64, types.intp, f32x16))
def store_where_f32x16(builder, bits, address, value):
    """Store the lanes whose bits are set; memory of the others is not touched."""
    pointer = builder.inttoptr(address, f32x16.llvm.as_pointer())
    mask = mask_lanes(builder, f32x16, bits)
    call(builder, "llvm.masked.store.v16f32.p0", ir.VoidType(), value, pointer, _I32(1), mask)


def make_load_wider(vector: Vector, bits: int):
    """Make ``load(address) -> vector``: unsigned numbers of `bits` bits from memory, one per lane."""

    @operation(vector, (types.intp,))
    def load(builder, address):
        return builder.zext(load_from(builder, address, ir.VectorType(ir.IntType(bits), vector.n)), vector.llvm)

    return load


load_bytes_i32x8, load_bytes_i32x16 = make_load_wider(i32x8, 8), make_load_wider(i32x16, 8)
load_words_i32x16 = make_load_wider(i32x16, 16)


@operation(i32x16, (types.intp,))
def load_nibbles_i32x16(builder, address):
    """Load 16 unsigned numbers of 4 bits, the lower nibble of a byte first."""
    twice = take(builder, load_from(builder, address, ir.VectorType(_U8, 8)), [i // 2 for i in range(16)])
    shifted = builder.lshr(builder.zext(twice, i32x16.llvm), constant(i32x16, [4 * (i % 2) for i in range(16)]))
    return builder.and_(shifted, constant(i32x16, 15))


def make_load_halves(vector: Vector):
    """Make ``load_halves(low, high) -> vector``: the two halves of a register from two addresses."""
    half = ir.VectorType(vector.llvm.element, vector.n // 2)

    @operation(vector, (types.intp, types.intp))
    def load_halves(builder, low, high):
        return take_from_two(builder, *(load_from(builder, address, half) for address in (low, high)), range(vector.n))

    return load_halves


load_halves_i8x32, load_halves_i16x16 = make_load_halves(i8x32), make_load_halves(i16x16)
load_halves_i64x4, load_halves_f32x16 = make_load_halves(i64x4), make_load_halves(f32x16)


@operation(f32x16, (types.intp,))
def load_fourfold_f32x16(builder, address):
    """Load four float32, each into four lanes."""
    return take(builder, load_from(builder, address, ir.VectorType(ir.FloatType(), 4)), [i // 4 for i in range(16)])


def make_splat(vector: Vector):
    """Make ``splat(number) -> vector``: one number in all lanes."""

    @operation(vector, (vector.number,))
    def splat(builder, number):
        return broadcast(builder, vector, number)

    return splat


splat_i8x16, splat_i8x32, splat_i8x64 = (make_splat(vector) for vector in (i8x16, i8x32, i8x64))
splat_i16x16, splat_i16x32 = (make_splat(vector) for vector in (i16x16, i16x32))
splat_i32x8, splat_i32x16 = (make_splat(vector) for vector in (i32x8, i32x16))
splat_f32x8, splat_f32x16 = (make_splat(vector) for vector in (f32x8, f32x16))


def make_splat_load(vector: Vector):
    """Make ``splat_load(address) -> vector``: one number from memory in all lanes."""

    @operation(vector, (types.intp,))
    def splat_load(builder, address):
        return broadcast(builder, vector, load_from(builder, address, vector.llvm.element))

    return splat_load


splat_load_i16x8, splat_load_i32x8, splat_load_i32x16 = (make_splat_load(vector) for vector in (i16x8, i32x8, i32x16))
splat_load_f32x16, splat_load_f64x8 = (make_splat_load(vector) for vector in (f32x16, f64x8))


def make_zero(vector: Vector):
    """Make ``zero() -> vector`` of zeros."""

    @operation(vector, ())
    def zero(builder):
        return constant(vector, 0)

    return zero


zero_i8x64, zero_i16x16, zero_i16x32 = (make_zero(vector) for vector in (i8x64, i16x16, i16x32))
zero_i32x4, zero_i32x8, zero_i32x16 = (make_zero(vector) for vector in (i32x4, i32x8, i32x16))
zero_i64x8, zero_f64x8 = (make_zero(vector) for vector in (i64x8, f64x8))


@operation(i8x64, ())
def table_offsets_i8x64(builder):
    """Lane i is ``16 * (i % 4)``: where the table of byte i % 4 begins among four tables of 16."""
    return constant(i8x64, [16 * (i % 4) for i in range(64)])


@operation(types.uint64, (types.intp,))
def load_u8(builder, address):
    """Load a byte as a 64-bit number."""
    return builder.zext(load_from(builder, address, _U8), _U64)


@operation(types.int64, (types.intp,))
def load_i32(builder, address):
    """Load an int32 as int64."""
    return builder.sext(load_from(builder, address, _I32), _U64)


@operation(types.uint64, (types.intp,))
def load_u64(builder, address):
    """Load a 64-bit number."""
    return load_from(builder, address, _U64)


def make_load_bits(number, llvm):
    """Make ``load_bits(address, bit) -> number``: words of 64 bits from bit 0 … 7 of the byte at the address on.

    The byte after the last word is read too, even if no bit of it is needed.
    """

    @operation(number, (types.intp, types.uint64))
    def load_bits(builder, address, bit):
        first, second = load_from(builder, address, llvm), load_from(builder, builder.add(address, _U64(1)), llvm)
        up = builder.sub(_U64(8), bit)
        if isinstance(number, Vector):
            bit, up = broadcast(builder, number, bit), broadcast(builder, number, up)
        # The second words are 8 bits on: both agree in the bits that they share.
        return builder.or_(builder.lshr(first, bit), builder.shl(second, up))

    return load_bits


load_bits_u64, load_bits_i64x8 = make_load_bits(types.uint64, _U64), make_load_bits(i64x8, i64x8.llvm)


@operation(types.void, (types.intp, types.uint64))
def store_u16(builder, address, bits):
    """Store the low 16 bits of a 64-bit number."""
    store_to(builder, address, builder.trunc(bits, _U16))


@operation(types.void, (types.intp, types.uint64))
def store_u64(builder, address, bits):
    """Store a 64-bit number."""
    store_to(builder, address, bits)


@operation(types.void, (types.intp,))
def prefetch(builder, address):
    """Ask for the cache line at an address that will be read soon; any address is allowed."""
    hints = (_I32(0), _I32(2), _I32(1))  # read, keep in all levels, data
    call(builder, "llvm.prefetch.p0", ir.VoidType(), builder.inttoptr(address, _U8.as_pointer()), *hints)

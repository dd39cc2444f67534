"""Arithmetic of integers, modulo 2^bits of a lane."""

from __future__ import annotations

from tqvec.kernels.simd.vector import (
    Vector,
    call,
    i8x32,
    i8x64,
    i16x8,
    i16x16,
    i16x32,
    i32x4,
    i32x8,
    i32x16,
    make_binary,
    operation,
    take,
    take_from_two,
)

add_i8x32, add_i8x64 = (make_binary(vector, "add") for vector in (i8x32, i8x64))
add_i16x16, add_i16x32 = (make_binary(vector, "add") for vector in (i16x16, i16x32))
add_i32x4, add_i32x8, add_i32x16 = (make_binary(vector, "add") for vector in (i32x4, i32x8, i32x16))
sub_i16x16 = make_binary(i16x16, "sub")


def make_sum(vector: Vector):
    """Make ``sum(a) -> number``: all lanes added up."""

    @operation(vector.number, (vector,))
    def sum_lanes(builder, a):
        return call(builder, f"llvm.vector.reduce.add.v{vector.n}{vector.lane}", vector.llvm.element, a)

    return sum_lanes


sum_i32x4, sum_i32x8, sum_i32x16 = (make_sum(vector) for vector in (i32x4, i32x8, i32x16))


@operation(i8x32, (i8x64,))
def add_halves_i8x32(builder, a):
    """Add the two halves of a register."""
    return builder.add(take(builder, a, range(32)), take(builder, a, range(32, 64)))


@operation(i32x16, (i32x16, i16x16, i16x16))
def add_pairs_i32x16(builder, acc, even, odd):
    """Add ``even[i] + even[i + 8]`` to lane 2 i of `acc`, ``odd[i] + odd[i + 8]`` to lane 2 i + 1, unsigned."""
    even, odd = (builder.zext(words, i32x16.llvm) for words in (even, odd))
    first = [i // 2 + 16 * (i % 2) for i in range(16)]
    pairs = (take_from_two(builder, even, odd, [lane + start for lane in first]) for start in (0, 8))
    return builder.add(acc, builder.add(*pairs))


def make_multiply_add(first: int):
    """Make ``f(acc, a, b)``: products of int16 lanes ``first … first + 3`` of `a` and `b` are added to `acc`."""

    @operation(i32x4, (i32x4, i16x8, i16x8))
    def multiply_add(builder, acc, a, b):
        parts = [take(builder, arg, range(first, first + 4)) for arg in (a, b)]
        return builder.add(acc, builder.mul(*(builder.sext(part, i32x4.llvm) for part in parts)))

    return multiply_add


multiply_add_low_i32x4, multiply_add_high_i32x4 = make_multiply_add(0), make_multiply_add(4)


def make_widen(first: int):
    """Make ``widen(a)``: unsigned bytes ``first … first + 31`` of 64 as 16-bit numbers."""

    @operation(i16x32, (i8x64,))
    def widen(builder, a):
        return builder.zext(take(builder, a, range(first, first + 32)), i16x32.llvm)

    return widen


widen_low_i16x32, widen_high_i16x32 = make_widen(0), make_widen(32)

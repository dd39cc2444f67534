"""Lanes in another order, and registers seen as lanes of another kind."""

from __future__ import annotations

from llvmlite import ir
from numba.core import types

from tqvec.kernels.simd.vector import (
    INDEX,
    Vector,
    constant,
    f32x8,
    f32x16,
    i8x32,
    i8x64,
    i16x8,
    i16x16,
    i16x32,
    i32x8,
    i32x16,
    i64x8,
    operation,
    take,
    take_from_two,
)


def make_view(source: Vector, vector: Vector):
    """Make ``view(a) -> vector``: the same register seen as lanes of another kind."""

    @operation(vector, (source,))
    def view(builder, a):
        return builder.bitcast(a, vector.llvm)

    return view


view_i8x32_as_i16x16, view_i8x64_as_i32x16 = make_view(i8x32, i16x16), make_view(i8x64, i32x16)
view_i16x16_as_i32x8 = make_view(i16x16, i32x8)
view_i16x32_as_i8x64, view_i16x32_as_i32x16 = make_view(i16x32, i8x64), make_view(i16x32, i32x16)
view_i32x16_as_i8x64, view_i32x16_as_f32x16 = make_view(i32x16, i8x64), make_view(i32x16, f32x16)


def make_extract(first: int):
    """Make ``extract(a)``: lanes ``first … first + 7`` of 16."""

    @operation(f32x8, (f32x16,))
    def extract(builder, a):
        return take(builder, a, range(first, first + 8))

    return extract


extract_low_f32x8, extract_high_f32x8 = make_extract(0), make_extract(8)


def make_join(vector: Vector, lanes: list[int]):
    """Make ``join(a, b) -> vector``: lane i is lane ``lanes[i]`` of `a` and `b` one after the other."""

    @operation(vector, (vector, vector))
    def join(builder, a, b):
        return take_from_two(builder, a, b, lanes)

    return join


join_evens_i16x8, join_odds_i16x8 = (make_join(i16x8, list(range(first, 16, 2))) for first in (0, 1))
join_low_halves_f32x16 = make_join(f32x16, [*range(8), *range(16, 24)])
join_high_halves_f32x16 = make_join(f32x16, [*range(8, 16), *range(24, 32)])
join_even_quarters_f32x16 = make_join(f32x16, [i + i // 4 * 4 for i in range(16)])
join_odd_quarters_f32x16 = make_join(f32x16, [i + i // 4 * 4 + 4 for i in range(16)])
interleave_low_f32x16 = make_join(f32x16, [i // 2 + i % 2 * 16 for i in range(16)])
interleave_high_f32x16 = make_join(f32x16, [i // 2 + i % 2 * 16 + 8 for i in range(16)])


def make_interleave(source: Vector, vector: Vector, chosen: list[int]):
    """Make ``interleave(low, high) -> vector``: 16-bit numbers from chosen bytes of two registers."""

    @operation(vector, (source, source))
    def interleave(builder, low, high):
        both = take_from_two(builder, low, high, [byte + source.n * i for byte in chosen for i in (0, 1)])
        return builder.bitcast(both, vector.llvm)

    return interleave


interleave_low_i16x32, interleave_high_i16x32 = (
    make_interleave(i8x64, i16x32, list(range(first, first + 32))) for first in (0, 32)
)
interleave_even_quarters_i16x16, interleave_odd_quarters_i16x16 = (
    make_interleave(i8x32, i16x16, [*range(first, first + 8), *range(first + 16, first + 24)]) for first in (0, 8)
)


def make_tile_bytes(shift: int):
    """Make ``tile_bytes(a)``: bits ``shift … shift + 7`` of the first 16 lanes, four times over."""

    @operation(i8x64, (i16x32,))
    def tile_bytes(builder, a):
        shifted = builder.lshr(a, constant(i16x32, shift))
        return take(builder, builder.trunc(shifted, i8x32.llvm), [*range(16)] * 4)

    return tile_bytes


tile_low_bytes_i8x64, tile_high_bytes_i8x64 = make_tile_bytes(0), make_tile_bytes(8)


@operation(i64x8, (types.uint64, i64x8))
def prepend_i64x8(builder, first, a):
    """Put `first` before lanes 0 … 6 of `a`."""
    return builder.insert_element(take(builder, a, [0, *range(7)]), first, ir.Constant(INDEX, 0))


@operation(i8x32, (types.uint64, types.uint64, i8x32))
def prepend_halves_i8x32(builder, first, second, a):
    """Put one byte before lanes 0 … 14 of `a`, another before lanes 16 … 30."""
    moved = take(builder, a, [0, *range(15), 16, *range(16, 31)])
    for byte, lane in ((first, 0), (second, 16)):
        moved = builder.insert_element(moved, builder.trunc(byte, ir.IntType(8)), ir.Constant(INDEX, lane))
    return moved

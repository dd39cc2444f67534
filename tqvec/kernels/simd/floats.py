"""Arithmetic and comparison of floats, and their conversions."""

from __future__ import annotations

from numba.core import types

from tqvec.kernels.simd.vector import (
    Vector,
    call,
    f32x8,
    f32x16,
    f64x8,
    i32x8,
    i32x16,
    make_binary,
    operation,
    pack_mask,
    take_from_two,
)

add_f32x16, sub_f32x16, mul_f32x16 = (make_binary(f32x16, name) for name in ("fadd", "fsub", "fmul"))
mul_f32x8, mul_f64x8 = make_binary(f32x8, "fmul"), make_binary(f64x8, "fmul")


def make_multiply_add(vector: Vector):
    """Make ``multiply_add(a, b, acc) -> vector``: ``a * b + acc``, rounded once."""

    @operation(vector, (vector, vector, vector))
    def multiply_add(builder, a, b, acc):
        return call(builder, f"llvm.fma.v{vector.n}{vector.lane}", vector.llvm, a, b, acc)

    return multiply_add


multiply_add_f32x8, multiply_add_f32x16 = make_multiply_add(f32x8), make_multiply_add(f32x16)
multiply_add_f64x8 = make_multiply_add(f64x8)


def make_extreme(order: str):
    """Make ``max(a, b)`` for the order ``>``, ``min`` for ``<``; `b` where one of two lanes is NaN."""

    @operation(f32x16, (f32x16, f32x16))
    def select_extreme(builder, a, b):
        return builder.select(builder.fcmp_ordered(order, a, b), a, b)

    return select_extreme


max_f32x16, min_f32x16 = make_extreme(">"), make_extreme("<")


def make_compare(order: str):
    """Make ``compare(a, b)``: bit i of the result is set where ``a[i] <order> b[i]``; not for NaN."""

    @operation(types.uint64, (f32x16, f32x16))
    def compare(builder, a, b):
        return pack_mask(builder, builder.fcmp_ordered(order, a, b))

    return compare


greater_equal_f32x16, greater_f32x16 = make_compare(">="), make_compare(">")


@operation(i32x16, (f32x16,))
def round_i32x16(builder, a):
    """Round to the nearest int32, ties to even; not for numbers beyond int32."""
    return builder.fptosi(call(builder, "llvm.rint.v16f32", f32x16.llvm, a), i32x16.llvm)


def make_convert(integers: Vector, vector: Vector):
    """Make ``convert(a) -> vector``: int32 as the nearest float32."""

    @operation(vector, (integers,))
    def convert(builder, a):
        return builder.sitofp(a, vector.llvm)

    return convert


convert_f32x8, convert_f32x16 = make_convert(i32x8, f32x8), make_convert(i32x16, f32x16)


@operation(f64x8, (f32x8,))
def widen_f64x8(builder, a):
    """Convert float32 to float64."""
    return builder.fpext(a, f64x8.llvm)


@operation(f32x16, (f64x8, f64x8))
def narrow_f32x16(builder, a, b):
    """Convert eight float64 of `a` and eight of `b` to the nearest float32."""
    return take_from_two(builder, *(builder.fptrunc(half, f32x8.llvm) for half in (a, b)), range(16))

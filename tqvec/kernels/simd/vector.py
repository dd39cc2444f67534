"""Vector registers as Numba types, and makers of the operations that exist for many of them."""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

LANE_TYPES = {
    "i8": (ir.IntType(8), types.int8),
    "i16": (ir.IntType(16), types.int16),
    "i32": (ir.IntType(32), types.int32),
    "i64": (ir.IntType(64), types.int64),
    "f32": (ir.FloatType(), types.float32),
    "f64": (ir.DoubleType(), types.float64),
}


class Vector(types.Type):
    """`n` lanes of one number type, held in a register."""

    def __init__(self, lane: str, n: int):
        self.lane = lane
        self.n = n
        super().__init__(name=f"Vector({lane}, {n})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, llvm_type(fe_type))


def llvm_type(vector: Vector) -> ir.VectorType:
    """LLVM's type of a vector."""
    return ir.VectorType(LANE_TYPES[vector.lane][0], vector.n)


i32x16 = Vector("i32", 16)
i32x8 = Vector("i32", 8)
i8x32 = Vector("i8", 32)
i8x64 = Vector("i8", 64)
i16x16 = Vector("i16", 16)
i16x32 = Vector("i16", 32)
f32x16 = Vector("f32", 16)
f32x8 = Vector("f32", 8)
f64x8 = Vector("f64", 8)
i64x8 = Vector("i64", 8)
i8x16 = Vector("i8", 16)
i16x8 = Vector("i16", 8)
i32x4 = Vector("i32", 4)


def make_load(vector: Vector):
    """``load(address) -> vector``; the address needs no alignment."""

    @intrinsic
    def load(typingctx, address):
        def codegen(context, builder, signature, args):
            value = builder.load(builder.inttoptr(args[0], llvm_type(vector).as_pointer()))
            value.align = 1
            return value

        return vector(types.intp), codegen

    return load


def make_splat_load(vector: Vector):
    """``splat_load(address) -> vector``: one number from memory in all lanes."""

    @intrinsic
    def splat_load(typingctx, address):
        def codegen(context, builder, signature, args):
            number = builder.load(builder.inttoptr(args[0], llvm_type(vector).element.as_pointer()))
            number.align = 1
            return splat_value(builder, vector, number)

        return vector(types.intp), codegen

    return splat_load


def make_store(vector: Vector):
    """``store(address, value)``; the address needs no alignment."""

    @intrinsic
    def store(typingctx, address, value):
        def codegen(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], llvm_type(vector).as_pointer())
            builder.store(args[1], pointer).align = 1
            return context.get_dummy_value()

        return types.void(types.intp, vector), codegen

    return store


def make_zero(vector: Vector):
    """``zero() -> vector`` of zeros."""

    @intrinsic
    def zero(typingctx):
        def codegen(context, builder, signature, args):
            return ir.Constant(llvm_type(vector), [0] * vector.n)

        return vector(), codegen

    return zero


def make_binary(vector: Vector, instruction: str):
    """``f(a, b) -> vector`` by an LLVM instruction that works lane by lane (integers modulo 2^bits)."""

    @intrinsic
    def binary(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, instruction)(args[0], args[1])

        return vector(vector, vector), codegen

    return binary


def make_splat(vector: Vector):
    """``splat(number) -> vector``: one number in all lanes."""

    @intrinsic
    def splat(typingctx, number):
        def codegen(context, builder, signature, args):
            return splat_value(builder, vector, args[0])

        return vector(LANE_TYPES[vector.lane][1]), codegen

    return splat


def splat_value(builder, vector, number):
    kind = llvm_type(vector)
    index = ir.IntType(32)
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(index, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(index, vector.n), [0] * vector.n))


def make_extreme(vector: Vector, order: str):
    """``max(a, b) -> vector`` for the order ``>``, ``min`` for ``<``: of two floats a lane; `b` where one is NaN."""

    @intrinsic
    def extreme(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return builder.select(builder.fcmp_ordered(order, *args), *args)

        return vector(vector, vector), codegen

    return extreme


def make_select(vector: Vector):
    """``select(bits, a, b) -> vector``: lane i is ``a[i]`` where bit i of a 64-bit number is set, else ``b[i]``."""

    @intrinsic
    def select(typingctx, bits, a, b):
        def codegen(context, builder, signature, args):
            lanes = builder.trunc(args[0], ir.IntType(vector.n))
            return builder.select(builder.bitcast(lanes, ir.VectorType(ir.IntType(1), vector.n)), *args[1:])

        return vector(types.uint64, vector, vector), codegen

    return select


def make_pick(vector: Vector, lanes: list[int]):
    """``pick(a, b) -> vector``: lane i is lane ``lanes[i]`` of `a` and `b` one behind the other."""

    @intrinsic
    def pick(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return builder.shuffle_vector(*args, ir.Constant(ir.VectorType(ir.IntType(32), vector.n), lanes))

        return vector(vector, vector), codegen

    return pick


def part(builder, value, lanes):
    """Some lanes of a vector, in the order of their numbers."""
    nothing = ir.Constant(value.type, ir.Undefined)
    return builder.shuffle_vector(value, nothing, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))

"""Vector registers as Numba types, and the operations on them that every LLVM target has."""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

_LANE_TYPES = {"i32": (ir.IntType(32), types.int32)}


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
    return ir.VectorType(_LANE_TYPES[vector.lane][0], vector.n)


i32x16 = Vector("i32", 16)
i32x8 = Vector("i32", 8)


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
            kind = llvm_type(vector)
            number = builder.load(builder.inttoptr(args[0], kind.element.as_pointer()))
            number.align = 1
            index = ir.IntType(32)
            nothing = ir.Constant(kind, ir.Undefined)
            first = builder.insert_element(nothing, number, ir.Constant(index, 0))
            lanes = ir.Constant(ir.VectorType(index, vector.n), [0] * vector.n)
            return builder.shuffle_vector(first, nothing, lanes)

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


def make_add(vector: Vector):
    """``add(a, b) -> vector``, lane by lane, modulo 2^32."""

    @intrinsic
    def add(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return builder.add(args[0], args[1])

        return vector(vector, vector), codegen

    return add


add_i32x16 = make_add(i32x16)
add_i32x8 = make_add(i32x8)
load_i32x16 = make_load(i32x16)
load_i32x8 = make_load(i32x8)
splat_load_i32x16 = make_splat_load(i32x16)
splat_load_i32x8 = make_splat_load(i32x8)
store_i32x16 = make_store(i32x16)
store_i32x8 = make_store(i32x8)
zero_i32x16 = make_zero(i32x16)
zero_i32x8 = make_zero(i32x8)

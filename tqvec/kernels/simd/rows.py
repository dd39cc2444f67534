"""Tuples of registers: 2 to 16 rows of 16 float32, which are loaded, transformed and stored together.

Each operation is made for a number of rows, since the length of a tuple is part of its type.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tqvec.kernels.simd.vector import f32x16, llvm_type

_NUMBER = ir.IntType(64)
_POINTER = llvm_type(f32x16).as_pointer()


def _offset(builder, base, step, i):
    return builder.add(base, builder.mul(step, ir.Constant(_NUMBER, i)))


def _load(builder, address, pointer=_POINTER):
    value = builder.load(builder.inttoptr(address, pointer))
    value.align = 1
    return value


def make_load(rows: int):
    """``load(address, stride) -> tuple`` of the rows that begin `stride` bytes apart."""
    result = types.UniTuple(f32x16, rows)

    @intrinsic
    def load(typingctx, address, stride):
        def codegen(context, builder, signature, args):
            values = [_load(builder, _offset(builder, args[0], args[1], i)) for i in range(rows)]
            return context.make_tuple(builder, result, values)

        return result(types.intp, types.intp), codegen

    return load


def make_store(rows: int):
    """``store(address, stride, tuple)``: the inverse of `make_load`."""
    kind = types.UniTuple(f32x16, rows)

    @intrinsic
    def store(typingctx, address, stride, values):
        def codegen(context, builder, signature, args):
            for i, value in enumerate(cgutils.unpack_tuple(builder, args[2], rows)):
                place = builder.inttoptr(_offset(builder, args[0], args[1], i), _POINTER)
                builder.store(value, place).align = 1
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, kind), codegen

    return store


def make_gather(rows: int):
    """``gather(source, order, factors) -> tuple``: row ``order[i]`` of `source`, times ``factors[i]``.

    All three are addresses: of rows of 64 bytes, of int32, of float32.
    """
    result = types.UniTuple(f32x16, rows)

    @intrinsic
    def gather(typingctx, source, order, factors):
        def codegen(context, builder, signature, args):
            index = ir.IntType(32)
            step = ir.Constant(_NUMBER, 4)
            values = []
            for i in range(rows):
                row = _load(builder, _offset(builder, args[1], step, i), index.as_pointer())
                place = builder.add(args[0], builder.shl(builder.zext(row, _NUMBER), ir.Constant(_NUMBER, 6)))
                factor = _load(builder, _offset(builder, args[2], step, i), ir.FloatType().as_pointer())
                nothing = ir.Constant(llvm_type(f32x16), ir.Undefined)
                first = builder.insert_element(nothing, factor, ir.Constant(index, 0))
                zeros = ir.Constant(ir.VectorType(index, 16), [0] * 16)
                values.append(builder.fmul(_load(builder, place), builder.shuffle_vector(first, nothing, zeros)))
            return context.make_tuple(builder, result, values)

        return result(types.intp, types.intp, types.intp), codegen

    return gather


def make_hadamard(rows: int):
    """``hadamard(tuple) -> tuple``: Walsh-Hadamard transform across the rows, strides 1, 2, 4, …

    Every butterfly is (a + b, a - b).
    """
    kind = types.UniTuple(f32x16, rows)

    @intrinsic
    def hadamard(typingctx, values):
        def codegen(context, builder, signature, args):
            v = cgutils.unpack_tuple(builder, args[0], rows)
            stride = 1
            while stride < rows:
                for i in range(rows):
                    if not i & stride:
                        a, b = v[i], v[i + stride]
                        v[i], v[i + stride] = builder.fadd(a, b), builder.fsub(a, b)
                stride *= 2
            return context.make_tuple(builder, kind, v)

        return kind(kind), codegen

    return hadamard


@intrinsic
def transpose_16(typingctx, values):
    """``np.transpose`` of 16 rows of 16 lanes."""
    kind = types.UniTuple(f32x16, 16)

    def codegen(context, builder, signature, args):
        v = cgutils.unpack_tuple(builder, args[0], 16)
        for stride in (1, 2, 4, 8):  # exchange the bit `stride` of the row's number with that of the lane's
            low = [lane + 16 - stride if lane & stride else lane for lane in range(16)]
            high = [lane + 16 if lane & stride else lane + stride for lane in range(16)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), 16), lanes) for lanes in (low, high)]
            for i in range(16):
                if not i & stride:
                    a, b = v[i], v[i + stride]
                    v[i], v[i + stride] = (builder.shuffle_vector(a, b, mask) for mask in masks)
        return context.make_tuple(builder, kind, v)

    return kind(kind), codegen


load_2, load_4, load_8, load_16 = (make_load(rows) for rows in (2, 4, 8, 16))
store_2, store_4, store_8, store_16 = (make_store(rows) for rows in (2, 4, 8, 16))
hadamard_2, hadamard_4, hadamard_8, hadamard_16 = (make_hadamard(rows) for rows in (2, 4, 8, 16))
gather_16 = make_gather(16)

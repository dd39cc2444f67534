"""Tuples of registers: 2 to 16 rows of 16 float32, which are loaded, transformed and stored together.

Each operation is made for a number of rows, since the length of a tuple is part of its type.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tqvec.kernels.simd.vector import f32x16, i8x64, i32x16, llvm_type, splat_value

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


def make_dot(name: str):
    """``dot(sums, address, stride, b) -> sums``: each of 16 rows of 64 bytes, times `b`, is added to its own sums.

    `name` is the instruction: byte products of unsigned rows and signed `b`, or products of int16 pairs.
    """
    kind = types.UniTuple(i32x16, 16)

    @intrinsic
    def dot(typingctx, sums, address, stride, b):
        def codegen(context, builder, signature, args):
            register = llvm_type(i8x64 if name == "vpdpbusd" else i32x16)
            wide = llvm_type(i32x16)
            shape = ir.FunctionType(wide, [wide, register, register])
            function = cgutils.get_or_insert_function(builder.module, shape, f"llvm.x86.avx512.{name}.512")
            b = builder.bitcast(args[3], register)
            found = []
            for i, value in enumerate(cgutils.unpack_tuple(builder, args[0], 16)):
                row = _load(builder, _offset(builder, args[1], args[2], i), register.as_pointer())
                found.append(builder.call(function, [value, row, b]))
            return context.make_tuple(builder, kind, found)

        return kind(kind, types.intp, types.intp, i8x64), codegen

    return dot


@intrinsic
def zeros_16(typingctx):
    """16 registers of 16 int32, all 0."""
    kind = types.UniTuple(i32x16, 16)

    def codegen(context, builder, signature, args):
        return context.make_tuple(builder, kind, [ir.Constant(llvm_type(i32x16), [0] * 16)] * 16)

    return kind(), codegen


@intrinsic
def sum_lanes_16(typingctx, values):
    """Lane i is the sum of the lanes of row i of 16, modulo 2^32."""
    kind = types.UniTuple(i32x16, 16)

    def codegen(context, builder, signature, args):
        v = cgutils.unpack_tuple(builder, args[0], 16)
        for stride in (8, 4, 2, 1):  # halves the rows: lanes with the bit `stride` are those of the later one
            low = [lane + 16 - stride if lane & stride else lane for lane in range(16)]
            high = [lane + 16 if lane & stride else lane + stride for lane in range(16)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), 16), lanes) for lanes in (low, high)]
            for i in range(stride):
                v[i] = builder.add(*(builder.shuffle_vector(v[i], v[i + stride], mask) for mask in masks))
        return v[0]

    return i32x16(kind), codegen


def make_add_multiples(count: int):
    """``add(sums, values, address, stride) -> sums``: four registers for each of `count` factors gain that multiple
    of `values`, four registers; each product and its sum are rounded once. Factors are float32, `stride` bytes apart.
    """
    kind, rows = types.UniTuple(f32x16, 4 * count), types.UniTuple(f32x16, 4)

    @intrinsic
    def add(typingctx, sums, values, address, stride):
        def codegen(context, builder, signature, args):
            vector = llvm_type(f32x16)
            fma = ir.FunctionType(vector, [vector] * 3)
            function = cgutils.get_or_insert_function(builder.module, fma, "llvm.fma.v16f32")
            sums, values = (cgutils.unpack_tuple(builder, arg) for arg in args[:2])
            for i in range(count):
                place = _offset(builder, args[2], args[3], i)
                factor = splat_value(builder, f32x16, _load(builder, place, ir.FloatType().as_pointer()))
                for k in range(4):
                    sums[4 * i + k] = builder.call(function, [factor, values[k], sums[4 * i + k]])
            return context.make_tuple(builder, kind, sums)

        return kind(kind, rows, types.intp, types.intp), codegen

    return add


dot_bytes_16, dot_words_16 = make_dot("vpdpbusd"), make_dot("vpdpwssd")
add_multiples_1, add_multiples_2, add_multiples_4 = (make_add_multiples(count) for count in (1, 2, 4))
load_2, load_4, load_8, load_16 = (make_load(rows) for rows in (2, 4, 8, 16))
store_2, store_4, store_8, store_16 = (make_store(rows) for rows in (2, 4, 8, 16))
hadamard_2, hadamard_4, hadamard_8, hadamard_16 = (make_hadamard(rows) for rows in (2, 4, 8, 16))
gather_16 = make_gather(16)

"""Operations of x86 processors. Compile a kernel that uses one only at a level that has its instruction."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tqvec.kernels.simd.vector import f32x16, i8x16, i8x32, i8x64, i16x16, i16x32, i32x8, i32x16, llvm_type, part


def _declare(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


@intrinsic
def dot_pairs_i32x16(typingctx, acc, a, b):
    """AVX-512 VNNI ``vpdpwssd``: each lane of `acc` gains the two products of the int16 pairs in `a` and `b`."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i32x16)
        function = _declare(builder, "llvm.x86.avx512.vpdpwssd.512", kind, [kind] * 3)
        return builder.call(function, args)

    return i32x16(i32x16, i32x16, i32x16), codegen


@intrinsic
def dot_pairs_i32x8(typingctx, acc, a, b):
    """AVX2 ``vpmaddwd`` and an addition: the 8-lane `dot_pairs_i32x16`."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i32x8)
        halves = ir.VectorType(ir.IntType(16), 16)
        function = _declare(builder, "llvm.x86.avx2.pmadd.wd", kind, [halves] * 2)
        products = builder.call(function, [builder.bitcast(args[1], halves), builder.bitcast(args[2], halves)])
        return builder.add(args[0], products)

    return i32x8(i32x8, i32x8, i32x8), codegen


def _make_permute(vector, index_vector, name):
    """``permute(table, index)``: lane i is ``table[index[i] % lanes]``."""

    @intrinsic
    def permute(typingctx, table, index):
        def codegen(context, builder, signature, args):
            kinds = [llvm_type(vector), llvm_type(index_vector)]
            return builder.call(_declare(builder, name, kinds[0], kinds), args)

        return vector(vector, index_vector), codegen

    return permute


permute_i8x64 = _make_permute(i8x64, i8x64, "llvm.x86.avx512.permvar.qi.512")  # VBMI vpermb
permute_i16x32 = _make_permute(i16x32, i16x32, "llvm.x86.avx512.permvar.hi.512")  # vpermw
permute_f32x16 = _make_permute(f32x16, i32x16, "llvm.x86.avx512.permvar.sf.512")  # vpermps


@intrinsic
def permute_two_f32x16(typingctx, a, b, index):
    """AVX-512 ``vpermt2ps``: lane i is lane ``index[i] % 32`` of `a` and `b` one behind the other."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(f32x16)
        function = _declare(builder, "llvm.x86.avx512.vpermi2var.ps.512", kind, [kind, llvm_type(i32x16), kind])
        return builder.call(function, [args[0], args[2], args[1]])

    return f32x16(f32x16, f32x16, i32x16), codegen


@intrinsic
def permute_two_i8x64(typingctx, low, high, index):
    """VBMI ``vpermi2b``: lane i is entry ``index[i] % 128`` of the two tables, one after the other."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i8x64)
        function = _declare(builder, "llvm.x86.avx512.vpermi2var.qi.512", kind, [kind] * 3)
        return builder.call(function, [args[0], args[2], args[1]])

    return i8x64(i8x64, i8x64, i8x64), codegen


@intrinsic
def select_bit_fields_i8x64(typingctx, low, high):
    """VBMI ``vpmultishiftqb``: `bit_fields_i8x64`, of whose `high` bits 0 … 6 count.

    A byte takes eight bits of its own 64-bit lane, around its end. So all lanes get `low`, and the last one, the only
    one whose fields reach past bit 63, has the bits of `high` where they come around.
    """

    def codegen(context, builder, signature, args):
        word, kind = ir.IntType(64), llvm_type(i8x64)
        words = ir.VectorType(word, 8)
        nothing, lane = ir.Constant(words, ir.Undefined), ir.IntType(32)
        last = builder.and_(args[0], ir.Constant(word, 0xFF << 56))
        last = builder.or_(last, builder.and_(args[1], ir.Constant(word, 0x7F)))
        first = builder.insert_element(nothing, args[0], ir.Constant(lane, 0))
        source = builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(lane, 8), [0] * 8))
        source = builder.insert_element(source, last, ir.Constant(lane, 7))
        function = _declare(builder, "llvm.x86.avx512.pmultishift.qb.512", kind, [kind] * 2)
        return builder.call(function, [ir.Constant(kind, list(range(64))), builder.bitcast(source, kind)])

    return i8x64(types.uint64, types.uint64), codegen


@intrinsic
def fields_of_words_i8x64(typingctx, a, first):
    """VBMI ``vpmultishiftqb``: byte i is the eight bits from ``first[i] % 64`` on, around the end, of its own 64."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i8x64)
        function = _declare(builder, "llvm.x86.avx512.pmultishift.qb.512", kind, [kind] * 2)
        return builder.call(function, [args[1], args[0]])

    return i8x64(i8x64, i8x64), codegen


@intrinsic
def transpose_bits_i8x64(typingctx, a):
    """GFNI ``vgf2p8affineqb``: bit i of byte j is bit j of byte 7 - i, in each eight bytes."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i8x64)
        function = _declare(builder, "llvm.x86.vgf2p8affineqb.512", kind, [kind, kind, ir.IntType(8)])
        one_bit = ir.Constant(kind, [1 << i % 8 for i in range(64)])
        return builder.call(function, [one_bit, args[0], ir.Constant(ir.IntType(8), 0)])

    return i8x64(i8x64), codegen


@intrinsic
def dot_bytes_i32x16(typingctx, acc, a, b):
    """AVX-512 VNNI ``vpdpbusd``: each lane of `acc` gains four products, unsigned bytes of `a` by signed of `b`."""

    def codegen(context, builder, signature, args):
        sums = llvm_type(i32x16)
        kind = llvm_type(i8x64)
        function = _declare(builder, "llvm.x86.avx512.vpdpbusd.512", sums, [sums, kind, kind])
        return builder.call(function, args)

    return i32x16(i32x16, i8x64, i8x64), codegen


@intrinsic
def dot_words_i32x16(typingctx, acc, a, b):
    """`dot_pairs_i32x16` on vectors of 32 int16."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i32x16)
        function = _declare(builder, "llvm.x86.avx512.vpdpwssd.512", kind, [kind] * 3)
        return builder.call(function, [args[0], builder.bitcast(args[1], kind), builder.bitcast(args[2], kind)])

    return i32x16(i32x16, i16x32, i16x32), codegen


def _in_halves(builder, name, element, lanes, args):
    """An AVX2 function of two vectors of 64 bytes, applied to their halves."""
    kind = ir.VectorType(ir.IntType(512 // 2 // lanes), lanes)
    function = _declare(builder, name, ir.VectorType(element, 256 // element.width), [kind] * 2)
    halves = [
        builder.call(function, [part(builder, arg, range(first, first + lanes)) for arg in args])
        for first in (0, lanes)
    ]
    whole = ir.Constant(ir.VectorType(ir.IntType(32), 512 // element.width), list(range(512 // element.width)))
    return builder.shuffle_vector(*halves, whole)


@intrinsic
def lookup_i8x64(typingctx, table, index):
    """AVX2 ``vpshufb``: lane i is ``table[i // 16 * 16 + index[i]]``, for an index of 0 … 15."""

    def codegen(context, builder, signature, args):
        return _in_halves(builder, "llvm.x86.avx2.pshuf.b", ir.IntType(8), 32, args)

    return i8x64(i8x64, i8x64), codegen


_TABLE_128 = types.UniTuple(i8x64, 8)


@intrinsic
def load_table_128(typingctx, address):
    """A table of 128 bytes as `lookup_128_i8x64` takes it: its 16 bytes number i, exclusive or those before them."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i8x16)
        before, registers = ir.Constant(kind, [0] * 16), []
        for i in range(8):
            at = builder.inttoptr(builder.add(args[0], ir.Constant(args[0].type, 16 * i)), kind.as_pointer())
            entries = builder.load(at)
            entries.align = 1
            registers.append(part(builder, builder.xor(entries, before), list(range(16)) * 4))
            before = entries
        return context.make_tuple(builder, _TABLE_128, registers)

    return _TABLE_128(types.intp), codegen


@intrinsic
def lookup_128_i8x64(typingctx, table, index):
    """AVX2: lane i is entry ``index[i]``, 0 … 127, of a table from `load_table_128`.

    ``vpshufb`` gives 0 where the index is negative. The index is 16 less at each of the eight lookups, so the entries
    up to the last before that are added up without carry, and leave the one that is meant.
    """

    def codegen(context, builder, signature, args):
        kind = llvm_type(i8x64)
        total, left = ir.Constant(kind, [0] * 64), args[1]
        for register in cgutils.unpack_tuple(builder, args[0], 8):
            found = _in_halves(builder, "llvm.x86.avx2.pshuf.b", ir.IntType(8), 32, [register, left])
            total = builder.xor(total, found)
            left = builder.sub(left, ir.Constant(kind, [16] * 64))
        return total

    return i8x64(_TABLE_128, i8x64), codegen


@intrinsic
def multiply_words_i32x16(typingctx, a, b):
    """AVX2 ``vpmaddwd``: each lane is the sum of the two products of the int16 pairs in `a` and `b`."""

    def codegen(context, builder, signature, args):
        return _in_halves(builder, "llvm.x86.avx2.pmadd.wd", ir.IntType(32), 16, args)

    return i32x16(i16x32, i16x32), codegen


@intrinsic
def multiply_bytes_i16x32(typingctx, a, b):
    """AVX2 ``vpmaddubsw``: two products of unsigned bytes of `a` by signed of `b` a lane; their sum saturates."""

    def codegen(context, builder, signature, args):
        return _in_halves(builder, "llvm.x86.avx2.pmadd.ub.sw", ir.IntType(16), 32, args)

    return i16x32(i8x64, i8x64), codegen


@intrinsic
def multiply_bytes_i16x16(typingctx, a, b):
    """The 32-byte `multiply_bytes_i16x32`."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i8x32)
        return builder.call(_declare(builder, "llvm.x86.avx2.pmadd.ub.sw", llvm_type(i16x16), [kind] * 2), args)

    return i16x16(i8x32, i8x32), codegen


@intrinsic
def dot_words_i32x8(typingctx, acc, a, b):
    """`dot_pairs_i32x8` on vectors of 16 int16."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i16x16)
        function = _declare(builder, "llvm.x86.avx2.pmadd.wd", llvm_type(i32x8), [kind] * 2)
        return builder.add(args[0], builder.call(function, args[1:]))

    return i32x8(i32x8, i16x16, i16x16), codegen

"""Operations of x86 processors. Compile a kernel that uses one only at a level that has its instruction."""

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
    i64x8,
    load_from,
    operation,
    take,
    take_from_two,
)

# AVX-512


def make_permute(vector: Vector, index_vector: Vector, name: str):
    """Make ``permute(table, index) -> vector``: lane i is ``table[index[i] % lanes]``."""

    @operation(vector, (vector, index_vector))
    def permute(builder, table, index):
        return call(builder, f"llvm.x86.avx512.permvar.{name}.512", vector.llvm, table, index)

    return permute


permute_i8x64 = make_permute(i8x64, i8x64, "qi")  # VBMI vpermb
permute_i16x32 = make_permute(i16x32, i16x32, "hi")  # vpermw
permute_f32x16 = make_permute(f32x16, i32x16, "sf")  # vpermps


def make_permute_two(vector: Vector, index_vector: Vector, name: str):
    """Make ``permute_two(a, b, index) -> vector``: lane i is entry ``index[i] % (2 * lanes)`` of `a` and then `b`."""

    @operation(vector, (vector, vector, index_vector))
    def permute_two(builder, a, b, index):
        return call(builder, f"llvm.x86.avx512.vpermi2var.{name}.512", vector.llvm, a, index, b)

    return permute_two


permute_two_i8x64 = make_permute_two(i8x64, i8x64, "qi")  # VBMI vpermi2b
permute_two_f32x16 = make_permute_two(f32x16, i32x16, "ps")  # vpermi2ps


@operation(i8x64, (i8x64, i8x64))
def multishift_i8x64(builder, a, first):
    """VBMI ``vpmultishiftqb``: byte i is the eight bits from ``first[i] % 64`` on, around the end, of its own 64."""
    return call(builder, "llvm.x86.avx512.pmultishift.qb.512", i8x64.llvm, first, a)


@operation(i8x64, (types.uint64, types.uint64))
def multishift_fields_i8x64(builder, low, high):
    """VBMI ``vpmultishiftqb``: `extract_fields_i8x64`, where bits 0 … 6 of `high` count.

    A byte takes eight bits of its own 64-bit lane, around its end. So all lanes get `low`, and the last one, the only
    one whose fields reach past bit 63, has the bits of `high` where they come around.
    """
    word = ir.IntType(64)
    last = builder.and_(low, word(0xFF << 56))
    last = builder.or_(last, builder.and_(high, word(0x7F)))
    source = builder.insert_element(broadcast(builder, i64x8, low), last, INDEX(7))
    first = constant(i8x64, range(64))
    return call(builder, "llvm.x86.avx512.pmultishift.qb.512", i8x64.llvm, first, builder.bitcast(source, i8x64.llvm))


@operation(i8x64, (i8x64,))
def transpose_bits_i8x64(builder, a):
    """GFNI ``vgf2p8affineqb``: bit i of byte j is bit j of byte 7 - i, in each eight bytes."""
    one_bit = constant(i8x64, [1 << i % 8 for i in range(64)])
    return call(builder, "llvm.x86.vgf2p8affineqb.512", i8x64.llvm, one_bit, a, ir.IntType(8)(0))


@operation(i32x16, (i32x16, i8x64, i8x64))
def dot_bytes_i32x16(builder, acc, a, b):
    """VNNI ``vpdpbusd``: add four products per lane to `acc`, unsigned bytes of `a` by signed ones of `b`."""
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", i32x16.llvm, acc, a, b)


@operation(i32x16, (i32x16, i32x16, i32x16))
def dot_pairs_i32x16(builder, acc, a, b):
    """VNNI ``vpdpwssd``: add the two products of the int16 pairs in `a` and `b` to each lane of `acc`."""
    return call(builder, "llvm.x86.avx512.vpdpwssd.512", i32x16.llvm, acc, a, b)


@operation(i32x16, (i32x16, i16x32, i16x32))
def dot_words_i32x16(builder, acc, a, b):
    """`dot_pairs_i32x16` of registers of 32 int16."""
    pairs = (builder.bitcast(words, i32x16.llvm) for words in (a, b))
    return call(builder, "llvm.x86.avx512.vpdpwssd.512", i32x16.llvm, acc, *pairs)


# AVX2


@operation(i32x8, (i32x8, i16x16, i16x16))
def dot_words_i32x8(builder, acc, a, b):
    """``vpmaddwd`` and an addition: the 8-lane `dot_words_i32x16`."""
    return builder.add(acc, call(builder, "llvm.x86.avx2.pmadd.wd", i32x8.llvm, a, b))


@operation(i32x8, (i32x8, i32x8, i32x8))
def dot_pairs_i32x8(builder, acc, a, b):
    """``vpmaddwd`` and an addition: the 8-lane `dot_pairs_i32x16`."""
    words = (builder.bitcast(pairs, i16x16.llvm) for pairs in (a, b))
    return builder.add(acc, call(builder, "llvm.x86.avx2.pmadd.wd", i32x8.llvm, *words))


@operation(i32x8, (i32x8, i8x32, i8x32))
def dot_signed_bytes_i32x8(builder, acc, a, b):
    """``vpabsb``, ``vpsignb``, ``vpmaddubsw``, ``vpmaddwd``: add four products of signed bytes per lane to `acc`.

    A product is ``abs(b) * (a * sign(b))``. No byte of `a` is -128, so no sum of two products saturates.
    """
    sizes = call(builder, "llvm.abs.v32i8", i8x32.llvm, b, ir.IntType(1)(0))
    signed = call(builder, "llvm.x86.avx2.psign.b", i8x32.llvm, a, b)
    pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", i16x16.llvm, sizes, signed)
    return builder.add(acc, call(builder, "llvm.x86.avx2.pmadd.wd", i32x8.llvm, pairs, constant(i16x16, 1)))


@operation(i16x16, (i8x32, i8x32))
def multiply_bytes_i16x16(builder, a, b):
    """``vpmaddubsw``: the 32-byte `multiply_bytes_i16x32`."""
    return call(builder, "llvm.x86.avx2.pmadd.ub.sw", i16x16.llvm, a, b)


def _call_on_halves(builder, name, half: Vector, a, b):
    """Call an AVX2 function of two registers, whose result is a `half`, on both halves of 64 bytes."""
    lanes = a.type.count // 2
    halves = [
        call(builder, f"llvm.x86.avx2.{name}", half.llvm, *(take(builder, arg, part) for arg in (a, b)))
        for part in (range(lanes), range(lanes, 2 * lanes))
    ]
    return take_from_two(builder, *halves, range(2 * half.n))


@operation(i16x32, (i8x64, i8x64))
def multiply_bytes_i16x32(builder, a, b):
    """``vpmaddubsw``: two products per lane, unsigned bytes of `a` by signed ones of `b`; their sum saturates."""
    return _call_on_halves(builder, "pmadd.ub.sw", i16x16, a, b)


@operation(i32x16, (i16x32, i16x32))
def multiply_words_i32x16(builder, a, b):
    """``vpmaddwd``: each lane is the sum of the two products of the int16 pairs in `a` and `b`."""
    return _call_on_halves(builder, "pmadd.wd", i32x8, a, b)


def _look_up(builder, vector: Vector, table, index):
    """``vpshufb``: look up the lower four bits of an index in 16 bytes of the table; 0 where the index is negative."""
    if vector.n == 64:
        return _call_on_halves(builder, "pshuf.b", i8x32, table, index)
    return call(builder, "llvm.x86.avx2.pshuf.b", vector.llvm, table, index)


def make_lookup(vector: Vector):
    """Make ``lookup(table, index) -> vector``: lane i is ``table[i // 16 * 16 + index[i]]``, for an index of 0 … 15."""

    @operation(vector, (vector, vector))
    def lookup(builder, table, index):
        return _look_up(builder, vector, table, index)

    return lookup


lookup_i8x32, lookup_i8x64 = make_lookup(i8x32), make_lookup(i8x64)

_TABLE_128 = types.UniTuple(i8x64, 8)


@operation(_TABLE_128, (types.intp,))
def load_table_128(builder, address):
    """Load a table of 128 bytes as `lookup_128_i8x64` takes it: its 16 bytes number i, exclusive or those before."""
    before, registers = constant(i8x16, 0), []
    for i in range(8):
        entries = load_from(builder, builder.add(address, address.type(16 * i)), i8x16.llvm)
        registers.append(take(builder, builder.xor(entries, before), [*range(16)] * 4))
        before = entries
    return registers


def make_lookup_128(vector: Vector):
    """Make ``lookup(table, index) -> vector``: entries ``index[i]``, 0 … 127, of a table from `load_table_128`.

    ``vpshufb`` gives 0 where the index is negative. The index is 16 less at each of the eight lookups, so the entries
    up to the last before that are added up without carry, and leave the one that is meant.
    """

    @operation(vector, (_TABLE_128, vector))
    def lookup_128(builder, table, index):
        total = constant(vector, 0)
        for register in table:
            part = take(builder, register, range(vector.n))  # all its 16 bytes are the same
            total = builder.xor(total, _look_up(builder, vector, part, index))
            index = builder.sub(index, constant(vector, 16))
        return total

    return lookup_128


lookup_128_i8x32, lookup_128_i8x64 = make_lookup_128(i8x32), make_lookup_128(i8x64)

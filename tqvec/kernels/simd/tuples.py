"""Tuples of registers: 1 to 16 rows of 16 lanes, which are loaded, transformed and stored together.

Each operation is made for a number of rows, since the length of a tuple is part of its type.
"""

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
    i8x32,
    i8x64,
    i16x16,
    i32x8,
    i32x16,
    load_from,
    operation,
    store_to,
    take,
    take_from_two,
)

_NUMBER, _FLOAT = ir.IntType(64), ir.FloatType()
_BYTES_8 = types.UniTuple(i8x32, 8)
_FLOATS_16, _INTS_16 = types.UniTuple(f32x16, 16), types.UniTuple(i32x16, 16)


def _offset(builder, address, step, i):
    return builder.add(address, builder.mul(step, _NUMBER(i)))


def make_load(rows: int):
    """Make ``load(address, stride) -> tuple`` of the rows that begin `stride` bytes apart."""

    @operation(types.UniTuple(f32x16, rows), (types.intp, types.intp))
    def load(builder, address, stride):
        return [load_from(builder, _offset(builder, address, stride, i), f32x16.llvm) for i in range(rows)]

    return load


load_2, load_4, load_8, load_16 = (make_load(rows) for rows in (2, 4, 8, 16))


def make_store(rows: int):
    """Make ``store(address, stride, values)``, the inverse of `make_load`."""

    @operation(types.void, (types.intp, types.intp, types.UniTuple(f32x16, rows)))
    def store(builder, address, stride, values):
        for i, value in enumerate(values):
            store_to(builder, _offset(builder, address, stride, i), value)

    return store


store_2, store_4, store_8, store_16 = (make_store(rows) for rows in (2, 4, 8, 16))


@operation(_FLOATS_16, (types.intp, types.intp, types.intp))
def gather_16(builder, source, order, factors):
    """Load row ``order[i]`` of `source`, times ``factors[i]``.

    All three are addresses: of rows of 64 bytes, of int32, of float32.
    """
    values = []
    for i in range(16):
        row = load_from(builder, _offset(builder, order, _NUMBER(4), i), INDEX)
        address = builder.add(source, builder.shl(builder.zext(row, _NUMBER), _NUMBER(6)))
        factor = load_from(builder, _offset(builder, factors, _NUMBER(4), i), _FLOAT)
        value = load_from(builder, address, f32x16.llvm)
        values.append(builder.fmul(value, broadcast(builder, f32x16, factor)))
    return values


def make_hadamard(rows: int):
    """Make ``hadamard(values) -> tuple``: the Walsh-Hadamard transform across the rows, strides 1, 2, 4, …

    Every butterfly is (a + b, a - b).
    """
    kind = types.UniTuple(f32x16, rows)

    @operation(kind, (kind,))
    def hadamard(builder, values):
        stride = 1
        while stride < rows:
            for i in range(rows):
                if not i & stride:
                    a, b = values[i], values[i + stride]
                    values[i], values[i + stride] = builder.fadd(a, b), builder.fsub(a, b)
            stride *= 2
        return values

    return hadamard


hadamard_2, hadamard_4, hadamard_8, hadamard_16 = (make_hadamard(rows) for rows in (2, 4, 8, 16))


def _exchange(builder, a, b, stride):
    """Exchange the lanes of `a` whose number has the bit `stride` with those of `b` that don't."""
    low = [lane + 16 - stride if lane & stride else lane for lane in range(16)]
    high = [lane + 16 if lane & stride else lane + stride for lane in range(16)]
    return take_from_two(builder, a, b, low), take_from_two(builder, a, b, high)


@operation(_FLOATS_16, (_FLOATS_16,))
def transpose_16(builder, values):
    """Transpose 16 rows of 16 lanes."""
    for stride in (1, 2, 4, 8):  # exchange the bit `stride` of the row's number with that of the lane's
        for i in range(16):
            if not i & stride:
                values[i], values[i + stride] = _exchange(builder, values[i], values[i + stride], stride)
    return values


def make_dot(name: str, lanes: Vector):
    """Make ``dot(sums, address, stride, b) -> sums``: each of 16 rows of 64 bytes, times `b`, is added to its own sums.

    `name` is an instruction of AVX-512 VNNI, for unsigned bytes of a row and signed ones of `b`, or for int16 pairs.
    `lanes` is the kind of register that it takes in LLVM.
    """

    @operation(_INTS_16, (_INTS_16, types.intp, types.intp, i8x64))
    def dot(builder, sums, address, stride, b):
        b = builder.bitcast(b, lanes.llvm)
        for i in range(16):
            row = load_from(builder, _offset(builder, address, stride, i), lanes.llvm)
            sums[i] = call(builder, f"llvm.x86.avx512.{name}.512", i32x16.llvm, sums[i], row, b)
        return sums

    return dot


dot_bytes_16, dot_words_16 = make_dot("vpdpbusd", i8x64), make_dot("vpdpwssd", i32x16)


@operation(_INTS_16, (_INTS_16, i8x64, types.intp, types.intp))
def dot_numbers_16(builder, sums, a, address, stride):
    """Add byte products to 16 registers: of `a`, unsigned, with four signed bytes of each of 16 rows in memory."""
    for i in range(16):
        number = load_from(builder, _offset(builder, address, stride, i), i32x16.llvm.element)
        b = builder.bitcast(broadcast(builder, i32x16, number), i8x64.llvm)
        sums[i] = call(builder, "llvm.x86.avx512.vpdpbusd.512", i32x16.llvm, sums[i], a, b)
    return sums


@operation(_INTS_16, ())
def zeros_16(builder):
    """Make 16 registers of 16 int32, all 0."""
    return [constant(i32x16, 0)] * 16


@operation(i32x16, (_INTS_16,))
def sum_lanes_16(builder, values):
    """Add up the lanes of each row: lane i is the sum of row i of 16, modulo 2^32."""
    for stride in (8, 4, 2, 1):  # halves the rows: lanes with the bit `stride` are those of the later one
        for i in range(stride):
            values[i] = builder.add(*_exchange(builder, values[i], values[i + stride], stride))
    return values[0]


@operation(i32x8, (types.UniTuple(i32x8, 4),))
def sum_halves_4(builder, values):
    """Add up the lanes of each half of four registers, modulo 2^32: lane i is the sum of half i."""
    evens, odds = [0, 2, 8, 10, 4, 6, 12, 14], [1, 3, 9, 11, 5, 7, 13, 15]  # within halves, as ``vphaddd`` adds
    while len(values) > 1:
        pairs = list(zip(values[::2], values[1::2], strict=True))
        values = [builder.add(*(take_from_two(builder, *pair, lanes) for lanes in (evens, odds))) for pair in pairs]
    return take(builder, values[0], [0, 4, 1, 5, 2, 6, 3, 7])


@operation(_BYTES_8, (_BYTES_8,))
def transpose_bits_8(builder, values):
    """Transpose 8 x 8 bits: bit i of a byte of register k is bit k of that byte of register i."""
    words = [builder.bitcast(value, i16x16.llvm) for value in values]  # x86 can't shift bytes
    for stride, mask in ((1, 0x5555), (2, 0x3333), (4, 0x0F0F)):  # bits without the bit `stride` in their number
        kept, step = constant(i16x16, mask), constant(i16x16, stride)
        for i in range(8):
            if not i & stride:
                a, b = words[i], words[i + stride]
                change = builder.and_(builder.xor(builder.lshr(a, step), b), kept)
                words[i] = builder.xor(a, builder.shl(change, step))
                words[i + stride] = builder.xor(b, change)
    return [builder.bitcast(word, i8x32.llvm) for word in words]


def make_add_multiples(count: int):
    """Make ``add(sums, values, address, stride) -> sums``: multiples of four registers are added to others.

    Four registers of `sums` for each of `count` factors gain that multiple of `values`, four registers; each product
    and its sum are rounded once. Factors are float32 from memory, `stride` bytes apart.
    """
    kind, rows = types.UniTuple(f32x16, 4 * count), types.UniTuple(f32x16, 4)

    @operation(kind, (kind, rows, types.intp, types.intp))
    def add(builder, sums, values, address, stride):
        for i in range(count):
            number = load_from(builder, _offset(builder, address, stride, i), _FLOAT)
            factor = broadcast(builder, f32x16, number)
            for k, value in enumerate(values, 4 * i):
                sums[k] = call(builder, "llvm.fma.v16f32", f32x16.llvm, factor, value, sums[k])
        return sums

    return add


add_multiples_1, add_multiples_2, add_multiples_4 = (make_add_multiples(count) for count in (1, 2, 4))

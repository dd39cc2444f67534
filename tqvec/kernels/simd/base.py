"""Operations on vectors that every LLVM target has."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tqvec.kernels.simd.vector import (
    LANE_TYPES,
    Vector,
    f32x8,
    f32x16,
    f64x8,
    i8x16,
    i8x32,
    i8x64,
    i16x8,
    i16x16,
    i16x32,
    i32x4,
    i32x8,
    i32x16,
    i64x8,
    llvm_type,
    make_binary,
    make_extreme,
    make_load,
    make_pick,
    make_select,
    make_splat,
    make_splat_load,
    make_store,
    make_zero,
    part,
    splat_value,
)


@intrinsic
def high_nibbles_i8x64(typingctx, a):
    """The upper four bits of each byte, as 0 … 15 (shifted as 16-bit lanes, which x86 has, and masked)."""

    def codegen(context, builder, signature, args):
        wide = ir.VectorType(ir.IntType(16), 32)
        shifted = builder.lshr(builder.bitcast(args[0], wide), ir.Constant(wide, [4] * 32))
        return builder.bitcast(builder.and_(shifted, ir.Constant(wide, [0x0F0F] * 32)), llvm_type(i8x64))

    return i8x64(i8x64), codegen


@intrinsic
def low_nibbles_i8x64(typingctx, a):
    """The lower four bits of each byte."""

    def codegen(context, builder, signature, args):
        return builder.and_(args[0], ir.Constant(llvm_type(i8x64), [15] * 64))

    return i8x64(i8x64), codegen


@intrinsic
def append_bits_i8x64(typingctx, a, bits):
    """``2 a`` plus 1 in each lane whose bit of the 64-bit number is set."""

    def codegen(context, builder, signature, args):
        mask = builder.bitcast(args[1], ir.VectorType(ir.IntType(1), 64))
        return builder.sub(builder.add(args[0], args[0]), builder.sext(mask, llvm_type(i8x64)))

    return i8x64(i8x64, types.uint64), codegen


@intrinsic
def add_where_i8x64(typingctx, a, bits, number):
    """``a + number`` in the lanes whose bit is set, `a` elsewhere."""

    def codegen(context, builder, signature, args):
        mask = builder.bitcast(args[1], ir.VectorType(ir.IntType(1), 64))
        return builder.select(mask, builder.add(args[0], splat_value(builder, i8x64, args[2])), args[0])

    return i8x64(i8x64, types.uint64, types.int8), codegen


@intrinsic
def select_negative_i8x64(typingctx, condition, a, b):
    """`a` in the lanes whose condition has its highest bit set, `b` elsewhere."""

    def codegen(context, builder, signature, args):
        zero = ir.Constant(llvm_type(i8x64), [0] * 64)
        return builder.select(builder.icmp_signed("<", args[0], zero), args[1], args[2])

    return i8x64(i8x64, i8x64, i8x64), codegen


@intrinsic
def bit_fields_i8x64(typingctx, low, high):
    """Lane i is bits ``i .. i + 8`` of the 128-bit number of two 64-bit numbers."""

    def codegen(context, builder, signature, args):
        number, lane = ir.VectorType(ir.IntType(64), 2), ir.IntType(32)
        both = ir.Constant(number, ir.Undefined)
        for i, word in enumerate(args):
            both = builder.insert_element(both, word, ir.Constant(lane, i))
        stream = builder.bitcast(both, llvm_type(i8x16))
        pairs = part(builder, stream, [i // 8 + byte for i in range(64) for byte in (0, 1)])
        wide = ir.VectorType(ir.IntType(16), 64)
        shifted = builder.lshr(builder.bitcast(pairs, wide), ir.Constant(wide, [i % 8 for i in range(64)]))
        return builder.trunc(shifted, llvm_type(i8x64))

    return i8x64(types.uint64, types.uint64), codegen


@intrinsic
def follow_i64x8(typingctx, first, a):
    """`first`, then lanes 0 … 6 of `a`."""

    def codegen(context, builder, signature, args):
        lane = ir.IntType(32)
        nothing = ir.Constant(llvm_type(i64x8), ir.Undefined)
        moved = builder.shuffle_vector(args[1], nothing, ir.Constant(ir.VectorType(lane, 8), [0, *range(7)]))
        return builder.insert_element(moved, args[0], ir.Constant(lane, 0))

    return i64x8(types.uint64, i64x8), codegen


@intrinsic
def shift_join_i64x8(typingctx, a, before, k):
    """Each lane of `a` shifted up by `k` bits, 0 … 63, with the highest `k` bits of `before` below."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i64x8)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), "llvm.fshl.v8i64")
        return builder.call(function, [args[0], args[1], splat_value(builder, i64x8, args[2])])

    return i64x8(i64x8, i64x8, types.int64), codegen


@intrinsic
def keep_i8x64(typingctx, bits, a):
    """Lane i is ``a[i]`` where bit i of the 64-bit number is set, else 0."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i8x64)
        mask = builder.bitcast(args[0], ir.VectorType(ir.IntType(1), 64))
        return builder.select(mask, args[1], ir.Constant(kind, [0] * 64))

    return i8x64(types.uint64, i8x64), codegen


@intrinsic
def add_halves_i8x32(typingctx, a):
    """``a[:32] + a[32:]``"""

    def codegen(context, builder, signature, args):
        return builder.add(part(builder, args[0], range(32)), part(builder, args[0], range(32, 64)))

    return i8x32(i8x64), codegen


@intrinsic
def as_words_i16x16(typingctx, a):
    """The same register seen as 16-bit numbers."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], llvm_type(i16x16))

    return i16x16(i8x32), codegen


@intrinsic
def lowest_bits_i8x32(typingctx, a):
    """``a & 1``"""

    def codegen(context, builder, signature, args):
        return builder.and_(args[0], ir.Constant(llvm_type(i8x32), [1] * 32))

    return i8x32(i8x32), codegen


@intrinsic
def next_bits_i8x32(typingctx, a):
    """Each byte's bits one place lower; the highest bit of every other byte is noise (x86 shifts 16 bits)."""

    def codegen(context, builder, signature, args):
        words = builder.bitcast(args[0], llvm_type(i16x16))
        return builder.bitcast(builder.lshr(words, ir.Constant(llvm_type(i16x16), [1] * 16)), llvm_type(i8x32))

    return i8x32(i8x32), codegen


@intrinsic
def high_bytes_i16x16(typingctx, a):
    """The upper byte of each 16-bit lane, as a number."""

    def codegen(context, builder, signature, args):
        return builder.lshr(args[0], ir.Constant(llvm_type(i16x16), [8] * 16))

    return i16x16(i16x16), codegen


@intrinsic
def shift_bytes_i16x16(typingctx, a):
    """``a * 256`` modulo 2^16"""

    def codegen(context, builder, signature, args):
        return builder.shl(args[0], ir.Constant(llvm_type(i16x16), [8] * 16))

    return i16x16(i16x16), codegen


@intrinsic
def add_pairs_i32x16(typingctx, acc, even, odd):
    """Lanes 2 i and 2 i + 1 of `acc` gain ``even[i] + even[i + 8]`` and ``odd[i] + odd[i + 8]``, unsigned."""

    def codegen(context, builder, signature, args):
        wide = ir.VectorType(ir.IntType(32), 16)
        even, odd = (builder.zext(words, wide) for words in args[1:])
        both = ir.Constant(wide, [i // 2 + 16 * (i % 2) for i in range(16)])
        upper = ir.Constant(wide, [8 + i // 2 + 16 * (i % 2) for i in range(16)])
        pairs = builder.add(builder.shuffle_vector(even, odd, both), builder.shuffle_vector(even, odd, upper))
        return builder.add(args[0], pairs)

    return i32x16(i32x16, i16x16, i16x16), codegen


def make_byte_table(shift: int):
    """``byte_table(a) -> i8x64``: bits ``shift .. shift + 8`` of the first 16 lanes, four times over."""

    @intrinsic
    def byte_table(typingctx, a):
        def codegen(context, builder, signature, args):
            shifted = builder.lshr(args[0], ir.Constant(llvm_type(i16x32), [shift] * 32))
            return part(builder, builder.trunc(shifted, llvm_type(i8x32)), list(range(16)) * 4)

        return i8x64(i16x32), codegen

    return byte_table


def make_interleave(first: int):
    """``interleave(low, high) -> i16x32``: 16-bit numbers from two vectors' bytes ``first .. first + 32``."""

    @intrinsic
    def interleave(typingctx, low, high):
        def codegen(context, builder, signature, args):
            lanes = [first + i // 2 + 64 * (i % 2) for i in range(64)]
            both = builder.shuffle_vector(*args, ir.Constant(ir.VectorType(ir.IntType(32), 64), lanes))
            return builder.bitcast(both, llvm_type(i16x32))

        return i16x32(i8x64, i8x64), codegen

    return interleave


def make_widen(first: int):
    """``widen(a) -> i16x32``: unsigned bytes ``first .. first + 32`` of 64 as 16-bit numbers."""

    @intrinsic
    def widen(typingctx, a):
        def codegen(context, builder, signature, args):
            return builder.zext(part(builder, args[0], range(first, first + 32)), llvm_type(i16x32))

        return i16x32(i8x64), codegen

    return widen


def make_sum(vector: Vector):
    """``sum(a) -> number``: all lanes added up, for vectors of integers."""

    @intrinsic
    def lanes_sum(typingctx, a):
        def codegen(context, builder, signature, args):
            kind = llvm_type(vector)
            name = f"llvm.vector.reduce.add.v{vector.n}{vector.lane}"
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind.element, [kind]), name)
            return builder.call(function, args)

        return LANE_TYPES[vector.lane][1](vector), codegen

    return lanes_sum


def make_every_second(first: int):
    """``f(a, b) -> i16x8``: lanes ``first, first + 2, …`` of `a` and then of `b`."""

    @intrinsic
    def every_second(typingctx, a, b):
        def codegen(context, builder, signature, args):
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(first, 16, 2)))
            return builder.shuffle_vector(*args, lanes)

        return i16x8(i16x8, i16x8), codegen

    return every_second


def make_multiply_add(first: int):
    """``f(acc, a, b) -> i32x4``: `acc` plus the products of int16 lanes ``first .. first + 4`` of `a` and `b`."""

    @intrinsic
    def multiply_add(typingctx, acc, a, b):
        def codegen(context, builder, signature, args):
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), 4), list(range(first, first + 4)))
            nothing = ir.Constant(llvm_type(i16x8), ir.Undefined)
            parts = [builder.shuffle_vector(arg, nothing, lanes) for arg in args[1:]]
            return builder.add(args[0], builder.mul(*[builder.sext(part, llvm_type(i32x4)) for part in parts]))

        return i32x4(i32x4, i16x8, i16x8), codegen

    return multiply_add


@intrinsic
def count_bits_i8x16(typingctx, a):
    """How many bits of each byte are set."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i8x16)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), "llvm.ctpop.v16i8")
        return builder.call(function, args)

    return i8x16(i8x16), codegen


@intrinsic
def table_offsets_i8x64(typingctx):
    """Lane i is ``16 * (i % 4)``: where the table of byte i % 4 begins among four tables of 16."""

    def codegen(context, builder, signature, args):
        return ir.Constant(llvm_type(i8x64), [16 * (i % 4) for i in range(64)])

    return i8x64(), codegen


def make_load_where(vector: Vector):
    """``load_where(bits, address, other)``: lanes from memory where bits are set, else those of `other`.

    Memory of the other lanes is not touched; the address needs no alignment.
    """

    @intrinsic
    def load_where(typingctx, bits, address, other):
        def codegen(context, builder, signature, args):
            kind = llvm_type(vector)
            mask, pointer = _lanes_set(builder, vector, args[0]), builder.inttoptr(args[1], kind.as_pointer())
            shape = ir.FunctionType(kind, [pointer.type, ir.IntType(32), mask.type, kind])
            name = f"llvm.masked.load.v{vector.n}{vector.lane}.p0"
            function = cgutils.get_or_insert_function(builder.module, shape, name)
            return builder.call(function, [pointer, ir.Constant(ir.IntType(32), 1), mask, args[2]])

        return vector(types.uint64, types.intp, vector), codegen

    return load_where


def make_store_where(vector: Vector):
    """``store_where(bits, address, value)``: the lanes whose bits are set; the address needs no alignment."""

    @intrinsic
    def store_where(typingctx, bits, address, value):
        def codegen(context, builder, signature, args):
            kind = llvm_type(vector)
            mask, pointer = _lanes_set(builder, vector, args[0]), builder.inttoptr(args[1], kind.as_pointer())
            shape = ir.FunctionType(ir.VoidType(), [kind, pointer.type, ir.IntType(32), mask.type])
            name = f"llvm.masked.store.v{vector.n}{vector.lane}.p0"
            function = cgutils.get_or_insert_function(builder.module, shape, name)
            builder.call(function, [args[2], pointer, ir.Constant(ir.IntType(32), 1), mask])
            return context.get_dummy_value()

        return types.void(types.uint64, types.intp, vector), codegen

    return store_where


def _lanes_set(builder, vector, bits):
    """One LLVM bit a lane, from a 64-bit number."""
    number = bits if vector.n == 64 else builder.trunc(bits, ir.IntType(vector.n))
    return builder.bitcast(number, ir.VectorType(ir.IntType(1), vector.n))


@intrinsic
def multiply_add_f32x16(typingctx, a, b, acc):
    """``a * b + acc``, rounded once."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(f32x16)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), "llvm.fma.v16f32")
        return builder.call(function, args)

    return f32x16(f32x16, f32x16, f32x16), codegen


@intrinsic
def round_i32x16(typingctx, a):
    """Each float32 lane as the nearest int32, the even one of two; not for numbers beyond int32."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(f32x16)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), "llvm.rint.v16f32")
        return builder.fptosi(builder.call(function, args), llvm_type(i32x16))

    return i32x16(f32x16), codegen


def make_same_bits(vector: Vector, source: Vector):
    """``f(a) -> vector``: the same register seen as lanes of another kind."""

    @intrinsic
    def same_bits(typingctx, a):
        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], llvm_type(vector))

        return vector(source), codegen

    return same_bits


@intrinsic
def as_bytes_i8x64(typingctx, a):
    """The same register seen as 64 bytes."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], llvm_type(i8x64))

    return i8x64(i32x16), codegen


@intrinsic
def to_f32x16(typingctx, a):
    """Each int32 lane as the nearest float32."""

    def codegen(context, builder, signature, args):
        return builder.sitofp(args[0], llvm_type(f32x16))

    return f32x16(i32x16), codegen


def make_compare(vector: Vector, order: str):
    """``compare(a, b)``: bit i of the result tells whether ``a[i] <order> b[i]``, for floats; not for NaN."""

    @intrinsic
    def compare(typingctx, a, b):
        def codegen(context, builder, signature, args):
            lanes = builder.fcmp_ordered(order, args[0], args[1])
            return builder.zext(builder.bitcast(lanes, ir.IntType(vector.n)), ir.IntType(64))

        return types.uint64(vector, vector), codegen

    return compare


@intrinsic
def add_where_i32x16(typingctx, a, bits, number):
    """``a + number`` in the lanes whose bit is set, `a` elsewhere."""

    def codegen(context, builder, signature, args):
        lanes = builder.bitcast(builder.trunc(args[1], ir.IntType(16)), ir.VectorType(ir.IntType(1), 16))
        return builder.select(lanes, builder.add(args[0], splat_value(builder, i32x16, args[2])), args[0])

    return i32x16(i32x16, types.uint64, types.int32), codegen


def make_bits_set(vector: Vector):
    """``bits_set(a, b)``: bit i of the result tells whether ``a[i] & b[i]`` is not 0."""

    @intrinsic
    def bits_set(typingctx, a, b):
        def codegen(context, builder, signature, args):
            nothing = ir.Constant(llvm_type(vector), [0] * vector.n)
            lanes = builder.icmp_unsigned("!=", builder.and_(args[0], args[1]), nothing)
            return builder.zext(builder.bitcast(lanes, ir.IntType(vector.n)), ir.IntType(64))

        return types.uint64(vector, vector), codegen

    return bits_set


@intrinsic
def widen_f64x8(typingctx, a):
    """Eight float32 as float64."""

    def codegen(context, builder, signature, args):
        return builder.fpext(args[0], llvm_type(f64x8))

    return f64x8(f32x8), codegen


@intrinsic
def narrow_f32x16(typingctx, a, b):
    """Eight float64 of `a` and eight of `b`, each as the nearest float32."""

    def codegen(context, builder, signature, args):
        halves = [builder.fptrunc(arg, llvm_type(f32x8)) for arg in args]
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), 16), list(range(16)))
        return builder.shuffle_vector(*halves, lanes)

    return f32x16(f64x8, f64x8), codegen


def make_half(first: int):
    """``half(a) -> f32x8``: lanes ``first .. first + 8`` of 16."""

    @intrinsic
    def half(typingctx, a):
        def codegen(context, builder, signature, args):
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(first, first + 8)))
            return builder.shuffle_vector(args[0], ir.Constant(llvm_type(f32x16), ir.Undefined), lanes)

        return f32x8(f32x16), codegen

    return half


@intrinsic
def multiply_add_f64x8(typingctx, a, b, acc):
    """``a * b + acc``, rounded once."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(f64x8)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), "llvm.fma.v8f64")
        return builder.call(function, args)

    return f64x8(f64x8, f64x8, f64x8), codegen


@intrinsic
def store_u64(typingctx, address, bits):
    """A 64-bit number to memory; the address needs no alignment."""

    def codegen(context, builder, signature, args):
        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(types.intp, types.uint64), codegen


@intrinsic
def store_u16(typingctx, address, bits):
    """The low 16 bits of a 64-bit number to memory; the address needs no alignment."""

    def codegen(context, builder, signature, args):
        low = builder.trunc(args[1], ir.IntType(16))
        builder.store(low, builder.inttoptr(args[0], ir.IntType(16).as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(types.intp, types.uint64), codegen


@intrinsic
def count_bits(typingctx, bits):
    """Number of set bits of a 64-bit number."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen


@intrinsic
def load_bytes_i32x8(typingctx, address):
    """Eight unsigned bytes from memory as int32."""

    def codegen(context, builder, signature, args):
        kind = ir.VectorType(ir.IntType(8), 8)
        value = builder.load(builder.inttoptr(args[0], kind.as_pointer()))
        value.align = 1
        return builder.zext(value, llvm_type(i32x8))

    return i32x8(types.intp), codegen


@intrinsic
def lowest_bit(typingctx, bits):
    """Position of the lowest set bit of a 64-bit number other than 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at an address that will be read soon; any address is allowed."""

    def codegen(context, builder, signature, args):
        pointer = ir.IntType(8).as_pointer()
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        hints = [ir.Constant(number, hint) for hint in (0, 2, 1)]  # read, keep in all levels, data
        builder.call(function, [builder.inttoptr(args[0], pointer), *hints])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def load_u8(typingctx, address):
    """A byte from memory as a 64-bit number."""

    def codegen(context, builder, signature, args):
        value = builder.load(builder.inttoptr(args[0], ir.IntType(8).as_pointer()))
        return builder.zext(value, ir.IntType(64))

    return types.uint64(types.intp), codegen


@intrinsic
def load_u64(typingctx, address):
    """A 64-bit number from memory; the address needs no alignment."""

    def codegen(context, builder, signature, args):
        value = builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))
        value.align = 1
        return value

    return types.uint64(types.intp), codegen


def _load_part(builder, address, lane, n):
    """`n` lanes of an LLVM type from memory."""
    value = builder.load(builder.inttoptr(address, ir.VectorType(lane, n).as_pointer()))
    value.align = 1
    return value


def make_load_wider(bits: int):
    """``load(address) -> i32x16``: 16 unsigned numbers of 8 or 16 bits from memory."""

    @intrinsic
    def load(typingctx, address):
        def codegen(context, builder, signature, args):
            return builder.zext(_load_part(builder, args[0], ir.IntType(bits), 16), llvm_type(i32x16))

        return i32x16(types.intp), codegen

    return load


@intrinsic
def load_nibbles_i32x16(typingctx, address):
    """16 unsigned numbers of 4 bits from memory, the lower nibble of a byte first."""

    def codegen(context, builder, signature, args):
        kind = llvm_type(i32x16)
        twice = part(builder, _load_part(builder, args[0], ir.IntType(8), 8), [i // 2 for i in range(16)])
        shifted = builder.lshr(builder.zext(twice, kind), ir.Constant(kind, [4 * (i % 2) for i in range(16)]))
        return builder.and_(shifted, ir.Constant(kind, [15] * 16))

    return i32x16(types.intp), codegen


@intrinsic
def load_halves_f32x16(typingctx, a, b):
    """Eight float32 from each of two addresses."""

    def codegen(context, builder, signature, args):
        halves = [_load_part(builder, address, ir.FloatType(), 8) for address in args]
        return builder.shuffle_vector(*halves, ir.Constant(ir.VectorType(ir.IntType(32), 16), list(range(16))))

    return f32x16(types.intp, types.intp), codegen


@intrinsic
def load_fourfold_f32x16(typingctx, address):
    """Four float32 from memory, each in four lanes."""

    def codegen(context, builder, signature, args):
        return part(builder, _load_part(builder, args[0], ir.FloatType(), 4), [i // 4 for i in range(16)])

    return f32x16(types.intp), codegen


@intrinsic
def load_i32(typingctx, address):
    """An int32 from memory, as int64; the address needs no alignment."""

    def codegen(context, builder, signature, args):
        value = builder.load(builder.inttoptr(args[0], ir.IntType(32).as_pointer()))
        value.align = 1
        return builder.sext(value, ir.IntType(64))

    return types.int64(types.intp), codegen


load_where_i8x64 = make_load_where(i8x64)
load_where_f32x16 = make_load_where(f32x16)
store_where_f32x16 = make_store_where(f32x16)
as_numbers_i32x16 = make_same_bits(i32x16, i8x64)
as_floats_f32x16 = make_same_bits(f32x16, i32x16)
word_bytes_i8x64 = make_same_bits(i8x64, i16x32)
word_pairs_i32x16 = make_same_bits(i32x16, i16x32)
at_least_f32x16 = make_compare(f32x16, ">=")
greater_f32x16 = make_compare(f32x16, ">")
bits_set_i16x32 = make_bits_set(i16x32)
bits_set_i32x16 = make_bits_set(i32x16)
add_i32x16 = make_binary(i32x16, "add")
and_i32x16 = make_binary(i32x16, "and_")
shift_left_i32x16 = make_binary(i32x16, "shl")
shift_right_i32x16 = make_binary(i32x16, "lshr")
splat_i32x16 = make_splat(i32x16)
select_i32x16 = make_select(i32x16)
load_bytes_i32x16 = make_load_wider(8)
load_words_i32x16 = make_load_wider(16)
sub_f32x16 = make_binary(f32x16, "fsub")
min_f32x16 = make_extreme(f32x16, "<")
max_f32x16 = make_extreme(f32x16, ">")
select_f32x16 = make_select(f32x16)
low_halves_f32x16 = make_pick(f32x16, [*range(8), *range(16, 24)])
high_halves_f32x16 = make_pick(f32x16, [*range(8, 16), *range(24, 32)])
even_quarters_f32x16 = make_pick(f32x16, [i + i // 4 * 4 for i in range(16)])
odd_quarters_f32x16 = make_pick(f32x16, [i + i // 4 * 4 + 4 for i in range(16)])
interleave_low_f32x16 = make_pick(f32x16, [i // 2 + i % 2 * 16 for i in range(16)])
interleave_high_f32x16 = make_pick(f32x16, [i // 2 + i % 2 * 16 + 8 for i in range(16)])
add_f32x16 = make_binary(f32x16, "fadd")
mul_f32x16 = make_binary(f32x16, "fmul")
load_f32x16 = make_load(f32x16)
store_f32x16 = make_store(f32x16)
splat_f32x16 = make_splat(f32x16)
splat_load_f32x16 = make_splat_load(f32x16)
low_f32x8 = make_half(0)
high_f32x8 = make_half(8)
load_f32x8 = make_load(f32x8)
load_f64x8 = make_load(f64x8)
store_f64x8 = make_store(f64x8)
splat_load_f64x8 = make_splat_load(f64x8)
zero_f64x8 = make_zero(f64x8)
mul_f64x8 = make_binary(f64x8, "fmul")
load_i64x8 = make_load(i64x8)
store_i64x8 = make_store(i64x8)
zero_i64x8 = make_zero(i64x8)
xor_i64x8 = make_binary(i64x8, "xor")
load_i8x32 = make_load(i8x32)
zero_i8x64 = make_zero(i8x64)
add_i8x64 = make_binary(i8x64, "add")
add_i16x16 = make_binary(i16x16, "add")
sub_i16x16 = make_binary(i16x16, "sub")
zero_i16x16 = make_zero(i16x16)
splat_i16x16 = make_splat(i16x16)
add_i16x32 = make_binary(i16x32, "add")
zero_i16x32 = make_zero(i16x32)
splat_i16x32 = make_splat(i16x32)
low_byte_table_i8x64 = make_byte_table(0)
high_byte_table_i8x64 = make_byte_table(8)
or_i8x64 = make_binary(i8x64, "or_")
and_i8x64 = make_binary(i8x64, "and_")
interleave_low_i16x32 = make_interleave(0)
interleave_high_i16x32 = make_interleave(32)
widen_low_i16x32 = make_widen(0)
widen_high_i16x32 = make_widen(32)
load_i16x32 = make_load(i16x32)
load_i8x64 = make_load(i8x64)
store_i8x64 = make_store(i8x64)
splat_i8x64 = make_splat(i8x64)
load_i32x16 = make_load(i32x16)
load_i32x8 = make_load(i32x8)
splat_load_i32x16 = make_splat_load(i32x16)
splat_load_i32x8 = make_splat_load(i32x8)
store_i32x16 = make_store(i32x16)
store_i32x8 = make_store(i32x8)
zero_i32x16 = make_zero(i32x16)
zero_i32x8 = make_zero(i32x8)
sum_i32x16 = make_sum(i32x16)
load_i8x16 = make_load(i8x16)
store_i8x16 = make_store(i8x16)
splat_i8x16 = make_splat(i8x16)
load_i16x8 = make_load(i16x8)
splat_load_i16x8 = make_splat_load(i16x8)
evens_i16x8 = make_every_second(0)
odds_i16x8 = make_every_second(1)
load_i32x4 = make_load(i32x4)
store_i32x4 = make_store(i32x4)
zero_i32x4 = make_zero(i32x4)
add_i32x4 = make_binary(i32x4, "add")
multiply_add_low_i32x4 = make_multiply_add(0)
multiply_add_high_i32x4 = make_multiply_add(4)
sum_i32x4 = make_sum(i32x4)
add_i32x8 = make_binary(i32x8, "add")
splat_i32x8 = make_splat(i32x8)
sum_i32x8 = make_sum(i32x8)

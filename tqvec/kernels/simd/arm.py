"""Operations of AArch64 processors. Compile a kernel that uses one only at the level `neon`.

LLVM makes other NEON instructions of what every target has: ``smlal`` (integers.py), ``uzp1`` (shuffles.py), ``cnt``
(bits.py).
"""

from __future__ import annotations

from tqvec.kernels.simd.vector import call, i8x16, i32x4, operation


def _make_dot(name):
    @operation(i32x4, (i32x4, i8x16, i8x16))
    def dot(builder, acc, a, b):
        return call(builder, f"llvm.aarch64.neon.{name}.v4i32.v16i8", i32x4.llvm, acc, a, b)

    return dot


# Each lane of `acc` gains four products of bytes. LLVM's generic `vector.partial.reduce.add` becomes the same
# instructions, but leaves open which products go to which lane.
dot_signed_bytes_i32x4 = _make_dot("sdot")
dot_bytes_i32x4 = _make_dot("usdot")  # `a` unsigned; needs i8mm, which the level does not promise


def _look_up(builder, *registers):
    return call(builder, f"llvm.aarch64.neon.tbl{len(registers) - 1}.v16i8", i8x16.llvm, *registers)


@operation(i8x16, (i8x16, i8x16))
def lookup_i8x16(builder, table, index):
    """``tbl``: lane i is ``table[index[i]]``, or 0 where the index, an unsigned byte, is too large."""
    return _look_up(builder, table, index)


@operation(i8x16, (i8x16, i8x16, i8x16))
def lookup2_i8x16(builder, table0, table1, index):
    """`lookup_i8x16` in a table of 32 bytes."""
    return _look_up(builder, table0, table1, index)


@operation(i8x16, (i8x16, i8x16, i8x16, i8x16, i8x16))
def lookup4_i8x16(builder, table0, table1, table2, table3, index):
    """`lookup_i8x16` in a table of 64 bytes."""
    return _look_up(builder, table0, table1, table2, table3, index)

"""Operations of AArch64 processors. Compile a kernel that uses one only at the level `neon`.

What LLVM makes a NEON instruction of by itself (``smlal``, ``uzp1``, ``cnt``, ``addv``) is in base.py.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from tqvec.kernels.simd.vector import i8x16, i32x4


def _call(builder, name, args):  # the result has the type of the first argument
    kind = ir.FunctionType(args[0].type, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.aarch64.neon.{name}"), args)


def _make_dot(name):
    @intrinsic
    def dot(typingctx, acc, a, b):
        def codegen(context, builder, signature, args):
            return _call(builder, f"{name}.v4i32.v16i8", args)

        return i32x4(i32x4, i8x16, i8x16), codegen

    return dot


# Each lane of `acc` gains four products of bytes. LLVM's generic `vector.partial.reduce.add` becomes the same
# instructions, but leaves open which products go to which lane.
dot_signed_bytes_i32x4 = _make_dot("sdot")
dot_bytes_i32x4 = _make_dot("usdot")  # `a` unsigned; needs i8mm, which the level does not promise


def _look_up(context, builder, signature, args):
    return _call(builder, f"tbl{len(args) - 1}.v16i8", args)


@intrinsic
def lookup_i8x16(typingctx, table, index):
    """``tbl``: lane i is ``table[index[i]]``, or 0 where the index, an unsigned byte, is too large."""
    return i8x16(i8x16, i8x16), _look_up


@intrinsic
def lookup2_i8x16(typingctx, table0, table1, index):
    """`lookup_i8x16` in 32 bytes: one table after the other."""
    return i8x16(i8x16, i8x16, i8x16), _look_up


@intrinsic
def lookup4_i8x16(typingctx, table0, table1, table2, table3, index):
    """`lookup_i8x16` in 64 bytes."""
    return i8x16(i8x16, i8x16, i8x16, i8x16, i8x16), _look_up

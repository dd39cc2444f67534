"""Vector registers as Numba types, and the decorator that makes an operation on them from its LLVM IR."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps

from llvmlite import ir
from numba.core import cgutils, types
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
INDEX = ir.IntType(32)  # LLVM's type of a lane's number


class Vector(types.Type):
    """A register of `n` lanes of one number type."""

    def __init__(self, lane: str, n: int):
        self.lane = lane
        self.n = n
        super().__init__(name=f"Vector({lane}, {n})")

    @property
    def llvm(self) -> ir.VectorType:
        """LLVM's type of the register."""
        return ir.VectorType(LANE_TYPES[self.lane][0], self.n)

    @property
    def number(self) -> types.Type:
        """Numba's type of a lane."""
        return LANE_TYPES[self.lane][1]


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


i8x16, i8x32, i8x64 = (Vector("i8", n) for n in (16, 32, 64))
i16x8, i16x16, i16x32 = (Vector("i16", n) for n in (8, 16, 32))
i32x4, i32x8, i32x16 = (Vector("i32", n) for n in (4, 8, 16))
f32x8, f32x16 = (Vector("f32", n) for n in (8, 16))
i64x4, i64x8, f64x8 = Vector("i64", 4), Vector("i64", 8), Vector("f64", 8)


def operation(result: types.Type, arguments: tuple[types.Type, ...]) -> Callable[[Callable], Callable]:
    """Make an operation of kernels from a function ``emit(builder, *values)`` that writes its LLVM IR.

    The decorated function's docstring and argument names, without `builder`, are those of the operation; its types are
    in the attribute ``signature``.

    Parameters
    ----------
    result : Type
        Numba's type of the result. `emit` returns an LLVM value of this type, a list of values for a tuple, and
        nothing for `types.void`.
    arguments : tuple of Type
        Numba's types of the arguments; a number of another type is converted. `emit` gets a tuple as a list of values.
    """

    def decorate(emit):
        names = inspect.signature(emit)

        def lower(context, builder, signature, args):
            tuples = (isinstance(kind, types.UniTuple) for kind in arguments)
            args = [cgutils.unpack_tuple(builder, arg) if many else arg for arg, many in zip(args, tuples, strict=True)]
            value = emit(builder, *args)
            if isinstance(result, types.UniTuple):
                return context.make_tuple(builder, result, value)
            return context.get_dummy_value() if value is None else value

        @wraps(emit)  # Numba takes the names of the arguments from here, less the first one
        def infer_type(typing_context, *positional, **named):
            names.bind(typing_context, *positional, **named)  # TypeError, as a Python function raises it
            return result(*arguments), lower

        made = intrinsic(infer_type)
        made.signature = result(*arguments)
        return made

    return decorate


def make_binary(vector: Vector, instruction: str):
    """Make ``f(a, b)`` of an LLVM instruction that works lane by lane; integers wrap around."""

    @operation(vector, (vector, vector))
    def combine(builder, a, b):
        return getattr(builder, instruction)(a, b)

    return combine


def constant(vector: Vector, numbers) -> ir.Constant:
    """Return a vector of given numbers, one for all lanes or one for each."""
    return ir.Constant(vector.llvm, list(numbers) if hasattr(numbers, "__iter__") else [numbers] * vector.n)


def broadcast(builder, vector: Vector, number):
    """Put one number in all lanes."""
    nothing = ir.Constant(vector.llvm, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(INDEX, 0))
    return take(builder, first, [0] * vector.n)


def take(builder, value, lanes):
    """Take lanes of a vector by their numbers."""
    return take_from_two(builder, value, ir.Constant(value.type, ir.Undefined), lanes)


def take_from_two(builder, a, b, lanes):
    """Take lanes of two vectors by their numbers; those of `b` go on where those of `a` end."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INDEX, len(lanes)), list(lanes)))


def mask_lanes(builder, vector: Vector, bits):
    """Make LLVM's mask of a vector, one bit per lane, from a 64-bit number."""
    number = bits if vector.n == 64 else builder.trunc(bits, ir.IntType(vector.n))
    return builder.bitcast(number, ir.VectorType(ir.IntType(1), vector.n))


def pack_mask(builder, mask):
    """Make a 64-bit number from LLVM's mask of at most 64 lanes."""
    return builder.zext(builder.bitcast(mask, ir.IntType(mask.type.count)), ir.IntType(64))


def load_from(builder, address, kind):
    """Load a value of an LLVM type from an address, which needs no alignment."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def store_to(builder, address, value):
    """Store a value at an address, which needs no alignment."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


def call(builder, name: str, result, *arguments):
    """Call an LLVM intrinsic by its full name; `result` is the LLVM type of what it returns."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

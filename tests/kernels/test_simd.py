"""Every vector operation against its NumPy twin: the rows of tests/kernels/simd_operations.py."""

from importlib import import_module
from itertools import islice, product
from typing import NamedTuple

import numba
import numpy as np
import pytest
import strategies as sts
from kernels import simd_operations
from numba.core import types

from tqvec.kernels import features
from tqvec.kernels.simd import amx, x86
from tqvec.kernels.simd.memory import load_i8x64, store_i8x64
from tqvec.kernels.simd.vector import Vector, load_from, operation, store_to

MODULES = {name: import_module(f"tqvec.kernels.simd.{name}") for name in simd_operations.OPERATIONS}
CASES = [
    pytest.param(row, name.rpartition("_")[2], getattr(MODULES[module], name), id=f"{module}.{name}")
    for module, rows in simd_operations.OPERATIONS.items()
    for row in rows
    for name in row.names
]
MARGIN = 17  # bytes before and after what is read and written; an odd number, so nothing is aligned
MEMORY = 640  # numbers behind an address
NUMBERS = {"stride", "k"}  # arguments that are no addresses, though they have their type
SEEDS = 20


def needs(name):
    if name and name not in features.available_levels() and name not in features.target()[1]:
        pytest.skip(f"this process can't run {name} (LLVM would abort it)")


class Domain:
    """Numbers that an argument may hold: edges, all combinations of which are tried, and random ones."""

    def __init__(self, text, dtype):
        name, _, limit = text.partition(" < ")
        self.dtype = np.dtype(name.split(" ")[0] or dtype)
        if self.dtype.kind == "f":
            edges = [0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 2.5, -7.49] + [np.nan, np.inf, -np.inf] * text.endswith("or NaN")
            self.edges = np.array(edges, self.dtype)
            return
        info = np.iinfo(self.dtype)
        self.low = 0 if limit else info.min + (" > " in text)
        self.high = int(limit) - 1 if limit else info.max
        middle = (self.low + self.high) // 2  # of unsigned numbers the lower half; else -1
        self.edges = np.array([self.low, self.high, middle, middle + 1], self.dtype)

    def draw(self, rng, shape):
        """Random numbers, a quarter of them edges."""
        if self.dtype.kind == "f":
            numbers = rng.standard_normal(shape) * 100
        else:
            numbers = rng.integers(self.low, self.high, shape, self.dtype, endpoint=True)
        return np.where(rng.random(shape) < 0.25, rng.choice(self.edges, shape), numbers).astype(self.dtype)


def dtype_of(kind):
    """NumPy's type of the numbers of a Numba type; lanes of 8, 16 and 64 bits are unsigned."""
    kind = getattr(kind, "dtype", kind)
    if isinstance(kind, Vector):
        return np.dtype({"i8": "u1", "i16": "u2", "i64": "u8"}.get(kind.lane) or kind.number.name)
    return np.dtype(np.uint8 if kind == types.void else kind.name)


def is_register(kind):
    """Tell whether a Numba type is a register or a tuple of them."""
    return isinstance(kind, (Vector, types.UniTuple))


def shape_of(kind, dtype):
    """Shape of an array in place of a register, a tuple of registers or a number."""
    if isinstance(kind, types.UniTuple):
        return (kind.count, *shape_of(kind.dtype, dtype))
    return (kind.n * dtype_of(kind).itemsize // dtype.itemsize,) if isinstance(kind, Vector) else ()


def nbytes_of(kind):
    """Bytes of a register, or of each register of a tuple."""
    kind = getattr(kind, "dtype", kind)
    return kind.n * dtype_of(kind).itemsize


class Argument(NamedTuple):
    name: str
    domain: Domain
    shape: tuple


def arguments_of(row, op, n):
    """The arguments that are drawn: all but a stride, which follows from the memory."""
    signature = op.signature
    kinds = [kind for kind in (signature.return_type, *signature.args) if is_register(kind)]
    arguments = []
    for (name, text), kind in zip(row.domains.items(), signature.args, strict=True):
        if kind == types.intp and name not in NUMBERS:  # an address of numbers of the kind that the registers have
            domain = Domain(text, dtype_of(kinds[0]) if kinds else None)
            rows = (n, 64 // domain.dtype.itemsize + 5)
            arguments.append(Argument(name, domain, rows if "stride" in row.domains else (MEMORY,)))
        elif name != "stride":
            domain = Domain(text, dtype_of(kind))
            arguments.append(Argument(name, domain, shape_of(kind, domain.dtype)))
    return arguments


def draws(arguments):
    """Arrays by name: each combination of edges, up to 512 of them, then random numbers."""
    for edges in islice(product(*(domain.edges for _, domain, _ in arguments)), 512):
        pairs = zip(arguments, edges, strict=True)
        yield {name: np.full(shape, edge, domain.dtype) for (name, domain, shape), edge in pairs}
    for rng in map(sts.rng, range(SEEDS)):
        yield {name: domain.draw(rng, shape) for name, domain, shape in arguments}


def unaligned(array):
    """A copy of an array at an odd address, and the memory that holds it, with its margins."""
    memory = np.full(array.nbytes + 2 * MARGIN, 99, np.uint8)
    inside = memory[MARGIN:-MARGIN].view(array.dtype).reshape(array.shape)
    inside[...] = array
    return inside, memory


def make_load(kind):
    """Operation that loads a register or a tuple of them."""
    if isinstance(kind, Vector):
        return operation(kind, (types.intp,))(lambda builder, address: load_from(builder, address, kind.llvm))

    @operation(kind, (types.intp,))
    def load(builder, address):
        places = [builder.add(address, address.type(nbytes_of(kind) * i)) for i in range(kind.count)]
        return [load_from(builder, place, kind.dtype.llvm) for place in places]

    return load


def make_store(kind):
    """Operation that stores a register or a tuple of them."""

    @operation(types.void, (types.intp, kind))
    def store(builder, address, value):
        for i, register in enumerate(value if isinstance(kind, types.UniTuple) else [value]):
            store_to(builder, builder.add(address, address.type(nbytes_of(kind) * i)), register)

    return store


def compile_operation(op):
    """Compile ``run(to, *arguments)``: registers are read from addresses, and the result is written at `to`."""
    signature = op.signature
    names = [f"a{i}" for i in range(len(signature.args))]
    scope, values = {"op": op}, []
    for name, kind in zip(names, signature.args, strict=True):
        if is_register(kind):
            scope[f"load_{name}"] = make_load(kind)
            values.append(f"load_{name}({name})")
        else:
            values.append(name)
    result = f"op({', '.join(values)})"
    if is_register(signature.return_type):
        scope["store"] = make_store(signature.return_type)
        result = f"store(to, {result})"
    exec(f"def run({', '.join(['to', *names])}):\n    return {result}", scope)
    return numba.njit(scope["run"])


@pytest.mark.slow
@pytest.mark.parametrize(("row", "kind", "op"), CASES)
def test_operation(row, kind, op):
    needs(row.needs)
    n = int(kind.rpartition("x")[2]) if row.kinds else 0
    result, run, arguments = op.signature.return_type, compile_operation(op), arguments_of(row, op, n)
    for arrays in draws(arguments):
        placed = {name: unaligned(array) for name, array in arrays.items()}
        values = {name: place.ctypes.data if place.ndim else place[()] for name, (place, _) in placed.items()}
        if "stride" in row.domains:
            values["stride"] = arrays["memory"].strides[0]
        out, written = unaligned(np.zeros(shape_of(result, dtype_of(result)), dtype_of(result)))
        returned = run(out.ctypes.data, *(values[name] for name in row.domains))
        expected = simd_operations.evaluate(row.twin, n, arrays)
        if is_register(result):
            expected = np.asarray(expected)
            assert expected.shape == out.shape
            np.testing.assert_array_equal(written, unaligned(expected.astype(out.dtype))[1])
        elif result != types.void:
            assert returned == int(expected)
        for name, (_, memory) in placed.items():  # which the twin has changed, if it is a store
            np.testing.assert_array_equal(memory, unaligned(arrays[name])[1])


@pytest.mark.parametrize("module", MODULES)
def test_the_table_has_every_operation(module):
    operations = {name for name, value in vars(MODULES[module]).items() if hasattr(value, "signature")}
    listed = [name for row in simd_operations.OPERATIONS[module] for name in row.names]
    assert sorted(listed) == sorted(operations)


def test_the_readme_has_the_table():
    assert simd_operations.split_readme()[1] == simd_operations.tables()


def test_a_table_of_128_bytes():
    """The two operations in one: an entry of the table that `load_table_128` read."""
    needs("avx2")

    @numba.njit
    def run(table, index, out):
        entries = x86.load_table_128(table.ctypes.data)
        store_i8x64(out.ctypes.data, x86.lookup_128_i8x64(entries, load_i8x64(index.ctypes.data)))

    table, out = sts.rng(0).integers(0, 256, 128).astype(np.uint8), np.zeros(64, np.uint8)
    for index in (np.arange(64), np.arange(64, 128), sts.rng(1).integers(0, 128, 64)):
        run(table, index.astype(np.uint8), out)
        np.testing.assert_array_equal(out, table[index])


def test_tiles():
    """The operations of amx.py, which make sense together only."""
    needs("amx")
    zero, load_a, load_b, dot, store = (
        amx.make_zero(2), amx.make_load(3), amx.make_load(5), amx.make_dot(2, 3, 5), amx.make_store(2)
    )  # fmt: skip

    @numba.njit
    def run(config, a, b, out):
        amx.load_config(config.ctypes.data)
        zero()
        load_a(a.ctypes.data, 100)
        load_b(b.ctypes.data, 64)
        dot()
        dot()
        store(out.ctypes.data, 80)
        amx.release_tiles()

    rng, out = sts.rng(0), np.zeros((16, 20), np.int32)
    a, b = rng.integers(0, 256, (16, 100)).astype(np.uint8), rng.integers(-128, 128, (16, 64)).astype(np.int8)
    run(amx.tile_config(), a, b, out)
    right = b.reshape(16, 16, 4).transpose(0, 2, 1).reshape(64, 16).astype(np.int64)
    np.testing.assert_array_equal(out[:, :16], 2 * (a[:, :64].astype(np.int64) @ right))
    assert not out[:, 16:].any()

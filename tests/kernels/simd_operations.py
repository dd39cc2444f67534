"""The vocabulary of kernels/simd as data: each operation with its NumPy twin.

The test runs every row, and the tables in kernels/simd/README.md are made of them::

    python tests/kernels/simd_operations.py
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

README = Path(__file__).parents[2] / "tqvec/kernels/simd/README.md"
BEGIN, END = "<!-- operations: made by tests/kernels/simd_operations.py -->\n", "<!-- end of operations -->\n"


class Row(NamedTuple):
    """Operations of one name and one meaning, for registers of several kinds.

    An argument is ``name``, or ``name: domain`` where its type does not tell which numbers it may hold. The twin is an
    expression, or a statement that changes `memory`. It knows the arguments by name and the number of lanes, or of rows
    in a tuple, as `n`.
    """

    name: str
    kinds: str  # separated by spaces; empty for an operation without a suffix
    arguments: str
    twin: str
    needs: str = ""  # level or feature that its instruction belongs to

    @property
    def names(self) -> list[str]:
        """The names of all its operations."""
        return [f"{self.name}_{kind}" for kind in self.kinds.split()] or [self.name]

    @property
    def domains(self) -> dict[str, str]:
        """The domain of each argument by its name; empty where the type tells it."""
        parts = (text.partition(": ") for text in self.arguments.split(", ") if text)
        return {name: domain for name, _, domain in parts}


OPERATIONS = {
    "memory": [
        Row("load", "i8x16 i8x32 i8x64 i16x8 i16x16 i16x32 i32x4 i32x8 i32x16", "memory", "memory[:n]"),
        Row("load", "f32x8 f32x16 f64x8", "memory", "memory[:n]"),
        Row("store", "i8x16 i8x32 i8x64 i16x16 i32x4 i32x8 i32x16 i64x4 i64x8", "memory, a", "memory[:n] = a"),
        Row("store", "f32x8 f32x16 f64x8", "memory, a", "memory[:n] = a"),
        Row("load_where", "i8x64 f32x16", "bits, memory, b", "np.where(unpack(bits), memory[:n], b)"),
        Row("store_where", "f32x16", "bits, memory, a", "np.copyto(memory[:n], a, where=unpack(bits))"),
        Row("load_bytes", "i32x8 i32x16", "memory: uint8", "memory[:n].astype(np.int32)"),
        Row("load_words", "i32x16", "memory: uint16", "memory[:n].astype(np.int32)"),
        Row("load_nibbles", "i32x16", "memory: uint8", "np.stack([memory[:8] & 15, memory[:8] >> 4], 1).ravel()"),
        Row("load_halves", "i8x32 i16x16 i64x4 f32x16", "low, high", "np.concatenate([low[: n // 2], high[: n // 2]])"),
        Row("load_fourfold", "f32x16", "memory", "np.repeat(memory[:4], 4)"),
        Row("splat", "i8x16 i8x32 i8x64 i16x16 i16x32 i32x8 i32x16 f32x8 f32x16", "number", "np.full(n, number)"),
        Row("splat_load", "i16x8 i32x8 i32x16 f32x16 f64x8", "memory", "np.full(n, memory[0])"),
        Row("zero", "i8x64 i16x16 i16x32 i32x4 i32x8 i32x16 i64x8 f64x8", "", "np.zeros(n)"),
        Row("table_offsets", "i8x64", "", "np.tile([0, 16, 32, 48], 16)"),
        Row("load_u8", "", "memory: uint8", "memory[0]"),
        Row("load_i32", "", "memory: int32", "memory[0]"),
        Row("load_u64", "", "memory: uint64", "memory[0]"),
        Row("load_bits", "i64x8", "memory, bit: uint64 < 8", "memory[:8] >> bit | memory[1:9] << 1 << 63 - bit"),
        Row("load_bits_u64", "", "memory: uint64, bit: uint64 < 8", "memory[0] >> bit | memory[1] << 1 << 63 - bit"),
        Row("store_u16", "", "memory: uint16, bits", "memory[0] = bits & 0xFFFF"),
        Row("store_u64", "", "memory: uint64, bits", "memory[0] = bits"),
        Row("prefetch", "", "memory: uint8", "pass"),
    ],
    "bits": [
        Row("and", "i8x32 i8x64 i32x8 i32x16", "a, b", "a & b"),
        Row("or", "i8x64", "a, b", "a | b"),
        Row("xor", "i8x64 i64x8", "a, b", "a ^ b"),
        Row("shift_left", "i32x8 i32x16", "a, b: uint32 < 32", "a << b"),
        Row("shift_right", "i32x16", "a: uint32, b: uint32 < 32", "a >> b"),
        Row("count_bits", "", "bits", "np.bitwise_count(bits)"),
        Row("count_bits", "i8x16", "a", "np.bitwise_count(a)"),
        Row("find_lowest_bit", "", "bits: uint64 > 0", "(int(bits) & -int(bits)).bit_length() - 1"),
        Row("keep", "i8x64", "bits, a", "np.where(unpack(bits), a, 0)"),
        Row("select", "i32x16 f32x16", "bits, a, b", "np.where(unpack(bits), a, b)"),
        Row("select_negative", "i8x32 i8x64", "condition: int8, a, b", "np.where(condition < 0, a, b)"),
        Row("add_where", "i8x64 i32x16", "a, bits, number", "a + number * unpack(bits)"),
        Row("append_bits", "i8x64", "a, bits", "2 * a + unpack(bits)"),
        Row("append_high_bits", "i8x32", "a, before", "2 * a + (before >> 7)"),
        Row("and_nonzero", "i16x32 i32x16", "a, b", "pack(a & b != 0)"),
        Row("extract_low_nibbles", "i8x64", "a", "a & 15"),
        Row("extract_high_nibbles", "i8x64", "a", "a >> 4"),
        Row("extract_lowest_bits", "i8x32", "a", "a & 1"),
        Row("drop_lowest_bits", "i8x32", "a", "(a.view(np.uint16) >> 1).view(np.uint8)"),
        Row("extract_high_bytes", "i16x16", "a", "a >> 8"),
        Row("raise_low_bytes", "i16x16", "a", "a << 8"),
        Row("extract_fields", "i8x64", "low, high", "[int(low) + 2**64 * int(high) >> i & 255 for i in range(64)]"),
        Row("funnel_shift", "i64x4 i64x8", "a, before, k: uint64 < 64", "a << k | before >> 1 >> 63 - k"),
    ],
    "integers": [
        Row("add", "i8x32 i8x64 i16x16 i16x32 i32x4 i32x8 i32x16", "a, b", "a + b"),
        Row("sub", "i16x16", "a, b", "a - b"),
        Row("sum", "i32x4 i32x8 i32x16", "a", "a.sum(dtype=np.int32)"),
        Row("add_halves", "i8x32", "a", "a[:32] + a[32:]"),
        Row(
            "add_pairs",
            "i32x16",
            "acc, even, odd",
            "acc + np.stack([even, odd]).reshape(2, 2, 8).sum(1, np.int32).T.ravel()",
        ),
        Row("multiply_add_low", "i32x4", "acc, a: int16, b: int16", "acc + a[:4].astype(np.int32) * b[:4]"),
        Row("multiply_add_high", "i32x4", "acc, a: int16, b: int16", "acc + a[4:].astype(np.int32) * b[4:]"),
        Row("widen_low", "i16x32", "a", "a[:32]"),
        Row("widen_high", "i16x32", "a", "a[32:]"),
    ],
    "floats": [
        Row("add", "f32x16", "a, b", "a + b"),
        Row("sub", "f32x16", "a, b", "a - b"),
        Row("mul", "f32x8 f32x16 f64x8", "a, b", "a * b"),
        Row("multiply_add", "f32x8 f32x16 f64x8", "a, b, acc", "fused(a, b, acc)"),
        Row("max", "f32x16", "a: float32 or NaN, b: float32 or NaN", "np.where(a > b, a, b)"),
        Row("min", "f32x16", "a: float32 or NaN, b: float32 or NaN", "np.where(a < b, a, b)"),
        Row("greater_equal", "f32x16", "a: float32 or NaN, b: float32 or NaN", "pack(a >= b)"),
        Row("greater", "f32x16", "a: float32 or NaN, b: float32 or NaN", "pack(a > b)"),
        Row("round", "i32x16", "a", "np.rint(a)"),
        Row("convert", "f32x8 f32x16", "a", "a.astype(np.float32)"),
        Row("widen", "f64x8", "a", "a.astype(np.float64)"),
        Row("narrow", "f32x16", "a, b", "np.concatenate([a, b]).astype(np.float32)"),
    ],
    "shuffles": [
        Row("view_i8x32_as", "i16x16", "a", "a.view(np.uint16)"),
        Row("view_i8x64_as", "i32x16", "a", "a.view(np.int32)"),
        Row("view_i16x16_as", "i32x8", "a", "a.view(np.int32)"),
        Row("view_i16x32_as", "i8x64", "a", "a.view(np.uint8)"),
        Row("view_i16x32_as", "i32x16", "a", "a.view(np.int32)"),
        Row("view_i32x16_as", "i8x64", "a", "a.view(np.uint8)"),
        Row("view_i32x16_as", "f32x16", "a", "a.view(np.float32)"),
        Row("extract_low", "f32x8", "a", "a[:8]"),
        Row("extract_high", "f32x8", "a", "a[8:]"),
        Row("join_evens", "i16x8", "a, b", "np.concatenate([a, b])[::2]"),
        Row("join_odds", "i16x8", "a, b", "np.concatenate([a, b])[1::2]"),
        Row("join_low_halves", "f32x16", "a, b", "np.concatenate([a[:8], b[:8]])"),
        Row("join_high_halves", "f32x16", "a, b", "np.concatenate([a[8:], b[8:]])"),
        Row("join_even_quarters", "f32x16", "a, b", "np.stack([a, b]).reshape(4, 2, 4)[:, 0].ravel()"),
        Row("join_odd_quarters", "f32x16", "a, b", "np.stack([a, b]).reshape(4, 2, 4)[:, 1].ravel()"),
        Row("interleave_low", "f32x16", "a, b", "np.stack([a, b], 1).ravel()[:16]"),
        Row("interleave_high", "f32x16", "a, b", "np.stack([a, b], 1).ravel()[16:]"),
        Row("interleave_low", "i16x32", "low, high", "low[:32] + 256 * high[:32].astype(np.uint16)"),
        Row("interleave_high", "i16x32", "low, high", "low[32:] + 256 * high[32:].astype(np.uint16)"),
        Row(
            "interleave_even_quarters",
            "i16x16",
            "low, high",
            "(low + 256 * high.astype(np.uint16)).reshape(4, 8)[::2].ravel()",
        ),
        Row(
            "interleave_odd_quarters",
            "i16x16",
            "low, high",
            "(low + 256 * high.astype(np.uint16)).reshape(4, 8)[1::2].ravel()",
        ),
        Row("tile_low_bytes", "i8x64", "a", "np.tile(a[:16] & 255, 4)"),
        Row("tile_high_bytes", "i8x64", "a", "np.tile(a[:16] >> 8, 4)"),
        Row("prepend", "i64x8", "first, a", "np.concatenate([[first], a[:7]])"),
        Row(
            "prepend_halves",
            "i8x32",
            "first: uint8, second: uint8, a",
            "np.concatenate([[first], a[:15], [second], a[16:31]])",
        ),
    ],
    "tuples": [
        Row("load", "2 4 8 16", "memory, stride", "memory[:, :16]"),
        Row("store", "2 4 8 16", "memory, stride, values", "memory[:, :16] = values"),
        Row(
            "gather",
            "16",
            "source, order: int32 < 40, factors",
            "source.reshape(40, 16)[order[:16]] * factors[:16, None]",
        ),
        Row("hadamard", "2 4 8 16", "values", "hadamard(values)"),
        Row("transpose", "16", "values", "values.T"),
        Row("zeros", "16", "", "np.zeros((16, 16))"),
        Row("sum_lanes", "16", "values", "values.sum(1)"),
        Row("sum_halves", "4", "values", "values.reshape(8, 4).sum(1, np.int32)"),
        Row("transpose_bits", "8", "values", "pack_bytes(unpack_bytes(values).reshape(8, 32, 8).T).reshape(8, 32)"),
        Row(
            "dot_bytes",
            "16",
            "sums, memory: uint8, stride, b: int8",
            "sums + sum_products(4, memory[:, :64], b)",
            "avx512",
        ),
        Row(
            "dot_words",
            "16",
            "sums, memory: int16, stride, b: int16",
            "sums + sum_products(2, memory[:, :32], b)",
            "avx512",
        ),
        Row(
            "dot_numbers",
            "16",
            "sums, a: uint8, memory: int8, stride",
            "sums + sum_products(4, a, np.tile(memory[:, :4], 16))",
            "avx512",
        ),
        Row(
            "add_multiples",
            "1 2 4",
            "sums, values, memory, stride",
            "fused(memory[:, 0].repeat(4)[:, None], np.tile(values, (n, 1)), sums)",
        ),
    ],
    "x86": [
        Row("permute", "i8x64 i16x32 f32x16", "table, index", "table[index % n]", "avx512"),
        Row("permute_two", "i8x64 f32x16", "a, b, index", "np.concatenate([a, b])[index % (2 * n)]", "avx512"),
        Row("multishift", "i8x64", "a, first", "rotate(a.view(np.uint64).repeat(8), first % np.uint64(64))", "avx512"),
        Row(
            "multishift_fields",
            "i8x64",
            "low, high",
            "[int(low) + 2**64 * int(high) >> i & 255 for i in range(64)]",
            "avx512",
        ),
        Row(
            "transpose_bits",
            "i8x64",
            "a",
            "pack_bytes(unpack_bytes(a).reshape(8, 8, 8)[:, ::-1].swapaxes(1, 2))",
            "avx512",
        ),
        Row("dot_bytes", "i32x16", "acc, a: uint8, b: int8", "acc + sum_products(4, a, b)", "avx512"),
        Row("dot_words", "i32x16", "acc, a: int16, b: int16", "acc + sum_products(2, a, b)", "avx512"),
        Row("dot_pairs", "i32x16", "acc, a, b", "acc + sum_products(2, a.view(np.int16), b.view(np.int16))", "avx512"),
        Row("dot_words", "i32x8", "acc, a: int16, b: int16", "acc + sum_products(2, a, b)", "avx2"),
        Row("dot_pairs", "i32x8", "acc, a, b", "acc + sum_products(2, a.view(np.int16), b.view(np.int16))", "avx2"),
        Row("dot_signed_bytes", "i32x8", "acc, a: int8 > -128, b: int8", "acc + sum_products(4, a, b)", "avx2"),
        Row("multiply_words", "i32x16", "a: int16, b: int16", "sum_products(2, a, b)", "avx2"),
        Row(
            "multiply_bytes",
            "i16x16 i16x32",
            "a: uint8, b: int8",
            "np.clip(sum_products(2, a, b), -32768, 32767)",
            "avx2",
        ),
        Row("lookup", "i8x32 i8x64", "table, index: uint8 < 16", "table[np.arange(n) // 16 * 16 + index]", "avx2"),
        Row(
            "load_table_128",
            "",
            "memory: uint8",
            "np.tile((memory[:128] ^ np.pad(memory[:112], (16, 0))).reshape(8, 16), 4)",
            "avx2",
        ),
        Row(
            "lookup_128",
            "i8x32 i8x64",
            "table, index: uint8 < 128",
            "np.bitwise_xor.accumulate(table)[index // 16, np.arange(n) // 16 * 16 + index % 16]",
            "avx2",
        ),
    ],
    "arm": [
        Row("dot_signed_bytes", "i32x4", "acc, a: int8, b: int8", "acc + sum_products(4, a, b)", "neon"),
        Row("dot_bytes", "i32x4", "acc, a: uint8, b: int8", "acc + sum_products(4, a, b)", "i8mm"),
        Row("lookup", "i8x16", "table, index", "np.append(table, 0)[np.minimum(index, 16)]", "neon"),
        Row(
            "lookup2",
            "i8x16",
            "table0, table1, index",
            "np.concatenate([table0, table1, [0]])[np.minimum(index, 32)]",
            "neon",
        ),
        Row(
            "lookup4",
            "i8x16",
            "table0, table1, table2, table3, index",
            "np.concatenate([table0, table1, table2, table3, [0]])[np.minimum(index, 64)]",
            "neon",
        ),
    ],
}


def unpack_bytes(a):
    """Return the bits of bytes, lowest first, as booleans."""
    return np.unpackbits(a, bitorder="little").astype(bool)


def pack_bytes(bits):
    """Return the bytes of bits, lowest first."""
    return np.packbits(bits, bitorder="little")


def unpack(bits):
    """Return the bits of a 64-bit number, one per lane; a twin sees the first `n`."""
    return unpack_bytes(np.array([bits], np.uint64).view(np.uint8))


def pack(lanes):
    """Return the 64-bit number whose bit i is set where lane i is true."""
    return int.from_bytes(pack_bytes(lanes).tobytes(), "little")


def sum_products(count, a, b):
    """Return the sums of `count` products side by side, without overflow."""
    products = a.astype(np.int64) * b
    return products.reshape(*products.shape[:-1], -1, count).sum(axis=-1)


def fused(a, b, acc):
    """Return ``a * b + acc``, rounded once."""
    if acc.dtype == np.float32:
        return (a.astype(np.float64) * b + acc).astype(np.float32)  # the product is exact, the sum nearly

    def one(x, y, z):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        return float(exact) if exact else x * y + z  # a fraction has no negative zero

    return np.vectorize(one, otypes=[acc.dtype])(a, b, acc)


def hadamard(values):
    """Return the Walsh-Hadamard transform of the columns, by butterflies of strides 1, 2, 4, …"""
    n, stride = len(values), 1
    while stride < n:
        pairs = values.reshape(-1, 2, stride, 16)
        values = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(n, 16)
        stride *= 2
    return values


def rotate(words, count):
    """Return 64-bit words rotated down by a number of bits each."""
    return words >> count | words << (-count % np.uint64(64))


def evaluate(twin, n, arguments):
    """Evaluate a twin on arguments by name; a statement has no value."""
    names = {**globals(), "n": n, "unpack": lambda bits: unpack(bits)[:n], **arguments}
    try:
        return eval(compile(twin, "<twin>", "eval"), names)
    except SyntaxError:
        return exec(twin, names)


def table(rows):
    """Return the README's table of the operations of one module."""
    has_needs = any(row.needs for row in rows)
    lines = ["| operation | also | NumPy twin |", "|---|---|---|"]
    if has_needs:
        lines = ["| operation | also | NumPy twin | needs |", "|---|---|---|---|"]
    for row in rows:
        first, *others = row.names
        kinds = ", ".join(name.removeprefix(f"{row.name}_") for name in others)
        twin = row.twin.replace("|", "\\|")
        lines.append(f"| `{first}({row.arguments})` | {kinds} | `{twin}` |" + f" {row.needs} |" * has_needs)
    return "\n".join(lines) + "\n"


def tables():
    """Return all tables of the README, in the order of the modules."""
    return "\n".join(f"### {module}.py\n\n{table(rows)}" for module, rows in OPERATIONS.items())


def split_readme():
    """Return the README's text before, in and after the tables."""
    before, rest = README.read_text().split(BEGIN)
    inside, after = rest.split(END)
    return before, inside, after


if __name__ == "__main__":
    before, _, after = split_readme()
    README.write_text(before + BEGIN + tables() + END + after)

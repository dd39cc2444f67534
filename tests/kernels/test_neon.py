"""NEON on any machine: AArch64 assembly is made here and read; what is generic LLVM is also run, on this CPU."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
import strategies as sts
from numba.core import compiler, types
from numba.core.codegen import AOTCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from tqvec.kernels import dispatch, features
from tqvec.kernels.scan import neon
from tqvec.kernels.simd import arm
from tqvec.kernels.simd.bits import count_bits_i8x16
from tqvec.kernels.simd.integers import add_i32x4, multiply_add_high_i32x4, multiply_add_low_i32x4, sum_i32x4
from tqvec.kernels.simd.memory import (
    load_i8x16,
    load_i16x8,
    load_i32x4,
    make_store,
    splat_i8x16,
    splat_load_i16x8,
    store_i8x16,
    store_i32x4,
    zero_i32x4,
)
from tqvec.kernels.simd.shuffles import join_evens_i16x8, join_odds_i16x8
from tqvec.kernels.simd.vector import i16x8

TRIPLE = "aarch64-unknown-linux-gnu"
store_i16x8 = make_store(i16x8)


class Arm(AOTCPUCodegen):
    """Numba's compiler for a CPU that has what the level asks for, and i8mm."""

    def _customize_tm_features(self):
        return ",".join(f"+{name}" for name in sorted(features.LEVELS["neon"] | {"i8mm"}))


@pytest.fixture(scope="module")
def assembly():
    """Function that compiles a Python function of addresses and numbers to AArch64 assembly, running nothing."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()

    @global_compiler_lock
    def emit(function, n_arguments):
        cpu_target.target_context.refresh()
        context = cpu_target.target_context.subtarget(_internal_codegen=Arm("arm"), aot_mode=True)
        flags = compiler.Flags()
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        library = context.codegen().create_library("arm")
        arguments = (types.intp,) * n_arguments
        compiler.compile_extra(
            cpu_target.typing_context, context, function, arguments, types.void, flags, {}, library=library
        )
        library.finalize()
        return library.get_asm_str()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llvm, "get_process_triple", lambda: TRIPLE)
        yield emit


def memory(to, acc, a, b):
    store_i32x4(to, load_i32x4(acc))
    store_i8x16(to + 16, load_i8x16(a + 1))
    store_i16x8(to + 32, load_i16x8(b + 3))
    store_i32x4(to + 48, zero_i32x4())


def splats(to, acc, a, b):
    store_i8x16(to, splat_i8x16(np.int8(-7)))
    store_i16x8(to + 16, splat_load_i16x8(a + 1))


def add(to, acc, a, b):
    store_i32x4(to, add_i32x4(load_i32x4(acc), load_i32x4(a)))


def sum_lanes(to, acc, a, b):
    total = sum_i32x4(load_i32x4(acc))
    for i in range(4):
        store_i8x16(to + 16 * i, splat_i8x16(np.int8(total >> (8 * i))))


def count_bits(to, acc, a, b):
    store_i8x16(to, count_bits_i8x16(load_i8x16(a)))


def every_second(to, acc, a, b):
    x, y = load_i16x8(a), load_i16x8(b)
    store_i16x8(to, join_evens_i16x8(x, y))
    store_i16x8(to + 16, join_odds_i16x8(x, y))


def multiply_add(to, acc, a, b):
    sums, x, y = load_i32x4(acc), load_i16x8(a), load_i16x8(b)
    store_i32x4(to, multiply_add_low_i32x4(sums, x, y))
    store_i32x4(to + 16, multiply_add_high_i32x4(sums, x, y))


def dot_signed_bytes(to, acc, a, b):
    store_i32x4(to, arm.dot_signed_bytes_i32x4(load_i32x4(acc), load_i8x16(a), load_i8x16(b)))


def dot_bytes(to, acc, a, b):
    store_i32x4(to, arm.dot_bytes_i32x4(load_i32x4(acc), load_i8x16(a), load_i8x16(b)))


def lookup(to, acc, a, b):
    store_i8x16(to, arm.lookup_i8x16(load_i8x16(a), load_i8x16(b)))


def lookup2(to, acc, a, b):
    store_i8x16(to, arm.lookup2_i8x16(load_i8x16(a), load_i8x16(a + 16), load_i8x16(b)))


def lookup4(to, acc, a, b):
    low, high = load_i8x16(a), load_i8x16(a + 16)
    store_i8x16(to, arm.lookup4_i8x16(low, high, load_i8x16(a + 32), load_i8x16(a + 48), load_i8x16(b)))


def words(a):
    return a[:16].view(np.int16)


def products(a, b):
    return words(a).astype(np.int32) * words(b)


def dots(acc, a, b):
    return acc + (a.astype(np.int32) * b).reshape(4, 4).sum(axis=1, dtype=np.int32)


def looked_up(table, index):
    return np.where(index < table.size, table[index % table.size], 0).astype(np.uint8)


@dataclass
class Operation:
    """A program that reads at `acc`, `a` and `b` and writes at `to`, and what it must become."""

    program: Callable
    twin: Callable  # arrays that the program writes one after the other
    instructions: tuple
    needs: frozenset = frozenset()  # what LLVM can't compile it without


NEON = features.LEVELS["neon"]
OPERATIONS = [
    Operation(memory, lambda acc, a, b: (acc, a[1:17], b[3:19], np.zeros(4, np.int32)), (r"ldu?r q", r"str q")),
    Operation(
        splats,
        lambda acc, a, b: (np.full(16, -7, np.int8), np.tile(a[1:3], 8)),
        (r"movi V.16b, #249", r"ld1r { V.8h }"),
    ),
    Operation(add, lambda acc, a, b: (acc + a[:16].view(np.int32),), (r"add V.4s, V.4s, V.4s",)),
    Operation(
        sum_lanes,
        lambda acc, a, b: [np.repeat(byte, 16) for byte in acc.sum(dtype=np.int32, keepdims=True).view(np.uint8)],
        (r"addv S, V.4s",),
    ),
    Operation(
        count_bits,
        lambda acc, a, b: (np.unpackbits(a[:16]).reshape(16, 8).sum(axis=1, dtype=np.uint8),),
        (r"cnt V.16b, V.16b",),
    ),
    Operation(
        every_second,
        lambda acc, a, b: [np.concatenate([words(a)[e::2], words(b)[e::2]]) for e in (0, 1)],
        (r"uzp1 V.8h, V.8h, V.8h", r"uzp2 V.8h, V.8h, V.8h"),
    ),
    Operation(
        multiply_add,
        lambda acc, a, b: (acc + products(a, b)[:4], acc + products(a, b)[4:]),
        (r"smlal V.4s, V.4h, V.4h", r"smlal2 V.4s, V.8h, V.8h"),
    ),
    Operation(
        dot_signed_bytes,
        lambda acc, a, b: (dots(acc, a[:16].view(np.int8), b[:16].view(np.int8)),),
        (r"sdot V.4s, V.16b, V.16b",),
        NEON,
    ),
    Operation(
        dot_bytes,
        lambda acc, a, b: (dots(acc, a[:16], b[:16].view(np.int8)),),
        (r"usdot V.4s, V.16b, V.16b",),
        NEON | {"i8mm"},
    ),
    Operation(lookup, lambda acc, a, b: (looked_up(a[:16], b[:16]),), (r"tbl V.16b, { V.16b }, V.16b",), NEON),
    Operation(lookup2, lambda acc, a, b: (looked_up(a[:32], b[:16]),), (r"tbl V.16b, { V.16b, V.16b }, V.16b",), NEON),
    Operation(
        lookup4,
        lambda acc, a, b: (looked_up(a[:64], b[:16]),),
        (r"tbl V.16b, { V.16b, V.16b, V.16b, V.16b }, V.16b",),
        NEON,
    ),
]
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.program.__name__)


def count(instruction, text):
    """How often an instruction occurs; V stands for any vector register, S for any single one."""
    pattern = instruction.replace("{", r"\{").replace("V", r"v\d+").replace("S", r"s\d+").replace(" ", r"\s+")
    return len(re.findall(rf"^\s+{pattern}", text, re.MULTILINE))


@each_operation
def test_instructions(operation, assembly):
    text = assembly(operation.program, 4)
    assert [name for name in operation.instructions if count(name, text) == 0] == []


@each_operation
def test_against_numpy(operation):
    if not operation.needs <= features.target()[1]:
        pytest.skip("runs on AArch64 only (LLVM would abort this process)")
    run = numba.njit(operation.program)
    for seed in range(20):
        acc, a, b = sts.rng(seed).integers(0, 256, (3, 64)).astype(np.uint8)
        a[:8] = b[:8] = 0, 128, 0, 128, 255, 127, 1, 128  # -32768 as an int16, -128 as an int8
        out = np.full(80, 99, np.uint8)
        run(out.ctypes.data, acc.ctypes.data, a.ctypes.data, b.ctypes.data)
        expected = b"".join(part.tobytes() for part in operation.twin(acc[:16].view(np.int32), a, b))
        assert out.tobytes() == expected.ljust(80, b"c")  # 99


def test_instructions_of_the_kernel(assembly):
    """Four queries: each row of a tile is parted once, and all sums stay in registers."""
    text = assembly(neon._one_by_four.py_func, 6)
    loop = max(re.split(r"^\.LBB.*$", text, flags=re.MULTILINE), key=lambda part: part.count("smlal"))
    assert count("smlal V.4s", loop) + count("smlal2 V.4s", loop) == 32
    assert (count("uzp1 V.8h", loop), count("uzp2 V.8h", loop)) == (2, 2)
    assert count("str", loop) + count("stp", loop) + count("smull", loop) == 0
    text = assembly(neon._one_by_one.py_func, 4)
    assert count("smlal V.4s", text) + count("smlal2 V.4s", text) == 8


@pytest.mark.parametrize("cpu", [name for name, has in features._NAMED.items() if "dotprod" in has])
def test_names_of_processors(cpu, assembly):
    """LLVM uses the dot product for this name: a sum of products that has no intrinsic of AArch64."""
    module = llvm.parse_assembly(f"""
        target triple = "{TRIPLE}"
        declare i32 @llvm.vector.reduce.add.v16i32(<16 x i32>)
        define i32 @dot(<16 x i8> %a, <16 x i8> %b) {{
            %x = sext <16 x i8> %a to <16 x i32>
            %y = sext <16 x i8> %b to <16 x i32>
            %products = mul <16 x i32> %x, %y
            %total = call i32 @llvm.vector.reduce.add.v16i32(<16 x i32> %products)
            ret i32 %total
        }}""")
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(cpu=cpu)
    assert count("sdot V.4s, V.16b, V.16b", machine.emit_assembly(module)) == 1


@pytest.fixture
def fresh(monkeypatch):
    """`features` without what it remembers of this process and without the process's settings."""
    monkeypatch.setattr(dispatch, "levels", dispatch.levels.__wrapped__)
    for name in ("target", "available_levels", "level"):
        monkeypatch.setattr(features, name, getattr(features, name).__wrapped__)
    for name in ("CPU_NAME", "CPU_FEATURES"):
        monkeypatch.setattr(features.config, name, None)
    monkeypatch.setattr(features.config, "DISABLE_JIT", 0)
    monkeypatch.delenv("TQVEC_SIMD_LEVEL", raising=False)
    return features


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({"neon", "dotprod", "crc"}, ("neon", "portable")),
        ({"neon"}, ("portable",)),
        ({"dotprod"}, ("portable",)),
    ],
)
def test_level(has, expected, fresh, monkeypatch):
    monkeypatch.setattr(features, "target", lambda: ("some-arm", frozenset(has)))
    assert fresh.available_levels() == expected
    assert dispatch.levels("dot_tiles") == expected
    assert fresh.simd_info()["level"] == expected[0]
    assert not dispatch.available("search_few")


@pytest.mark.parametrize(
    ("cpu", "flags", "expected"),
    [
        ("apple-m1", "", "neon"),  # macOS
        ("neoverse-n1", "+neon,+crc", "neon"),
        ("unheard-of", "+neon,+dotprod", "neon"),
        ("unheard-of", "+neon", "portable"),
        ("neoverse-n1", "+neon,-dotprod", "portable"),
    ],
)
def test_level_of_a_host(cpu, flags, expected, fresh, monkeypatch):
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: cpu)
    monkeypatch.setattr(features, "get_host_cpu_features", lambda: flags)
    assert fresh.level() == expected


def test_level_of_a_lowered_target(fresh, monkeypatch):
    monkeypatch.setattr(features, "get_host_cpu_features", lambda: "+neon,+dotprod")
    for cpu, expected in (("cortex-a76", "neon"), ("generic", "portable")):
        monkeypatch.setattr(features.config, "CPU_NAME", cpu)
        assert fresh.level() == expected

"""Property 13: batch size, threads, SIMD level and target CPU never change a byte of the codes."""

import platform
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import strategies as sts
from processes import has_settings, read_script, run_script

from tqvec import TurboQuant
from tqvec.kernels.features import LEVELS, available_levels

PROBE = Path(__file__).with_name("probe.py")
x86_only = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")


def bytes_of(codes):
    return codes.data.tobytes(), codes.scale.tobytes()


@pytest.mark.parametrize(("d", "nbits"), [(1, 1), (31, 3), (97, 8), (128, 4), (200, 5)])
def test_batch_size(d, nbits):
    x = sts.mixed(37, d, seed=d)
    tq = TurboQuant(d, nbits=nbits, seed=13)
    whole = tq.encode(x)
    for size in (1, 2, 15, 16, 17, 36):
        parts = [tq.encode(x[i : i + size]) for i in range(0, 37, size)]
        assert b"".join(p.data.tobytes() for p in parts) == whole.data.tobytes()
        assert b"".join(p.scale.tobytes() for p in parts) == whole.scale.tobytes()
    backwards = tq.encode(x[::-1])
    assert bytes_of(backwards[::-1]) == bytes_of(whole)


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_threads(rotation):
    x = sts.normal(800, 33)  # more than three times the rows that a thread takes at least
    tq = TurboQuant(33, nbits=4, seed=13, rotation=rotation)
    results = [tq.encode(x, threads=threads) for threads in (1, 2, 3)]
    assert len({bytes_of(codes) for codes in results}) == 1
    assert len({tq.decode(results[0], threads=threads).tobytes() for threads in (1, 2, 3)}) == 1
    assert len({tq.inner_product(x[:5], results[0], threads=threads).tobytes() for threads in (1, 2, 3)}) == 1


def test_memory_layout_and_type_of_the_input():
    x = sts.normal(20, 24).astype(np.float16)
    tq = TurboQuant(24, nbits=4)
    expected = bytes_of(tq.encode(x))
    for same in (x.astype(np.float32), x.astype(np.float64), np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]):
        assert bytes_of(tq.encode(same)) == expected


def run(*options, large=False, **environment):
    return run_script(PROBE, *["--large"] * large, options=options, **environment)


def probe(*options, large=False, **environment):
    return read_script(PROBE, *["--large"] * large, options=options, **environment)


@cache
def usual(large=True):
    """What a process with no settings gives."""
    return probe(large=large)


def same(a, b):
    return (a["sha256"], a["ids"]) == (b["sha256"], b["ids"])


@pytest.mark.slow
def test_the_best_level_is_the_default():
    assert usual()["level"] == probe_levels()[0]


def probe_levels():
    """Levels of a process with no settings: those of this one, unless it was started with some."""
    if has_settings():
        pytest.skip("this process runs with settings of its own")
    return available_levels()


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_level(level):
    if level not in probe_levels():
        pytest.skip(f"no {level} here")
    result = probe(large=True, TQVEC_SIMD_LEVEL=level)
    assert result["level"] == level
    assert same(result, usual())


@pytest.mark.slow
@x86_only
@pytest.mark.parametrize(
    ("cpu", "features", "level"),
    [
        ("haswell", {"NUMBA_CPU_FEATURES": ""}, "avx2"),  # no more than the CPU has
        ("generic", {"NUMBA_CPU_FEATURES": ""}, "portable"),
        ("generic", {}, "portable"),  # with the features of the host
    ],
)
def test_lowered_targets(cpu, features, level):
    """Searches too, which take a minute to compile, for the targets that `make test` can't reach by levels alone."""
    if level not in probe_levels():
        pytest.skip(f"no {level} here")
    result = probe(large=bool(features), NUMBA_CPU_NAME=cpu, **features)
    assert (result["cpu"], result["level"]) == (cpu, level)
    assert same(result, usual(bool(features)))


@pytest.mark.slow
def test_without_numba():
    # NumPy's scalars warn where a compiled multiplication of 64-bit words wraps around on purpose.
    result = probe("-W", "ignore:overflow encountered in scalar multiply:RuntimeWarning", NUMBA_DISABLE_JIT="1")
    assert result["level"] == "portable"
    assert same(result, usual(large=False))


@pytest.mark.parametrize(
    "environment",
    [
        {"TQVEC_SIMD_LEVEL": "sse9"},
        {"TQVEC_SIMD_LEVEL": "avx2", "NUMBA_CPU_NAME": "generic"},
        {"TQVEC_SIMD_LEVEL": "avx2", "NUMBA_DISABLE_JIT": "1"},
    ],
)
def test_a_level_that_is_not_there_is_refused(environment):
    done = run(**environment)
    assert done.returncode == 1
    assert "UnsupportedError: TQVEC_SIMD_LEVEL=" in done.stderr
    assert "available: portable" in done.stderr or environment["TQVEC_SIMD_LEVEL"] == "sse9"

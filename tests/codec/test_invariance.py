"""Property 13: batch size, threads, SIMD level and target CPU never change a byte of the codes."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import strategies as sts
from processes import X86, has_settings, read_script, run_script, settings_of

from tqvec import TurboQuant
from tqvec.kernels.dispatch import levels
from tqvec.kernels.features import LEVELS, available_levels

PROBE = Path(__file__).with_name("probe.py")


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


CODES = ("codes", "calibrated codes")
SEARCHES = ("few rows", "many rows")


@cache
def usual():
    """What a process with no settings gives."""
    return read_script(PROBE, *CODES, *SEARCHES)


def check(*parts, level, options=(), **environment):
    """A process with some settings finds a level, and gives what one with none gives."""
    result = read_script(PROBE, *parts, options=options, **environment)
    assert result["level"] == level
    assert result["cpu"] == environment.get("NUMBA_CPU_NAME", usual()["cpu"])
    assert result["hashes"] == {part: usual()["hashes"][part] for part in parts}


def needs(level):
    """Skip without the level, and if this process was started with settings: its levels may be others then."""
    if has_settings() or level not in available_levels():
        pytest.skip(f"no {level} here")


@pytest.mark.slow
def test_the_best_level_is_the_default():
    needs("portable")
    assert usual()["level"] == available_levels()[0]


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_level(level):
    needs(level)
    check(*CODES, *SEARCHES, level=level, **settings_of(level))


@pytest.mark.slow
@pytest.mark.parametrize("level", levels("encode_rows")[1:])  # the others encode like one that is faster
def test_codes_of_lower_levels_for_this_processor(level):
    needs(level)
    check(*CODES, level=level, TQVEC_SIMD_LEVEL=level)


@pytest.mark.slow
@pytest.mark.skipif(not X86, reason="the name of an x86 processor")
def test_codes_of_a_lowered_name_with_the_features_of_the_host():
    """Numba keeps these beside all names but "generic"."""
    needs("avx2")
    check("codes", level="avx2", NUMBA_CPU_NAME="haswell")


@pytest.mark.slow
def test_without_numba():
    needs("portable")
    # NumPy's scalars warn where a compiled multiplication of 64-bit words wraps around on purpose.
    ignored = "ignore:overflow encountered in scalar multiply:RuntimeWarning"
    check("codes", "few rows", level="portable", options=("-W", ignored), NUMBA_DISABLE_JIT="1")


@pytest.mark.parametrize(
    "environment",
    [
        {"TQVEC_SIMD_LEVEL": "sse9"},
        {"TQVEC_SIMD_LEVEL": "avx2", "NUMBA_CPU_NAME": "generic"},
        {"TQVEC_SIMD_LEVEL": "avx2", "NUMBA_DISABLE_JIT": "1"},
    ],
)
def test_a_level_that_is_not_there_is_refused(environment):
    done = run_script(PROBE, **environment)
    assert done.returncode == 1
    assert "UnsupportedError: TQVEC_SIMD_LEVEL=" in done.stderr
    assert "available: portable" in done.stderr or environment["TQVEC_SIMD_LEVEL"] == "sse9"

"""Attention on codes in processes that are held to a level, with nothing readable behind the codes."""

import platform
from pathlib import Path

import pytest
from processes import has_settings, read_script

from tqvec.kernels.features import LEVELS, available_levels


def probe(**environment):
    return read_script(Path(__file__).with_name("attend_probe.py"), **environment)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_level(level):
    if has_settings() or level not in available_levels():
        pytest.skip(f"no {level} here")
    result = probe(TQVEC_SIMD_LEVEL=level)
    assert result["level"] == level
    assert result["worst"] < (1e-5 if level in ("portable", "neon") else 2e-2)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the name of an x86 processor")
def test_a_lowered_target():
    if has_settings() or "avx2" not in available_levels():
        pytest.skip("this process runs with settings of its own")
    result = probe(NUMBA_CPU_NAME="haswell")
    assert result["level"] == "avx2"
    assert result["worst"] < 2e-2

"""Attention on codes in processes that are held to a level, with nothing readable behind the codes."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tqvec.kernels.features import LEVELS, available_levels

SETTINGS = ("TQVEC_SIMD_LEVEL", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_DISABLE_JIT", "TQVEC_NUM_THREADS")


def probe(**environment):
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("attend_probe.py"))],
        env=clean | {"PYTHONPATH": str(root)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_level(level):
    if any(name in os.environ for name in SETTINGS) or level not in available_levels():
        pytest.skip(f"no {level} here")
    result = probe(TQVEC_SIMD_LEVEL=level)
    assert result["level"] == level
    assert result["worst"] < (1e-5 if level in ("portable", "neon") else 2e-2)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the name of an x86 processor")
def test_a_lowered_target():
    if any(name in os.environ for name in SETTINGS) or "avx2" not in available_levels():
        pytest.skip("this process runs with settings of its own")
    result = probe(NUMBA_CPU_NAME="haswell")
    assert result["level"] == "avx2"
    assert result["worst"] < 2e-2

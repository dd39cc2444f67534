"""Scripts in processes of their own, held to a SIMD level or a target processor by their environment alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = ("TQVEC_SIMD_LEVEL", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_DISABLE_JIT", "TQVEC_NUM_THREADS")


def has_settings():
    """Whether this process is held to something itself."""
    return any(name in os.environ for name in SETTINGS)


def run_script(script, *arguments, options=(), **environment):
    """Run a script with warnings as errors, and with no settings but those given."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run(
        [sys.executable, "-W", "error", *options, str(script), *arguments],
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def read_script(script, *arguments, options=(), **environment):
    """Run a script that must succeed, and return the JSON that it prints."""
    done = run_script(script, *arguments, options=options, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

"""The public face with wrong types, sizes and states, for half a minute; ten minutes by hand (see fuzz.py)."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_nothing_but_errors_of_its_own():
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "--minutes", "0.5", "--seed", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr

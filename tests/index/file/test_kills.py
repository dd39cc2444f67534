"""Whenever a process is killed, a file is the old one or the new one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["saves"] > 200
    assert counts["builds"] > 100
    assert counts["resumed"] > 20

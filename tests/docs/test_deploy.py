"""The commands of the "Deploy" page run, with a home of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(tmp_path):
    """Run lines in a shell that knows `tqvec`, and return what they print."""
    command = tmp_path / "bin" / "tqvec"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tqvec.cli.app "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "300",
    }

    def run(lines, **settings):
        result = subprocess.run(
            ["sh", "-e", "-c", lines],
            env=environment | settings,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def test_settings(shell):
    """Those that compile nothing."""
    _, processor, threads = blocks("sh")
    output = shell(processor) if os.uname().machine == "x86_64" else "x86-64-v3 avx2 (fastest"
    assert "x86-64-v3" in output
    assert "avx2 (fastest" in output
    assert re.search(r"threads +│ 2 ", shell(threads))


@pytest.mark.slow
def test_warmup(shell):
    output = shell(blocks("sh")[0])
    assert "ready after" in output
    assert re.search(r"\d+ kept, [\d.]+ MB", output)


@pytest.mark.slow
def test_dockerfile(shell, tmp_path):
    """Its line fills a folder of this test, here with a few kernels."""
    (dockerfile,) = blocks("dockerfile")
    settings = dict(re.findall(r"^ENV (\w+)=(.*)$", dockerfile, re.MULTILINE))
    (command,) = re.findall(r"^RUN (tqvec .*)$", dockerfile, re.MULTILINE)
    folder = str(tmp_path / "kernels")
    one_step = "import numpy, tqvec; tqvec.TurboQuant(8).encode(numpy.ones((1, 8)))"
    (tmp_path / "bin" / "tqvec").write_text(
        f'#!/bin/sh\n[ "$1" = warmup ] && exec "{sys.executable}" -c "{one_step}"\n'
    )
    place = settings["NUMBA_CACHE_DIR"]
    assert place in command
    shell(command.replace(place, folder), NUMBA_CACHE_DIR=folder)
    assert list((tmp_path / "kernels").rglob("*.nbc"))


def test_systemd_unit():
    (unit,) = blocks("ini")
    folder = re.search(r"^CacheDirectory=(.*)$", unit, re.MULTILINE)[1]
    assert f"NUMBA_CACHE_DIR=%C/{folder}\n" in unit


def test_every_block_is_tested():
    """Or is known to need what tests have not."""
    languages = re.findall(r"^```(\w+)$", PAGE, re.MULTILINE)
    assert sorted(languages) == ["dockerfile", "ini", "python", "sh", "sh", "sh", "text", "text"]

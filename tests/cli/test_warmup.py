"""``tqvec warmup`` fails if nothing is kept, and ``tqvec info`` says what is kept where."""

import os
import re
import subprocess
import sys

import pytest
from command import run
from numba.core import config

from tqvec import _compile
from tqvec.cli import app as application
from tqvec.cli import warmup
from tqvec.index import warmup as warmup_steps
from tqvec.kernels import _jit, background

# Runs through all kernels, and how many signatures it had to compile.
COUNT = """
import gc
from numba.core.dispatcher import Dispatcher
from tqvec.index import warmup as index
from tqvec.kvcache import warmup as kvcache
for step in (index.STEPS | kvcache.STEPS).values(): step()
stats = [each.stats for each in gc.get_objects() if isinstance(each, Dispatcher) and "tqvec" in each.py_func.__module__]
print(sum(sum(each.cache_hits.values()) for each in stats), sum(sum(each.cache_misses.values()) for each in stats))
"""


@pytest.fixture
def without_steps(monkeypatch, tmp_path):
    """An empty cache, and nothing that would fill it."""
    monkeypatch.setattr(warmup, "compile_all", lambda names: iter([("encode", None)]))
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))


def fail(monkeypatch, capsys):
    """Run the command, which fails, and return its message."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("sys.argv", ["tqvec", "warmup"])
    with pytest.raises(SystemExit) as stop:
        application.main()
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_the_longest_steps_are_steps():
    assert set(_compile.LONGEST) < set(_compile.STEPS)


def test_what_a_step_only_reads_is_made_by_numpy(monkeypatch, tmp_path):
    """Processes that compile side by side share nothing but the disk."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TQVEC_COMPILE", "now")
    monkeypatch.setattr(background, "_ready", set())
    with warmup_steps._by_numpy():
        assert not background.ready("encode")
    assert background.ready("encode")
    assert os.environ["TQVEC_COMPILE"] == "now"


def test_warmup_names_the_folder(without_steps, tmp_path):
    assert f"kept in {tmp_path}" in run("warmup").output


def test_warmup_fails_where_kernels_are_not_kept(without_steps, monkeypatch, capsys):
    steps = [("encode", "/opt/cache: Read-only file system"), ("decode", None)]
    monkeypatch.setattr(warmup, "compile_all", lambda names: iter(steps))
    message = fail(monkeypatch, capsys)
    for part in ("can't be kept", "/opt/cache: Read-only file system", "NUMBA_CACHE_DIR"):
        assert part in message


def test_warmup_fails_where_nothing_is_compiled(without_steps, monkeypatch, capsys):
    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    assert "NUMBA_DISABLE_JIT is set" in fail(monkeypatch, capsys)
    assert "kept nowhere" in run("info").output


def test_info_shows_the_cache(without_steps, tmp_path, monkeypatch):
    key = _jit._key()
    assert f"{tmp_path}/{key}: none kept, writable" in run("info").output
    folder = tmp_path / key
    folder.mkdir()
    for name, mode in (("a.nbc", 0o644), ("b.nbc", 0o644), ("c.nbc", 0o666), ("d.nbc.0.tmp", 0o644)):
        (folder / name).write_bytes(bytes(1_500_000))
        (folder / name).chmod(mode)
    assert f"{key}: 2 kept, 3.0 MB, 1 ignored (another user's, or not readable), writable" in run("info").output
    monkeypatch.setattr(config, "CACHE_DIR", "/proc/none")
    assert re.search("none kept, not writable: No such file or directory", run("info").output)


@pytest.mark.slow
def test_after_a_warmup_another_process_compiles_nothing():
    environment = os.environ | {"COLUMNS": "300"}
    subprocess.run([sys.executable, "-m", "tqvec.cli.app", "warmup"], check=True, capture_output=True, env=environment)
    counted = subprocess.run([sys.executable, "-c", COUNT], check=True, capture_output=True, text=True)
    hits, misses = map(int, counted.stdout.split())
    assert misses == 0
    assert hits > 20  # what kernels inline is part of them

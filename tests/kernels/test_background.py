"""One child process compiles for all, quietly; without it, kernels are compiled by the call that needs them."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from numba.core import config

from tqvec import _compile
from tqvec.errors import InputError
from tqvec.kernels import _jit, background

ROOT = Path(__file__).parents[2]

# Children that compile nothing: they note their number, wait, and mark all steps or not.
MARKS = """
import os, sys, time
sys.path[:] = sys.argv[3:]
from tqvec.kernels import _jit, background
with open(os.environ["NUMBA_CACHE_DIR"] + "/children", "a") as file: file.write(f"{os.getpid()} {sys.argv[2]}\\n")
time.sleep(float(os.environ.get("PAUSE", "0")))
assert _jit._key() == sys.argv[1] and os.environ["TQVEC_COMPILE"] == "now"
for name in ("encode", "decode"): background.mark(name)
"""
# The child of the package, with two of its steps: it would go on with all others after the test, on a core of its own,
# as Linux shares its time among sessions.
REAL = f"""
import sys; sys.path[:] = sys.argv[3:]
from tqvec import _compile
_compile.STEPS = {{name: _compile.STEPS[name] for name in ("encode", "search, one query")}}
{background._CHILD}
"""
FAILS = "raise SystemExit('a message that nobody reads')"

# A program that uses them. Its arguments: the child's code, then its own.
PROGRAM = """
import os, sys, time
from tqvec.kernels import background
background._CHILD = sys.argv[1]
def finish(name="encode"):
    end = time.monotonic() + background.PATIENCE
    while not background.ready(name) and time.monotonic() < end: time.sleep(0.01)
    return background._is_marked(name)
exec(sys.argv[2])
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache in a process that has begun nothing."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TQVEC_COMPILE", "background")
    for name, value in (
        ("_ready", set()),
        ("_since", 0.0),
        ("_started", False),
        ("_running", False),
        ("_CHILD", MARKS),
    ):
        monkeypatch.setattr(background, name, value)
    yield tmp_path / _jit._key()
    wait(lambda: not background._running)


def wait(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def children(folder):
    path = folder.parent / "children"
    return path.read_text().splitlines() if path.exists() else []


def start(code, folder, child=MARKS, **environment):
    """Start a program that complains about everything."""
    settings = {"NUMBA_CACHE_DIR": str(folder.parent), "TQVEC_COMPILE": "background", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, child, code]
    return subprocess.Popen(
        command, env=os.environ | settings | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process, seconds=120):
    output, errors = process.communicate(timeout=seconds)
    assert (process.returncode, errors) == (0, "")
    return output.strip()


def test_a_child_compiles_and_leaves_no_zombie(folder):
    assert not background.ready("encode")
    wait(lambda: background.ready("encode"))
    wait(lambda: background.ready("decode"))  # marked after "encode", at any time until the child's end
    wait(lambda: not background._running)
    assert background._is_marked("encode")
    assert background._is_marked("decode")
    assert [line.split()[1:] for line in children(folder)] == [["encode"]]
    (pid,) = (int(line.split()[0]) for line in children(folder))
    assert not os.path.exists(f"/proc/{pid}")
    background._ready.clear()
    assert background.ready("encode")  # from the mark


def test_a_child_that_fails_leaves_the_work_to_calls(folder, monkeypatch, capfd):
    monkeypatch.setattr(background, "_CHILD", FAILS)
    assert not background.ready("encode")
    wait(lambda: background.ready("encode"))
    assert not background._is_marked("encode")
    assert capfd.readouterr().err == ""


def test_steps_that_a_child_did_not_reach(folder):
    assert not background.ready("ids")
    wait(lambda: background.ready("ids"))
    assert not background._is_marked("ids")


def test_a_lock_has_one_child_at_a_time(folder):
    folder.mkdir()
    with open(folder / "compiling.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [background.ready("encode") for _ in range(3)] == [False] * 3
        assert not background._started
    assert not background.ready("encode")  # the process that held it has ended without a mark
    assert background._started


def test_calls_wait_a_minute_for_a_child(folder, monkeypatch):
    folder.mkdir()
    with open(folder / "compiling.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not background.ready("encode")
        monkeypatch.setattr(background, "PATIENCE", 0.0)
        assert background.ready("encode")


def test_processes_that_start_at_once_share_a_child(folder):
    running = [start("print(finish())", folder, PAUSE="2") for _ in range(3)]
    assert [finish(process) for process in running] == ["True"] * 3
    assert len(children(folder)) == 1


def test_a_program_that_ends_at_once(folder):
    assert finish(start("print(background.ready('encode'))", folder, PAUSE="1")) == "False"
    wait(lambda: background._is_marked("encode"))


def test_forked_children_leave_the_childs_end_to_its_parent(folder):
    code = """
import warnings
background.ready("encode")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # NumPy's threads
    child = os.fork()
if child == 0:
    os._exit(10 + background._started + finish())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), finish())
"""
    assert finish(start(code, folder, PAUSE="1")) == "11 True"
    assert len(children(folder)) == 1


def test_ctrl_c_does_not_reach_the_child(folder):
    code = "background.ready('encode'); os.killpg(os.getpid(), 2)"
    process = start("os.setsid(); import signal; signal.signal(2, signal.SIG_IGN);" + code, folder, PAUSE="1")
    assert finish(process) == ""
    wait(lambda: background._is_marked("encode"))


@pytest.mark.parametrize("place", ["/proc/none", "/dev/null"])
def test_where_nothing_can_be_written_calls_compile(folder, monkeypatch, place):
    monkeypatch.setattr(config, "CACHE_DIR", place)
    assert background.ready("encode")
    assert not background._started


def test_the_first_folder_that_can_be_written_is_taken(folder, monkeypatch):
    monkeypatch.setattr(_jit, "_paths", lambda: [Path("/proc/none"), folder])
    assert not background.ready("encode")
    wait(lambda: background.ready("encode"))
    assert background._is_marked("encode")


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (background, "fcntl", None),
        (_jit, "_FROZEN", True),
        (sys, "executable", "/opt/application"),
        (sys, "executable", None),
        (sys, "executable", "/nowhere/python3"),
        (config, "DISABLE_JIT", 1),
    ],
)
def test_where_no_child_can_be_started_calls_compile(folder, monkeypatch, owner, name, value):
    monkeypatch.setattr(owner, name, value)
    assert background.ready("encode")
    assert children(folder) == []


def test_modes(folder, monkeypatch):
    monkeypatch.setenv("TQVEC_COMPILE", "never")
    assert not background.ready("encode")
    monkeypatch.setenv("TQVEC_COMPILE", " NOW ")
    assert background.ready("encode")
    assert not background._started
    monkeypatch.setenv("TQVEC_COMPILE", "later")
    with pytest.raises(InputError, match="TQVEC_COMPILE must be one of background, now, never, got 'later'"):
        background.ready("decode")
    monkeypatch.setenv("TQVEC_COMPILE", "never")
    background.mark("decode")
    assert background.ready("decode")


def test_rows_are_served_until_kernels_are_ready(folder, monkeypatch):
    monkeypatch.setenv("TQVEC_COMPILE", "never")
    parts = []
    assert background.serve("encode", background.ROWS + 3, lambda *part: parts.append(part)) == background.ROWS + 3
    assert parts == [(0, background.ROWS), (background.ROWS, background.ROWS + 3)]
    background.mark("encode")
    assert background.serve("encode", 5, lambda *part: parts.append(part)) == 0
    assert len(parts) == 2


def test_what_the_child_does(folder, monkeypatch):
    steps = []
    monkeypatch.setattr(_compile, "STEPS", {name: lambda name=name: steps.append(name) for name in "abc"})
    monkeypatch.setattr(os, "nice", lambda by: None)
    monkeypatch.setattr(os, "sched_setscheduler", lambda *arguments: None, raising=False)
    _compile.main("another key", "b")
    assert steps == []
    _compile.main(_jit._key(), "b")
    assert steps == ["b", "a", "c"]
    assert [background._is_marked(name) for name in "abcd"] == [True, True, True, False]
    monkeypatch.setattr(_jit, "_unkept", "a full disk")
    monkeypatch.setattr(_compile, "STEPS", {"d": list})
    _compile.main(_jit._key(), "d")
    assert not background._is_marked("d")


USE = """
import numpy as np, tqvec
x = np.random.default_rng(1).standard_normal((3000, 48), np.float32)
def use():
    index = tqvec.Index(48)
    index.add(x)
    scores, ids = index.search(x[:3], k=3000)  # all rows: a staged search of fewer may miss one
    return scores.tobytes() + ids.tobytes()
"""


@pytest.mark.slow
def test_from_nothing_to_compiled_kernels(folder):
    code = (
        USE
        + """
background.PATIENCE = 900  # this machine may be busy
first = use()
quick = not background._ready
assert finish("search, one query") and finish("encode")
print(quick, use() == first, sorted(background._ready & {"encode", "search, one query"}))
"""
    )
    process = start(code, folder, child=REAL)
    assert finish(process, 1000) == "True True ['encode', 'search, one query']"

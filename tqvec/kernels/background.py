"""Compilation in the background: NumPy serves first calls while a child process compiles into the disk cache.

An operation is *ready* when the kernels behind it are in the cache: the child writes a mark after each. Where no child
can help, an operation counts as ready, and its kernels are compiled by the call that needs them. That is so if nothing
can be written, if there is no interpreter to start, if a child ended without the mark, and after a minute.

A lock on a file of the cache's folder has one child compile for all processes. The parent takes it and the child
inherits it, so that it is free when the child has ended, however it ends.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tqvec._config import compile_mode
from tqvec._locks import ForkLock
from tqvec.kernels import _jit, features

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ROWS = 2048  # that NumPy serves between two looks whether the kernels are ready

_CHILD = "import sys; sys.path[:] = sys.argv[3:]; from tqvec._compile import main; main(*sys.argv[1:3])"
PATIENCE = 60.0  # seconds until a call compiles what it needs: on a busy machine the child gets no time

_ready: set[str] = set()
_lock = ForkLock()
_since = 0.0  # time of the first call that found a kernel missing
_started = False  # a child of this process
_running = False


def ready(operation: str) -> bool:
    """Return whether the compiled kernels of an operation shall serve, and see to it that they will be compiled.

    Parameters
    ----------
    operation : str
        A step of `tqvec.index.warmup`.
    """
    if operation in _ready:
        return True
    if _is_marked(operation) or _must_compile_now(operation):
        _ready.add(operation)
        return True
    return False


def serve(operation: str, n: int, plain: Callable[[int, int], None]) -> int:
    """Call ``plain(start, stop)`` for rows from 0 on until kernels are ready; return how many of `n` rows it served."""
    done = 0
    while done < n and not ready(operation):
        stop = min(n, done + ROWS)
        plain(done, stop)
        done = stop
    return done


def mark(operation: str) -> None:
    """Note on disk that the kernels of an operation are there."""
    for folder in _jit._paths():
        if _jit._write(folder / _mark_of(operation), b"") is None:
            return


def _mark_of(operation: str) -> str:
    """Return a file's name; processors of one level may need machine code of their own."""
    name, flags = features.target()
    digest = hashlib.sha256(repr((operation, name, sorted(flags))).encode()).hexdigest()
    return f"{digest[:16]}.ready"


def _is_marked(operation: str) -> bool:
    name = _mark_of(operation)
    return any(os.path.exists(folder / name) for folder in _jit._paths())


def _must_compile_now(operation: str) -> bool:
    global _since
    mode = compile_mode()
    if mode == "now" or not _jit._paths():
        return True
    if mode == "never":
        return False
    with _lock:
        _since = _since or time.monotonic()
        if time.monotonic() - _since > PATIENCE:
            return True
        if _running:
            return False
        if _started or not _can_start():
            return not _is_marked(operation)
        return not _start(operation)


def _can_start() -> bool:
    """Return whether this process can start another interpreter: an application that embeds one may not."""
    return fcntl is not None and not _jit._FROZEN and Path(sys.executable or "").name.startswith("python")


def _start(operation: str) -> bool:
    """Start a child for an operation, then all others, unless a process has one; return whether there is one."""
    global _started, _running
    for folder in _jit._paths():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / "compiling.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                child = _spawn(lock, operation)
            except BlockingIOError:
                return True
            finally:
                os.close(lock)
            _started = _running = True
            threading.Thread(target=_wait, args=(child,), name="tqvec-compiler", daemon=True).start()
            return True
    return False


def _spawn(lock: int, operation: str) -> subprocess.Popen:
    """Start the child, which hears no Ctrl-C and shares nothing with this process but the lock."""
    paths = [os.path.abspath(path) for path in sys.path]
    return subprocess.Popen(
        [sys.executable, "-I", "-W", "ignore", "-c", _CHILD, str(_jit._key()), operation, *paths],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TQVEC_COMPILE": "now"},
        cwd=os.path.sep,
        pass_fds=(lock,),
        start_new_session=True,
    )


def _wait(child: subprocess.Popen) -> None:
    """Wait in a thread, so that no zombie is left if this process never searches again."""
    global _running
    with suppress(OSError):
        child.wait()
    _running = False


def _forget_child() -> None:
    """Know in a forked process that the child is its parent's."""
    global _started, _running
    _started = _running = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_child)

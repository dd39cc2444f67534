"""The threads that help with jobs, and the memory through which they learn of them."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import Any

import numpy as np
from numba.core import config
from numpy.typing import NDArray

from tqvec.kernels.threads import pool

_POSIX = ("mutex_lock", "mutex_unlock", "cond_wait", "cond_signal", "cond_broadcast")
_WINDOWS = (
    "AcquireSRWLockExclusive",
    "ReleaseSRWLockExclusive",
    "SleepConditionVariableSRW",
    "WakeConditionVariable",
    "WakeAllConditionVariable",
)


def _system_functions(mutex: int, conditions: list[int]) -> list[int]:
    """Return the addresses of lock, unlock, wait, wake one and wake all, after making a mutex and conditions."""
    if sys.platform == "win32":  # where zeros are a mutex and a condition
        library = ctypes.WinDLL("kernel32")
        functions = [getattr(library, name) for name in _WINDOWS]
    else:
        library = ctypes.CDLL(None)
        functions = [getattr(library, f"pthread_{name}") for name in _POSIX]
        library.pthread_mutex_init(ctypes.c_void_p(mutex), None)
        for condition in conditions:
            library.pthread_cond_init(ctypes.c_void_p(condition), None)
    return [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions]


_local = threading.local()


def _keep(thing: Any) -> None:
    """Keep an object when the interpreter ends: helpers go on until the process does."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class Helpers:
    """Threads that help with jobs: as many as a call asked for at most.

    They are daemons: idle ones shall not keep a program from ending.
    """

    def __init__(self) -> None:
        memory = ctypes.create_string_buffer(pool.POOL_BYTES + pool.LINE)
        _keep(memory)
        start = ctypes.addressof(memory)
        self._pool = start + -start % pool.LINE
        self._size = 0
        self._growing = threading.Lock()
        functions = _system_functions(
            self._pool + pool.MUTEX, [self._pool + condition for condition in (pool.WORK, pool.DONE)]
        )
        (ctypes.c_int64 * len(functions)).from_address(self._pool + pool.FUNCTIONS)[:] = functions

    def pool(self, threads: int) -> int:
        """Return the address of the pool, after starting the helpers that `threads` threads in all need.

        Fewer help if the system starts no more.
        """
        # Without waiting for the lock: a signal handler may search while the thread that it interrupted holds it.
        if self._size < threads - 1 and self._growing.acquire(blocking=False):
            try:
                while self._size < threads - 1 and not config.DISABLE_JIT:
                    name = f"tqvec-{self._size}"
                    threading.Thread(target=pool.serve, args=(self._pool,), name=name, daemon=True).start()
                    self._size += 1
            except (RuntimeError, MemoryError):  # "can't start new thread", or the interpreter is ending
                pass
            finally:
                self._growing.release()
        return self._pool


_keep(pool.serve)
_helpers = Helpers()


def _forget_helpers() -> None:
    """Make a new pool in a forked child, which has none of its parent's threads."""
    global _helpers
    _helpers = Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_helpers)


_MOST_KEPT = 1 << 26  # bytes of workspaces that a thread keeps
_NS_A_THREAD = 30_000.0  # of work, from which on one more thread pays


def share(threads: int, nanoseconds: float) -> tuple[int, int]:
    """Return the first two arguments of kernels that share work: the address of the pool, and a number of threads.

    Parameters
    ----------
    threads : int
        Upper limit.
    nanoseconds : float
        What the task takes one thread, roughly: small tasks are not worth waking others.
    """
    useful = max(1, min(threads, int(nanoseconds / _NS_A_THREAD)))
    return _helpers.pool(useful), useful


def scratch(threads: int, size: int) -> NDArray[np.uint8]:
    """Return workspaces of `size` bytes for so many threads, (threads, size) uint8.

    They belong to the calling thread until it calls again. Large ones are not kept.
    """
    last: tuple[tuple[int, int], NDArray[np.uint8]] | None = getattr(_local, "last", None)
    if last is not None and last[0] == (threads, size):  # as nearly always; to cut them anew takes some microseconds
        return last[1]
    asked = threads, size
    size = -(-size // pool.LINE) * pool.LINE
    needed = threads * size + pool.LINE
    memory: NDArray[np.uint8] | None = getattr(_local, "memory", None)
    if memory is None or memory.size < needed:
        memory = np.empty(needed, np.uint8)
        if needed <= _MOST_KEPT:
            _local.memory = memory
    start = -memory.ctypes.data % pool.LINE
    workspaces = memory[start : start + threads * size].reshape(threads, size)
    if needed <= _MOST_KEPT:
        _local.last = asked, workspaces
    return workspaces


def check_memory(done: bool) -> None:
    """Raise MemoryError if a kernel that shares work says that it is not done."""
    if not done:
        raise MemoryError("no memory is left for the workspaces of all threads: fewer threads need less")

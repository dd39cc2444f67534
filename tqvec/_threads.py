"""Threads that share the rows of a task of NumPy calls, which release the GIL while they work on large arrays.

Kernels don't come here: they share work without Python (kernels/threads).

The calling thread takes parts of its task until none is left, and other threads help where there are any. So no task
depends on them: it is done in a forked child too, after the main thread has ended, in an exit handler, and where the
system starts no more threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue


class _Work:
    """The parts of one task. Each is computed once, by the first thread that takes it."""

    def __init__(self, task: Callable[[int, int, int], None], bounds: list[int]) -> None:
        self._task = task
        self._bounds = bounds
        self._parts = len(bounds) - 1
        self._next = 0
        self._helped = 0  # parts that threads of the pool compute at present
        self._errors: list[tuple[int, BaseException]] = []
        self._changed = threading.Condition()

    def run(self, pool: _Pool) -> None:
        """Compute all parts with the help of `pool`, and raise the error of the first part that failed."""
        try:
            pool.share(self, self._parts - 1)
            while (part := self._take()) is not None:
                self._compute(part)
        finally:
            self._wait()
        if self._errors:
            try:
                raise min(self._errors, key=lambda failure: failure[0])[1]
            finally:
                self._errors.clear()  # its traceback refers to this frame, which would keep all arrays alive

    def help(self) -> None:
        """Compute parts until none is left, in a thread of the pool."""
        while (part := self._take(helpers=1)) is not None:
            self._compute(part)
            with self._changed:
                self._helped -= 1
                self._changed.notify()

    def _take(self, helpers: int = 0) -> int | None:
        with self._changed:
            if self._next == self._parts:
                return None
            self._next += 1
            self._helped += helpers
            return self._next - 1

    def _compute(self, part: int) -> None:
        try:
            self._task(part, self._bounds[part], self._bounds[part + 1])
        except BaseException as error:
            self._errors.append((part, error))
            if not isinstance(error, Exception):  # Ctrl-C: parts that nobody has begun are left
                self._stop()

    def _stop(self) -> None:
        with self._changed:
            self._next = self._parts

    def _wait(self) -> None:
        """Wait for the threads of the pool, which write to the caller's arrays. Ctrl-C can't cut that short."""
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                self._stop()
                with self._changed:
                    self._changed.wait_for(lambda: self._helped == 0)
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


class _Pool:
    """Threads that help. They are daemons: idle ones shall not keep a program from ending."""

    def __init__(self) -> None:
        self._size = 0
        self._growing = threading.Lock()
        self._work: SimpleQueue[_Work] = SimpleQueue()

    def share(self, work: _Work, helpers: int) -> None:
        """Offer `work` to at most `helpers` threads; fewer help if the system starts no more."""
        # Without waiting for the lock: a signal handler may search while the thread that it interrupted holds it.
        if self._size < helpers and self._growing.acquire(blocking=False):
            try:
                while self._size < helpers:
                    threading.Thread(target=self._serve, name=f"tqvec-{self._size}", daemon=True).start()
                    self._size += 1
            except (RuntimeError, MemoryError):  # "can't start new thread", or the interpreter is ending
                pass
            finally:
                self._growing.release()
        for _ in range(min(helpers, self._size)):
            self._work.put(work)

    def _serve(self) -> None:
        while True:
            self._work.get().help()


_pool = _Pool()


def _forget_pool() -> None:
    """Make a new pool in a forked child, which has none of its parent's threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def over_rows(task: Callable[[int, int, int], None], n: int, grain: int, threads: int) -> int:
    """Call ``task(part, start, stop)`` for consecutive parts of ``range(n)`` and wait for all.

    Parameters
    ----------
    task : callable
    n : int
        Number of rows.
    grain : int
        Parts are multiples of `grain` rows; the last one may be shorter.
    threads : int
        Upper limit of the number of parts.

    Returns
    -------
    int
        Number of parts.

    Raises
    ------
    Exception
        That of the first part that failed, after all parts have ended.
    """
    grains = max(1, -(-n // grain))
    parts = min(threads, grains)
    if parts == 1:
        task(0, 0, n)
        return 1
    _Work(task, [min(n, grains * p // parts * grain) for p in range(parts + 1)]).run(_pool)
    return parts

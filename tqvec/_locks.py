"""Locks that survive a fork: a forked child has the locks of its parent's other threads, but not the threads."""

from __future__ import annotations

import os
import threading
from weakref import WeakSet


class ForkLock:
    """A reentrant lock that is free in a forked child, unless the thread that forked holds it.

    A change that another thread had begun is cut short in the child. So what the lock guards must be whole at each
    moment, or able to tell that it is not.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


_locks: WeakSet[ForkLock] = WeakSet()


def _free_locks() -> None:
    """Replace the locks that threads hold which this process does not have."""
    for lock in list(_locks):
        if lock._lock.acquire(blocking=False):
            lock._lock.release()
        else:
            lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)

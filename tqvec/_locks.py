"""Locks that survive a fork: a forked child has the locks of its parent's other threads, but not the threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload
from weakref import WeakSet

Value = TypeVar("Value")


class ForkLock:
    """A reentrant lock that is free in a forked child, unless the thread that forked holds it.

    A change that another thread had begun is cut short in the child. So what the lock guards must be whole at each
    moment, or able to tell that it is not.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __reduce__(self) -> tuple[type[ForkLock], tuple[()]]:
        """Make copies and pickles of what has a lock have a free one of their own."""
        return ForkLock, ()

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock, and return whether it was taken; without `blocking` only if it is free."""
        return self._lock.acquire(blocking)

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class cached_property(Generic[Value]):
    """A property that is computed when it is first read, then kept.

    That of functools takes one lock for all objects of a class up to Python 3.11: threads wait for each other there,
    and a forked child for ever. Threads may compute this one twice; so it must be the same each time.
    """

    def __init__(self, function: Callable[[Any], Value]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[Value]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance: object | None, owner: type) -> cached_property[Value] | Value:
        if instance is None:
            return self
        value = vars(instance)[self._name] = self._function(instance)  # which is found first from now on
        return value


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

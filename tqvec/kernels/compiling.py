"""Word of compilations that take long: kernels that come from the disk cache cause none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from numba.core import event


class _Listener(event.Listener):
    """Calls a function when compilations have taken some seconds in all, while one is still going on."""

    def __init__(self, call: Callable[[], None], seconds: float):
        self._call, self._left, self._depth = call, seconds, 0
        self._lock = threading.Lock()
        self._start, self._timer = 0.0, threading.Timer(0, call)

    def on_start(self, event: event.Event) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1 and self._left > 0:
                self._start, self._timer = time.monotonic(), threading.Timer(self._left, self._say)
                self._timer.daemon = True
                self._timer.start()

    def on_end(self, event: event.Event) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._timer.cancel()
                self._left -= time.monotonic() - self._start

    def _say(self) -> None:
        self._left = 0
        self._call()


@contextmanager
def watch_compilations(call: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call a function once, in a thread of its own, when kernels have been compiled for so many seconds inside."""
    with event.install_listener("numba:compile", _Listener(call, seconds)):
        yield

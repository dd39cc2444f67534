"""Awaiting: methods that asyncio awaits in a thread."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def in_thread(method: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return a coroutine function that calls a method in a thread, with the same signature."""

    @functools.wraps(method)
    async def call(*args: P.args, **named: P.kwargs) -> R:
        return await asyncio.to_thread(method, *args, **named)

    call.__name__ = f"{method.__name__}_async"
    call.__qualname__ = f"{method.__qualname__}_async"
    call.__doc__ = f"Await `{method.__name__}` in a thread."
    return call

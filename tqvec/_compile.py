"""Compile all kernels into the disk cache: ahead of time in several processes, or in the background in one."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

from tqvec._config import num_threads
from tqvec.errors import CacheWarning
from tqvec.index import warmup as index
from tqvec.kernels import _jit, background
from tqvec.kvcache import warmup as kvcache

STEPS: dict[str, Callable[[], None]] = index.STEPS | kvcache.STEPS
# Steps that take longest, these first: those that follow are short, so all processes end at about the same time.
LONGEST = "search, many queries", "search, one query", "KV cache", "encode, trellis", "encode"


def compile_step(name: str) -> tuple[str, str | None]:
    """Compile the kernels of one step of `STEPS`; return its name, and why they can't be kept if they can't."""
    os.environ["TQVEC_COMPILE"] = "now"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)  # the caller is told
        STEPS[name]()
    if _jit.unkept() is None:
        background.mark(name)
    return name, _jit.unkept()


def compile_all(names: Iterable[str] = tuple(STEPS)) -> Iterator[tuple[str, str | None]]:
    """Compile the kernels of steps in as many processes as there are CPUs; yield what `compile_step` returns."""
    ordered = sorted(names, key=lambda name: LONGEST.index(name) if name in LONGEST else len(LONGEST))
    with ProcessPoolExecutor(num_threads(), get_context("spawn"), initializer=gc.disable) as pool:
        for done in as_completed([pool.submit(compile_step, name) for name in ordered]):
            yield done.result()


def main(key: str, first: str) -> None:
    """Compile all kernels, those of step `first` first, unless the sources are not those of `key` any more."""
    with suppress(AttributeError, OSError):  # a system that has no such class, or refuses
        os.nice(19)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # a busy core would hold up the threads of BLAS
    with suppress(OSError):  # Linux may weigh sessions, and this process has one of its own
        Path("/proc/self/autogroup").write_text("19", encoding="ascii")
    gc.disable()  # a tenth of the time: a compiler makes millions of objects, and this process ends soon
    if _jit._key() == key:
        for name in sorted(STEPS, key=lambda name: name != first):
            compile_step(name)

"""Every row is computed once and waited for, whether the pool helps or can't be had."""

import _thread
import gc
import os
import signal
import threading
import time
import weakref

import numpy as np
import pytest
from processes import ENDS_AND_FORKS, check_situations

from tqvec import _threads


@pytest.fixture(autouse=True)
def pool(monkeypatch):
    """A pool of its own for each test."""
    pool = _threads._Pool()
    monkeypatch.setattr(_threads, "_pool", pool)
    return pool


def visits(n, grain, threads):
    """How often each row is computed, and by how many threads."""
    rows, names = np.zeros(n, np.int64), set()

    def task(part, start, stop):
        rows[start:stop] += 1
        names.add(threading.get_ident())
        time.sleep(0.01)

    assert _threads.over_rows(task, n, grain, threads) == min(threads, max(1, -(-n // grain)))
    return rows, len(names)


@pytest.mark.parametrize(("n", "grain", "threads"), [(0, 4, 8), (1, 4, 8), (33, 4, 2), (33, 4, 8), (100, 1, 31)])
def test_every_row_once(n, grain, threads):
    for _ in range(3):
        rows, _ = visits(n, grain, threads)
        assert rows.tolist() == [1] * n


def test_threads_of_the_pool_help():
    assert visits(64, 1, 4)[1] > 1


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
@pytest.mark.parametrize("started", [0, 2])
def test_where_the_system_starts_no_more_threads(monkeypatch, pool, error, started):
    start = threading.Thread.start

    def limited(thread):
        if pool._size >= started:
            raise error
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    for _ in range(3):
        rows, used = visits(64, 1, 8)
        assert rows.tolist() == [1] * 64
        assert used <= started + 1
    assert pool._work.qsize() <= 3 * started  # nothing is kept for threads that don't exist


def test_many_callers_at_once():
    results = []
    callers = [threading.Thread(target=lambda: results.append(visits(40, 1, 4)[0])) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [rows.tolist() for rows in results] == [[1] * 40] * 8


def test_a_task_may_share_rows_itself():
    rows = np.zeros((6, 6), np.int64)

    def outer(part, start, stop):
        def inner(part, first, last):
            rows[start:stop, first:last] += 1

        _threads.over_rows(inner, 6, 1, 3)

    _threads.over_rows(outer, 6, 1, 3)
    assert rows.tolist() == [[1] * 6] * 6


def test_a_signal_handler_may_search_while_the_pool_grows(pool):
    pool._growing.acquire()  # as the thread that it interrupted may have
    rows, used = visits(20, 1, 4)
    assert (rows.tolist(), used) == ([1] * 20, 1)


@pytest.mark.parametrize("failing", [{0}, {3}, {1, 2}, {0, 1, 2, 3}])
def test_the_first_error_is_raised_when_all_parts_have_ended(failing):
    ended = []

    def task(part, start, stop):
        time.sleep(0.02 * (4 - part))
        ended.append(part)
        if part in failing:
            raise ValueError(part)

    with pytest.raises(ValueError, match=f"^{min(failing)}$"):
        _threads.over_rows(task, 4, 1, 4)
    assert sorted(ended) == [0, 1, 2, 3]


def test_an_error_keeps_no_arrays_alive():
    rows = np.zeros(1000)
    gone = weakref.ref(rows)

    def fail():
        held = rows_of.pop()

        def task(part, start, stop):
            raise ValueError(held.size)

        _threads.over_rows(task, 8, 1, 2)

    rows_of = [rows]
    del rows
    gc.disable()
    try:
        with pytest.raises(ValueError, match="1000"):
            fail()
        deadline = time.monotonic() + 5
        while gone() is not None and time.monotonic() < deadline:
            time.sleep(0.01)  # a thread of the pool may be about to let go
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("when", ["computing", "waiting"])
def test_ctrl_c_waits_for_the_threads_that_write(when):
    """Otherwise they would go on writing to rows that the next call takes as free."""
    main = threading.get_ident()
    writing = threading.Event()
    ended = []

    def task(part, start, stop):
        if threading.get_ident() == main:
            assert writing.wait(5)
            if when == "computing":
                raise KeyboardInterrupt
        else:
            writing.set()
            time.sleep(0.1)
            if when == "waiting":
                _thread.interrupt_main()
                time.sleep(0.1)
                _thread.interrupt_main()  # impatient
            time.sleep(0.1)
            ended.append(part)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without it
    try:
        with pytest.raises(KeyboardInterrupt):
            _threads.over_rows(task, 2, 1, 2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(ended) == 1


def test_ctrl_c_leaves_the_parts_that_nobody_has_begun(pool, monkeypatch):
    monkeypatch.setattr(pool, "share", lambda work, helpers: None)
    begun = []

    def task(part, start, stop):
        begun.append(part)
        if part == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _threads.over_rows(task, 5, 1, 5)
    assert begun == [0, 1]


PROGRAM = """
import atexit, os, resource, signal, sys, threading, time
import numpy as np
from tqvec import _threads

def check():
    rows = np.zeros(1000, np.int64)
    def task(part, start, stop):
        rows[start:stop] += 1
        time.sleep(0.001)
    _threads.over_rows(task, 1000, 10, 4)
    assert rows.tolist() == [1] * 1000
    print("ok", flush=True)

def work(pause=0):
    _threads.over_rows(lambda *part: time.sleep(pause) if pause else None, 8 if pause else 64, 1, 4)

def later():
    threading.main_thread().join()
    time.sleep(0.05)
    check()
"""
SITUATIONS = ENDS_AND_FORKS | {
    "daemon in an exit handler": """
def handler():
    thread = threading.Thread(target=lambda: (go.wait(), check()), daemon=True)
    go.set(); daemon.join(10)
go = threading.Event()
daemon = threading.Thread(target=lambda: (go.wait(), check()), daemon=True); daemon.start()
atexit.register(handler)
""",
    "finalizer of an object at the end": """
class Last:
    def __del__(self, check=check): check()
check(); last = Last()
""",
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="for POSIX systems")
def test_situations():
    check_situations(PROGRAM, SITUATIONS)


def test_signal_handler():
    """One that shares rows while the interrupted call shares its own."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("no timers")
    done = []

    def handle(*_):
        done.append(_threads.over_rows(lambda *part: None, 8, 1, 4))
        signal.setitimer(signal.ITIMER_REAL, 0.001)  # once: slow handlers would interrupt each other for ever

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        while len(done) < 50:
            _threads.over_rows(lambda *part: None, 8, 1, 4)
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(done) == {4}

"""Every row is computed once and waited for, whether the pool helps or can't be had."""

import _thread
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

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

def later():
    threading.main_thread().join()
    time.sleep(0.05)
    check()
"""
SITUATIONS = {
    "thread that outlives the main one": "check(); threading.Thread(target=later).start()",
    "thread that outlives the main one, first use": "threading.Thread(target=later).start()",
    "exit handler": "check(); atexit.register(check)",
    "exit handler, first use": "atexit.register(check)",
    "daemon in an exit handler": """
def handler():
    thread = threading.Thread(target=lambda: (go.wait(), check()), daemon=True)
    go.set(); daemon.join(10)
go = threading.Event()
daemon = threading.Thread(target=lambda: (go.wait(), check()), daemon=True); daemon.start()
atexit.register(handler)
""",
    "daemon that the end of the program cuts off": """
def forever():
    while True:
        _threads.over_rows(lambda *part: time.sleep(0.001), 8, 1, 4)
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.1); print("ok")
""",
    "finalizer of an object at the end": """
class Last:
    def __del__(self, check=check): check()
check(); last = Last()
""",
    "no more threads": """
if os.getuid() == 0: os.setgid(54399); os.setuid(54399)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)); check()
""",
    "forked child": """
check(); child = os.fork()
if child == 0: check(); os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
    "child forked from a thread": """
def fork():
    child = os.fork()
    if child == 0: signal.alarm(20); check(); os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
check(); thread = threading.Thread(target=fork); thread.start(); thread.join()
""",
    "children forked while others work": """
def work():
    while not done: _threads.over_rows(lambda *part: None, 64, 1, 4)
done = False; threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0: signal.alarm(20); check(); os._exit(0)
    if os.waitpid(child, 0)[1]: print("hung")
done = True
""",
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="for POSIX systems")
def test_situations():
    """Ends and forks of programs: all at once, since each costs an interpreter."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning"]  # of forks in programs with threads
    programs = {
        name: subprocess.Popen(
            [*command, "-c", PROGRAM + text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name, text in SITUATIONS.items()
    }
    for name, program in programs.items():
        output, errors = program.communicate(timeout=120)
        assert program.returncode == 0, (name, errors)
        assert errors == "", name
        assert set(output.split()) == {"ok"}, name


def test_signal_handler():
    """One that shares rows while the interrupted call shares its own."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("no timers")
    done = []
    before = signal.signal(signal.SIGALRM, lambda *_: done.append(_threads.over_rows(lambda *part: None, 8, 1, 4)))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        while len(done) < 50:
            _threads.over_rows(lambda *part: None, 8, 1, 4)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(done) == {4}

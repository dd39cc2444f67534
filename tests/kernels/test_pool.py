"""Every unit is computed once and waited for, whether helpers take part or can't be had."""

import os
import threading

import numpy as np
import pytest
from numba.core import config
from processes import ENDS_AND_FORKS, check_situations

from tqvec.kernels._jit import jit
from tqvec.kernels.threads import helpers, pool
from tqvec.kernels.threads.helpers import check_memory, share
from tqvec.kernels.threads.pool import address_of, run_units, unit_function
from tqvec.kernels.threads.views import bytes_at, floats_at, words_at

ENOUGH = 1e9  # nanoseconds, for which any number of threads is useful


@jit
def _count_unit(plan, call, worker, unit):
    (steps,) = plan
    counts, workers = call
    total = 0.0
    for i in range(steps):
        total += np.sqrt(np.float64(i + unit))
    counts[unit] += 1 if total >= 0.0 else 2
    workers[worker] += 1


@jit
def count_units(pool, threads, units, steps, counts, workers):
    """Add 1 to the count of each unit, and to that of the worker that computed it."""
    plan = (steps,)
    call = (counts, workers)
    function = unit_function(_count_unit, plan, call)
    return run_units(pool, threads, function, address_of(plan), address_of(call), units)


@jit
def _failing_unit(plan, call, worker, unit):
    (bad,) = plan
    (counts,) = call
    if unit == bad:
        raise ValueError
    counts[unit] += 1


@jit
def fail_in_unit(pool, threads, units, bad, counts):
    plan = (bad,)
    call = (counts,)
    function = unit_function(_failing_unit, plan, call)
    return run_units(pool, threads, function, address_of(plan), address_of(call), units)


def check(threads, units, steps=20):
    counts, workers = np.zeros(units, np.int64), np.zeros(threads, np.int64)
    address, useful = share(threads, ENOUGH)
    assert useful == threads
    assert count_units(address, threads, units, steps, counts, workers)
    assert counts.tolist() == [1] * units
    assert workers.sum() == units
    return workers


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("units", [0, 1, 2, 33, 1000])
def test_every_unit_once(threads, units):
    for _ in range(20):
        check(threads, units)


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="helpers are compiled")
def test_helpers_take_part():
    assert any(np.count_nonzero(check(4, 64, 300_000)) > 1 for _ in range(50))


def test_small_tasks_wake_nobody():
    assert share(8, 100.0)[1] == 1
    assert share(8, 100_000.0)[1] == 3
    assert share(2, 1e12)[1] == 2


def test_many_callers_at_once():
    """More than there are slots."""
    errors = []

    def call():
        try:
            for _ in range(30):
                check(3, 50, 200)
        except AssertionError as error:
            errors.append(error)

    callers = [threading.Thread(target=call) for _ in range(pool.N_SLOTS + 8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert errors == []


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="Python raises the exception itself")
@pytest.mark.parametrize("threads", [1, 4])
def test_a_unit_that_fails(threads):
    address, _ = share(threads, ENOUGH)
    counts = np.zeros(60, np.int64)
    assert not fail_in_unit(address, threads, 60, 7, counts)
    assert counts.tolist() == [unit != 7 for unit in range(60)]
    with pytest.raises(MemoryError, match="workspaces of all threads"):
        check_memory(False)
    assert fail_in_unit(address, threads, 60, -1, counts)  # a slot that is used again has forgotten it


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
@pytest.mark.parametrize("started", [0, 2])
def test_where_the_system_starts_no_more_threads(monkeypatch, error, started):
    team = helpers.Helpers()
    monkeypatch.setattr(helpers, "_helpers", team)
    start = threading.Thread.start

    def limited(thread):
        if team._size >= started:
            raise error
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    for _ in range(3):
        assert np.count_nonzero(check(8, 64)) <= started + 1


def test_a_signal_handler_may_search_while_the_pool_grows(monkeypatch):
    team = helpers.Helpers()
    monkeypatch.setattr(helpers, "_helpers", team)
    team._growing.acquire()  # as the thread that it interrupted may have
    assert check(4, 20).tolist() == [20, 0, 0, 0]


def test_views():
    """Arrays at addresses are the arrays there."""
    for view, dtype in ((bytes_at, np.uint8), (floats_at, np.float32), (words_at, np.uint64)):

        @jit
        def total(address, rows, columns, view=view):
            return view(address, (rows, columns)).sum()

        numbers = np.arange(12).astype(dtype).reshape(3, 4)
        assert total(numbers.ctypes.data, 3, 4) == 66


PROGRAM = """
import atexit, os, resource, signal, sys, threading, time
import numpy as np
import tqvec
from tqvec.kernels.threads import helpers

x = np.random.default_rng(1).standard_normal((3000, 64), np.float32)
index = tqvec.Index(64)
index.add(x, threads=1)
expected = index.search(x[:40], k=3, threads=1)[1].tolist()

def check(threads=4):
    helpers._NS_A_THREAD = 1.0
    assert index.search(x[:40], k=3, threads=threads)[1].tolist() == expected
    print("ok", flush=True)

def work(pause=0):
    index.search(x[:40], k=3, threads=4)

def later():
    threading.main_thread().join()
    time.sleep(0.05)
    check()
"""
SITUATIONS = ENDS_AND_FORKS | {
    "a signal handler that searches": """
check()
seen = []
def handle(*_):
    seen.append(index.search(x[:40], k=3, threads=4)[1].tolist() == expected)
    signal.setitimer(signal.ITIMER_REAL, 0.001)  # once: slow handlers would interrupt each other for ever
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001)
while len(seen) < 50: assert index.search(x[:40], k=3, threads=4)[1].tolist() == expected
signal.signal(signal.SIGALRM, signal.SIG_IGN)
assert all(seen)
""",
    "children forked while another thread compiles": """
import numba
check()
def compile():
    while not done: numba.njit(lambda a: a + 1)(1)
done = False; thread = threading.Thread(target=compile); thread.start()
for _ in range(5):
    child = os.fork()
    if child == 0: signal.alarm(20); numba.njit(lambda a: a + 2)(1); check(); os._exit(0)
    if os.waitpid(child, 0)[1]: print("hung")
done = True
""",
    "Ctrl-C": """
check()
threading.Thread(target=lambda: (time.sleep(0.1), os.kill(os.getpid(), signal.SIGINT))).start()
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background is started without
try:
    while True: index.search(x[:40], k=3, threads=4)
except KeyboardInterrupt:
    check()
""",
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="for POSIX systems")
def test_situations():
    check_situations(PROGRAM, SITUATIONS)

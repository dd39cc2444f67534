"""Scripts in processes of their own, held to a SIMD level or a target processor by their environment alone."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = ("TQVEC_SIMD_LEVEL", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_DISABLE_JIT", "TQVEC_NUM_THREADS")

X86 = platform.machine() in ("x86_64", "AMD64")
# Processors that have a level and nothing above it. The tests that share them share what was compiled for them.
PROCESSORS = {"avx2": "haswell", "portable": "generic"}


def has_settings():
    """Whether this process is held to something itself."""
    return any(name in os.environ for name in SETTINGS)


def settings_of(level):
    """Settings that hold a process to a level; by a lower target of the compiler where there is one with a name."""
    if X86 and level in PROCESSORS:
        return {"NUMBA_CPU_NAME": PROCESSORS[level], "NUMBA_CPU_FEATURES": ""}
    return {"TQVEC_SIMD_LEVEL": level}


def run_script(script, *arguments, options=(), **environment):
    """Run a script with warnings as errors, and with no settings but those given."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run(
        [sys.executable, "-W", "error", *options, str(script), *arguments],
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=900,  # it may compile, on a busy machine
        check=False,
    )


def read_script(script, *arguments, options=(), **environment):
    """Run a script that must succeed, and return the JSON that it prints."""
    done = run_script(script, *arguments, options=options, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# How programs with threads end and fork: each defines `check`, which prints "ok"; `work`, which takes at least so many
# seconds in all; and `later`, which checks when the main thread has ended.
ENDS_AND_FORKS = {
    "thread that outlives the main one": "check(); threading.Thread(target=later).start()",
    "thread that outlives the main one, first use": "threading.Thread(target=later).start()",
    "exit handler": "check(); atexit.register(check)",
    "exit handler, first use": "atexit.register(check)",
    "daemon that the end of the program cuts off": """
def forever():
    while True: work(0.001)
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.1); print("ok")
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
check()
def go_on():
    while not done: work()
done = False; threads = [threading.Thread(target=go_on) for _ in range(3)]
for thread in threads: thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0: signal.alarm(20); check(); os._exit(0)
    if os.waitpid(child, 0)[1]: print("hung")
done = True
""",
}


def check_situations(prologue, situations):
    """Run programs all at once, since each costs an interpreter; each must print nothing but "ok"."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning"]  # of forks in programs with threads
    programs = {
        name: subprocess.Popen(
            [*command, "-c", prologue + text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name, text in situations.items()
    }
    results = {name: (*program.communicate(timeout=240), program.returncode) for name, program in programs.items()}
    for name, (output, errors, status) in results.items():
        assert status == 0, (name, errors)
        assert errors == "", name
        assert set(output.split()) == {"ok"}, name

"""Settings from the environment."""

from __future__ import annotations

import os

from tqvec.errors import InputError

_COMPILE = ("background", "now", "never")
_MOST = 1024  # threads: each needs memory for its results


def num_threads(threads: int | None = None) -> int:
    """Return the number of threads to use.

    Parameters
    ----------
    threads : int or None
        None takes ``TQVEC_NUM_THREADS``. Without it, or where it is empty, it takes the CPUs that this process may run
        on. More than 1,024 count as 1,024.

    Raises
    ------
    InputError
        Not a positive integer.
    """
    if type(threads) is int and 0 < threads <= _MOST:
        return threads
    source = "threads"
    value: object = threads
    if threads is None:
        source = "TQVEC_NUM_THREADS"
        value = os.environ.get(source, "").strip()
        if not value:
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        count = int(str(value))
    except ValueError:
        count = 0
    if count < 1:
        raise InputError(f"{source} must be a positive integer, got {value!r}")
    return min(count, _MOST)


def compile_mode() -> str:
    """Return when kernels are compiled that are not on disk: ``TQVEC_COMPILE``, by default "background".

    Raises
    ------
    InputError
        It is another word than "background", "now" and "never".
    """
    mode = os.environ.get("TQVEC_COMPILE", "").strip().lower() or _COMPILE[0]
    if mode not in _COMPILE:
        raise InputError(f"TQVEC_COMPILE must be one of {', '.join(_COMPILE)}, got {mode!r}")
    return mode

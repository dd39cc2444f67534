"""Memory: bytes that this process holds, and has held at most, as Linux counts them; NaN elsewhere."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> float:
    """Return the bytes in memory, once what is free has gone back to the system."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # of glibc: otherwise freed memory would count
    return _read("VmRSS")


def peak() -> float:
    """Return the most bytes that were in memory since `forget_peak`."""
    return _read("VmHWM")


def forget_peak() -> None:
    """Make `peak` start with what is in memory now; where the system can't, it counts from the start of the process."""
    with suppress(OSError):
        _REFERENCES.write_text("5")


def _read(field: str) -> float:
    """Return a count of the process's status, which is in KiB."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return float("nan")
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), float("nan"))

"""Exceptions of tqvec, all of them derived from `TqvecError`, and its warnings."""

from __future__ import annotations

__all__ = [
    "BusyError",
    "CacheWarning",
    "FormatError",
    "InputError",
    "LossWarning",
    "TqvecError",
    "UnavailableError",
    "UnsupportedError",
]


class TqvecError(Exception):
    """Base of all errors that tqvec raises on purpose."""


class InputError(TqvecError, ValueError):
    """An argument has a wrong type, shape or value. The message names the argument and the row, if any."""


class FormatError(TqvecError, ValueError):
    """A file is damaged, truncated, foreign, or written by a newer version."""


class UnsupportedError(TqvecError, RuntimeError):
    """A SIMD level or an optional package is not available on this machine, or an index of others can't be read."""


class BusyError(TqvecError, TimeoutError):
    """Another process or thread writes to a collection, and did not finish in time. The message says which."""


class UnavailableError(TqvecError, TimeoutError):
    """Shards could not be searched in time. The message names them, and says why."""


class LossWarning(UserWarning):
    """A call costs accuracy. The message says how much, and how to avoid it."""


class CacheWarning(RuntimeWarning):
    """Compiled kernels can't be kept on disk, so each start of a program compiles them again. Nothing else changes."""

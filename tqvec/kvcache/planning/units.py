"""Sizes and times with their units: GiB is 2³⁰ bytes, GB is 10⁹, and neither is ever taken for the other."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from tqvec import _validate
from tqvec.errors import InputError

_BYTES = {"B": 1}
_BYTES |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", 1)}
_BYTES |= {f"{letter}B": 1000**power for power, letter in enumerate("kMGTP", 1)}
_BYTES["KB"] = _BYTES["kB"]
_TOKENS = {"": 1, "K": 1024, "M": 1024**2}
_MOST_BYTES = 2**62
_MOST_TOKENS = 2**40
_NUMBER = re.compile(r"\s*(\d[\d_,]*(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_bytes(size: object, name: str) -> int:
    """Bytes of ``"8GiB"``, ``"8 GB"``, ``"512MiB"``, or of a whole number.

    Raises
    ------
    InputError
        No number, no unit, or one that could mean two things, such as ``"8G"``.
    """
    if not isinstance(size, str):
        return _validate.integer(size, name, 0, _MOST_BYTES)
    number, unit = _split(size, name)
    if unit not in _BYTES:
        raise InputError(f"{name} must have a unit: GiB (2^30 bytes), GB (10^9 bytes), MiB, MB, …; got {size!r}")
    return _validate.integer(math.floor(number * _BYTES[unit]), name, 0, _MOST_BYTES)


def parse_tokens(count: object, name: str) -> int:
    """Tokens of ``"128k"``, ``"1M"`` (k is 1,024 and M is 1,024², as in the names of context lengths) or of a number.

    Raises
    ------
    InputError
        No whole number of tokens, at least 1.
    """
    if not isinstance(count, str):
        return _validate.integer(count, name, 1, _MOST_TOKENS)
    number, unit = _split(count, name)
    tokens = number * _TOKENS.get(unit.upper(), 0)
    if tokens.denominator != 1 or not 1 <= tokens <= _MOST_TOKENS:
        raise InputError(f"{name} must be a number of tokens, such as 131072, 128k (k: 1,024) or 1M, got {count!r}")
    return int(tokens)


def _split(text: str, name: str) -> tuple[Fraction, str]:
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise InputError(f"{name} must be a number with a unit, got {text!r}")
    return Fraction(found[1].replace(",", "").replace("_", "")), found[2]


def show_bytes(size: float) -> str:
    """A size in the largest binary unit that leaves at least 1: ``1.195 GiB``."""
    for power, letter in reversed(list(enumerate("KMGTP", 1))):
        if size >= 1024**power:
            return f"{size / 1024**power:,.4g} {letter}iB"
    return f"{size:,.4g} B"


def show_seconds(time: float) -> str:
    """A time with three digits: ``1.63 s``, ``33 ms``."""
    return f"{time:,.0f} s" if time >= 100 else f"{time:.3g} s" if time >= 1 else f"{1000 * time:.3g} ms"

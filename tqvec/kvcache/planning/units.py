"""Read and format sizes and times with their units (GiB is 2³⁰ bytes, GB is 10⁹ bytes), and align tables of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction

from tqvec import _validate
from tqvec.errors import InputError

_BYTES = {"B": 1}
_BYTES |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", 1)}
_BYTES |= {f"{letter}B": 1000**power for power, letter in enumerate("kMGTP", 1)}
_BYTES["KB"] = _BYTES["kB"]
_TOKENS = {"": 1, "K": 1024, "M": 1024**2}
MAX_BYTES = 2**62
_MAX_TOKENS = 2**40
_NUMBER = re.compile(r"\s*(\d[\d_,]*(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_bytes(size: object, name: str) -> int:
    """Return the bytes of ``"8GiB"``, ``"8 GB"``, ``"512MiB"``, or of a whole number.

    Raises
    ------
    InputError
        The number or the unit is missing, or the unit is ambiguous, such as ``"8G"``.
    """
    if not isinstance(size, str):
        return _validate.integer(size, name, 0, MAX_BYTES)
    number, unit = _split(size, name)
    if unit not in _BYTES:
        raise InputError(f"{name} must have a unit: GiB (2^30 bytes), GB (10^9 bytes), MiB, MB, …; got {size!r}")
    return _validate.integer(math.floor(number * _BYTES[unit]), name, 0, MAX_BYTES)


def parse_bandwidth(rate: str, name: str) -> int:
    """Return the bytes per second of ``"2GB/s"``.

    Raises
    ------
    InputError
        The unit is missing or ambiguous, or the rate is 0.
    """
    found = parse_bytes(rate.removesuffix("/s"), name) if rate.endswith("/s") else 0
    if found == 0:
        raise InputError(f"{name} must be more than 0, with a unit per second, as 2GB/s; got {rate!r}")
    return found


def parse_tokens(count: object, name: str) -> int:
    """Return the tokens of ``"128k"``, ``"1M"`` (k: 1,024, M: 1,024², as in names of context lengths) or of a number.

    Raises
    ------
    InputError
        The text is not a whole number of at least 1 token.
    """
    if not isinstance(count, str):
        return _validate.integer(count, name, 1, _MAX_TOKENS)
    number, unit = _split(count, name)
    tokens = number * _TOKENS.get(unit.upper(), 0)
    if tokens.denominator != 1 or not 1 <= tokens <= _MAX_TOKENS:
        raise InputError(f"{name} must be a number of tokens, such as 131072, 128k (k: 1,024) or 1M, got {count!r}")
    return int(tokens)


def _split(text: str, name: str) -> tuple[Fraction, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise InputError(f"{name} must be a number with a unit, got {text!r}")
    return Fraction(match[1].replace(",", "").replace("_", "")), match[2]


def format_bytes(size: float) -> str:
    """Format a size in the largest binary unit that leaves at least 1: ``1.195 GiB``."""
    _validate.number(size, "size")
    for power, letter in reversed(list(enumerate("KMGTP", 1))):
        if size >= 1024**power:
            return f"{size / 1024**power:,.4g} {letter}iB"
    return f"{size:,.4g} B"


def format_seconds(time: float) -> str:
    """Format a time with three digits: ``1.63 s``, ``33 ms``."""
    _validate.number(time, "time")
    return f"{time:,.0f} s" if time >= 100 else f"{time:.3g} s" if time >= 1 else f"{1000 * time:.3g} ms"


def format_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the cells of rows in columns, the first to the left and the others to the right; return the lines."""
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows]

"""SplitMix64 in Python integers. Source: "File format" page, section 1."""

from __future__ import annotations

_WORD = 2**64


def mix(z: int) -> int:
    """Finaliser of SplitMix64 ("File format" page, section 1)."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % _WORD
    return z ^ (z >> 31)


def key(seed: int, stream: int) -> int:
    """Starting state of a stream ("File format" page, section 1)."""
    return mix(mix(seed) ^ stream)


def word(seed: int, stream: int, i: int) -> int:
    """Output `i` = 1, 2, 3, … of a stream ("File format" page, section 1)."""
    return mix((key(seed, stream) + i * 0x9E3779B97F4A7C15) % _WORD)

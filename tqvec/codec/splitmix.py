"""SplitMix64 (Steele, Lea, Flood 2014): random bits that any language can reproduce with 64-bit integers."""

from __future__ import annotations

import numpy as np

from tqvec._types import Words

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def _mix(z: Words) -> Words:
    z = (z ^ (z >> np.uint64(30))) * _M1
    z = (z ^ (z >> np.uint64(27))) * _M2
    return z ^ (z >> np.uint64(31))


def stream(seed: int, number: int, count: int) -> Words:
    """Return the first `count` outputs of stream `number` of `seed`.

    ``key = mix(mix(seed) ^ number)``; output i (from 1) is ``mix(key + i * 0x9E3779B97F4A7C15)``, all modulo 2^64.
    """
    key = _mix(_mix(np.array([seed], np.uint64)) ^ np.uint64(number))
    return _mix(key + np.arange(1, count + 1, dtype=np.uint64) * _GAMMA)

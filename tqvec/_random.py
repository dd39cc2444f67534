"""Random generators by seed and purpose, so that no two draws from one seed share their random numbers."""

from __future__ import annotations

import numpy as np

# What keeps the streams of one seed apart. Results depend on these numbers: add some, but change none.
_PURPOSES = {
    "training: order of the sample": 0x7261696E,
    "diagnosis: rows": 0x64696167,
    "diagnosis: causes": 0x6C696D69,
    "diagnosis: error correlation": 0x63726F77,
    "diagnosis: lists": 0x6E656172,
    "diagnosis: recall": 0x64726177,
    "partition: rows": 0x6C697374,
    "partition: queries": 0x70726F62,
    "command: training sample": 0x73616D70,
    "command: diagnosed rows": 0x64726F77,
    "shards: sample": 0x73687264,
    "captured tensors": 0x74656E73,
    "needle: tokens": 0x6E656564,
    "needle: haystack": 0x68617973,
    "needle: shared part": 0x73686172,
    "needle: bootstrap": 0x626F6F74,
    "decoding times": 0x7261746573,
}


def generator(seed: int | None, purpose: str, *more: int) -> np.random.Generator:
    """Return NumPy's default generator, seeded by `seed`, a purpose of the table above, and more numbers if need be.

    With `seed` None the purpose alone decides the draws.
    """
    own = () if seed is None else (seed,)
    return np.random.default_rng([*own, _PURPOSES[purpose], *more])

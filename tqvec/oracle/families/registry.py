"""All families of codecs, and the function that makes a codec of a profile."""

from __future__ import annotations

from functools import lru_cache

from tqvec.errors import InputError
from tqvec.oracle.families import llama_cpp, prod, scalar, vllm
from tqvec.oracle.instance import Instance, Stage
from tqvec.oracle.profiles import Profile
from tqvec.oracle.tables import make_tables

FAMILIES: dict[str, dict[str, Stage]] = {
    "scalar": scalar.STAGES,
    "paper": scalar.PAPER_STAGES,
    "prod": prod.STAGES,
    "blocks": llama_cpp.STAGES,
    "cache": vllm.STAGES,
}
"""Stages of each family, in the order in which they are compared."""


@lru_cache(maxsize=32)
def instantiate(profile: Profile, d: int) -> Instance:
    """Return the codec of a profile for dimension `d`.

    Raises
    ------
    InputError
        The profile is not defined for `d`.
    """
    if not profile.takes(d):
        rule = f"a multiple of {profile.multiple} " if profile.multiple > 1 else ""
        raise InputError(f"d must be {rule}at least {profile.least} for {profile.name}, got {d}")
    return Instance(profile, d, make_tables(profile, d), FAMILIES[profile.family])

"""A profile for one dimension: its tables and stages, ready to be called, and ready to be changed by a mistake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.errors import InputError
from tqvec.oracle.profiles import Profile
from tqvec.oracle.tables import Tables, tables

Arrays = tuple[NDArray, ...]


@dataclass(frozen=True)
class Stage:
    """One step of a codec.

    Attributes
    ----------
    inputs, outputs : tuple of str
        Names of values; the keys of `KINDS`.
    function : callable
        ``function(setup, dtype, *inputs)``: one array, or a tuple where there are several outputs.
    dtype : numpy dtype or None
        In which the profile computes it, before the result is rounded to its own type. None: it is made of other
        stages.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    function: Callable[..., Any]
    dtype: DTypeLike | None = np.float64


KINDS = {
    **dict.fromkeys(("x", "unit", "rotated", "levels", "vectors", "decoded", "queries", "output"), "rows"),
    **dict.fromkeys(("residual", "projected", "correction"), "rows"),
    **dict.fromkeys(("scale", "scale_v", "gamma", "gamma_v"), "scalars"),
    **dict.fromkeys(("packed", "packed_v"), "bytes"),
    "codes": "codes",
    "signs": "signs",
    "scores": "scores",
}
"""What a value is, which decides how a port's is compared."""


@dataclass(frozen=True, eq=False)
class Setup:
    """A profile, a dimension, and everything that follows from them.

    Attributes
    ----------
    profile : Profile
    d : int
    tables : dict of arrays
    stages : dict of Stage
        In the order in which they are judged.
    """

    profile: Profile
    d: int
    tables: Tables
    stages: Mapping[str, Stage]

    def __call__(self, stage: str, dtype: DTypeLike | None, *inputs: NDArray) -> Any:
        """Output of a stage, computed in `dtype`; None: the profile's own bits."""
        step = self.stages[stage]
        if dtype is not None:
            return step.function(self, dtype, *inputs)
        found = step.function(self, step.dtype, *inputs)
        parts = found if isinstance(found, tuple) else (found,)
        rounded = tuple(part.astype(self.type_of(name)) for name, part in zip(step.outputs, parts, strict=True))
        return rounded if isinstance(found, tuple) else rounded[0]

    def type_of(self, name: str) -> np.dtype:
        """Type in which a value is handed over."""
        if KINDS[name] in ("bytes", "codes", "signs"):
            return np.dtype(np.uint8)
        return np.dtype(self.profile.scale_dtype if name.startswith("scale") else np.float32)

    def outputs(self, stage: str, dtype: DTypeLike | None, *inputs: NDArray) -> Arrays:
        """Like a call, but always a tuple."""
        found = self(stage, dtype, *inputs)
        return found if isinstance(found, tuple) else (found,)

    def with_tables(self, **changed: NDArray) -> Setup:
        """The same with other tables."""
        return replace(self, tables={**self.tables, **changed})

    def with_stage(self, name: str, function: Callable[..., Any]) -> Setup:
        """The same with another function for a stage."""
        return replace(self, stages={**self.stages, name: replace(self.stages[name], function=function)})


@lru_cache(maxsize=32)
def setup(profile: Profile, d: int) -> Setup:
    """The oracle for a profile and a dimension.

    Raises
    ------
    InputError
        The profile is not defined for `d`.
    """
    from tqvec.oracle.stages import FAMILIES  # it needs the classes above

    if not profile.takes(d):
        rule = f"a multiple of {profile.multiple} " if profile.multiple > 1 else ""
        raise InputError(f"d must be {rule}at least {profile.least} for {profile.name}, got {d}")
    return Setup(profile, d, tables(profile, d), FAMILIES[profile.family])

"""A codec as the oracle computes it: a profile for one dimension, with its tables and stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle import rounding
from tqvec.oracle.profiles import Profile
from tqvec.oracle.tables import Tables

Arrays: TypeAlias = tuple[NDArray, ...]


@dataclass(frozen=True)
class Stage:
    """A step of a codec.

    Attributes
    ----------
    inputs, outputs : tuple of str
        Names of values; the keys of `KINDS`.
    function : callable
        ``function(codec, dtype, *inputs)``: an array, or a tuple of arrays where there are several outputs.
    dtype : numpy dtype or None
        The type in which the profile computes the stage, before the result is rounded to its own type. None: other
        stages decide.
    rule : str
        The rule by which a port's outputs are compared; a key of `compare.RULES`.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    function: Callable[..., Any]
    dtype: DTypeLike | None = np.float64
    rule: str = "floats"


KINDS = {
    **dict.fromkeys(("x", "unit", "rotated", "levels", "vectors", "decoded", "queries", "output"), "rows"),
    **dict.fromkeys(("residual", "projected", "correction", "values", "normal", "decoded_values"), "rows"),
    **dict.fromkeys(("scale", "scale_v", "gamma", "gamma_v", "value_scale", "value_zero"), "scalars"),
    **dict.fromkeys(("packed", "packed_v"), "bytes"),
    "codes": "codes",
    "value_codes": "steps",
    "signs": "signs",
    "scores": "scores",
}
"""The kind of each value: it decides the value's type, and what errors are in proportion to."""

FLOAT_KINDS = ("rows", "scalars", "scores")


@dataclass(frozen=True, eq=False)
class Instance:
    """A codec: a profile, a dimension, and the tables and stages that follow.

    A mistake is an instance with other tables, another stage or another profile.

    Attributes
    ----------
    profile : Profile
    d : int
    tables : dict of arrays
    stages : dict of Stage
        In the order in which they are compared.
    """

    profile: Profile
    d: int
    tables: Tables
    stages: Mapping[str, Stage]

    def __call__(self, stage: str, dtype: DTypeLike | None, *inputs: NDArray) -> Any:
        """Compute a stage in `dtype`; None: the profile's own bits, each output in its own type."""
        step = self.stages[stage]
        if dtype is not None:
            return step.function(self, dtype, *inputs)
        result = step.function(self, step.dtype, *inputs)
        outputs = result if isinstance(result, tuple) else (result,)
        with np.errstate(over="ignore"):
            rounded = tuple(part.astype(self.type_of(name)) for name, part in zip(step.outputs, outputs, strict=True))
        return rounded if isinstance(result, tuple) else rounded[0]

    def outputs(self, stage: str, dtype: DTypeLike | None, *inputs: NDArray) -> Arrays:
        """Compute a stage as a call does, but always return a tuple."""
        result = self(stage, dtype, *inputs)
        return result if isinstance(result, tuple) else (result,)

    def track(self, stage: str, dtype: DTypeLike, *inputs: Any) -> tuple[rounding.Rounded, ...]:
        """Compute a stage of floats, with the variance of what each element of its outputs loses in `dtype`."""
        tables = {name: rounding.track(t, np.float64 if name == "signs" else None) for name, t in self.tables.items()}
        codec = self.with_tables(**tables)
        unpack = self.stages["unpack"].function
        codec = codec.with_stage("unpack", lambda *arguments: rounding.track(unpack(*arguments)))
        return tuple(map(rounding.to_rounded, codec.outputs(stage, dtype, *map(rounding.track, inputs))))

    def type_of(self, name: str) -> np.dtype:
        """Return the type in which a value is handed over."""
        if KINDS[name] not in FLOAT_KINDS:
            return np.dtype(np.uint8)
        return np.dtype(self.profile.scale_dtype if name.startswith(("scale", "value_")) else np.float32)

    def norm_type(self, dtype: DTypeLike) -> np.dtype:
        """Return the type in which norms of inputs are computed: the profile's own, but float64 for the exact value."""
        return np.dtype(np.float64) if np.dtype(dtype) == np.float64 else np.dtype(self.profile.norm_dtype)

    def with_tables(self, **tables: NDArray) -> Instance:
        """Return the codec with other tables."""
        return replace(self, tables={**self.tables, **tables})

    def with_stage(self, name: str, function: Callable[..., Any]) -> Instance:
        """Return the codec with another function for a stage."""
        return replace(self, stages={**self.stages, name: replace(self.stages[name], function=function)})

    def with_profile(self, **fields: Any) -> Instance:
        """Return the codec with other fields of its profile; tables and stages stay the same."""
        return replace(self, profile=replace(self.profile, **fields))

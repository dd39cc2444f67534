"""Rope types: how configurations of models scale the frequencies of a rotary embedding for long sequences.

Names and formulas are those of ``modeling_rope_utils`` in transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tqvec import _validate
from tqvec.errors import InputError

MAX_LENGTH = 2**40
_LARGEST = 1e6  # factors beyond would be mistakes, and overflow
_REQUIRED = object()
_ORIGINAL = "original_max_position_embeddings"
# Parameters of each rope_type that change angles, and their defaults.
_PARAMETERS: dict[str, dict[str, object]] = {
    "default": {},
    "linear": {"factor": _REQUIRED},
    "dynamic": {"factor": _REQUIRED, _ORIGINAL: _REQUIRED},
    "yarn": {"factor": _REQUIRED, _ORIGINAL: _REQUIRED, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": True},
    "longrope": {"short_factor": _REQUIRED, "long_factor": _REQUIRED, _ORIGINAL: _REQUIRED},
    "llama3": {"factor": _REQUIRED, "low_freq_factor": _REQUIRED, "high_freq_factor": _REQUIRED, _ORIGINAL: _REQUIRED},
    "proportional": {"partial_rotary_factor": 1.0, "factor": 1.0},
}
# … and those that change no angle of a text: they scale keys or scores, or are about images.
_WITHOUT_ANGLES = {
    "attention_factor",
    "llama_4_scaling_beta",
    "long_mscale",
    "max_position_embeddings",
    "mrope_interleaved",
    "mrope_section",
    "mscale",
    "mscale_all_dim",
    "short_mscale",
    _ORIGINAL,  # of the types that don't read it
}

Frequencies: TypeAlias = NDArray[np.float64]


class Scaling(Mapping[str, Any]):
    """The checked parameters of a rope type: a mapping that can't be changed, and has a hash."""

    __slots__ = ("_items",)

    def __init__(self, values: Mapping[str, Any]):
        self._items = tuple(sorted(values.items()))

    def __getitem__(self, name: str) -> Any:
        return dict(self._items)[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return repr(dict(self._items))


def check_scaling(scaling: object) -> Scaling | None:
    """Return the parameters that change angles, with their defaults; None for rope_type "default".

    Raises
    ------
    InputError
        The type or a parameter is not known, or one is missing or wrong.
    """
    if scaling is None:
        return None
    if not isinstance(scaling, Mapping):
        raise InputError(f"scaling must be a mapping such as {{'rope_type': 'linear', 'factor': 4.0}}, got {scaling!r}")
    given = {name: value for name, value in scaling.items() if value is not None and name not in ("rope_type", "type")}
    kind = _validate.choice(scaling.get("rope_type", scaling.get("type")), "scaling['rope_type']", _PARAMETERS)
    known = _PARAMETERS[kind]
    ignored = _WITHOUT_ANGLES | ({"factor"} if kind == "longrope" else set())
    for name in given.keys() - known.keys() - ignored:
        hint = {"rope_theta": "; give it as theta", "partial_rotary_factor": "; give dim"}.get(name, "")
        raise InputError(f"scaling: {name!r} is not known for rope_type {kind!r}{hint}")
    values = {name: _check_parameter(given.get(name, default), name, kind) for name, default in known.items()}
    if kind == "llama3" and not values["low_freq_factor"] < values["high_freq_factor"]:
        raise InputError("scaling: low_freq_factor must be below high_freq_factor")
    return Scaling({"rope_type": kind, **values}) if known else None


def _check_parameter(value: Any, name: str, kind: str) -> Any:
    where = f"scaling[{name!r}]"
    if value is _REQUIRED:
        raise InputError(f"{where} is missing, which rope_type {kind!r} needs")
    if name == "truncate":
        return _validate.instance(value, where, bool)
    if name == _ORIGINAL:
        return _validate.integer(value, where, 1, MAX_LENGTH)
    if name in ("short_factor", "long_factor"):
        return tuple(_positive(each, f"{where}[{i}]") for i, each in enumerate(_validate.entries(value, where)))
    number = _positive(value, where)
    if name == "partial_rotary_factor" and number > 1:
        raise InputError(f"{where} must be at most 1, got {number}")
    return number


def _positive(value: object, name: str) -> float:
    number = _validate.number(value, name)
    if not 1 / _LARGEST <= number <= _LARGEST:
        raise InputError(f"{name} must be from {1 / _LARGEST} to {_LARGEST}, got {number}")
    return number


def scaled_frequencies(theta: float, dim: int, scaling: Mapping[str, Any] | None, length: int | None) -> Frequencies:
    """Return the angle per token of each pair that turns, in radians, (n_pairs,).

    Parameters
    ----------
    theta : float
    dim : int
        Number of coordinates in pairs.
    scaling : mapping or None
        From `check_scaling`.
    length : int or None
        Tokens of the sequence; None: no more than the original length.

    Raises
    ------
    InputError
        The parameters are not for so many coordinates.
    """
    base = theta ** -(np.arange(0, dim, 2) / dim)
    return base if scaling is None else _SCALED[scaling["rope_type"]](base, scaling, theta, dim, length or 0)


def _linear(base: Frequencies, scaling: Mapping[str, Any], theta: float, dim: int, length: int) -> Frequencies:
    return base / scaling["factor"]


def _proportional(base: Frequencies, scaling: Mapping[str, Any], theta: float, dim: int, length: int) -> Frequencies:
    """A part of the pairs turns, with the frequencies that it has in the whole."""
    return base[: int(scaling["partial_rotary_factor"] * dim // 2)] / scaling["factor"]


def _dynamic(base: Frequencies, scaling: Mapping[str, Any], theta: float, dim: int, length: int) -> Frequencies:
    """Theta grows with the length beyond the original one ("NTK-aware")."""
    if length <= scaling[_ORIGINAL]:
        return base
    if dim < 4:
        raise InputError(f"rope_type 'dynamic' needs at least 4 coordinates, got {dim}")
    factor = scaling["factor"]
    growth = factor * length / scaling[_ORIGINAL] - (factor - 1)
    theta *= growth ** (dim / (dim - 2))
    return scaled_frequencies(theta, dim, None, None)


def _longrope(base: Frequencies, scaling: Mapping[str, Any], theta: float, dim: int, length: int) -> Frequencies:
    """Each pair has factors of its own (Ding et al. 2024, LongRoPE)."""
    name = "long_factor" if length > scaling[_ORIGINAL] else "short_factor"
    factors = np.array(scaling[name])
    if len(factors) != len(base):
        raise InputError(f"scaling[{name!r}] must have {len(base)} factors, one per pair, got {len(factors)}")
    return base / factors


def _llama3(base: Frequencies, scaling: Mapping[str, Any], theta: float, dim: int, length: int) -> Frequencies:
    """Slow pairs are slowed down, fast ones are not, and those between are in part."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling[_ORIGINAL] * base / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return base * (kept + (1 - kept) / scaling["factor"])


def _yarn(base: Frequencies, scaling: Mapping[str, Any], theta: float, dim: int, length: int) -> Frequencies:
    """A ramp over the pairs, between two numbers of turns in the original length (Peng et al. 2023, YaRN)."""

    def pair_of(turns: float) -> float:
        return dim * math.log(scaling[_ORIGINAL] / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_of(scaling["beta_fast"]), pair_of(scaling["beta_slow"])
    if scaling["truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    slowed = np.clip((np.arange(len(base)) - low) / (high - low or 0.001), 0, 1)
    return base * (1 - slowed + slowed / scaling["factor"])


_SCALED: dict[str, Callable[[Frequencies, Mapping[str, Any], float, int, int], Frequencies]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}

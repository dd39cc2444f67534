"""A profile in words and numbers, complete enough to implement it: ``tqvec oracle show`` and docs/spec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.oracle.profiles import Profile
from tqvec.oracle.setup import Setup

_LINE = 4  # numbers a line


class Field(NamedTuple):
    """One line of a description.

    Attributes
    ----------
    name, text : str
    status : str
        "defined": this project decides it. "confirmed": read in what the authors of the format have published.
        "assumed": not determined by that.
    """

    name: str
    text: str
    status: str


_ROTATIONS = {
    "hadamard": "format.md section 2: rounds of permutation, signs and Walsh-Hadamard blocks, from SplitMix64",
    "dense": "y = Πu, Π the float32 `matrix` (that of format.md section 2 with this seed)",
}
_CODEBOOKS = {
    "beta": "Lloyd-Max levels of a coordinate of random unit vectors, format.md section 3; `thresholds` are midpoints",
    "trellis": "trellis, format.md section 7; `levels` by in-subset bits and window",
}
_SCALES = {"unbiased": "‖x‖/⟨y, c⟩", "norm": "‖x‖"}
_LAYOUTS = {
    "planes": "bit planes, the most significant first; bytes are filled from the lowest bit, the last one with zeros",
}
_TIES = {"down": "the lower code", "up": "the upper code"}

_DEFINED = ("dimensions", "rotation", "layout", "zero vector", "lengths", "scale type", "ties")
_STATUS = {"tqvec": "defined", "paper": "confirmed"}


def fields(p: Profile) -> Iterator[Field]:
    """Every choice of a profile."""
    origin = p.name.split("_")[0]
    trellis = p.codebook == "trellis"
    told = {
        "bits": f"{p.nbits} a code" + (", the sign of the second stage included" if p.family == "prod" else ""),
        "dimensions": f"from {p.least}" if p.multiple == 1 else f"multiples of {p.multiple}",
        "rotation": f"{_ROTATIONS[p.rotation]}; seed {p.seed}",
        "codebook": _CODEBOOKS[p.codebook],
        "ties": "as format.md section 7" if trellis else f"a value on a threshold gets {_TIES[p.ties]}",
        "zero vector": "direction 0, so "
        + (
            "the path that the ties of format.md section 7 choose"
            if trellis
            else f"the {'lower' if p.ties == 'down' else 'upper'} of the two middle codes"
        )
        + "; scale 0",
        "lengths": f"squares and sums in {p.norm_dtype}",
        "scale": f"{_SCALES[p.scale]}, one a vector",
        "scale type": p.scale_dtype,
        "layout": _LAYOUTS[p.layout],
        "decoding": "shrink · scale · Πᵀc, shrink = 1 − D" if p.shrink else "scale · Πᵀc",
    }
    if p.family == "prod":
        told["second stage"] = (
            "r = u − Πᵀc, γ = ‖r‖, z_i = 1 bit: (S r)_i > 0; decoding adds scale · √(π/2)/d · γ · Sᵀz with z = ±1"
        )
        told["S"] = (
            f"`projection`: sums of twelve 16-bit fields of SplitMix64 words, stream 8 of seed {p.seed}, nearly normal"
        )
        told["packed code"] = "2 · first-stage code + sign bit"
    for name, text in told.items():
        defined = name in (*_DEFINED, "S", "packed code") or (origin == "paper" and name == "bits")
        yield Field(name, text, "defined" if defined else _STATUS[origin])


def hexadecimal(table: NDArray) -> list[str]:
    """Floats as C and Python write them in hexadecimal; integers as they are."""
    if np.issubdtype(table.dtype, np.floating):
        return [float(value).hex() for value in table.ravel()]
    return [str(value) for value in table.ravel().tolist()]


def _numbers(name: str, table: NDArray) -> list[str]:
    """A table in full if it is one of levels, else what it is."""
    head = f"{name}: {' × '.join(map(str, table.shape))} {table.dtype}"
    if name == "signs":
        bits = ["".join("1" if sign < 0 else "0" for sign in row) for row in np.atleast_2d(table)]
        return [f"{head}, 1 for −1:", *(f"  {row}" for row in bits)]
    if name in ("matrix", "projection"):
        return [f"{head}, in the golden files"]
    numbers = hexadecimal(table)
    lines = [" ".join(numbers[i : i + _LINE]) for i in range(0, len(numbers), _LINE)]
    return [f"{head}:", *(f"  {line}" for line in lines)]


def text(s: Setup) -> str:
    """The whole description."""
    lines = [f"{s.profile.name}, version {s.profile.version}, d = {s.d}", ""]
    lines += [f"{field.name} [{field.status}]: {field.text}" for field in fields(s.profile)]
    lines.append("")
    for name, table in s.tables.items():
        lines += _numbers(name, table)
    return "\n".join(lines) + "\n"


def markdown(profile: Profile) -> str:
    """The choices as a table for docs/spec."""
    rows = [f"| {field.name} | {field.text} | {field.status} |" for field in fields(profile)]
    return "\n".join(["| | | |", "|---|---|---|", *rows]) + "\n"

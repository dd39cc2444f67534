"""A profile in words and numbers, complete enough to implement it: ``tqvec oracle show`` and the profiles' pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.oracle.instance import Instance
from tqvec.oracle.profiles import Profile

_LINE = {"f": 4, "i": 16}  # numbers a line, by kind of type


class Field(NamedTuple):
    """A line of a description.

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
    "signed_wht": "of each group: y = s₂ · H(s₁ · u)/√size, H the unnormalised Walsh-Hadamard transform, s₁ and "
    "s₂ the rows of `signs`",
}
_CODEBOOKS = {
    "beta": "Lloyd-Max levels of a coordinate of random unit vectors, format.md section 3; `thresholds` are midpoints",
    "decimal": "Lloyd-Max levels of N(0, 1/128) and their midpoints, six decimals each, as one fork has them",
    "trapezoid": "Lloyd-Max levels of N(0, 1/d), solved by 200 trapezoids a cell, and their midpoints",
    "trellis": "trellis, format.md section 7; `levels` by in-subset bits and window",
}
_SCALES = {"unbiased": "‖x‖/⟨y, c⟩", "norm": "‖x‖", "corrected": "‖x‖/‖c‖ of the group of 128"}
_LAYOUTS = {
    "planes": "bit planes, the most significant first; bytes are filled from the lowest bit, the last one with zeros",
    "turbo": "block after block: the scale; 4 bits: a second float16, zero; the low two bits of codes (4 bits: all), "
    "from the lowest bit of each byte; 3 bits: then the high bits, likewise",
    "fields": "a slot: key codes one after the other, lowest bit first; scale; value codes likewise; step; min",
}
_TIES = {"down": "the lower code", "up": "the upper code"}

_DEFINED = ("dimensions", "rotation", "layout", "zero vector", "lengths", "scale type", "ties")
_STATUS = {"tqvec": "defined", "paper": "confirmed", "turbo": "confirmed"}
_PUBLISHED = ("blocks", "cache")
"""Families whose formats others have defined."""
_ASSUMED = ("dimensions", "codebook", "layout")


def describe_dimensions(p: Profile) -> str:
    """Say which dimensions a profile takes."""
    return {0: f"powers of two from {p.least}", 1: f"from {p.least}"}.get(p.multiple, f"multiples of {p.multiple}")


def _code_of_zero(p: Profile) -> str:
    """Say which codes the zero vector gets."""
    if p.codebook == "trellis":
        return "the path that the ties of format.md section 7 choose"
    side = "lower" if p.ties == "down" else "upper"
    middle = f"the {side} of the two middle codes"
    return middle + " (vLLM's middle threshold may miss 0 by a rounding error)" if p.codebook == "trapezoid" else middle


def iter_fields(p: Profile) -> Iterator[Field]:
    """Yield every choice of a profile."""
    origin = "turbo" if p.family in _PUBLISHED else p.name.split("_")[0]
    trellis = p.codebook == "trellis"
    texts = {
        "bits": f"{p.nbits} a code" + (", the sign of the second stage included" if p.family == "prod" else ""),
        "dimensions": describe_dimensions(p),
        "rotation": _ROTATIONS[p.rotation] + ("" if p.family in _PUBLISHED else f"; seed {p.seed}"),
        "codebook": _CODEBOOKS[p.codebook],
        "ties": "as format.md section 7" if trellis else f"a value on a threshold gets {_TIES[p.ties]}",
        "zero vector": f"direction 0, so {_code_of_zero(p)}; scale 0",
        "lengths": f"squares and sums in {p.norm_dtype}" + (" or better" if p.norm_dtype == "float32" else ""),
        "scale": f"{_SCALES[p.scale]}, one a {'block' if p.block else 'vector'}",
        "scale type": p.scale_dtype,
        "layout": _LAYOUTS[p.layout],
        "group, block": f"{p.group}, {p.block} coordinates" if p.group else "the whole vector; no blocks",
        "decoding": "shrink · scale · Πᵀc, shrink = 1 − D" if p.shrink else "scale · Πᵀc",
    }
    if p.family == "prod":
        texts["second stage"] = (
            "r = u − Πᵀc, γ = ‖r‖, z_i = 1 bit: (S r)_i > 0; decoding adds scale · √(π/2)/d · γ · Sᵀz with z = ±1"
        )
        texts["S"] = (
            f"`projection`: sums of twelve 16-bit fields of SplitMix64 words, stream 8 of seed {p.seed}, nearly normal"
        )
        texts["packed code"] = "2 · first-stage code + sign bit"
    for name, text in texts.items():
        if origin == "turbo":
            assumed = name in _ASSUMED or (p.block == 32 and name in ("scale", "group, block"))
            yield Field(name, text, "assumed" if assumed else "confirmed")
            continue
        defined = name in (*_DEFINED, "S", "packed code") or (origin == "paper" and name == "bits")
        yield Field(name, text, "defined" if defined else _STATUS[origin])


def to_hexadecimal(table: NDArray) -> list[str]:
    """Return floats as C and Python write them in hexadecimal; integers as they are."""
    if np.issubdtype(table.dtype, np.floating):
        return [float(value).hex() for value in table.ravel()]
    return [str(value) for value in table.ravel().tolist()]


def _numbers(name: str, table: NDArray) -> list[str]:
    """Return the lines of a table: in full, but only the shape of matrices."""
    head = f"{name}: {' × '.join(map(str, table.shape))} {table.dtype}"
    if name in ("matrix", "projection"):
        return [f"{head}, in the golden files"]
    numbers = to_hexadecimal(table)
    count = _LINE[table.dtype.kind]
    lines = [" ".join(numbers[i : i + count]) for i in range(0, len(numbers), count)]
    return [f"{head}:", *(f"  {line}" for line in lines)]


def to_text(codec: Instance) -> str:
    """Return the whole description of a codec, tables included."""
    lines = [f"{codec.profile.name}, version {codec.profile.version}, d = {codec.d}", ""]
    lines += [f"{field.name} [{field.status}]: {field.text}" for field in iter_fields(codec.profile)]
    lines.append("")
    for name, table in codec.tables.items():
        lines += _numbers(name, table)
    return "\n".join(lines) + "\n"


def to_markdown(profile: Profile) -> str:
    """Return the choices of a profile as a table in Markdown."""
    rows = [f"| {field.name} | {field.text} | {field.status} |" for field in iter_fields(profile)]
    return "\n".join(["| | | |", "|---|---|---|", *rows]) + "\n"

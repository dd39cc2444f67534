"""Profiles: the choices that decide every value of a codec, as data.

`tables` has the numbers that follow for a dimension, and `families` the steps that use them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tqvec._present import brief
from tqvec.errors import InputError


@dataclass(frozen=True)
class Profile:
    """A format: all choices that decide the values of a codec, except the dimension.

    Attributes
    ----------
    name : str
        ``FAMILY@…``; it never means anything else once published: a change has a new `version`.
    family : str
        Key of `families.registry.FAMILIES`.
    nbits : int
        Bits of a code, the QJL bit included.
    rotation : str
        "hadamard" ("File format" page, section 2), "dense" (the same matrix, written out in float32) or "signed_wht"
        (signs, transform, signs in blocks).
    seed : int
        Seed of the rotation and of S, the projection of the second stage.
    codebook : str
        "beta", "trellis", "trapezoid", or "decimal" (published digits).
    ties : str
        A value on a threshold goes "down" or "up".
    layout : str
        Layout of packed codes: "planes", "fields" or "turbo".
    scale : str
        Rule of the stored scale: "unbiased", "norm" or "corrected".
    scale_dtype, norm_dtype : str
        Type of the stored scale, and the type in which lengths are computed.
    shrink : bool
        Decoding multiplies by 1 − D.
    group : int
        Number of coordinates that are normalised and rotated together; 0: all.
    block : int
        Number of coordinates of a stored block, which holds its scale; 0: the scale is apart.
    tiny : float
        Groups that are no longer than this count as zero.
    epsilon : float
        Added to lengths before vectors are divided by them.
    value_bits : int
        Bits of a value's code in a cache of keys and values; 0: there are no values.
    rounding : float
        Added to a value in steps before its integer part is taken.
    multiple, least : int
        Dimensions are multiples of `multiple`, from `least` on; 0: powers of two.
    version : int
        Version of the profile; a change of its values is a new version.
    """

    name: str
    family: str
    nbits: int
    rotation: str
    codebook: str
    seed: int = 0
    ties: str = "down"
    layout: str = "planes"
    scale: str = "unbiased"
    scale_dtype: str = "float32"
    norm_dtype: str = "float64"
    shrink: bool = True
    group: int = 0
    block: int = 0
    tiny: float = 0.0
    epsilon: float = 0.0
    value_bits: int = 0
    rounding: float = 0.5
    multiple: int = 1
    least: int = 4
    version: int = 1

    def __repr__(self) -> str:
        return brief(self, ("name", "nbits", "rotation", "codebook", "scale", "layout", "version"))

    def takes(self, d: int) -> bool:
        """Return whether the profile is defined for dimension `d`."""
        return d >= self.least and (d & d - 1 if self.multiple == 0 else d % self.multiple) == 0

    def as_dict(self) -> dict[str, object]:
        """Return all fields, for JSON."""
        return asdict(self)


def _tqvec() -> list[Profile]:
    scalar = [Profile(f"tqvec_scalar@{b}", "scalar", b, "hadamard", "beta") for b in (1, 2, 3, 4)]
    trellis = [Profile(f"tqvec_trellis@{b}", "scalar", b, "hadamard", "trellis", least=16) for b in (1, 2, 3, 4)]
    return scalar + trellis


def _paper() -> list[Profile]:
    common = {"seed": 2504, "scale": "norm", "norm_dtype": "float32", "shrink": False}
    mse = [Profile(f"paper_mse@{b}", "paper", b, "dense", "beta", **common) for b in (1, 2, 3, 4)]  # type: ignore[arg-type]
    prod = [Profile(f"paper_prod@{b}", "prod", b, "dense", "beta", **common) for b in (2, 3, 4)]  # type: ignore[arg-type]
    return mse + prod


def _turbo() -> list[Profile]:
    """Return the blocks of llama.cpp forks; 4 bits have one size of block under both names."""
    return [
        Profile(
            f"turbo{b}@{block}",
            "blocks",
            b,
            "signed_wht",
            "decimal",
            ties="up",
            layout="turbo",
            scale="corrected",
            scale_dtype="float16",
            norm_dtype="float32",
            shrink=False,
            group=128,
            block=128 if b == 4 else block,
            tiny=1e-10,
            multiple=128,
            least=128,
        )
        for b in (2, 3, 4)
        for block in (32, 128)
    ]


def _vllm() -> list[Profile]:
    """Return the presets whose keys are coded by Algorithm 1: keys and values of equal or different widths."""
    return [
        Profile(
            f"vllm_{name}",
            "cache",
            keys,
            "signed_wht",
            "trapezoid",
            ties="up",
            layout="fields",
            scale="norm",
            scale_dtype="float16",
            norm_dtype="float32",
            shrink=False,
            epsilon=1e-8,
            value_bits=values,
            multiple=0,
            least=16,
        )
        for name, keys, values in (("4bit_nc", 4, 4), ("k3v4_nc", 3, 4), ("3bit_nc", 3, 3))
    ]


PROFILES: dict[str, Profile] = {profile.name: profile for profile in (*_tqvec(), *_paper(), *_turbo(), *_vllm())}


def find(names: str) -> list[Profile]:
    """Return the profile of a name (``"tqvec_scalar@3"``) or all profiles of a family (``"tqvec_scalar"``).

    Raises
    ------
    InputError
        There is none of that name.
    """
    matches = [p for name, p in PROFILES.items() if names in (name, name.split("@")[0])]
    if not matches:
        families = sorted({name.split("@")[0] for name in PROFILES})
        raise InputError(
            f"profile must be one of {', '.join(families)}, or with its width as in tqvec_scalar@3, got {names!r}"
        )
    return matches

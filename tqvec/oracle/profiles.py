"""Profiles: what decides every value of a codec, as data.

A profile names the choices; `tables` has the numbers that follow for a dimension, and `stages` what is done with them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tqvec.errors import InputError


@dataclass(frozen=True)
class Profile:
    """A codec, up to the dimension.

    Attributes
    ----------
    name : str
        ``FAMILY@…``; it never means anything else once published: a change has a new `version`.
    family : str
        Key of `stages.FAMILIES`.
    nbits : int
        Bits of a code, the QJL bit included.
    rotation : str
        "hadamard" (docs/format.md section 2), "dense" (the same matrix, written out in float32), "signed_wht" (signs,
        transform, signs in blocks), "wht" (no signs).
    seed : int
        Of the rotation, and of S.
    codebook : str
        "beta", "trellis", "gaussian", or "decimal" (published digits).
    ties : str
        A value on a threshold goes "down" or "up".
    layout : str
        Of packed codes: "planes", "fields" or "turbo".
    scale : str
        "unbiased", "norm" or "corrected": what is kept of a vector's length.
    scale_dtype, norm_dtype : str
        Of the stored scale, and in which lengths are computed.
    shrink : bool
        Decoding multiplies by 1 − D.
    group : int
        Coordinates that are normalised and rotated together; 0: all.
    block : int
        Coordinates of a stored block, each with its scale; 0: the scale is apart.
    value_bits : int
        Of values in a cache of keys and values; 0: there are none.
    multiple, least : int
        Dimensions are multiples of `multiple`, from `least` on.
    version : int
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
    value_bits: int = 0
    multiple: int = 1
    least: int = 4
    version: int = 1

    def takes(self, d: int) -> bool:
        """Whether the profile is defined for dimension `d`."""
        return d >= self.least and d % self.multiple == 0

    def as_dict(self) -> dict[str, object]:
        """All fields, for JSON."""
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


PROFILES: dict[str, Profile] = {profile.name: profile for profile in (*_tqvec(), *_paper())}


def find(names: str) -> list[Profile]:
    """The profile of a name, or all of a family: ``tqvec_scalar@3``, or ``tqvec_scalar``.

    Raises
    ------
    InputError
        There is none.
    """
    found = [p for name, p in PROFILES.items() if names in (name, name.split("@")[0])]
    if not found:
        families = sorted({name.split("@")[0] for name in PROFILES})
        raise InputError(
            f"profile must be one of {', '.join(families)}, or with its width as in tqvec_scalar@3, got {names!r}"
        )
    return found

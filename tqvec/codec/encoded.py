"""Codes with the sums from which scales and error bars are computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tqvec._types import Bytes, Doubles, Floats, ScaleName
from tqvec._vectors import RowNames
from tqvec.codec import error_byte
from tqvec.codec.codes import Codes
from tqvec.codec.scales import SCALES
from tqvec.codec.transforms import Transform
from tqvec.errors import InputError


@dataclass(frozen=True)
class Encoded:
    """Packed codes of n vectors, and the three sums of which every scale rule is made (see `tqvec.codec.scales`).

    Attributes
    ----------
    transform : Transform
        Of the codec, as are the following two.
    scale_rule : {"unbiased", "least_squares", "norm"}
    threads : int
    data : (n, code bytes) uint8
    norm, dot, energy : (n,) float64
    names : RowNames
        Of the vectors, for messages.
    """

    transform: Transform
    scale_rule: ScaleName
    threads: int
    data: Bytes
    norm: Doubles
    dot: Doubles
    energy: Doubles
    names: RowNames

    def scale(self, rule: ScaleName) -> Doubles:
        """Return the scales by a rule, (n,) float64, not yet rounded to the type that is stored."""
        return SCALES[rule](self.norm, self.dot, self.energy)

    def tan_theta(self) -> Doubles:
        """Return tan θ of each vector, (n,), with θ the angle to its decoded vector; of zero vectors not finite.

        cos θ = ⟨u, ũ⟩/‖ũ‖.
        """
        energy = self.transform.decoded_energy(self.data, self.energy, self.threads)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.sqrt(np.maximum(energy / np.square(self.dot) - 1, 0.0))

    def codes(self, *, with_error_byte: bool = False) -> Codes:
        """Return codes with scales by the codec's rule, which hold tan θ in their low bytes if `with_error_byte`.

        Raises
        ------
        InputError
            A scale is beyond float32.
        """
        scale = scales_as_float32(self.scale(self.scale_rule), self.names)
        if with_error_byte:
            scale = error_byte.with_error_byte(scale, self.tan_theta())
        return Codes(self.data, scale)


def scales_as_float32(scale: Doubles, names: RowNames) -> Floats:
    """Round the scales of rows to the type that is stored.

    Raises
    ------
    InputError
        A scale is beyond float32.
    """
    with np.errstate(over="ignore"):
        stored: Floats = scale.astype(np.float32)
    if not np.isfinite(stored).all():
        row = int(np.flatnonzero(~np.isfinite(stored))[0])
        raise InputError(f"{names.of(row)} is too long: its scale does not fit float32")
    return stored

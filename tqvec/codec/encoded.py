"""Codes with the sums from which scales and error bars are computed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec._types import Bytes, Doubles, Floats, ScaleName
from tqvec._validate import first_bad_row
from tqvec._vectors import RowNames, Vectors
from tqvec.codec import error_byte
from tqvec.codec.bands import code_bytes
from tqvec.codec.codebooks.codebook import Codebook
from tqvec.codec.codes import Codes
from tqvec.codec.scales import SCALES
from tqvec.codec.transforms import Transform
from tqvec.errors import InputError
from tqvec.kernels.arguments import EncodedRows
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.rows import NO_MEMORY, NS_TO_ENCODE
from tqvec.kernels.threads.helpers import check_memory, share


class Encoded(NamedTuple):
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

    @np.errstate(divide="ignore", invalid="ignore")
    def tan_theta(self) -> Doubles:
        """Return tan θ of each vector, (n,), with θ the angle to its decoded vector; of zero vectors not finite.

        cos θ = ⟨u, ũ⟩/‖ũ‖.
        """
        energy = self.transform.decoded_energy(self.data, self.energy, self.threads)
        tangent: Doubles = np.sqrt(np.maximum(energy / np.square(self.dot) - 1, 0.0))
        return tangent

    def codes(self, *, with_error_byte: bool = False) -> Codes:
        """Return codes with scales by the codec's rule, which hold tan θ in their low bytes if `with_error_byte`.

        Raises
        ------
        InputError
            A scale is beyond float32.
        """
        scale = scales_as_float32(self.scale(self.scale_rule), self.names)
        if with_error_byte:
            scale = error_byte.with_error_byte(scale, self.tan_theta(), self.threads)
        return Codes(self.data, scale)


def encode(
    vectors: Vectors, codebook: Codebook, transform: Transform, scale_rule: ScaleName, threads: int, unit: bool
) -> Encoded:
    """Compress vectors, as `tqvec.codec.turboquant.encode_sums` says.

    All sizes are those of the codebook, for which the kernel's tables were made.
    """
    vectors.require(codebook.d)
    rows = transform.subtract_centre(vectors.float32(), unit)
    n = rows.shape[0]
    data = np.empty((n, code_bytes(codebook.bands)), np.uint8)
    norm, dot, energy = np.empty(n), np.empty(n), np.empty(n)
    sharing = share(threads, n * codebook.d * NS_TO_ENCODE)
    out = EncodedRows(data, norm, dot, energy)
    good = kernel(f"share_{codebook.encoder}")(*sharing, rows, transform._tables, *codebook.encoder_tables, out)
    check_memory(good != NO_MEMORY)
    if good < n:
        # The kernel computes lengths anyway, so there NaN and Inf are found at no cost; a check before it would read
        # all rows once more. Why the row is bad only the input tells: `rows` may be rounded, or less the centre.
        raise vectors.bad_row(good)
    return Encoded(
        transform=transform,
        scale_rule=scale_rule,
        threads=threads,
        data=data,
        norm=transform.code_lengths(norm, unit),
        dot=dot,
        energy=energy,
        names=vectors.names,
    )


@np.errstate(over="ignore")
def scales_as_float32(scale: Doubles, names: RowNames) -> Floats:
    """Round the scales of rows to the type that is stored.

    Raises
    ------
    InputError
        A scale is beyond float32.
    """
    stored: Floats = scale.astype(np.float32)
    row = first_bad_row(stored[:, None])
    if row is not None:
        raise InputError(f"{names.of(row)} is too long: its scale does not fit float32")
    return stored

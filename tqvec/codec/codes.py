"""Compressed vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tqvec._types import Bytes, Flags, Floats, Ids
from tqvec.errors import InputError


@dataclass(frozen=True)
class Codes:
    """The codes of n vectors, as `TurboQuant.encode` returns them.

    Attributes
    ----------
    data : (n, code bytes) uint8
        Packed codes in the canonical layout (see the "File format" page): bit planes, the most significant first.
    scale : (n,) float32
        One factor per vector, by the codec's scale rule.
    gamma : (n,) float32 or None
        Mode "prod": length of the residual that the first stage leaves. None for other codecs.
    """

    data: Bytes
    scale: Floats
    gamma: Floats | None = None

    def __len__(self) -> int:
        return self.data.shape[0]

    def __getitem__(self, rows: slice | Ids | Flags) -> Codes:
        return Codes(self.data[rows], self.scale[rows], None if self.gamma is None else self.gamma[rows])

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and, if any, gammas."""
        return self.data.nbytes + self.scale.nbytes + (0 if self.gamma is None else self.gamma.nbytes)


def join_codes(parts: list[Codes]) -> Codes:
    """Return the codes of parts of one codec as one, in order; there is at least one part."""
    if len(parts) == 1:
        return parts[0]
    gammas = [part.gamma for part in parts if part.gamma is not None]
    return replace(
        parts[0],
        data=np.concatenate([part.data for part in parts]),
        scale=np.concatenate([part.scale for part in parts]),
        gamma=np.concatenate(gammas) if gammas else None,
    )


def check_codes(codes: object, n_bytes: int, gamma: bool, codec: object) -> None:
    """Refuse anything but `Codes` with arrays of the right shapes and types.

    Parameters
    ----------
    codes : object
    n_bytes : int
        Code bytes of a vector.
    gamma : bool
        Whether there must be gammas, or must not.
    codec : object
        Named in messages.

    Raises
    ------
    InputError
        The message names the array.
    """
    if not isinstance(codes, Codes):
        raise InputError(f"codes must be Codes, as encode returns them, got {type(codes).__name__}")
    n = np.shape(codes.data)[0] if np.ndim(codes.data) else 0
    floats = f"({n},) float32"
    wanted = {"data": f"({n}, {n_bytes}) uint8", "scale": floats, "gamma": floats if gamma else "None"}
    for name, kind in wanted.items():
        if (actual := _kind(getattr(codes, name))) != kind:
            raise InputError(f"codes.{name} must be {kind} for {codec!r}, got {actual}")


def _kind(array: object) -> str:
    """Return the shape and type of an array, for messages."""
    if isinstance(array, np.ndarray):
        return f"{array.shape} {array.dtype}"
    return "None" if array is None else type(array).__name__

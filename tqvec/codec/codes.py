"""Compressed vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec._present import brief
from tqvec._types import Bytes, Flags, Floats, Ids
from tqvec.codec.maker import Maker
from tqvec.errors import InputError


@dataclass(frozen=True)
class Codes:
    """The codes of n vectors, as `TurboQuant.encode` returns them. Only the codec that made them reads them.

    Attributes
    ----------
    data : (n, code bytes) uint8
        Packed codes in the canonical layout (see the "File format" page): bit planes, the most significant first.
    scale : (n,) float32
        One factor per vector, by the codec's scale rule.
    gamma : (n,) float32 or None
        Mode "prod": length of the residual that the first stage leaves. None for other codecs.
    maker : Maker or None
        The codec that made them. None: any codec takes them, if their arrays have the right shapes and types.
    """

    data: Bytes
    scale: Floats
    gamma: Floats | None = None
    maker: Maker | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return brief(self)

    def __len__(self) -> int:
        return self.data.shape[0]

    def __getitem__(self, rows: slice | Ids | Flags) -> Codes:
        gamma = None if self.gamma is None else self.gamma[rows]
        return Codes(self.data[rows], self.scale[rows], gamma, self.maker)

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the codec that made them, if it is known."""
        return None if self.maker is None else self.maker.fingerprint

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and, if any, gammas."""
        return self.data.nbytes + self.scale.nbytes + (0 if self.gamma is None else self.gamma.nbytes)


def check_codes(codes: object, n_bytes: int, gamma: bool, codec: object, maker: Maker) -> Codes:
    """Return codes with arrays as kernels take them; refuse those of another codec, or of other shapes and types.

    What is checked is what is returned: later changes of the shapes of the arrays given don't reach it.

    Parameters
    ----------
    codes : Codes
    n_bytes : int
        Code bytes of a vector.
    gamma : bool
        Whether there must be gammas, or must not.
    codec : object
        Named in messages.
    maker : Maker
        Of this codec.

    Raises
    ------
    InputError
        The message names the array, or says in what the codecs differ.
    """
    if not isinstance(codes, Codes):
        raise InputError(f"codes must be Codes, as encode returns them, got {type(codes).__name__}")
    arrays = {name: _view(getattr(codes, name)) for name in ("data", "scale", "gamma")}
    difference = "" if codes.maker is None else maker.difference(codes.maker)
    n = np.shape(arrays["data"])[0] if np.ndim(arrays["data"]) else 0
    wanted: list[tuple[str, tuple[int, ...] | None, type]] = [
        ("data", (n, n_bytes), np.uint8),
        ("scale", (n,), np.float32),
        ("gamma", (n,) if gamma else None, np.float32),
    ]
    for name, shape, kind in wanted:
        array = arrays[name]
        fits = isinstance(array, np.ndarray) and array.shape == shape and array.dtype == kind
        if not (array is None if shape is None else fits):
            must = "None" if shape is None else f"{shape} {np.dtype(kind)}"
            why = difference and f"; {difference}"
            raise InputError(f"codes.{name} must be {must} for {codec!r}, got {_kind(array)}{why}")
    if difference:
        raise InputError(difference)
    return Codes(maker=codes.maker, **arrays)


def _view(value: Any) -> Any:
    """Return a view of an array, or a copy of one that kernels would be compiled anew for."""
    if not isinstance(value, np.ndarray):
        return value
    plain: NDArray = np.asarray(value).view()
    return plain if plain.flags.carray else plain.copy()


def _kind(array: object) -> str:
    """Return the shape and type of an array, for messages."""
    if isinstance(array, np.ndarray):
        return f"{array.shape} {array.dtype}"
    return "None" if array is None else type(array).__name__

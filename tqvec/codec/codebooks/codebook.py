"""The interface of codebooks: levels for the kernels, and the errors and entropies to expect of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from tqvec._locks import cached_property
from tqvec._types import Doubles, Floats
from tqvec.codec.bands import Band
from tqvec.codec.codes import Codes
from tqvec.kernels.tables import QuantizerTables, RotationTables


class Term(NamedTuple):
    """A summand of coded vectors: ``scale[i] · basisᵀ (level of each code of row i)``."""

    scale: Floats
    basis: RotationTables
    tables: QuantizerTables


class Codebook(ABC):
    """The levels of a codec's bands.

    Attributes
    ----------
    d : int
    bands : tuple of Band
    tables : QuantizerTables
        Levels by code, for the kernels that read codes.
    encoder : str
        Name of the kernel that encodes.
    encoder_tables : tuple
        Its arguments after the rotation.
    drawn : tuple of array
        Random numbers on which the codes depend, beside those of the rotation.
    """

    encoder: str
    drawn: tuple[Floats, ...] = ()

    def __init__(
        self, d: int, bands: tuple[Band, ...], *, tables: QuantizerTables, encoder_tables: tuple[Any, ...]
    ) -> None:
        self.d, self.bands = d, bands
        self.tables, self.encoder_tables = tables, encoder_tables

    @abstractmethod
    def distortion(self, nbits: int) -> float:
        """Return the expected squared error D of a unit vector whose coordinates all have `nbits` bits."""

    @abstractmethod
    def entropy(self, nbits: int) -> float:
        """Return the entropy of a code of `nbits` bits, in bits."""

    @cached_property
    def distortions(self) -> Doubles:
        """D of the width of each band, (n_bands,)."""
        return np.array([self.distortion(band.nbits) for band in self.bands])

    @property
    def shrinkage(self) -> Doubles:
        """1 − D of each band, (n_bands,): the expected factor by which centroids are shorter than what they replace."""
        return 1 - self.distortions

    def terms(self, codes: Codes, rotation: RotationTables) -> list[Term]:
        """Return the terms whose sum codes stand for."""
        return [Term(codes.scale, rotation, self.tables)]

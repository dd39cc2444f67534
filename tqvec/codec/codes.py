"""Compressed vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Codes:
    """What `TurboQuant.encode` makes of n vectors.

    Attributes
    ----------
    data : (n, code bytes) uint8
        Packed codes in the canonical layout (docs/format.md): bit planes, the most significant first.
    scale : (n,) float32
        One factor a vector, by the codec's scale rule.
    gamma : (n,) float32 or None
        Mode "prod": the length of what the first stage left of the vector. None for other codecs.
    """

    data: NDArray[np.uint8]
    scale: NDArray[np.float32]
    gamma: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return self.data.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Codes:
        return Codes(self.data[rows], self.scale[rows], None if self.gamma is None else self.gamma[rows])

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and, if any, gammas."""
        return self.data.nbytes + self.scale.nbytes + (0 if self.gamma is None else self.gamma.nbytes)

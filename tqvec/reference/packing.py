"""Packed codes: bit planes, band after band. Source: "File format" page, section 4."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bands = list[tuple[int, int, int]]  # first coordinate, end, width


def pack(codes: NDArray, bands: Bands) -> NDArray[np.uint8]:
    """Pack (n, d) codes into rows of bytes ("File format" page, section 4)."""
    planes = [codes[:, first:end] >> plane & 1 for first, end, width in bands for plane in reversed(range(width))]
    return np.packbits(np.concatenate(planes, axis=1).astype(np.uint8), axis=1, bitorder="little")


def unpack(data: NDArray[np.uint8], bands: Bands) -> NDArray[np.int64]:
    """Inverse of `pack` ("File format" page, section 4)."""
    bits = np.unpackbits(data, axis=1, bitorder="little").astype(np.int64)
    codes = np.zeros((len(data), max(end for _, end, _ in bands)), np.int64)
    at = 0
    for first, end, width in bands:
        for plane in reversed(range(width)):
            codes[:, first:end] |= bits[:, at : at + end - first] << plane
            at += end - first
    return codes

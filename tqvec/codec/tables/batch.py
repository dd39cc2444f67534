"""The tables of batch searches: levels rounded to bytes, the error of that, and queries.

The README of kernels/staged has the derivation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._memory import aligned
from tqvec.codec.codebooks import scalar, trellis
from tqvec.codec.tables.staged import full_energy, plane_order, prefix_means
from tqvec.kernels.dispatch import kernel, module
from tqvec.kernels.simd.amx import tile_config
from tqvec.kernels.tables import BatchTables, PrefixQueries, ProductLevels, StageTables

MAX_PLANES = 7  # of a scalar code whose levels depend on them: tables have 128 entries


class ByteLevels(NamedTuple):
    """Levels as bytes.

    Attributes
    ----------
    planes : int
        Planes that the levels depend on: at most `MAX_PLANES` of a scalar code, all of a trellis code.
    levels : (2**planes,) or (128,) int64
        From -steps to steps, by prefix of a scalar code or by the kernels' index of a trellis code.
    zero : int
        Added to make them unsigned.
    unit : float
        Size of a step, chosen so that estimates have no bias.
    variance : float
        Variance of an estimate, for an exact query of length 1 and a row of scale 1.
    energy : float
        Expected squared length of the levels.
    """

    planes: int
    levels: NDArray[np.int64]
    zero: int
    unit: float
    variance: float
    energy: float

    @property
    def table(self) -> NDArray[np.uint8]:
        """The unsigned levels of 128 indices, (128,) uint8; those of fewer codes are repeated."""
        table = np.zeros(max(16, self.levels.size), np.uint8)
        table[: self.levels.size] = self.levels + self.zero
        return np.tile(table, 128 // table.size)


@lru_cache(maxsize=64)
def byte_levels(d: int, nbits: int, windows: int, steps: int) -> ByteLevels:
    """Round the levels of a codebook for byte products, to `steps` steps on either side of 0."""
    if windows > 0:
        planes = nbits
        c, p = trellis.table(d, nbits).ravel()[plane_order(windows)], trellis.probabilities(nbits).ravel()
        means, p = c, p[plane_order(windows)]
    else:
        planes = min(nbits, MAX_PLANES)
        c, p = scalar.centroids(d, nbits), scalar.probabilities(d, nbits)
        means, _ = prefix_means(d, nbits, planes)
    levels = np.rint(means / np.max(np.abs(means)) * steps).astype(np.int64)
    spread = np.repeat(levels, c.size // levels.size)
    full = full_energy(d, nbits, windows)
    overlap = float(d * np.sum(p * c * spread))  # E<c, levels>, and E|levels|² below: exact, their rounding included
    energy = float(d * np.sum(p * spread * spread))
    unit = full / overlap
    return ByteLevels(
        planes=planes,
        levels=levels,
        zero=steps + 1,
        unit=unit,
        variance=max(0.0, unit * unit * energy - full) / d,
        energy=energy,
    )


def product_levels(
    d: int, bands: NDArray[np.int64], windows: NDArray[np.int64], spreads: NDArray[np.float32]
) -> tuple[list[ByteLevels], ProductLevels]:
    """Return the levels of each band as bytes, and as far as queries depend on them.

    Parameters
    ----------
    d : int
    bands, windows
        As in `QuantizerTables`.
    spreads : (n_bands,) float32
        Factor of the levels of each band.
    """
    level_steps, query_steps = module("pair_products").PRODUCT_STEPS
    levels = [byte_levels(d, int(band[2]), int(w), level_steps) for band, w in zip(bands, windows, strict=True)]
    spread = np.asarray(spreads, np.float64)
    return levels, ProductLevels(
        entry=np.cumsum([0, *_padded(bands)])[:-1],
        factor=(spread * [one.unit for one in levels]).astype(np.float32),
        variance=spread * spread * [one.variance for one in levels],
        energy=np.array([one.energy for one in levels]) / d,
        zero=level_steps + 1,
        query_steps=query_steps,
    )


def product_space(bands: NDArray[np.int64], levels: Sequence[ByteLevels], nq: int) -> BatchTables:
    """Return space for a batch of queries for `search_products`, with what is the same for all.

    Parameters
    ----------
    bands
        As in `QuantizerTables`.
    levels : sequence of ByteLevels
        Of each band, as `product_levels` gives them.
    nq : int
    """
    words, filled = int(_padded(bands).sum()) // 64, nq + -nq % 32
    return BatchTables(
        packed=aligned((filled // 16, words, 16, 64), np.int8),
        weight=np.zeros(filled, np.float32),
        slack=np.zeros(filled, np.float32),
        integers=np.empty((nq, words * 64), np.int16),
        unit=np.empty(nq, np.float32),
        planes=np.array([one.planes for one in levels]),
        table=np.array([one.table for one in levels]),
        config=tile_config(),
    )


def prefix_space(bands: NDArray[np.int64], stages: StageTables, nq: int) -> PrefixQueries:
    """Return space for a batch of queries for `search_by_prefixes`; the arguments are those of `product_space`."""
    tile = module("tile_totals").QUERY_TILE
    return PrefixQueries(
        table=aligned((nq + -nq % tile, stages.prefix_source.size // 32, 128), np.uint8),
        slope=np.empty(nq, np.float32),
        shift=np.empty(nq, np.float32),
        slack=np.empty(nq, np.float32),
        integers=np.empty((nq, int(_padded(bands).sum())), np.int16),
        unit=np.empty(nq, np.float32),
        bytes_=np.empty((nq, _plane_entries(int(_padded(bands[:1])[0]))), np.int8),
        bit_unit=np.empty(nq, np.float32),
        bit_shift=np.empty(nq, np.float32),
    )


@lru_cache(maxsize=64)
def _plane_entries(size: int) -> int:
    """Return the entries of a query of `size` as the level's kernel of second bits takes it."""
    return int(kernel("plane_query")(np.zeros(size, np.int8)).size)


def _padded(bands: NDArray[np.int64]) -> NDArray[np.int64]:
    """Coordinates of each band, filled up to whole words of 64."""
    return -(-(bands[:, 1] - bands[:, 0]) // 64) * 64

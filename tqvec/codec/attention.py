"""Attention on codes: the tables of a codec, and the three steps of attention.

Keys and values of one head are rows of packed codes, (n, code bytes) uint8, with a bfloat16 scale each, (n,) uint16:
the upper half of a float32. All arrays are C-contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Floats
from tqvec.codec.bands import code_bytes
from tqvec.codec.tables.attention import Run, runs_of
from tqvec.codec.tables.strips import Strip, strips_of
from tqvec.codec.turboquant import TurboQuant, kernel_tables
from tqvec.errors import InputError
from tqvec.kernels.arguments import AttentionParts
from tqvec.kernels.attend.portable import BLOCK
from tqvec.kernels.attend.tables import STRIP_FIELDS, AttentionTables
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.threads.helpers import share

__all__ = ["BLOCK", "Part", "add_values", "attention_tables", "code_scores", "merge", "softmax_in_place"]


_FILLER = np.zeros(128, np.uint8)
_FILLER[63::64] = 255
_BYTES_UP_TO = 4  # bits per coordinate on average, and one more in a band: products of bytes are precise enough
_STEPS = range(96, 128)  # that the largest byte level may have


def attention_tables(codec: TurboQuant) -> AttentionTables:
    """Return the tables with which attention reads the codes of a codec; make them once per codec.

    Parameters
    ----------
    codec : TurboQuant
        Of mode ``"mse"`` and not calibrated; any `d`, `nbits` and `codebook`.

    Raises
    ------
    InputError
        Another codec.
    """
    if codec.mode != "mse" or codec.calibration is not None:
        raise InputError(f"codec must have mode 'mse' and no calibration, got {codec!r}")
    _, quantizer = kernel_tables(codec)
    word_unit = float(np.abs(quantizer.centroids).max()) / 32767
    words = np.rint(quantizer.centroids / word_unit).astype(np.int16).view(np.uint16)
    low, high = (words & 255).astype(np.uint8), (words >> 8).astype(np.uint8)
    bits = [band.nbits * (band.stop - band.start) for band in codec.bands]
    narrow = sum(bits) <= _BYTES_UP_TO * codec.d and all(band.nbits <= _BYTES_UP_TO + 1 for band in codec.bands)
    bytes_, byte_unit = _byte_levels(quantizer.centroids.astype(np.float64))
    runs, registers = runs_of(codec.bands, quantizer, code_bytes(codec.bands))

    strips = strips_of(codec.bands, quantizer.windows)

    def entries(table: NDArray, parts: Sequence[Run] | Sequence[Strip] = runs) -> NDArray:
        """Look up each index of each run or strip in a table by band, (parts, 256)."""
        return np.array([table[tuple(part.entries)] for part in parts], table.dtype).reshape(-1, 256)

    return AttentionTables(
        bands=quantizer.bands,
        windows=quantizer.windows,
        centroids=quantizer.centroids,
        source=np.array([run.source for run in runs], np.uint8).reshape(-1, 64),
        fields=np.array([run.fields for run in runs], np.uint8).reshape(-1, 64),
        filler=_FILLER,
        coordinates=np.array([run.coordinates for run in runs], np.int64).ravel(),
        levels=np.ascontiguousarray(entries(quantizer.centroids)[:, :32]),
        level_bytes=entries(bytes_),
        level_words=np.hstack([entries(low), entries(high)]),
        registers=registers,
        whole=all(run.whole for run in runs),
        index_bits=max((run.bits for run in runs), default=0),
        strips=np.array([strip.fields for strip in strips], np.int32).reshape(-1, STRIP_FIELDS),
        strip_coordinates=np.array([strip.coordinates for strip in strips], np.int64).ravel(),
        strip_bytes=entries(bytes_ - np.uint8(128), strips),
        strip_words=np.hstack([entries(low, strips), entries(high, strips)]),
        byte_unit=byte_unit if narrow else 0.0,
        word_unit=word_unit,
    )


def _byte_levels(centroids: NDArray[np.float64]) -> tuple[NDArray[np.uint8], float]:
    """Return levels, (n_bands, 256), in steps, plus 128, and the step that leaves the least squared error."""
    largest = float(np.abs(centroids).max())
    candidates = []
    for steps in _STEPS:
        levels = np.rint(centroids * (steps / largest))
        unit = float(np.sum(levels * centroids) / np.sum(levels * levels))
        candidates.append((float(np.sum(np.square(centroids - unit * levels))), unit, levels))
    _, unit, levels = min(candidates, key=lambda candidate: candidate[0])
    return (levels + 128).astype(np.uint8), unit


def code_scores(
    tables: AttentionTables, queries: Floats, codes: NDArray[np.uint8], scale: NDArray[np.uint16], out: Floats
) -> None:
    """Compute the scores of some queries and all rows: ``out[i, t] = scale[t] * <queries[i], c_t>``.

    A score depends on its query and its row alone, not on the other rows.

    Parameters
    ----------
    tables : AttentionTables
    queries : (g, d) float32
        Rotated, and multiplied by the factor of the scores.
    codes, scale : (n, code bytes) uint8 and (n,) uint16
    out : (g, n) float32
        Filled.
    """
    kernel("code_scores")(tables, queries, codes, scale, out)


def softmax_in_place(scores: Floats, seen: NDArray[np.int64] | None = None) -> tuple[Floats, Floats]:
    """Replace scores by weights, ``e**(score - largest score of the query)``; any finite scores are safe.

    Parameters
    ----------
    scores : (g, n) float32
    seen : (g,) int64, optional
        Query i sees the first ``seen[i]`` rows, none if that is not positive; rows that it does not see get weight 0.
        Default: all see all.

    Returns
    -------
    largest : (g,) float32
        The largest score of each query; -infinity if it sees no row.
    total : (g,) float32
        Sum of its weights.
    """
    g, n = scores.shape
    largest, total = np.empty(g, np.float32), np.empty(g, np.float32)
    kernel("softmax_rows")(scores, np.full(g, n) if seen is None else seen, largest, total)
    return largest, total


def add_values(
    tables: AttentionTables,
    weights: Floats,
    codes: NDArray[np.uint8],
    scale: NDArray[np.uint16],
    out: Floats,
    least: float = 0.0,
) -> Floats:
    """Add the weighted values of rows: ``out[i] += Σ_t weights[i, t] * scale[t] * c_t``, in the rotated basis.

    Rows are added up `BLOCK` at a time. So the calls for consecutive parts of the rows give the same bits as one call
    for all, if all parts but the last are multiples of `BLOCK` rows.

    Parameters
    ----------
    tables : AttentionTables
    weights : (g, n) float32
        At least 0.
    codes, scale : (n, code bytes) uint8 and (n,) uint16
    out : (g, d) float32
    least : float
        Rows are skipped where the weights of all queries are less.

    Returns
    -------
    (g,) float32
        Sum of the weights of each query that were skipped.
    """
    skipped = np.zeros(len(weights), np.float32)
    kernel("add_values")(tables, weights, codes, scale, np.float32(least), out, skipped)
    return skipped


class Part(NamedTuple):
    """The attention over some of the tokens, not yet divided by its total.

    Attributes
    ----------
    largest, total, skipped : (g,) float32
        Results of `softmax_in_place` and `add_values`.
    out : (g, d) float32
        Sum of values times weights, of all parts in one basis.
    """

    largest: Floats
    total: Floats
    skipped: Floats
    out: Floats


def merge(parts: Sequence[Part]) -> tuple[Floats, Floats]:
    """Combine the attention over the tokens of all parts.

    Parameters
    ----------
    parts : sequence of Part
        At least one. The order decides the last bits.

    Returns
    -------
    out : (g, d) float32
        0 for a query that sees no token.
    skipped : (g,) float32
        Share of each query's weights that was skipped.
    """
    largest, total, skipped, sums = (np.stack(arrays)[None] for arrays in zip(*parts, strict=True))
    out, shares = np.empty(sums[:, 0].shape, np.float32), np.empty(total[:, 0].shape, np.float32)
    kernel("merge_parts")(*share(1, 0), AttentionParts(largest, total, skipped, sums), out, shares)
    return out[0], shares[0]

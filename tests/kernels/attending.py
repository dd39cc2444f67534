"""Rows of codes for the tests of attention, what they stand for by the reference, and the bounds of README.md."""

import numpy as np
import strategies as sts

import tqvec
from tqvec.codec.attention import attention_tables
from tqvec.reference import attention as reference

WIDTHS = [("scalar", nbits) for nbits in (1, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8)]
WIDTHS += [("trellis", nbits) for nbits in (1, 2, 2.5, 3, 3.5, 4, 5)]
DIMS = (64, 80, 96, 100, 128, 256)
FLOAT = 2e-5  # of the sum of absolute values: float32 sums


def to_bfloat16(x):
    """The upper half of float32."""
    return (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


class Rows:
    """`n` coded rows.

    Attributes
    ----------
    tables, data, scale
        As the kernels take them.
    levels : (n, d) float64
        What the codes stand for.
    factor : (n,) float64
        What the scales stand for.
    """

    def __init__(self, kind, nbits, d, n, seed=0):
        self.codec = tqvec.TurboQuant(d, nbits=nbits, codebook=kind, seed=3)
        self.tables = attention_tables(self.codec)
        self.data = sts.rng(seed).integers(0, 256, (n, self.codec.code_size - 4)).astype(np.uint8)
        self.scale = to_bfloat16(np.exp(sts.rng(seed + 1).standard_normal(n)))
        self.levels = reference.levels(self.data, d, sts.bands(self.codec), kind)
        self.factor = reference.from_bfloat16(self.scale).astype(np.float64)

    def has_vectors(self, level):
        """Tell whether a level has vector kernels for the layout."""
        return len({"avx512": self.tables.source, "avx2": self.tables.strips}.get(level, ())) > 0

    def scores(self, queries):
        return reference.scores(queries, self.levels, self.factor)

    def score_bound(self, queries, level):
        """How far scores may be from `scores`."""
        queries = np.abs(queries.astype(np.float64))
        error = reference.scores(queries, np.abs(self.levels), self.factor) * FLOAT
        if not self.has_vectors(level):
            return error
        query_step, level_error = self._steps(queries)
        lengths = (np.abs(self.levels) + level_error).sum(axis=1)
        sums = queries.sum(axis=1)[:, None] * level_error
        return error + (query_step[:, None] / 2 * lengths + sums) * self.factor * (1 + 1e-5)

    def _steps(self, queries):
        """Step of each query's integers, and the largest error of an integer level."""
        centroids = self.tables.centroids.astype(np.float64)
        if self.tables.byte_unit:
            unit = self.tables.byte_unit
            return queries.max(axis=1) / 127, np.abs(centroids - unit * np.rint(centroids / unit)).max()
        entries = max(self.codec.d, 4)
        reach = 65000 / np.sqrt(entries) - np.sqrt(entries) / 2
        return np.sqrt(np.square(queries).sum(axis=1)) / reach, self.tables.word_unit / 2

    def values(self, weights):
        return (weights.astype(np.float64) * self.factor) @ self.levels

    def value_bound(self, weights, level):
        """How far sums of values may be from `values`."""
        shares = np.abs(weights.astype(np.float64)) * self.factor
        error = shares @ np.abs(self.levels) * FLOAT
        if not self.has_vectors(level) or (level == "avx512" and self.tables.index_bits <= 5):
            return error
        return error + shares.sum(axis=1)[:, None] * self.tables.word_unit / 2

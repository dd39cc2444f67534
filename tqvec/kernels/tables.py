"""The tables that a codec hands to its kernels, as named tuples (which Numba takes as they are)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class RotationTables(NamedTuple):
    """An orthogonal map: rounds of permutation, signs and block Hadamard transforms, then a dense matrix if any.

    The matrix is `matrix`, or in bytes `weights`: then tiles of vectors are rounded to bytes before it (encoding), and
    single vectors (queries) are not.

    Attributes
    ----------
    perm : (rounds, d) int32
        Coordinate ``j`` of a round's input is coordinate ``perm[r, j]`` of what came before.
    mult : (rounds, d) float32
        Sign times 1/sqrt(block size), applied after the permutation.
    blocks : (n_blocks, 2) int64
        Start and size (a power of two) of each Hadamard block.
    matrix : (d, d) or (0, 0) float32
        Dense matrix, applied last; (0, 0) stands for none.
    columns : like `matrix`
        `matrix` transposed: single vectors are rotated a column at a time, tiles of vectors a row at a time.
    weights : (16 ⌈d/16⌉, at least 8 ⌈d/8⌉) or (0, 0) int8
        Dense matrix in bytes, 0 beyond d; (0, 0) stands for none.
    weight_steps : (16 ⌈d/16⌉,) float32
        Step of the bytes of each row of `weights`.
    weight_offsets : (16 ⌈d/16⌉,) int32
        −128 times the sum of each row of `weights`: kernels whose bytes have no sign add 128 to those of a vector.
    """

    perm: np.ndarray
    mult: np.ndarray
    blocks: np.ndarray
    matrix: np.ndarray
    columns: np.ndarray
    weights: np.ndarray
    weight_steps: np.ndarray
    weight_offsets: np.ndarray


class QuantizerTables(NamedTuple):
    """Codebooks of all bands, one row per band.

    Attributes
    ----------
    bands : (n_bands, 3) int64
        First coordinate, end (exclusive) and width in bits.
    windows : (n_bands,) int64
        Path bits of a state window, which the level of a trellis code depends on: ν + 1. 0 for a scalar codebook.
    centroids : (n_bands, 256) float32
        Level of each index, for a unit vector; the row is filled up with 0. The index of a scalar code is the code.
        The index of a trellis code depends on its neighbours too; `indices_of_row` computes it.
    thresholds : (n_bands, 256) float32
        A code is the number of thresholds below the value; the row is filled up with +inf. For a trellis, which
        `TrellisTables` encode, `thresholds`, `grid` and `grid_affine` are empty.
    grid : (n_bands, cells) uint8
        Number of thresholds in the cells before this one. A cell holds at most one threshold.
    grid_affine : (n_bands, 2) float32
        ``cell = clip(value * grid_affine[b, 0] + grid_affine[b, 1], 0, cells - 1)``, truncated.
    """

    bands: np.ndarray
    windows: np.ndarray
    centroids: np.ndarray
    thresholds: np.ndarray
    grid: np.ndarray
    grid_affine: np.ndarray


class TrellisTables(NamedTuple):
    """The trellis codebook of one band.

    Attributes
    ----------
    thresholds : (2**(nbits - 1) - 1, windows) float32
        The in-subset bits of a value are the number of thresholds below it, in the column of the state window.
    levels : (2**(nbits - 1), windows) float32
        Level of in-subset bits and state window, for a unit vector. There are twice as many windows as states.
    """

    thresholds: np.ndarray
    levels: np.ndarray


class ScanTables(NamedTuple):
    """The tables of a codec for the scan of all rows.

    Attributes
    ----------
    bands, windows
        As in `QuantizerTables`.
    levels : (n_bands, 256) uint32
        Integer centroids by index: the low 16 bits are an int16.
    pairs : (n_bands, 256) uint32
        For scalar bands of at most 4 bits, the centroids of two codes c and e, at index c + 16 e; low half first.
    spread : (256,) uint64
        `SPREAD`, which unpacks codes.
    """

    bands: np.ndarray
    windows: np.ndarray
    levels: np.ndarray
    pairs: np.ndarray
    spread: np.ndarray


class QueryTables(NamedTuple):
    """The tables of a codec and a metric that turn queries into directions; see `query_directions_portable`.

    Attributes
    ----------
    rotation : RotationTables
    bands : (n_bands, 3) int64
        As in `QuantizerTables`.
    score_scale : int
        `UNIT`, `NORM` or `TWICE_NORM`.
    level_unit : float
        Level that the integer level 1 stands for.
    """

    rotation: RotationTables
    bands: np.ndarray
    score_scale: int
    level_unit: float


LAYOUT_FIELDS = 6  # of `StageTables.layout`
TABLE_BYTES = 512  # of one band in `StageTables.level_bytes`


class StageTables(NamedTuple):
    """The tables of a codec for the staged search.

    Attributes
    ----------
    layout : (n_bands, 6) int64
        For each band: first bit in a row, bits per plane, planes, windows (as in `QuantizerTables`), first entry in
        a query whose bands begin at multiples of 64, and words of 64 coordinates.
    level_bytes : (n_bands, 512) uint8
        Integer levels of the full scan. Scalar codes of at most 4 bits: 32 int16. Otherwise the low bytes of all
        levels, then their high bytes: 128 indices of a trellis, in the order of `plane_order`, or 256 codes.
    prefix_source : (bits,) int64
        Coordinate of each bit of the prefix; a multiple of 32 bits.
    prefix_level : (bits,) float32
        Weight of the bit, as ±1, in the level there, times e_b / e_p; 0 for bits that only fill up.
    scores, unknown : (n_bands,) float64
        Variance of scores, and the part of it that the prefix leaves open, for rows of scale 1 and a query of length
        1 that lies in the band.
    skipped : (n_bands,) bool
        Whether the prefix has no bits of a band.
    sign_share : float
        With one band: factor of the estimate from signs in the estimate from two bits.
    second_level : float
        Weight of the second bit, as ±1, in the level there, times e_b / e_2; 0 if no second bit is read.
    second_mask : int
        The path bits whose parity is the second bit, the newest lowest; 0 if the second plane holds it.
    second_slack : float
        z σ_2 e_b, for a query of length 1 and a row of scale 1.
    """

    layout: np.ndarray
    level_bytes: np.ndarray
    prefix_source: np.ndarray
    prefix_level: np.ndarray
    scores: np.ndarray
    unknown: np.ndarray
    skipped: np.ndarray
    sign_share: float
    second_level: float
    second_mask: int
    second_slack: float


BYTE_STEPS = 127  # of an entry of `StagedQuery.bytes_` on either side of 0
Z = 3.2  # standard errors that an estimate may fall short before a true result is lost
TABLE_STEPS = 31  # of an entry of `StagedQuery.table` on either side of 0: four entries fit a byte


class StagedQuery(NamedTuple):
    """One query in the forms that the stages take. All stand for its direction; `length` is its factor.

    Attributes
    ----------
    length : float
        Factor of all scores: the query's length, 1 for cosine, twice the length for l2.
    table : (groups, 128) uint8
        For each 32 bits of the prefix, the sums of four signed weights: 16 entries for each nibble, in the order
        0, 2, 4, 6, 1, 3, 5, 7.
    table_step, table_zero : float
        The estimate of a row of scale 1 is ``table_step * total - table_zero``.
    slack : float
        z standard errors of this estimate.
    bytes_ : (64 * words,) int8
        The first band in steps of `byte_unit`, filled up with zeros. Second bits, which only a codec of one band has,
        are multiplied by it.
    byte_unit : float
    byte_sum : int
        Sum of `bytes_`.
    integers : (64 * words,) int16
        The query as in `search_rows`, each band filled up to a multiple of 64 with zeros.
    unit : float32
        Score of 1 in the integer dot product, `length` included.
    """

    length: float
    table: np.ndarray
    table_step: float
    table_zero: float
    slack: float
    bytes_: np.ndarray
    byte_unit: float
    byte_sum: int
    integers: np.ndarray
    unit: np.float32


class StagedQueries(NamedTuple):
    """Queries in the forms of `StagedQuery`.

    Attributes
    ----------
    table : (nq, groups, 128) uint8
    bytes_ : (nq, 64 * words) int8
    integers : (nq, 64 * words) int16
    numbers : (nq, 7) float64
        The other fields, in their order.
    """

    table: np.ndarray
    bytes_: np.ndarray
    integers: np.ndarray
    numbers: np.ndarray


class PrefixQueries(NamedTuple):
    """A batch of queries for `search_prefixes`.

    Attributes
    ----------
    table : (queries, groups, 128) uint8
        As in `StagedQuery`; empty ones fill up the last tile.
    slope, shift, slack : (nq,) float32
        As in `Estimator`.
    integers : (nq, 64 * words) int16
    unit : (nq,) float32
        As in `StagedQuery`.
    bytes_ : (nq, entries) int8
    bit_unit, bit_shift : (nq,) float32
        `entries`, `unit` and `shift` of `SecondStage`; not read if the codec has no second bits.
    """

    table: np.ndarray
    slope: np.ndarray
    shift: np.ndarray
    slack: np.ndarray
    integers: np.ndarray
    unit: np.ndarray
    bytes_: np.ndarray
    bit_unit: np.ndarray
    bit_shift: np.ndarray


class ProductLevels(NamedTuple):
    """The levels of a codec as bytes, as far as queries depend on them.

    Attributes
    ----------
    entry : (n_bands,) int64
        First entry of each band in a query whose bands begin at multiples of 64.
    factor : (n_bands,) float32
        Of the entries of a query, before they are rounded.
    variance : (n_bands,) float64
        Of an estimate, for an exact query of length 1 in the band and a row of scale 1.
    energy : (n_bands,) float64
        Variance of an estimate per squared error of an entry.
    zero : int
        The byte that stands for level 0.
    query_steps : int
        Steps of an entry on either side of 0.
    """

    entry: np.ndarray
    factor: np.ndarray
    variance: np.ndarray
    energy: np.ndarray
    zero: int
    query_steps: int


class BatchTables(NamedTuple):
    """A batch of queries for `search_batch`, filled up with empty queries to a multiple of 32.

    Attributes
    ----------
    packed : (query tiles, words, 16, 64) int8
        Tile of 16 queries and 64 coordinates: row r holds coordinates 4 r … 4 r + 3 of query 0, then of query 1, …
        Bands begin at multiples of 64 coordinates.
    weight : (queries,) float32
        Score of 1 in a byte product of each query, its length included.
    slack : (queries,) float32
        z σ of an estimate for a row of scale 1, less the part of each product that the zero of `table` adds.
    integers : (nq, 64 * words) int16
    unit : (nq,) float32
        As in `StagedQuery`.
    planes : (n_bands,) int64
        Leading planes that the byte product reads.
    table : (n_bands, 128) uint8
        Levels of the codes in these planes, repeated, or of the indices of a trellis. The middle of the range is 0.
    config : (64,) uint8
        Tile configuration.
    """

    packed: np.ndarray
    weight: np.ndarray
    slack: np.ndarray
    integers: np.ndarray
    unit: np.ndarray
    planes: np.ndarray
    table: np.ndarray
    config: np.ndarray


class ErrorModel(NamedTuple):
    """What the error bars of results depend on beside their scores; see `true_scores_portable`.

    Attributes
    ----------
    tangents : (256,) float64
        Tangent of the angle between a vector's direction and its decoded one, by the low byte of its scale.
    tangent : float
        The expected one, where it is unknown.
    growth : float
        Expected ‖ũ‖² over expected ⟨u, ũ⟩.
    rounding : float
        Standard deviation of a cosine that is due to arithmetic.
    near_mean, near_std : float
        Of the errors of good scores, in units of the standard deviation of any score.
    sign : float
        1, or -1 if smaller scores are better.
    unit_rows : bool
        Whether all rows that are not zero have length 1.
    window : int
        Scores that the rate of the tail near the best one is estimated from; two more for each rank below it.
    ntotal : int
        Rows that were searched.
    """

    tangents: np.ndarray
    tangent: float
    growth: float
    rounding: float
    near_mean: float
    near_std: float
    sign: float
    unit_rows: bool
    window: int
    ntotal: int

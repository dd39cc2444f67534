"""Arguments that belong together in one call of a kernel, as named tuples (which Numba takes as they are).

Numba compiles a kernel anew for other types of a field, so dtypes and layouts are always those given here. To take an
array out of a tuple counts a reference: kernels do it before a loop, not inside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """A block of rows, as the searches read it.

    Attributes
    ----------
    codes : (n, code bytes) uint8
    scale : (n,) float32
        Factor of the score of each row.
    bias : (n,) or (0,) float32
        Added to the score of each row; empty stands for 0.
    base : int
        Number of the first row, which the ids of results count from.
    """

    codes: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    base: int


class RowRange(NamedTuple):
    """The rows ``start .. stop`` of a block that a filter lets in.

    Attributes
    ----------
    allowed : (⌈n / 64⌉,) or (0,) uint64
        Bit i % 64 of word i // 64 is set if row i is allowed; bits past the last row are 0. Empty allows all rows.
    start, stop : int
    """

    allowed: np.ndarray
    start: int
    stop: int


class Heap(NamedTuple):
    """The best rows so far, of one query or of several; see `topk_update_portable`.

    Attributes
    ----------
    scores : (k,) or (nq, k) float32
    ids : (k,) or (nq, k) int64
    least : (1,) or (nq,) float32
        Lower bound of the k-th best score of each query. All threads of a search read and raise it, so that each knows
        what the others have found.
    """

    scores: np.ndarray
    ids: np.ndarray
    least: np.ndarray


class SharedSearch(NamedTuple):
    """A search that threads share: each unit is a chunk of rows for a group of queries.

    Attributes
    ----------
    blocks : (n_blocks, BLOCK_FIELDS) int64
        Addresses and sizes of each block's arrays; see `tqvec.kernels.scan.units`.
    first_chunk : (n_blocks + 1,) int64
        Number of the first chunk of each block, and of all chunks.
    chunk : int
        Rows of a chunk, a multiple of 64. The last one of a block may be shorter.
    group : int
        Queries of a group. The last one may be smaller.
    scores, ids : (nq, k) float32 and int64
        Heaps of the calling thread, which become those of all.
    other_scores, other_ids : (threads - 1, nq, k) float32 and int64
        Heaps of each helper, filled when it takes its first unit.
    begun : (threads - 1,) uint8
        Whether that was done.
    least : (nq,) float32
        As in `Heap`.
    workspace : (threads, size) uint8
        Space that each thread has for what the units need. It is kept between searches: the system clears fresh memory
        page by page, and to give it back interrupts all other threads.
    seeded : int
        First rows of the first chunk that all queries have been compared with already.
    """

    blocks: np.ndarray
    first_chunk: np.ndarray
    chunk: int
    group: int
    scores: np.ndarray
    ids: np.ndarray
    other_scores: np.ndarray
    other_ids: np.ndarray
    begun: np.ndarray
    least: np.ndarray
    workspace: np.ndarray
    seeded: int


class ProbedLists(NamedTuple):
    """Lists of rows, and those that each query probes.

    Attributes
    ----------
    nlist : int
    starts : (n_blocks,) int64
        Address of the first row of each list in each block and the end, (nlist + 1,) int64; 0 for a block that is not
        sorted by list. All rows of such a block are searched.
    ready : (n_blocks,) int64
        Address of a word for each 64 rows, 1 if their prefixes are there; otherwise they are made.
    planes : (n_planes, 3) int64
    strides : (int, int)
        Both as in `prefix_rows`.
    first : (nq + 1,) int64
        Query q probes the lists ``probes[first[q] : first[q + 1]]``.
    probes : (first[-1],) int32
        Distinct for each query, the nearest first.
    parts : int
        Units that the lists of each query are divided among.
    """

    nlist: int
    starts: np.ndarray
    ready: np.ndarray
    planes: np.ndarray
    strides: tuple[int, int]
    first: np.ndarray
    probes: np.ndarray
    parts: int


class RowBlocks(NamedTuple):
    """Blocks of 16 rows whose prefixes a query is compared with.

    Attributes
    ----------
    allowed : (⌈n / 64⌉,) or (0,) uint64
        As in `RowRange`.
    starts : (≥ count,) or (0,) int32
        First row of each block, filled up to a multiple of four. Empty stands for `count` blocks from row `first` on.
    first, count : int
    """

    allowed: np.ndarray
    starts: np.ndarray
    first: int
    count: int


class Estimator(NamedTuple):
    """How the total of a row's table entries becomes an estimate, ``(total slope + shift) scale + bias``.

    Attributes
    ----------
    table : (groups, 128) uint8
        As in `StagedQuery`.
    slope, shift : float32
    slack : float32
        z standard errors of the estimate of a row of scale 1.
    """

    table: np.ndarray
    slope: np.float32
    shift: np.float32
    slack: np.float32


class SecondStage(NamedTuple):
    """How second bits refine an estimate: ``estimate share + (2 sum unit + shift) scale``.

    Attributes
    ----------
    entries : (64 * words,) int8
        The query, as `plane_dot` takes it; `sum` is that of the entries whose bits are set.
    share, unit : float32
        Factors of the first estimate and of an entry.
    shift : float32
        Minus the sum of all entries times `unit`, plus z standard errors.
    plane : (≥ bytes of a plane, up to a multiple of 64) uint8
        Workspace for second bits that are parities, or don't begin at a byte.
    """

    entries: np.ndarray
    share: np.float32
    unit: np.float32
    shift: np.float32
    plane: np.ndarray


class EncodedRows(NamedTuple):
    """Arrays that an encoder fills.

    Attributes
    ----------
    data : (n, code bytes) uint8
        Packed codes.
    norm : (n,) float64
        Length of each vector x.
    dot, energy : (n,) float64
        <u, ũ> and <ũ, ũ> for the rotated unit vector u and its float32 levels ũ.
    """

    data: np.ndarray
    norm: np.ndarray
    dot: np.ndarray
    energy: np.ndarray


class EncodedProducts(NamedTuple):
    """Arrays that the encoder of mode ``"prod"`` fills.

    Attributes
    ----------
    data : (n, code bytes) uint8
        Packed codes.
    norm, residual : (n,) float64
        Length of each vector, and of what the first stage leaves of its direction.
    """

    data: np.ndarray
    norm: np.ndarray
    residual: np.ndarray


class MeanWaves(NamedTuple):
    """The curves of which the mean's part of a score is made, over a block of tokens (kernels/rope/README.md).

    Attributes
    ----------
    angles : (f,) float64
        Radians per token: first those of slow waves, then those of fast ones.
    cosine, sine : (slow waves, terms) float32
        Coefficients of the polynomials in the cosine and in the sine of each slow wave.
    table : (terms + 2 * fast waves, block size) float32
        The curves: polynomials, then the cosine of each fast wave, then the sine of each.
    rows : int
        Curves that are not 0: all of them, or the first alone.
    """

    angles: np.ndarray
    cosine: np.ndarray
    sine: np.ndarray
    table: np.ndarray
    rows: int


class CodedTokens(NamedTuple):
    """Coded tokens of the heads of a layer that share a codec of keys and one of values.

    Attributes
    ----------
    runs : (n_runs, fields) int64
        Where the tokens are, in order; see `tqvec.kernels.attend.units`.
    heads : (n_heads, 3) int64
        Each head, and its places in the arrays of keys and of values.
    slices, slice_rows : int
        Number of slices of all runs, and the rows of one, a multiple of `BLOCK`; the last one of a run may be shorter.
    key_bytes, value_bytes : int
        Code bytes of a row.
    """

    runs: np.ndarray
    heads: np.ndarray
    slices: int
    slice_rows: int
    key_bytes: int
    value_bytes: int


class CodedQueries(NamedTuple):
    """Queries of all heads of a layer, as coded tokens need them.

    Attributes
    ----------
    rotated : (heads, g, d) float32
        In the basis of the codes.
    products : (heads, 2, g, f) float32
        As in `tqvec.kernels.rope.portable.next_waves`; no heads if no mean was subtracted.
    first, stop : (g,) int64
        Each query sees the tokens at positions ``first … stop - 1``.
    cap : float32
        Bound of the scores; 0 for none.
    """

    rotated: np.ndarray
    products: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    cap: np.float32


class AttentionParts(NamedTuple):
    """The attention of heads over some of the tokens at a time, not yet divided by its total.

    Attributes
    ----------
    largest : (heads, parts, g) float32
        The largest score of each query; -infinity if it sees none of the tokens.
    total, skipped : (heads, parts, g) float32
        Sum of its weights, and of those that were skipped.
    sums : (heads, parts, g, d) float32
        Sum of values times weights, of all parts in one basis.
    """

    largest: np.ndarray
    total: np.ndarray
    skipped: np.ndarray
    sums: np.ndarray


class HeadBasis(NamedTuple):
    """How keys of a head become the vectors that are coded; of several heads, the arrays have a first axis of heads.

    Attributes
    ----------
    order : (d,) int64
        Coordinate of the key at each place of the codes.
    unit : (d,) float32
        Factor of each coordinate of the key.
    mean, crossed : (d,) float32
        The mean at angle 0 is `mean`; at angle a it is ``mean * cos(a) + crossed * sin(a)``.
    """

    order: np.ndarray
    unit: np.ndarray
    mean: np.ndarray
    crossed: np.ndarray

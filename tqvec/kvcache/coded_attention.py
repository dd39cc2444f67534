"""Attention over coded tokens: compiled jobs, each for the heads that share a codec of keys and one of values."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Floats
from tqvec.codec import attention
from tqvec.codec.turboquant import TurboQuant
from tqvec.kernels.arguments import AttentionParts, CodedQueries, CodedTokens, MeanWaves
from tqvec.kernels.attend.portable import BLOCK
from tqvec.kernels.attend.tables import AttentionTables
from tqvec.kernels.attend.units import BOTH, SCORE, SUM
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.threads.helpers import check_memory, scratch
from tqvec.kvcache.codecs import KVCodecs, LayerCodecs, basis
from tqvec.kvcache.key_basis import Layout
from tqvec.kvcache.products import rotate
from tqvec.kvcache.query_block import QueryBlock
from tqvec.kvcache.state import Segment, State, count

_SLICES = 64  # of all heads that there are at least, for the threads of large processors
_FEWEST, _MOST = 2048, 4096  # tokens of a slice: to begin one takes the time of some hundred tokens


class CodedRun(NamedTuple):
    """Rows ``start … stop - 1`` of the arrays of a segment, which some query of a block sees.

    Attributes
    ----------
    segment : Segment
    start, stop : int
    position : int
        Of the first token.
    first_part, slices : int
        Part of the attention that the first slice of the rows is; number of slices.
    """

    segment: Segment
    start: int
    stop: int
    position: int
    first_part: int
    slices: int

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.stop - self.start


class CodedTier(NamedTuple):
    """The recoded tokens that some query of a block sees, or the coded ones, in order."""

    codecs: KVCodecs
    runs: list[CodedRun]
    slice_rows: int

    @property
    def n(self) -> int:
        """Number of tokens."""
        return sum(run.n for run in self.runs)

    @property
    def slices(self) -> int:
        """Number of slices."""
        return sum(run.slices for run in self.runs)


class _Job(NamedTuple):
    """Arguments of `attend_codes`."""

    tables: tuple[AttentionTables, AttentionTables, MeanWaves]
    tokens: CodedTokens
    queries: CodedQueries

    @property
    def units(self) -> int:
        """Number of units: slices of heads."""
        return len(self.tokens.heads) * self.tokens.slices


@lru_cache(maxsize=256)
def _tables(codec: TurboQuant) -> AttentionTables:
    return attention.attention_tables(codec)


def coded_tiers(state: State, codecs: LayerCodecs, block: QueryBlock, first_part: int) -> list[CodedTier]:
    """Return the coded tokens that some query of a block sees; their slices are parts of the attention."""
    tiers, position = [], state.first_coded
    visible = block.visible(position, count(state.recoded) + count(state.coded))
    slice_rows = _slice_rows(len(block.plain) * (visible.stop - visible.start))
    for segments, own in ((state.recoded, codecs.recoded), (state.coded, codecs.coded)):
        runs: list[CodedRun] = []
        for segment in segments:
            rows = block.visible(position, segment.n)
            if rows.start < rows.stop:
                start, stop = segment.start + rows.start, segment.start + rows.stop
                slices = -(-(stop - start) // slice_rows)
                run = CodedRun(
                    segment=segment,
                    start=start,
                    stop=stop,
                    position=position + rows.start,
                    first_part=first_part,
                    slices=slices,
                )
                runs.append(run)
                first_part += slices
            position += segment.n
        if runs:
            assert own is not None
            tiers.append(CodedTier(own, runs, slice_rows))
    return tiers


def _slice_rows(tokens: int) -> int:
    """Return the rows of a slice, a multiple of `BLOCK`, for so many tokens of all heads."""
    return min(_MOST, max(_FEWEST, tokens // _SLICES // BLOCK * BLOCK))


def attend_coded(
    state: State,
    turning: Layout,
    tiers: list[CodedTier],
    block: QueryBlock,
    skip_below: float,
    parts: AttentionParts,
    sharing: tuple[int, int],
) -> None:
    """Fill in the parts of an attention that the slices of coded tokens are.

    Parameters
    ----------
    state : State
    turning : Layout
        How the coordinates of keys turn with the position.
    tiers : list of CodedTier
    block : QueryBlock
    skip_below : float
        Values with smaller attention weights may be skipped; the other parts must be there if it is not 0.
    parts : AttentionParts
    sharing : (int, int)
        The pool and the number of threads.
    """
    turned, products = _turned(state, turning, block)
    jobs = [job for tier in tiers for job in _jobs(tier, block, turned, products, turning.waves)]
    size = len(block.stop) * max((min(tier.slice_rows, run.n) for tier in tiers for run in tier.runs), default=0)
    if skip_below == 0:
        least = np.zeros(parts.largest.shape[:2], np.float32)
        _, threads = sharing
        weights = scratch(threads, 4 * size).view(np.float32)
        for job in jobs:
            _run(job, (BOTH, least, weights), parts, sharing)
        return
    held = [np.empty((job.units, size), np.float32) for job in jobs]
    for job, weights in zip(jobs, held, strict=True):
        _run(job, (SCORE, np.zeros((0, 0), np.float32), weights), parts, sharing)
    least = _thresholds(parts, skip_below)
    for job, weights in zip(jobs, held, strict=True):
        _run(job, (SUM, least, weights), parts, sharing)


def _run(job: _Job, weights: tuple[int, Floats, Floats], parts: AttentionParts, sharing: tuple[int, int]) -> None:
    """Take the steps of a job; `weights` are as in `attend_codes`."""
    check_memory(kernel("attend_codes")(*sharing, *job, parts, weights))


def _thresholds(parts: AttentionParts, skip_below: float) -> Floats:
    """Return a threshold per head and part: smaller weights are attention weights below `skip_below` for every query.

    Weights of a part are relative to its largest, which is 1. So a threshold of 2 skips all of them.
    """
    highest = np.max(parts.largest, axis=1, keepdims=True).astype(np.float64)
    total = np.sum(np.exp(parts.largest - highest) * parts.total, axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        least = np.min(skip_below * total * np.exp(highest - parts.largest), axis=2)
    return np.minimum(least, 2).astype(np.float32)


def _turned(state: State, turning: Layout, block: QueryBlock) -> tuple[Floats, Floats]:
    """Return the queries as they meet what is coded of keys, and what the mean keys contribute."""
    if state.learned is None:
        return block.plain, np.empty((0, 2, 0, 0), np.float32)
    keys = state.learned.keys
    return keys.turn_queries(block.plain), turning.products(block.plain, keys.means)


def _jobs(tier: CodedTier, block: QueryBlock, turned: Floats, products: Floats, waves: MeanWaves) -> Iterator[_Job]:
    """Yield the jobs of a tier."""
    keys, values = tier.codecs
    rotated = np.empty_like(turned)
    for group in keys.groups:
        heads = slice(None) if len(keys.groups) == 1 else list(group.heads)
        rotated[heads] = rotate(turned[heads], basis(group.codec))
    cap = np.float32(0 if block.softcap is None else block.softcap)
    queries = CodedQueries(rotated=rotated, products=products, first=block.first, stop=block.stop, cap=cap)
    by_groups: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for head, ((key, key_place), (value, value_place)) in enumerate(zip(keys.positions, values.positions, strict=True)):
        by_groups.setdefault((key, value), []).append((head, key_place, value_place))
    for (key, value), places in by_groups.items():
        key_group, value_group = keys.groups[key], values.groups[value]
        tokens = CodedTokens(
            runs=np.array([_fields(run, key, value) for run in tier.runs], np.int64),
            heads=np.array(places, np.int64),
            slices=tier.slices,
            slice_rows=tier.slice_rows,
            key_bytes=key_group.code_bytes,
            value_bytes=value_group.code_bytes,
        )
        yield _Job((_tables(key_group.codec), _tables(value_group.codec), waves), tokens, queries)


def _fields(run: CodedRun, key: int, value: int) -> tuple[int, ...]:
    """Return the fields of a run, in the arrays of groups of keys and of values, as `attend_codes` takes them."""
    keys, values, fields = run.segment.keys[key], run.segment.values[value], []
    for array in (keys.codes, keys.scales, values.codes, values.scales):
        fields += [_address(array) + run.start * array.strides[1], array.strides[0]]
    return (*fields, run.n, run.position, run.first_part)


def _address(array: NDArray) -> int:
    return int(array.__array_interface__["data"][0])

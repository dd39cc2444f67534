"""Attention over the tokens of a layer: on codes where tokens are coded, on 16-bit numbers elsewhere.

Codes of keys are of what the head's mean leaves. What the mean contributes to a score depends on the token's position
alone, and is added (`tqvec.kvcache.mean_waves`). The mean value is subtracted from all values, and added to their sum
in the end.

Queries are taken in blocks of neighbouring positions. Tokens that no query of a block sees are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec._types import Floats
from tqvec.kernels.arguments import AttentionParts
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.threads.helpers import share
from tqvec.kvcache.codecs import LayerCodecs, basis
from tqvec.kvcache.coded_attention import attend_coded, coded_tiers
from tqvec.kvcache.key_basis import Layout
from tqvec.kvcache.products import rotate
from tqvec.kvcache.query_block import QueryBlock
from tqvec.kvcache.score_options import ScoreOptions
from tqvec.kvcache.state import State
from tqvec.kvcache.uncoded_attention import attend_uncoded, uncoded_runs

_SCORES = 1 << 24  # scores of all heads that are held at a time, unless a single query has more
_BLOCK = 256  # queries that share the tokens that they see, at most
# Time for a coordinate of a token, and for its product with a query: rough figures choose the number of threads.
_NS_COORDINATE, _NS_PRODUCT = 0.1, 0.03


class Task(NamedTuple):
    """The tokens, codecs and options of an attention.

    Attributes
    ----------
    state : State
    codecs : LayerCodecs
    turning : Layout
        How the coordinates of keys turn with the position.
    skip_below : float
        Values with smaller attention weights may be skipped.
    options : ScoreOptions
    """

    state: State
    codecs: LayerCodecs
    turning: Layout
    skip_below: float
    options: ScoreOptions


def attend(task: Task, q: Floats, threads: int) -> tuple[Floats, Floats]:
    """Compute causal attention of the newest tokens' queries.

    Parameters
    ----------
    task : Task
    q : (n_heads, n_queries, head_dim) float32
        Queries times the factor of the scores. Query j does not see the newest ``n_queries - 1 - j`` tokens.
    threads : int

    Returns
    -------
    out : (n_heads, n_queries, head_dim) float32
    skipped : (n_heads, n_queries) float32
        Share of each query's attention that was skipped.
    """
    n_heads, nq, d = q.shape
    state, options = task.state, task.options
    heads = state.shape[0]
    group = n_heads // heads
    plain = np.ascontiguousarray(q.reshape(heads, group, nq, d).swapaxes(1, 2)).reshape(heads, nq * group, d)
    end = state.n + (state.evicted if state.n > state.sinks.n else 0)  # position behind the newest token
    stop = np.repeat(np.arange(end - nq, end) + 1, group)
    first = stop - options.window
    sinks = None if options.sinks is None else np.tile(options.sinks.reshape(heads, group), nq)
    out, skipped = np.empty_like(plain), np.empty(plain.shape[:2], np.float32)
    most = min(state.n, options.window + _BLOCK)  # tokens that a block sees
    step = min(_BLOCK, max(1, _SCORES // (heads * most)))
    for at in range(0, stop.size, step):
        rows = slice(at, at + step)
        logits = None if sinks is None else sinks[:, rows]
        block = QueryBlock(
            plain=plain[:, rows], first=first[rows], stop=stop[rows], sinks=logits, softcap=options.softcap
        )
        out[:, rows], skipped[:, rows] = _attend_block(task, block, threads)
    out, skipped = (x.reshape(heads, nq, group, -1).swapaxes(1, 2).reshape(n_heads, nq, -1) for x in (out, skipped))
    return out, skipped[..., 0]


def _attend_block(task: Task, block: QueryBlock, threads: int) -> tuple[Floats, Floats]:
    """Compute attention of some queries of all KV heads, (heads, g, head_dim), and their skipped shares, (heads, g)."""
    state, (heads, g, d) = task.state, block.plain.shape
    mean_values = None if state.learned is None else state.learned.values
    rotation = basis(task.codecs.coded.values.groups[0].codec)
    runs = uncoded_runs(state, block)
    logits = len(runs)  # number of their part
    first_coded = logits + (block.sinks is not None)
    tiers = coded_tiers(state, task.codecs, block, first_coded)
    parts = _empty_parts(heads, first_coded + sum(tier.slices for tier in tiers), g, d)
    attend_uncoded(runs, block, mean_values, rotation, parts, threads)
    if block.sinks is not None:  # one token per query with this score and the value 0, less the mean as all values are
        parts.largest[:, logits], parts.total[:, logits], parts.skipped[:, logits] = block.sinks, 1, 0
        parts.sums[:, logits] = 0 if mean_values is None else -rotate(mean_values, rotation)[:, None]
    nanoseconds = sum(tier.n for tier in tiers) * heads * d * (_NS_COORDINATE + g * _NS_PRODUCT)
    sharing = share(threads, nanoseconds)
    attend_coded(state, task.turning, tiers, block, task.skip_below, parts, sharing)
    out, skipped = np.empty(block.plain.shape, np.float32), np.empty((heads, g), np.float32)
    kernel("merge_parts")(*sharing, parts, out, skipped)
    out = rotate(out, rotation.T)
    if mean_values is not None:
        out += mean_values[:, None]
    return out, skipped


def _empty_parts(heads: int, parts: int, g: int, d: int) -> AttentionParts:
    """Return the parts of an attention, to fill in."""
    largest, total, skipped = np.empty((3, heads, parts, g), np.float32)
    return AttentionParts(largest, total, skipped, np.empty((heads, parts, g, d), np.float32))

"""Attention on the codes of many heads and tokens, in units that threads share: a slice of the tokens of a head."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import jit
from tqvec.kernels.attend.portable import cap_scores_portable
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.threads.pool import address_of, run_units, unit_function
from tqvec.kernels.threads.views import bytes_at, halves_at

add_means, code_scores = kernel("add_means"), kernel("code_scores")
softmax_rows, add_values = kernel("softmax_rows"), kernel("add_values")

# Fields of a run: the address of its first row, and the bytes from head to head, in the arrays of codes and scales.
KEY_CODES, KEY_CODES_STEP, KEY_SCALES, KEY_SCALES_STEP = range(4)
VALUE_CODES, VALUE_CODES_STEP, VALUE_SCALES, VALUE_SCALES_STEP = range(4, 8)
RUN_ROWS, POSITION, FIRST_PART = range(8, 11)  # its length, position of its first token, part of its first slice

SCORE, SUM, BOTH = 1, 2, 3  # steps: scores and weights; sums of values


@jit
def _hide_rows(scores, position, queries, seen):
    """Make scores of rows before a query's window -infinity.

    Fill in how many of the rows, the first of which has this position, each query sees or has before its window; 0 if
    all are before it.
    """
    first, stop = queries.first, queries.stop
    n = scores.shape[1]
    for q in range(scores.shape[0]):
        hidden = min(n, first[q] - position)
        for t in range(hidden):
            scores[q, t] = -np.inf
        seen[q] = 0 if hidden == n else stop[q] - position


@jit
def _attend_unit(plan, call, worker, unit):
    (key_tables, value_tables, waves), tokens, steps = plan
    queries, parts, least, workspace = call
    runs, heads = tokens.runs, tokens.heads
    part = runs[0, FIRST_PART] + unit % tokens.slices
    h = unit // tokens.slices
    head, key, value = heads[h, 0], heads[h, 1], heads[h, 2]
    r = 0
    while r + 1 < runs.shape[0] and runs[r + 1, FIRST_PART] <= part:
        r += 1
    run = runs[r]
    start = (part - run[FIRST_PART]) * tokens.slice_rows
    n, position = min(tokens.slice_rows, run[RUN_ROWS] - start), run[POSITION] + start
    rotated = queries.rotated[head]
    g = rotated.shape[0]
    scores = workspace[worker if steps == BOTH else unit][: g * n].reshape(g, n)
    if steps & SCORE:
        codes = run[KEY_CODES] + key * run[KEY_CODES_STEP] + start * tokens.key_bytes
        scale = halves_at(run[KEY_SCALES] + key * run[KEY_SCALES_STEP] + 2 * start, (n,))
        code_scores(key_tables, rotated, bytes_at(codes, (n, tokens.key_bytes)), scale, scores)
        if queries.products.shape[0] > 0:
            add_means(queries.products[head], waves, position, scale, scores)
        if queries.cap > 0:
            cap_scores_portable(scores, queries.cap)
        seen = np.empty(g, np.int64)
        _hide_rows(scores, position, queries, seen)
        softmax_rows(scores, seen, parts.largest[head, part], parts.total[head, part])
    if steps & SUM:
        codes = run[VALUE_CODES] + value * run[VALUE_CODES_STEP] + start * tokens.value_bytes
        scale = halves_at(run[VALUE_SCALES] + value * run[VALUE_SCALES_STEP] + 2 * start, (n,))
        sums, skipped = parts.sums[head, part], parts.skipped[head, part]
        sums[:] = np.float32(0.0)
        skipped[:] = np.float32(0.0)
        values = bytes_at(codes, (n, tokens.value_bytes))
        add_values(value_tables, scores, values, scale, least[head, part], sums, skipped)


@jit
def attend_codes(pool, threads, tables, tokens, queries, parts, weights):
    """Fill in the parts of the attention that slices of coded tokens are.

    Parameters
    ----------
    pool, threads : int
        As in `run_units`.
    tables : (AttentionTables, AttentionTables, MeanWaves)
        Of keys, of values, and of the mean key.
    tokens : CodedTokens
    queries : CodedQueries
    parts : AttentionParts
        Of these heads and slices: those of `SCORE` are `largest` and `total`, those of `SUM` the others.
    weights : (steps, least, workspace)
        `SCORE`, `SUM` or `BOTH`; values are left out if their weights are less than (heads, parts) float32 in their
        part; and weights, (rows, ≥ g * rows of a slice) float32: a row per thread for `BOTH`, otherwise a row per unit,
        which `SUM` takes from `SCORE`.

    Returns
    -------
    bool
        False if memory ran out.
    """
    steps, least, workspace = weights
    plan, call = (tables, tokens, steps), (queries, parts, least, workspace)
    function = unit_function(_attend_unit, plan, call)
    units = tokens.heads.shape[0] * tokens.slices
    return run_units(pool, threads, function, address_of(plan), address_of(call), units)


@jit
def _merge_unit(plan, call, worker, unit):
    largest, total, skipped, sums = plan
    out, share = call
    n_parts, g, d = sums.shape[1:]
    for q in range(g):
        highest = np.float32(-np.inf)
        for p in range(n_parts):
            highest = max(highest, largest[unit, p, q])
        if highest == -np.inf:
            highest = np.float32(0.0)
        row = out[unit, q]
        row[:] = np.float32(0.0)
        everything, left_out = np.float32(0.0), np.float32(0.0)
        for p in range(n_parts):
            factor = np.exp(largest[unit, p, q] - highest)
            everything += factor * total[unit, p, q]
            left_out += factor * skipped[unit, p, q]
            values = sums[unit, p, q]
            for j in range(d):
                row[j] += factor * values[j]
        divisor = everything if everything > 0 else np.float32(1.0)
        for j in range(d):
            row[j] /= divisor
        share[unit, q] = left_out / divisor


@jit
def merge_parts(pool, threads, parts, out, share):
    """Combine the attention over the tokens of all parts, in their order.

    Parameters
    ----------
    pool, threads : int
        As in `run_units`.
    parts : AttentionParts
    out : (heads, g, d) float32
        Filled; 0 for a query that sees no token.
    share : (heads, g) float32
        Filled: share of each query's weights that was skipped.
    """
    call = (out, share)
    function = unit_function(_merge_unit, parts, call)
    run_units(pool, threads, function, address_of(parts), address_of(call), out.shape[0])  # needs no memory

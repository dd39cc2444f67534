"""Encoding by the trellis codebook (Viterbi's algorithm) and the levels of codes; README.md has the maths.

A tile is (d, LANES) float32, a vector a lane. Every lane runs the same operations in the same order, so a code depends
on its vector alone.
"""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.fwht.portable import forward_tile_portable
from tqvec.kernels.pack.portable import pack_row_portable, padded_words, place_codes
from tqvec.kernels.quantize.portable import add_products, load_tile_portable, tree_sum

REACH = 8  # times ν: coordinates on either side of the end of a band that choose the start state


@jit
def _log2(power):
    log = 0
    while 1 << log < power:
        log += 1
    return log


@jit
def _branch_metrics(y, thresholds, levels, metric):
    """Squared distance of `y` (LANES,) to the nearest level of each state window, into `metric` (windows, LANES).

    The number of lanes is read from the array: a constant would be unrolled before LLVM vectorises.
    """
    windows = levels.shape[1]
    lanes = y.shape[0]
    for w in range(windows):
        level = levels[0, w]
        for lane in range(lanes):
            metric[w, lane] = level
        for i in range(thresholds.shape[0]):
            threshold = thresholds[i, w]
            level = levels[i + 1, w]
            for lane in range(lanes):
                metric[w, lane] = level if y[lane] > threshold else metric[w, lane]
        for lane in range(lanes):
            error = y[lane] - metric[w, lane]
            metric[w, lane] = error * error


@jit
def _add_compare_select(cost, metric, new, decision):
    """One step: cheapest path into each state. Bit `state` of `decision` is set if it comes from the higher one.

    State v is reached from v >> 1 by window v, and from (v + states) >> 1 by window v + states. On a tie the path
    from the lower state survives.
    """
    states = cost.shape[0]
    for word in range(decision.shape[0]):
        for lane in range(LANES):
            decision[word, lane] = 0
    for state in range(states):
        shift = np.uint32(state & 31)
        for lane in range(LANES):
            low = cost[state >> 1, lane] + metric[state, lane]
            high = cost[(state + states) >> 1, lane] + metric[state + states, lane]
            decision[state >> 5, lane] |= np.uint32(np.uint32(high < low) << shift)
            new[state, lane] = min(low, high)


@jit
def _run(y, first, count, thresholds, levels, cost, metric, decisions):
    """Take `count` coordinates from `first` on, cyclically; return the costs of the states after the last."""
    d = y.shape[0]
    for i in range(count):
        _branch_metrics(y[(first + i) % d], thresholds, levels, metric)
        _add_compare_select(cost[i & 1], metric, cost[1 - (i & 1)], decisions[i])
    return cost[count & 1]


@jit
def _window(decision, lane, state, states):
    """State window by which the best path of `lane` came into `state`."""
    return state + states * (np.int64(decision[state >> 5, lane] >> np.uint32(state & 31)) & 1)


@jit
def _start_state(cost, decisions, lane, reach, d):
    """Start state: that of the cheapest path through the coordinates around the end of a band, with period `d`."""
    states = cost.shape[0]
    state = 0
    for other in range(1, states):
        if cost[other, lane] < cost[state, lane]:
            state = other
    for i in range(2 * reach - 1, reach - 1, -1):
        state = _window(decisions[i], lane, state, states) >> 1
    for bit in range(d, _log2(states)):
        state = state & ~(1 << bit) | (state >> (bit - d) & 1) << bit
    return state


@jit
def _subset_code(value, thresholds, w):
    """Number of thresholds of window `w` below `value`; there are 2^k − 1, ascending."""
    code = 0
    half = (thresholds.shape[0] + 1) >> 1
    while half > 0:
        if value > thresholds[code + half - 1, w]:
            code += half
        half >>= 1
    return code


@jit
def encode_tile_portable(y, tables, codes):
    """Encode a tile along the tail-biting path of least squared error, given its start state.

    Parameters
    ----------
    y : (d, LANES) float32
        One band of rotated unit vectors.
    tables : TrellisTables
    codes : (d, LANES) uint8
        Filled: twice the in-subset bits, plus the path bit.
    """
    d = y.shape[0]
    thresholds = tables.thresholds
    levels = tables.levels
    windows = levels.shape[1]
    states = windows // 2
    reach = REACH * _log2(states)
    metric = np.empty((windows, LANES), np.float32)
    decisions = np.empty((max(d, 2 * reach), (states + 31) // 32, LANES), np.uint32)
    cost = np.zeros((2, states, LANES), np.float32)
    free = _run(y, d * reach - reach, 2 * reach, thresholds, levels, cost, metric, decisions)
    start = np.empty(LANES, np.int64)
    for lane in range(LANES):
        start[lane] = _start_state(free, decisions, lane, reach, d)
    cost[0] = np.float32(np.inf)
    for lane in range(LANES):
        cost[0, start[lane], lane] = np.float32(0.0)
    _run(y, 0, d, thresholds, levels, cost, metric, decisions)
    for lane in range(LANES):
        state = start[lane]
        for j in range(d - 1, -1, -1):
            w = _window(decisions[j], lane, state, states)
            codes[j, lane] = 2 * _subset_code(y[j, lane], thresholds, w) + (w & 1)
            state = w >> 1


@jit
def decode_tile_portable(codes, levels, out):
    """Decode a tile to levels.

    Parameters
    ----------
    codes : (d, LANES) uint8
    levels : (2**(nbits - 1), windows) float32
    out : (d, LANES) float32
        Filled: ``levels[code >> 1, window]``. The state window is made of the path bits, the lowest bits of this code
        and of those before it, cyclically (tail-biting).
    """
    d = codes.shape[0]
    windows = levels.shape[1]
    mask = windows - 1
    back = _log2(windows)
    for lane in range(LANES):
        w = 0
        for j in range(d * back - back, d * back):
            w = w << 1 | (codes[j % d, lane] & 1)
        for j in range(d):
            w = (w << 1 | (codes[j, lane] & 1)) & mask
            out[j, lane] = levels[codes[j, lane] >> 1, w]


@jit
def encode_trellis_rows_portable(x, rotation, bands, tables, start, stop, out):
    """Encode rows ``start .. stop`` of `x`, each band along a tail-biting path of its own.

    Parameters
    ----------
    x : (n, d) float32
    rotation : RotationTables
    bands : (n_bands, 3) int64
    tables : tuple of TrellisTables
        One per band; further ones are not used.
    start, stop : int
    out : EncodedRows
        Filled.

    Returns
    -------
    int
        `stop`, or the first row that holds NaN or infinity; then the rows after it are undefined.
    """
    data, norm, dot, energy = out
    d = x.shape[1]
    tile = np.zeros((d, LANES), np.float32)
    spare = np.zeros((d, LANES), np.float32)
    codes = np.empty((d, LANES), np.uint8)
    levels = np.zeros((d, LANES), np.float32)  # bands need not reach d
    part = np.empty(8 * LANES, np.float64)
    dot_part = np.empty(8 * LANES, np.float64)
    energy_part = np.empty(8 * LANES, np.float64)
    words = np.zeros((LANES, padded_words(bands)), np.uint64)
    flat = words.view(np.uint8)
    for i in range(start, stop, LANES):
        count = min(LANES, stop - i)
        load_tile_portable(x, i, count, tile, part, norm)
        for lane in range(count):
            if not np.isfinite(norm[i + lane]):
                return i + lane
        y = forward_tile_portable(tile, spare, rotation)
        dot_part[:] = 0.0
        energy_part[:] = 0.0
        for b in range(bands.shape[0]):
            lo = bands[b, 0]
            hi = bands[b, 1]
            encode_tile_portable(y[lo:hi], tables[b], codes[lo:hi])
            decode_tile_portable(codes[lo:hi], tables[b].levels, levels[lo:hi])
        place_codes(codes, bands, flat[:count])
        add_products(y.reshape(-1), levels.reshape(-1), 0, dot_part)
        add_products(levels.reshape(-1), levels.reshape(-1), 0, energy_part)
        for lane in range(count):
            dot[i + lane] = tree_sum(dot_part[lane::LANES])
            energy[i + lane] = tree_sum(energy_part[lane::LANES])
            pack_row_portable(words[lane], bands, data[i + lane])
    return stop

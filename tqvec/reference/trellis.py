"""The trellis codebook: levels of codes, Viterbi's algorithm, and exhaustive search over all codes of a short vector.

Codes are 2 s + p: in-subset bits s and a path bit p. Window w_j holds the path bits of coordinates j, j−1, …, j−ν, the
newest lowest, indices modulo the length n of the band. `table[s, w]` is the level (the "Trellis codebook" page).
"""

from __future__ import annotations

import json
import math
from importlib.resources import files
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

REACH = 8  # times ν: coordinates at either end of a tail-biting path that choose its start state


def frozen(d: int, nbits: int) -> Array:
    """The format's own levels, (2^(b−1), 2^(ν+1)) float64, from the data file (the "Trellis codebook" page)."""
    width = json.loads(files("tqvec").joinpath("codec/data/trellis.json").read_bytes())["widths"][str(nbits)]
    return np.array([[float.fromhex(level) for level in row] for row in width["levels"]]) / math.sqrt(d)


def thresholds(table: Array) -> Array:
    """Midpoints between the levels of each window (the "Trellis codebook" page, nearest level)."""
    return (table[1:] + table[:-1]) / 2


def windows(path: Codes, nu: int) -> Codes:
    """w_j = Σ_k p_(j−k mod n) 2^k, k = 0 … ν, of path bits (rows, n) (the "Trellis codebook" page, definition)."""
    n = path.shape[1]
    before = (np.arange(n)[:, None] - np.arange(nu + 1)) % n
    return np.asarray(path[:, before] @ (1 << np.arange(nu + 1)), np.int64)


def levels(codes: Codes, table: NDArray) -> NDArray:
    """table[s_j, w_j] of codes (rows, n) (the "Trellis codebook" page, definition)."""
    nu = table.shape[1].bit_length() - 2
    found: NDArray = table[codes >> 1, windows(codes & 1, nu)]
    return found


def nearest_level(y: NDArray, limits: NDArray) -> Codes:
    """In-subset bits of values (rows,) in every window: thresholds below the value (the "Trellis codebook" page)."""
    return np.asarray((y[:, None, None] > limits).sum(axis=1), np.int64)


def viterbi(y: NDArray, table: NDArray, cost: NDArray) -> tuple[NDArray, list[NDArray[np.bool_]], list[Codes]]:
    """Cheapest paths through the coordinates of rows `y` (rows, n) (Viterbi 1967; Forney 1973).

    State v, the last ν path bits, is entered from states v >> 1 and (v + 2^ν) >> 1 by windows v and v + 2^ν; on a tie
    the path from the first survives. Costs are sums of (y − level)² in the type of `y`, in order of the coordinates.

    Parameters
    ----------
    y : (rows, n)
    table : (2^(b−1), 2^(ν+1)), of the type of `y`
    cost : (rows, 2^ν), of the type of `y`
        Of starting in each state.

    Returns
    -------
    cost : (rows, 2^ν)
        Of ending in each state.
    choices : n arrays (rows, 2^ν)
        Whether the path into a state comes from the second.
    nearest : n arrays (rows, 2^(ν+1))
        In-subset bits of each window.
    """
    count = cost.shape[1]
    limits = thresholds(table.astype(np.float64)).astype(y.dtype)
    low, high = np.arange(count) >> 1, np.arange(count, 2 * count) >> 1
    choices, nearest = [], []
    for value in y.T:
        s = nearest_level(value, limits)
        error = value[:, None] - table[s, np.arange(2 * count)]
        metric = error * error
        first, second = cost[:, low] + metric[:, :count], cost[:, high] + metric[:, count:]
        choices.append(second < first)
        nearest.append(s)
        cost = np.where(choices[-1], second, first)
    return cost, choices, nearest


def traced_windows(choices: list[NDArray[np.bool_]], end: Codes) -> Codes:
    """Windows (rows, n) of the paths that end in states `end` (rows,) (Forney 1973)."""
    rows, state, found = np.arange(len(end)), end, []
    for choice in reversed(choices):
        w = state + choice.shape[1] * choice[rows, state]
        found.append(w)
        state = w >> 1
    return np.array(found[::-1]).T


def start_states(y: NDArray, table: NDArray) -> Codes:
    """Start state of a tail-biting path: free search of the last and the first `REACH` ν coordinates.

    The cheapest path, of those the one to the lowest state, gives the path bits before the start. Where the band has
    fewer than ν coordinates, bits repeat with its length.
    """
    n, count = y.shape[1], table.shape[1] // 2
    nu = count.bit_length() - 1
    around = y[:, np.arange(-REACH * nu, REACH * nu) % n]
    cost, choices, _ = viterbi(around, table, np.zeros((len(y), count), y.dtype))
    before = traced_windows(choices, np.argmin(cost, axis=1))[:, REACH * nu - 1] % count
    return sum(((before >> k % n & 1) << k for k in range(nu)), np.zeros_like(before))


def closed_codes(y: NDArray, table: NDArray, start: Codes) -> Codes:
    """Best codes (rows, n) of the paths that start and end in states `start` (the "Trellis codebook" page)."""
    rows = np.arange(len(y))
    cost = np.full((len(y), table.shape[1] // 2), np.inf, y.dtype)
    cost[rows, start] = 0
    _, choices, nearest = viterbi(y, table, cost)
    w = traced_windows(choices, start)
    s = np.array([found[rows, at] for found, at in zip(nearest, w.T, strict=True)]).T
    return np.asarray(2 * s + (w & 1), np.int64)


def encode(y: NDArray, table: NDArray) -> Codes:
    """Codes of rows (the "Trellis codebook" page); float32 `y` and `table` give the format's bits."""
    return closed_codes(y, table, start_states(y, table))


def exhaustive(y: Array, table: Array) -> dict[int, float]:
    """Least squared error of one vector over all codes, for each start state (derived: the definition itself)."""
    n, nu = len(y), table.shape[1].bit_length() - 2
    codes = np.array(list(product(range(2 * table.shape[0]), repeat=n)))
    errors = np.sum((y - levels(codes, table)) ** 2, axis=1)
    at_seam = windows(codes & 1, nu)[:, -1] & (2**nu - 1)
    return {int(state): float(errors[at_seam == state].min()) for state in np.unique(at_seam)}

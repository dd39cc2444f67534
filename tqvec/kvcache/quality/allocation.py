"""Widths for each layer and head at a budget of bytes, from the errors that they make on captured tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _validate
from tqvec.errors import InputError
from tqvec.kvcache.byte_model import row_bytes
from tqvec.kvcache.cache import KVCache
from tqvec.kvcache.policy import Policy, Width
from tqvec.kvcache.quality.fidelity import output_errors

_SCALES = 4  # bytes of a token's two scales

Captured = tuple[ArrayLike, ArrayLike, ArrayLike]


class Step(NamedTuple):
    """A point that the allocation passed: bytes of a token over all layers and heads, and the expected error."""

    bytes_per_token: int
    error: float


class Allocation(NamedTuple):
    """Widths that meet a budget.

    Attributes
    ----------
    policy : Policy
        With a key and a value width for each layer and head.
    table : tuple of Step
        The Pareto front: the best that was found for each size, from the least widths up to the budget.
    errors : (n_layers, n_kv_heads, 2, widths) float64
        Mean squared error of a head's attention output, relative to the output's squared length, if its keys (0) or
        its values (1) alone have each of the widths.
    """

    policy: Policy
    table: tuple[Step, ...]
    errors: NDArray[np.float64]


class _Move(NamedTuple):
    """One side of a head gets more bits."""

    layer: int
    head: int
    side: int
    width: int  # place among the widths
    bytes: int
    gain: float


def allocate(
    captured: Sequence[Captured],
    bytes_per_token: int,
    policy: Policy | None = None,
    widths: Sequence[Width] = (2, 3, 4, 5),
    scale: float | None = None,
) -> Allocation:
    """Choose the width of each head's keys and values, so that attention errs least at a budget of bytes.

    For each side of each head the error of the output is measured with each width, everything else exact. The errors
    are taken to add up; then the next bytes go where they lower the sum most, byte for byte.

    Parameters
    ----------
    captured : sequence of (k, v, q)
        Of each layer: keys and values (n_kv_heads, n_tokens, head_dim), and queries (n_heads, n_queries, head_dim) of
        the newest tokens.
    bytes_per_token : int
        Codes and scales of one cold token, over all layers and heads.
    policy : Policy, optional
        All that is not widths: its codebook, means, sinks and hot window are those that errors are measured with, so it
        must leave tokens to code. Default: ``Policy()``.
    widths : sequence
        To choose from, by rising size.
    scale : float, optional
        Of the scores. Default: 1/√head_dim.

    Returns
    -------
    Allocation

    Raises
    ------
    InputError
        The budget is less than the least widths take, or shapes don't fit.
    """
    policy = Policy() if policy is None else policy
    if not captured or not widths:
        raise InputError("captured and widths must not be empty")
    heads, _, d = np.shape(captured[0][0])
    sizes = [row_bytes([width], d) for width in widths]
    if sizes != sorted(set(sizes)):
        raise InputError(f"widths must take more bytes each than the one before, got {list(widths)!r}")
    errors = np.array([_layer_errors(one, policy, widths, scale) for one in captured])
    place = np.zeros(errors.shape[:3], np.int64)
    used = place.size * sizes[0] + len(captured) * heads * _SCALES
    if _validate.integer(bytes_per_token, "bytes_per_token", 1, 2**62) < used:
        raise InputError(
            f"bytes_per_token must be at least {used}, what {widths[0]!r} bits take, got {bytes_per_token}"
        )
    error = float(errors[..., 0].sum())
    table = [Step(used, error / place.size * 2)]
    for move in _moves(errors, sizes):
        if used + move.bytes > bytes_per_token:
            break
        place[move.layer, move.head, move.side] = move.width
        used, error = used + move.bytes, error - move.gain
        table.append(Step(used, error / place.size * 2))
    chosen = [[tuple(widths[i] for i in layer[:, side]) for layer in place] for side in (0, 1)]
    found = replace(policy, key_nbits=tuple(chosen[0]), value_nbits=tuple(chosen[1]), protected=0)
    return Allocation(found, tuple(table), errors)


def _layer_errors(
    captured: Captured, policy: Policy, widths: Sequence[Width], scale: float | None
) -> NDArray[np.float64]:
    """Errors of one layer, (n_kv_heads, 2, widths)."""
    k, v, q = captured
    heads, _, d = np.shape(k)
    found = np.empty((heads, 2, len(widths)))
    for at, width in enumerate(widths):
        uniform = replace(policy, key_nbits=width, value_nbits=width, protected=0, max_tokens=None)
        plain = replace(uniform, old_after=None, old_key_nbits=None, old_value_nbits=None)
        cache = KVCache(1, heads, d, plain)
        cache.append(0, k, v)
        if cache.tiers(0).cold == 0:
            raise InputError(f"captured tensors have {np.shape(k)[1]} tokens, of which the policy codes none")
        for side, other in enumerate(((cache.keys(0), v), (k, cache.values(0)))):
            error = output_errors(q, (k, v), other, scale)
            found[:, side, at] = np.square(error).reshape(heads, -1).mean(axis=1)
    return found


def _moves(errors: NDArray[np.float64], sizes: Sequence[int]) -> list[_Move]:
    """Moves along the lower convex hull of each head's and side's errors, the most worth a byte first."""
    found = []
    for layer, head, side in np.ndindex(*errors.shape[:3]):
        curve = errors[layer, head, side]
        at = 0
        while at < len(sizes) - 1:
            slopes = [(curve[at] - curve[to]) / (sizes[to] - sizes[at]) for to in range(at + 1, len(sizes))]
            if max(slopes) <= 0:
                break
            to = at + 1 + int(np.argmax(slopes))
            found.append(_Move(layer, head, side, to, sizes[to] - sizes[at], float(curve[at] - curve[to])))
            at = to
    return sorted(found, key=lambda move: -move.gain / move.bytes)

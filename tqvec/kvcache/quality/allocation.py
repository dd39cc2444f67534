"""Choose the width of each layer and head at a budget of bytes, by the errors on captured tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _validate
from tqvec._present import Presented, Sheet, pyplot
from tqvec.errors import InputError
from tqvec.kvcache import checks
from tqvec.kvcache.byte_model import row_bytes
from tqvec.kvcache.cache import KVCache
from tqvec.kvcache.policy import Policy, Width
from tqvec.kvcache.quality.captured import CapturedLayer, check_layers
from tqvec.kvcache.quality.fidelity import output_errors
from tqvec.kvcache.rope import Rope

_SCALES = 4  # bytes of a token's two scales, per head

Captured = tuple[ArrayLike, ArrayLike, ArrayLike]


class Step(NamedTuple):
    """A point of the Pareto front: bytes per token over all layers and heads, and the expected squared error."""

    bytes_per_token: int
    error: float


class _AllocationFields(NamedTuple):
    """The fields of an `Allocation`."""

    policy: Policy
    pareto_front: tuple[Step, ...]
    errors: NDArray[np.float64]


class Allocation(Presented, _AllocationFields):
    """Widths that meet a budget.

    Attributes
    ----------
    policy : Policy
        The policy with a key width and a value width per layer and head.
    pareto_front : tuple of Step
        The lowest error for each size, from the smallest widths up to the budget.
    errors : (n_layers, n_kv_heads, 2, widths) float64
        Mean squared error of a head's attention output, relative to the output's squared length, if only its keys
        (side 0) or its values (side 1) are coded, with each of the widths.
    """

    __slots__ = ()

    def _sheet(self) -> Sheet:
        return Sheet(("bytes per token", "expected squared error"), list(self.pareto_front), "Pareto front")

    def plot(self) -> Any:
        """Draw the Pareto front, and return the axes.

        Raises
        ------
        UnsupportedError
            matplotlib is not installed.
        """
        _, axes = pyplot("plot").subplots(layout="constrained")
        axes.step(*zip(*self.pareto_front, strict=True), where="post")
        axes.set(xlabel="bytes per token", ylabel="expected squared error", yscale="log")
        axes.grid(alpha=0.3)
        return axes


class _Move(NamedTuple):
    """A change that gives one side of a head more bits."""

    layer: int
    head: int
    side: int
    width: int  # index among the widths
    bytes: int
    gain: float


def allocate(
    captured: Sequence[Captured],
    bytes_per_token: int,
    *,
    policy: Policy | None = None,
    widths: Sequence[Width] = (2, 3, 4, 5),
    scale: float | None = None,
    rope: Rope | Sequence[Rope | None] | None = None,
) -> Allocation:
    """Choose the width of each head's keys and values that minimise the error of attention at a budget of bytes.

    The error of the output is measured for each side of each head and each width, everything else exact. Errors are
    assumed to add up. Each further byte goes where it lowers the sum most.

    Parameters
    ----------
    captured : sequence of (k, v, q)
        Per layer: keys and values (n_kv_heads, n_tokens, head_dim), and queries (n_heads, n_queries, head_dim) of the
        newest tokens.
    bytes_per_token : int
        Budget: codes and scales of one coded token, over all layers and heads.
    policy : Policy, optional
        The codebook, means, sinks and recent tokens with which errors are measured; its widths are not used. It must
        leave tokens to code. Default: ``Policy()``.
    widths : sequence
        Widths to choose from, by rising size.
    scale : float, optional
        Factor of the scores. Default: 1/√head_dim.
    rope : Rope, None or sequence of them, optional
        The rotary position embedding of the keys, as for the `KVCache` that will use the policy.

    Returns
    -------
    Allocation

    Raises
    ------
    InputError
        The budget is smaller than the bytes of the smallest widths, or shapes don't fit.
    """
    policy = Policy() if policy is None else _validate.instance(policy, "policy", Policy)
    budget = _validate.integer(bytes_per_token, "bytes_per_token", 1, 2**62)
    layers, widths = _check_captured(captured), _validate.entries(widths, "widths")
    if not widths:
        raise InputError("widths must not be empty")
    heads, _, d = layers[0].k.shape
    sizes = [row_bytes([width], d) for width in widths]
    if sizes != sorted(set(sizes)):
        raise InputError(f"widths must take more bytes each than the one before, got {list(widths)!r}")
    ropes = checks.ropes(rope, len(layers), d)
    errors = np.array([_layer_errors(*pair, policy, widths, scale) for pair in zip(layers, ropes, strict=True)])
    index = np.zeros(errors.shape[:3], np.int64)
    used = index.size * sizes[0] + len(layers) * heads * _SCALES
    if budget < used:
        raise InputError(f"bytes_per_token must be at least {used}, the size of {widths[0]!r} bits, got {budget}")
    error = float(errors[..., 0].sum())
    front = [Step(used, error / index.size * 2)]
    for move in _moves(errors, sizes):
        if used + move.bytes > budget:
            break
        index[move.layer, move.head, move.side] = move.width
        used, error = used + move.bytes, error - move.gain
        front.append(Step(used, error / index.size * 2))
    keys, values = (tuple(tuple(widths[i] for i in layer[:, side]) for layer in index) for side in (0, 1))
    policy = replace(policy, key_nbits=keys, value_nbits=values, protected=0)
    return Allocation(policy, tuple(front), errors)


def _check_captured(captured: Sequence[Captured]) -> list[CapturedLayer]:
    """Return checked layers."""
    layers = []
    for i, entry in enumerate(_validate.entries(captured, "captured")):
        arrays = _validate.entries(entry, f"captured[{i}]")
        if len(arrays) != 3:
            raise InputError(f"captured[{i}] must be keys, values and queries, got {len(arrays)} arrays")
        k, v, q = arrays
        layers.append(CapturedLayer(q, k, v))
    return check_layers(layers, "captured")


def _layer_errors(
    captured: CapturedLayer, rope: Rope | None, policy: Policy, widths: Sequence[Width], scale: float | None
) -> NDArray[np.float64]:
    """Measure the errors of one layer, (n_kv_heads, 2, widths)."""
    q, k, v = captured
    heads, _, d = k.shape
    errors = np.empty((heads, 2, len(widths)))
    for at, width in enumerate(widths):
        uniform = replace(policy, key_nbits=width, value_nbits=width, protected=0, max_tokens=None)
        plain = replace(uniform, recode_after=None, recoded_key_nbits=None, recoded_value_nbits=None)
        cache = KVCache(1, heads, d, plain, rope)
        cache.append(0, k, v)
        if cache.token_counts(0).coded == 0:
            raise InputError(f"captured tensors have {k.shape[1]} tokens, of which the policy codes none")
        for side, other in enumerate(((cache.keys(0), v), (k, cache.values(0)))):
            error = output_errors(q, (k, v), other, scale=scale)
            errors[:, side, at] = np.square(error).reshape(heads, -1).mean(axis=1)
    return errors


def _moves(errors: NDArray[np.float64], sizes: Sequence[int]) -> list[_Move]:
    """Return the moves along the lower convex hull of each side's errors, by falling gain per byte."""
    moves = []
    for layer, head, side in np.ndindex(*errors.shape[:3]):
        curve = errors[layer, head, side]
        at = 0
        while at < len(sizes) - 1:
            slopes = [(curve[at] - curve[to]) / (sizes[to] - sizes[at]) for to in range(at + 1, len(sizes))]
            if max(slopes) <= 0:
                break
            to = at + 1 + int(np.argmax(slopes))
            gain = float(curve[at] - curve[to])
            moves.append(_Move(layer=layer, head=head, side=side, width=to, bytes=sizes[to] - sizes[at], gain=gain))
            at = to
    return sorted(moves, key=lambda move: -move.gain / move.bytes)

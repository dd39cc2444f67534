"""Compare attention on replaced keys and values with the true one, in float64, on captured queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _validate
from tqvec._arrays import as_array
from tqvec._present import Presented, Sheet
from tqvec._types import Doubles, Flags
from tqvec.errors import InputError

_BLOCK = 1 << 21  # scores at a time


class _FidelityFields(NamedTuple):
    """The fields of a `Fidelity`."""

    score_cosine: float
    centred_cosine: float
    kl: float
    top_overlap: float
    top1: float
    top1_in_5: float
    output_error: float
    output_error_p99: float
    worst_head_error: float


class Fidelity(Presented, _FidelityFields):
    """Attention on other keys and values, compared with the true one: means over all queries of all heads.

    Attributes
    ----------
    score_cosine : float
        Cosine of a query's scores with the true ones. A mean that all keys share hides errors from it.
    centred_cosine : float
        The same after the mean of a query's scores is subtracted, which does not change the softmax.
    kl : float
        Kullback-Leibler divergence of the weights from the true ones, in nats.
    top_overlap : float
        Share of a query's `top` most attended tokens that are among the `top` with the other keys too.
    top1 : float
        Share of queries whose most attended token is the same with the other keys.
    top1_in_5 : float
        Share of queries whose most attended token is among the five most attended with the other keys.
    output_error : float
        Length of the output's error relative to the length of the output.
    output_error_p99 : float
        99th percentile of the output's error over queries.
    worst_head_error : float
        `output_error` of the worst head.
    """

    __slots__ = ()

    def _sheet(self) -> Sheet:
        return Sheet(("measure", "value"), list(self._asdict().items()))


class _Attention(NamedTuple):
    """Attention of some queries: scores (-infinity for tokens not seen), weights (g, n), outputs (g, head_dim)."""

    scores: Doubles
    weights: Doubles
    out: Doubles


def measure_fidelity(
    q: ArrayLike,
    true: tuple[ArrayLike, ArrayLike],
    other: tuple[ArrayLike, ArrayLike],
    *,
    scale: float | None = None,
    top: int = 32,
) -> Fidelity:
    """Compare attention on other keys and values, such as those of `KVCache.keys` and `values`, with the true one.

    Parameters
    ----------
    q : (n_heads, n_queries, head_dim) float
        Queries of the newest tokens, as for `KVCache.attend`. A query sees the tokens up to its own.
    true, other : pair of (n_kv_heads, n_tokens, head_dim) float
        Keys and values.
    scale : float, optional
        Factor of the scores. Default: 1/√head_dim.
    top : int
        Number of tokens for `Fidelity.top_overlap`, or all that a query sees if they are fewer.

    Returns
    -------
    Fidelity

    Raises
    ------
    InputError
        The shapes don't fit.
    """
    top = _validate.integer(top, "top", 1, 2**31)
    pairs = _attentions(*_check(q, true, other), scale)
    per_query = np.array([np.concatenate([_compare(*pair, top) for pair in head]) for head in pairs])
    error = per_query[..., -1]
    means = per_query.mean(axis=(0, 1)).tolist()
    return Fidelity._make([*means, float(np.percentile(error, 99, method="higher")), float(error.mean(axis=1).max())])


def output_errors(
    q: ArrayLike,
    true: tuple[ArrayLike, ArrayLike],
    other: tuple[ArrayLike, ArrayLike],
    *,
    scale: float | None = None,
    kept: ArrayLike | None = None,
) -> Doubles:
    """Return the relative error of each query's output, (n_heads, n_queries) float64.

    Parameters
    ----------
    q, true, other, scale
        As for `measure_fidelity`.
    kept : (m,) int, optional
        Positions of the tokens that the other attention still has, rising, with those of all queries. Default: all.

    Raises
    ------
    InputError
        The shapes don't fit, or `kept` has other positions.
    """
    queries, arrays = _check(q, true, other)
    if kept is not None:
        kept = _check_kept(kept, queries.shape[1], arrays[0].shape[1])
    pairs = _attentions(queries, arrays, scale, kept)
    return np.array([np.concatenate([_output_error(*pair) for pair in head]) for head in pairs])


def _attentions(
    queries: NDArray, arrays: list[NDArray], scale: float | None, kept: NDArray[np.int64] | None = None
) -> Iterator[Iterator[tuple[_Attention, _Attention]]]:
    """Yield the true and the other attention of each head, some queries at a time."""
    n_heads, nq, d = queries.shape
    factor = 1 / np.sqrt(d) if scale is None else _validate.number(scale, "scale")
    group = n_heads // arrays[0].shape[0]
    everything = np.arange(arrays[0].shape[1])
    kept = everything if kept is None else kept

    def attend_head(head: int) -> Iterator[tuple[_Attention, _Attention]]:
        k, v = (array[head // group].astype(np.float64) for array in arrays[:2])
        k_other, v_other = (array[head // group][kept].astype(np.float64) for array in arrays[2:])
        for rows, newest in _blocks(nq, k.shape[0]):
            part = queries[head, rows].astype(np.float64) * factor
            yield _attend(part, k, v, everything <= newest), _attend(part, k_other, v_other, kept <= newest)

    return (attend_head(head) for head in range(n_heads))


def _check(
    q: ArrayLike, true: tuple[ArrayLike, ArrayLike], other: tuple[ArrayLike, ArrayLike]
) -> tuple[NDArray, list[NDArray]]:
    """Return queries, and keys, values, other keys and other values, as arrays whose shapes fit."""
    named = {"q": q}
    for name, pair in (("true", true), ("other", other)):
        sides = _validate.entries(pair, name)
        if len(sides) != 2:
            raise InputError(f"{name} must be a pair, keys and values, got {len(sides)} arrays")
        named |= {f"{name} keys": sides[0], f"{name} values": sides[1]}
    arrays = [_validate.numbers(x, name) for name, x in named.items()]
    shapes = [array.shape for array in arrays]
    if any(len(shape) != 3 for shape in shapes) or len(set(shapes[1:])) != 1 or shapes[0][2] != shapes[1][2]:
        raise InputError(
            f"keys and values must have one shape (n_kv_heads, n_tokens, head_dim) and q fit, got {shapes}"
        )
    if shapes[1][0] == 0 or shapes[0][0] % shapes[1][0] or not 1 <= shapes[0][1] <= shapes[1][1]:
        raise InputError(f"q must have a multiple of the KV heads, and 1 to n_tokens queries, got {shapes[:2]}")
    return arrays[0], arrays[1:]


def _check_kept(kept: ArrayLike, nq: int, n: int) -> NDArray[np.int64]:
    """Return positions of tokens that rise, and among which are those of all queries."""
    positions = as_array(kept, "kept")
    if positions.dtype.kind not in "iu" or positions.ndim != 1:
        raise InputError(f"kept must be a list of positions, got shape {positions.shape} of {positions.dtype}")
    rises = positions.size and positions[0] >= 0 and (positions[1:] > positions[:-1]).all()
    if not rises or not np.array_equal(positions[-nq:], np.arange(n - nq, n)):
        raise InputError(
            f"kept must rise from 0 or more, and end with the positions of the queries, {n - nq} to {n - 1}"
        )
    return positions.astype(np.int64)


def _blocks(nq: int, n: int) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Yield some queries at a time, and the position of the newest token that each sees, (g, 1)."""
    step = max(1, _BLOCK // n)
    for start in range(0, nq, step):
        stop = min(start + step, nq)
        yield slice(start, stop), np.arange(n - nq + start, n - nq + stop)[:, None]


def _attend(q: Doubles, k: Doubles, v: Doubles, seen: Flags) -> _Attention:
    """Compute the attention of scaled queries to the tokens that they see; seen: (g, n)."""
    scores = q @ k.T
    scores[~seen] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return _Attention(scores, weights, weights @ v)


def _compare(true: _Attention, other: _Attention, top: int) -> Doubles:
    """Return the metrics of some queries, (g, 7): those of `Fidelity`, up to `output_error`."""
    seen = np.isfinite(true.scores)
    s, t = np.where(seen, true.scores, 0), np.where(seen, other.scores, 0)
    counts = seen.sum(axis=1, keepdims=True)
    centred = [np.where(seen, x - x.sum(axis=1, keepdims=True) / counts, 0) for x in (s, t)]
    logs = [_log_softmax(x, seen) for x in (s, t)]
    rank_true, rank_other = (_ranks(x.scores) for x in (true, other))
    limit = np.minimum(top, counts)
    both = (rank_true < limit) & (rank_other < limit)
    return np.column_stack(
        [
            _cosine(s, t),
            _cosine(*centred),
            np.sum(true.weights * (logs[0] - logs[1]), axis=1),
            both.sum(axis=1) / limit[:, 0],
            np.any((rank_true == 0) & (rank_other == 0), axis=1),
            np.any((rank_true == 0) & (rank_other < 5), axis=1),
            _output_error(true, other),
        ]
    )


def _output_error(true: _Attention, other: _Attention) -> Doubles:
    """Return the length of each output's error, relative to the length of the output."""
    return _ratio(np.linalg.norm(true.out - other.out, axis=1), np.linalg.norm(true.out, axis=1))


def _log_softmax(scores: Doubles, seen: Flags) -> Doubles:
    """Return the logarithms of the weights; 0 where a token is not seen."""
    highest = np.max(scores, axis=1, keepdims=True, where=seen, initial=-np.inf)
    total = np.sum(np.exp(scores - highest), axis=1, keepdims=True, where=seen)
    return np.where(seen, scores - highest - np.log(total), 0)


def _ranks(scores: Doubles) -> NDArray[np.int64]:
    """Return the rank of each token by falling score; of equal scores the first token comes first."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(scores.shape[1])[None, :], axis=1)
    return ranks


def _cosine(a: Doubles, b: Doubles) -> Doubles:
    """Return the cosines of rows; 1 where both rows are zero."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = np.all(a == b, axis=1)
    return np.where(same, 1.0, np.divide(np.sum(a * b, axis=1), lengths, out=np.zeros(len(a)), where=lengths > 0))


def _ratio(a: Doubles, b: Doubles) -> Doubles:
    """Return a / b, or 0 where a is 0."""
    return np.divide(a, b, out=np.where(a > 0, np.inf, 0.0), where=b > 0)

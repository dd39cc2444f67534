"""Geometric retrieval: does a query still find the key that it is about, among a million others and near-duplicates?

A query is ``ρ·needle + √(1-ρ²)·noise``; all vectors have length 1. Some keys are near-duplicates of the needle, all
others are random. The query succeeds if the needle has the highest score. Over a sweep of ρ float32 itself goes from
failure to success, and what counts is how far codes shift the point where half of the queries succeed. All are given
the same needles, noises and keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _validate
from tqvec._random import generator
from tqvec._types import Floats
from tqvec.codec import attention
from tqvec.errors import InputError
from tqvec.kvcache.codecs import Side, basis, layer_codecs
from tqvec.kvcache.policy import Policy

RHOS = tuple(round(0.2 + 0.05 * i, 2) for i in range(15))
_PART = 16384  # keys at a time,
_TOGETHER = 256  # and queries
_RESAMPLES = 2000
_LEVEL = (2.5, 97.5)  # percentiles of the interval
_MOST = 2**31


class Haystack(NamedTuple):
    """What there is to find, and among what.

    Attributes
    ----------
    n : int
        Random keys.
    d : int
    trials : int
        Needles, with a query for each ρ.
    duplicates : int
        Keys near each needle,
    likeness : float
        at this cosine.
    """

    n: int
    d: int = 128
    trials: int = 200
    duplicates: int = 8
    likeness: float = 0.9


class Curve(NamedTuple):
    """How often the needle is found.

    Attributes
    ----------
    name : str
    success : tuple of float
        Share of trials, for each ρ.
    half : float
        ρ at which half of them succeed, by linear interpolation.
    shift : float
        By how much that is above float32's.
    low, high : float
        95 % interval of the shift: bootstrap over trials.
    """

    name: str
    success: tuple[float, ...]
    half: float
    shift: float
    low: float
    high: float


Scores = Callable[[Floats], Floats]


class _Keys(NamedTuple):
    """A way to hold keys: `made` gives a function from queries (g, d) to scores (g, n) of some keys (n, d)."""

    name: str
    made: Callable[[Floats], Scores]


def retrieval(
    haystack: Haystack,
    policies: Mapping[str, Policy],
    rhos: tuple[float, ...] = RHOS,
    seed: int = 0,
    tell: Callable[[int], None] | None = None,
) -> list[Curve]:
    """Compare float32 with the key codes of some policies, with the cache's own codecs and kernels.

    Parameters
    ----------
    haystack : Haystack
    policies : dict of Policy
        By name; each with one key width for all.
    rhos : tuple of float
        Rising.
    seed : int
        Of keys, needles and noise.
    tell : callable, optional
        Called with the number of keys done so far.

    Returns
    -------
    list of Curve
        float32 first.

    Raises
    ------
    InputError
        `rhos` don't rise from 0 to 1, or float32 succeeds half of the time nowhere among them.
    """
    for name, low in (("n", 1), ("d", 2), ("trials", 2), ("duplicates", 0)):
        _validate.integer(getattr(haystack, name), name, low, _MOST)
    _validate.fraction(haystack.likeness, "likeness")
    if list(rhos) != sorted(set(rhos)) or not 0 <= rhos[0] < rhos[-1] <= 1:
        raise InputError(f"rhos must rise, from 0 or more to at most 1, got {rhos}")
    rng = generator(seed, "needle: tokens")
    needles, queries = _asked(haystack, rhos, rng)
    near = np.concatenate([needles[:, None], _near(needles, haystack, rng)], axis=1)
    holders = [_Keys("float32", _plain), *(_coded(name, policy, haystack.d) for name, policy in policies.items())]
    true = {
        holder.name: _own_scores(holder.made(near.reshape(-1, haystack.d)), queries, near.shape[1])
        for holder in holders
    }
    best = {holder.name: true[holder.name][..., 1:].max(axis=2, initial=-np.inf) for holder in holders}
    done, flat = 0, queries.reshape(-1, haystack.d)
    for keys in _keys(haystack, seed):
        for holder in holders:
            scores = holder.made(keys)
            for rows in range(0, len(flat), _TOGETHER):
                part = best[holder.name].reshape(-1)[rows : rows + _TOGETHER]
                np.maximum(part, scores(flat[rows : rows + _TOGETHER]).max(axis=1), out=part)
        done += len(keys)
        if tell is not None:
            tell(done)
    found = {name: (true[name][..., 0] > best[name]).astype(np.float64) for name in best}
    return _curves(found, np.array(rhos), seed)


def _unit(x: NDArray) -> Floats:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def _asked(haystack: Haystack, rhos: tuple[float, ...], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Needles (trials, d), and queries (trials, rhos, d): one noise a trial, the same for every ρ."""
    needles, noise = (_unit(rng.standard_normal((haystack.trials, haystack.d))) for _ in range(2))
    rho = np.array(rhos)[:, None]
    return needles, _unit(rho * needles[:, None] + np.sqrt(1 - rho * rho) * noise[:, None])


def _near(needles: Floats, haystack: Haystack, rng: np.random.Generator) -> Floats:
    """Near-duplicates of each needle, (trials, duplicates, d)."""
    other = rng.standard_normal((haystack.trials, haystack.duplicates, haystack.d))
    along = needles[:, None].astype(np.float64)
    across = other - np.sum(other * along, axis=2, keepdims=True) * along
    across /= np.linalg.norm(across, axis=2, keepdims=True)
    c = haystack.likeness
    return _unit(c * along + np.sqrt(1 - c * c) * across)


def _keys(haystack: Haystack, seed: int) -> Iterator[Floats]:
    """Random keys, a part at a time."""
    for start in range(0, haystack.n, _PART):
        rng = generator(seed, "needle: haystack", start)
        yield _unit(rng.standard_normal((min(_PART, haystack.n - start), haystack.d), np.float32))


def _plain(keys: Floats) -> Scores:
    return lambda queries: np.asarray(queries @ keys.T)


def _coded(name: str, policy: Policy, d: int) -> _Keys:
    """Keys as a cache codes them."""
    side: Side = layer_codecs(policy, policy.layers(1, 1)[0], d).cold.keys
    tables, turn = attention.attention_tables(side.groups[0].codec), basis(d, policy.seed)

    def made(keys: Floats) -> Scores:
        coded = side.encode(np.ascontiguousarray(keys)[None], None)[0]

        def scores(queries: Floats) -> Floats:
            out = np.empty((len(queries), len(keys)), np.float32)
            attention.code_scores(tables, queries @ turn, coded.codes[0], coded.scales[0], out)
            return out

        return scores

    return _Keys(name, made)


def _own_scores(scores: Scores, queries: Floats, near: int) -> Floats:
    """Each query's scores of its own needle and near-duplicates, (trials, rhos, near)."""
    return np.stack([scores(rows)[:, near * t : near * (t + 1)] for t, rows in enumerate(queries)])


def _curves(found: Mapping[str, NDArray[np.float64]], rhos: NDArray[np.float64], seed: int) -> list[Curve]:
    """What trials (trials, rhos) of each add up to."""
    trials = len(found["float32"])
    half = _half(found["float32"].mean(axis=0), rhos)
    if not rhos[0] < half < rhos[-1]:
        raise InputError("float32 finds half of the needles nowhere among these rhos; nothing can be compared")
    drawn = generator(seed, "needle: bootstrap").multinomial(trials, np.full(trials, 1 / trials), _RESAMPLES)
    control = _half(drawn @ found["float32"] / trials, rhos)
    curves = []
    for name, hits in found.items():
        success = hits.mean(axis=0)
        mine = _half(success, rhos)
        low, high = np.percentile(_half(drawn @ hits / trials, rhos) - control, _LEVEL)
        curves.append(Curve(name, tuple(success.tolist()), float(mine), float(mine - half), float(low), float(high)))
    return curves


def _half(success: NDArray[np.float64], rhos: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where rising curves (..., rhos) pass one half; the nearest end if they do not."""
    rising = np.maximum.accumulate(success, axis=-1)
    above = np.sum(rising < 0.5, axis=-1)
    after = np.clip(above, 1, rhos.size - 1)
    low, high = (np.take_along_axis(rising, i[..., None], -1)[..., 0] for i in (after - 1, after))
    share = np.clip((0.5 - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    return np.where(above == rhos.size, rhos[-1], rhos[after - 1] + share * (rhos[after] - rhos[after - 1]))

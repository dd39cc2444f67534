"""Geometric retrieval: whether a query still finds its key among a million other keys and near-duplicates.

A query is ``ρ·needle + √(1-ρ²)·noise``; all vectors have length 1. Some keys are near-duplicates of the needle, all
others are random. The query succeeds if the needle has the highest score. Over a sweep of ρ float32 itself goes from
failure to success. The measure is how far codes shift the ρ at which half of the queries succeed. All policies get the
same needles, noises and keys.

Keys may share a part, as those of models do. With a rotary embedding it turns with the position of the key. It is added
to all keys alike, needles included, so it makes none of them longer than the others. What a key has of its own, and the
queries, are drawn as attention sees them: turned to their positions, and the query is that of the newest token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _validate
from tqvec._present import Presented, Sheet
from tqvec._random import generator
from tqvec._types import Doubles, Floats
from tqvec.errors import InputError
from tqvec.kvcache import checks
from tqvec.kvcache.cache import KVCache
from tqvec.kvcache.policy import Policy
from tqvec.kvcache.rope import Rope

RHOS = tuple(round(0.2 + 0.05 * i, 2) for i in range(15))
_KEYS = 16384  # keys at a time
_QUERIES = 256  # queries at a time
_RESAMPLES = 2000
_LEVEL = (2.5, 97.5)  # percentiles of the interval
_MAX_NUMBER = 2**31
_SLOW = 3  # the shared part is in the slowest of so many equal groups of pairs, as in models: fast ones tell positions


class Haystack(NamedTuple):
    """The needles, and the keys among which they are sought.

    Attributes
    ----------
    n : int
        Number of random keys.
    d : int
        Dimension.
    trials : int
        Number of needles, each with a query per ρ.
    duplicates : int
        Number of near-duplicates per needle.
    duplicate_cosine : float
        Cosine of a near-duplicate with its needle.
    shared : float
        Length of the part that all keys share; the rest of each key has length 1.
    rope : Rope or None
        The rotary position embedding of the keys, of which the caches know. The shared part is in the third of its
        pairs that turn slowest. None: the shared part is the same at every position.
    """

    n: int
    d: int = 128
    trials: int = 200
    duplicates: int = 8
    duplicate_cosine: float = 0.9
    shared: float = 0.0
    rope: Rope | None = None


class _CurveFields(NamedTuple):
    """The fields of a `Curve`."""

    name: str
    success: tuple[float, ...]
    half: float
    shift: float
    low: float
    high: float


class Curve(Presented, _CurveFields):
    """The rate of success of one policy.

    Attributes
    ----------
    name : str
    success : tuple of float
        Share of successful trials, per ρ.
    half : float
        ρ at which half of the trials succeed, by linear interpolation.
    shift : float
        `half` less that of float32.
    low, high : float
        95 % interval of the shift, by bootstrap over trials.
    """

    __slots__ = ()

    def _sheet(self) -> Sheet:
        measures = {"half": self.half, "shift": self.shift, "low": self.low, "high": self.high}
        return Sheet(("measure", "value"), list(measures.items()), self.name)


class _Part(NamedTuple):
    """Some keys, in order of their positions.

    Attributes
    ----------
    keys : (n, d) float32
        Random keys, then the needles and near-duplicates of some trials.
    random : int
        Number of random keys.
    trials : slice
    """

    keys: Floats
    random: int
    trials: slice


class _Store:
    """A way to store keys, and the scores of all queries so far.

    Parameters
    ----------
    store : callable
        From further keys, (n, d), to these keys as they are stored.
    queries : (trials, rhos, d) float32
    near : int
        Number of needles and near-duplicates of a trial.
    """

    def __init__(self, store: Callable[[Floats], Floats], queries: Floats, near: int):
        self._store, self._queries = store, queries
        self._own = np.empty((*queries.shape[:2], near), np.float32)
        self._best = np.full(queries.shape[0] * queries.shape[1], -np.inf, np.float32)

    def add(self, part: _Part) -> None:
        """Store some keys and take their scores."""
        d = self._queries.shape[2]
        keys = self._store(part.keys)
        near = keys[part.random :].reshape(-1, self._own.shape[2], d)
        self._own[part.trials] = self._queries[part.trials] @ near.transpose(0, 2, 1)
        flat = self._queries.reshape(-1, d)
        for start in range(0, len(flat), _QUERIES):
            best = self._best[start : start + _QUERIES]
            scores = flat[start : start + _QUERIES] @ keys[: part.random].T
            np.maximum(best, scores.max(axis=1), out=best)

    def success(self) -> Doubles:
        """Return 1 where the needle has the highest score, else 0, (trials, rhos)."""
        others = self._own[..., 1:].max(axis=2, initial=-np.inf)
        return (self._own[..., 0] > np.maximum(self._best.reshape(others.shape), others)).astype(np.float64)


def measure_retrieval(
    haystack: Haystack,
    policies: Mapping[str, Policy],
    *,
    rhos: tuple[float, ...] = RHOS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[Curve]:
    """Compare float32 with the key codes of some policies, by caches that store all keys.

    Parameters
    ----------
    haystack : Haystack
    policies : dict of Policy
        Policies by name, each with one key width for all heads. All keys are coded, once.
    rhos : tuple of float
        Values of ρ, rising.
    seed : int
        Seed of keys, needles and noise.
    progress : callable, optional
        Called with the number of keys done so far.

    Returns
    -------
    list of Curve
        float32 first.

    Raises
    ------
    InputError
        `rhos` don't rise from 0 to 1, or float32 does not cross one half among them; a policy codes no token, or has
        widths for several layers or heads; a number is out of its range; or `progress` can't be called.
    """
    _validate.instance(haystack, "haystack", Haystack)
    for name, low in (("n", 1), ("d", 2), ("trials", 2), ("duplicates", 0)):
        _validate.integer(getattr(haystack, name), name, low, _MAX_NUMBER)
    _validate.fraction(haystack.duplicate_cosine, "duplicate_cosine")
    if checks.finite(haystack.shared, "shared") < 0:
        raise InputError(f"shared must be at least 0, got {haystack.shared}")
    checks.ropes([haystack.rope], 1, haystack.d)
    for name, policy in _validate.instance(policies, "policies", dict).items():
        if _validate.instance(policy, f"policies[{name!r}]", Policy).recent is None:
            raise InputError(f"policies[{name!r}] must code tokens, but has recent=None")
    rhos = tuple(_validate.number(rho, f"rhos[{i}]") for i, rho in enumerate(_validate.entries(rhos, "rhos")))
    if not rhos or list(rhos) != sorted(set(rhos)) or not 0 <= rhos[0] < rhos[-1] <= 1:
        raise InputError(f"rhos must rise, from 0 or more to at most 1, got {rhos}")
    _validate.function(progress, "progress")
    rng = generator(seed, "needle: tokens")
    needles, queries = _draw_queries(haystack, rhos, rng)
    near = np.concatenate([needles[:, None], _draw_duplicates(needles, haystack, rng)], axis=1)
    stores = {"float32": _Store(lambda keys: keys, queries, near.shape[1])}
    stores |= {name: _Store(_make_cache(policy, haystack), queries, near.shape[1]) for name, policy in policies.items()}
    done = 0
    for part in _draw_parts(haystack, near, seed):
        for store in stores.values():
            store.add(part)
        done += part.random
        if progress is not None:
            progress(done)
    return _fit_curves({name: store.success() for name, store in stores.items()}, np.array(rhos), seed)


def _unit(x: NDArray) -> Floats:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def _draw_queries(haystack: Haystack, rhos: tuple[float, ...], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw needles (trials, d) and queries (trials, rhos, d) with one noise per trial, the same for every ρ."""
    needles, noise = (_unit(rng.standard_normal((haystack.trials, haystack.d))) for _ in range(2))
    rho = np.array(rhos)[:, None]
    return needles, _unit(rho * needles[:, None] + np.sqrt(1 - rho * rho) * noise[:, None])


def _draw_duplicates(needles: Floats, haystack: Haystack, rng: np.random.Generator) -> Floats:
    """Draw near-duplicates of each needle, (trials, duplicates, d)."""
    other = rng.standard_normal((haystack.trials, haystack.duplicates, haystack.d))
    along = needles[:, None].astype(np.float64)
    across = other - np.sum(other * along, axis=2, keepdims=True) * along
    across /= np.linalg.norm(across, axis=2, keepdims=True)
    c = haystack.duplicate_cosine
    return _unit(c * along + np.sqrt(1 - c * c) * across)


def _draw_parts(haystack: Haystack, near: Floats, seed: int) -> Iterator[_Part]:
    """Draw random keys, and needles with their near-duplicates (trials, near, d) evenly among them."""
    shared, starts, position = _draw_shared(haystack, seed), range(0, haystack.n, _KEYS), 0
    for number, start in enumerate(starts):
        rng = generator(seed, "needle: haystack", start)
        random = _unit(rng.standard_normal((min(_KEYS, haystack.n - start), haystack.d), np.float32))
        first, stop = (haystack.trials * at // len(starts) for at in (number, number + 1))
        keys = np.concatenate([random, near[first:stop].reshape(-1, haystack.d)])
        common = np.broadcast_to(shared, keys.shape)
        if haystack.rope is not None:
            common = haystack.rope.rotate(common, position + np.arange(len(keys)))
        yield _Part(keys + common, len(random), slice(first, stop))
        position += len(keys)


def _draw_shared(haystack: Haystack, seed: int) -> Floats:
    """Draw the part that all keys share, as it is at position 0, (d,)."""
    part = generator(seed, "needle: shared part").standard_normal(haystack.d)
    if haystack.rope is not None:
        pairs = haystack.rope.pairs(haystack.d)
        by_speed = pairs[np.argsort(-np.abs(haystack.rope.frequencies(haystack.d)))]
        part[by_speed[: len(pairs) - -(-len(pairs) // _SLOW)]] = 0
    return haystack.shared * _unit(part)


def _make_cache(policy: Policy, haystack: Haystack) -> Callable[[Floats], Floats]:
    """Return a function that appends keys to a cache, and returns them as the cache's attention sees them."""
    most = min(_KEYS, haystack.n) + haystack.trials * (1 + haystack.duplicates)
    coded = replace(
        policy,
        value_nbits=1,
        recent=0,
        sinks=0,
        chunk=1,
        recode_after=None,
        recoded_key_nbits=None,
        recoded_value_nbits=None,
        protected=0,
        max_tokens=max(most, policy.mean_tokens, 1),
    )
    cache = KVCache(1, 1, haystack.d, coded, haystack.rope)

    def append(keys: Floats) -> Floats:
        cache.append(0, keys[None], np.zeros((1, *keys.shape), np.float32))
        return cache.keys(0)[0, -len(keys) :]

    return append


def _fit_curves(success: Mapping[str, Doubles], rhos: Doubles, seed: int) -> list[Curve]:
    """Return a curve per codec, from the success (0 or 1) of its trials, (trials, rhos)."""
    trials = len(success["float32"])
    control = _midpoint(success["float32"].mean(axis=0), rhos)
    if not rhos[0] < control < rhos[-1]:
        raise InputError("float32 finds half of the needles nowhere among these rhos, so there is nothing to compare")
    samples = generator(seed, "needle: bootstrap").multinomial(trials, np.full(trials, 1 / trials), _RESAMPLES)
    controls = _midpoint(samples @ success["float32"] / trials, rhos)
    curves = []
    for name, hits in success.items():
        rates = hits.mean(axis=0)
        half = _midpoint(rates, rhos)
        low, high = np.percentile(_midpoint(samples @ hits / trials, rhos) - controls, _LEVEL)
        curves.append(
            Curve(
                name=name,
                success=tuple(rates.tolist()),
                half=float(half),
                shift=float(half - control),
                low=float(low),
                high=float(high),
            )
        )
    return curves


def _midpoint(success: Doubles, rhos: Doubles) -> Doubles:
    """Return the ρ at which rising curves (..., rhos) pass one half, or the nearest end if they do not."""
    rising = np.maximum.accumulate(success, axis=-1)
    above = np.sum(rising < 0.5, axis=-1)
    after = np.clip(above, 1, rhos.size - 1)
    low, high = (np.take_along_axis(rising, i[..., None], -1)[..., 0] for i in (after - 1, after))
    share = np.clip((0.5 - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    return np.where(above == rhos.size, rhos[-1], rhos[after - 1] + share * (rhos[after] - rhos[after - 1]))

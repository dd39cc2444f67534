"""Geometric retrieval: whether a query still finds its key among a million other keys and near-duplicates.

A query is ``ρ·needle + √(1-ρ²)·noise``; all vectors have length 1. Some keys are near-duplicates of the needle, all
others are random. The query succeeds if the needle has the highest score. Over a sweep of ρ float32 itself goes from
failure to success. The measure is how far codes shift the ρ at which half of the queries succeed. All codecs get the
same needles, noises and keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _validate
from tqvec._present import Presented, Sheet
from tqvec._random import generator
from tqvec._types import Doubles, Floats
from tqvec.codec import attention
from tqvec.errors import InputError
from tqvec.kvcache.codecs import basis, layer_codecs
from tqvec.kvcache.policy import Policy

RHOS = tuple(round(0.2 + 0.05 * i, 2) for i in range(15))
_KEYS = 16384  # keys at a time
_QUERIES = 256  # queries at a time
_RESAMPLES = 2000
_LEVEL = (2.5, 97.5)  # percentiles of the interval
_MAX_NUMBER = 2**31


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
    """

    n: int
    d: int = 128
    trials: int = 200
    duplicates: int = 8
    duplicate_cosine: float = 0.9


class _CurveFields(NamedTuple):
    """The fields of a `Curve`."""

    name: str
    success: tuple[float, ...]
    half: float
    shift: float
    low: float
    high: float


class Curve(Presented, _CurveFields):
    """The rate of success of one codec.

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


Scores = Callable[[Floats], Floats]  # from queries (g, d) to scores (g, n) of some keys


class _Codec(NamedTuple):
    """A way to store keys: `encode` takes keys (n, d) and returns the function that scores them."""

    name: str
    encode: Callable[[Floats], Scores]


def measure_retrieval(
    haystack: Haystack,
    policies: Mapping[str, Policy],
    *,
    rhos: tuple[float, ...] = RHOS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[Curve]:
    """Compare float32 with the key codes of some policies, with the cache's own codecs and kernels.

    Parameters
    ----------
    haystack : Haystack
    policies : dict of Policy
        Policies by name, each with one key width for all heads.
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
        `rhos` don't rise from 0 to 1, or float32 does not cross one half among them.
    """
    _validate.instance(haystack, "haystack", Haystack)
    for name, low in (("n", 1), ("d", 2), ("trials", 2), ("duplicates", 0)):
        _validate.integer(getattr(haystack, name), name, low, _MAX_NUMBER)
    _validate.fraction(haystack.duplicate_cosine, "duplicate_cosine")
    for name, policy in _validate.instance(policies, "policies", dict).items():
        _validate.instance(policy, f"policies[{name!r}]", Policy)
    rhos = tuple(_validate.number(rho, f"rhos[{i}]") for i, rho in enumerate(_validate.entries(rhos, "rhos")))
    if not rhos or list(rhos) != sorted(set(rhos)) or not 0 <= rhos[0] < rhos[-1] <= 1:
        raise InputError(f"rhos must rise, from 0 or more to at most 1, got {rhos}")
    rng = generator(seed, "needle: tokens")
    needles, queries = _draw_queries(haystack, rhos, rng)
    near = np.concatenate([needles[:, None], _draw_duplicates(needles, haystack, rng)], axis=1)
    codecs = [
        _Codec("float32", _keep_float32),
        *(_codec(name, policy, haystack.d) for name, policy in policies.items()),
    ]
    true = {
        codec.name: _own_scores(codec.encode(near.reshape(-1, haystack.d)), queries, near.shape[1]) for codec in codecs
    }
    best = {codec.name: true[codec.name][..., 1:].max(axis=2, initial=-np.inf) for codec in codecs}
    done, flat = 0, queries.reshape(-1, haystack.d)
    for keys in _draw_keys(haystack, seed):
        for codec in codecs:
            scores = codec.encode(keys)
            for rows in range(0, len(flat), _QUERIES):
                part = best[codec.name].reshape(-1)[rows : rows + _QUERIES]
                np.maximum(part, scores(flat[rows : rows + _QUERIES]).max(axis=1), out=part)
        done += len(keys)
        if progress is not None:
            progress(done)
    success = {name: (true[name][..., 0] > best[name]).astype(np.float64) for name in best}
    return _fit_curves(success, np.array(rhos), seed)


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


def _draw_keys(haystack: Haystack, seed: int) -> Iterator[Floats]:
    """Draw random keys, a part at a time."""
    for start in range(0, haystack.n, _KEYS):
        rng = generator(seed, "needle: haystack", start)
        yield _unit(rng.standard_normal((min(_KEYS, haystack.n - start), haystack.d), np.float32))


def _keep_float32(keys: Floats) -> Scores:
    return lambda queries: np.asarray(queries @ keys.T)


def _codec(name: str, policy: Policy, d: int) -> _Codec:
    """Return the codec of a cache's keys."""
    side = layer_codecs(policy, policy.layers(1, 1)[0], d, turns=False).coded.keys
    codec = side.groups[0].codec
    tables, rotation = attention.attention_tables(codec), basis(codec)

    def encode(keys: Floats) -> Scores:
        codes, scales = side.encode(np.ascontiguousarray(keys)[None], None, None)[0]

        def scores(queries: Floats) -> Floats:
            out = np.empty((len(queries), len(keys)), np.float32)
            attention.code_scores(tables, queries @ rotation, codes[0], scales[0], out)
            return out

        return scores

    return _Codec(name, encode)


def _own_scores(scores: Scores, queries: Floats, near: int) -> Floats:
    """Return each query's scores of its own needle and near-duplicates, (trials, rhos, near)."""
    return np.stack([scores(rows)[:, near * t : near * (t + 1)] for t, rows in enumerate(queries)])


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

"""Ways to code keys and values that `kv_quality.py` compares: `KVCache` itself, and rivals and variants of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from _language_model import Floats, Replace, Stored
from numpy.typing import NDArray

from tqvec import TurboQuant
from tqvec.codec.codes import Codes
from tqvec.kvcache import KVCache, Policy, Rope

MEAN = 64  # tokens


class Part(NamedTuple):
    """The tokens of a text that stay exact: the newest that each query sees, and the first."""

    recent: int
    sinks: int


class Target(Protocol):
    """What coders need to know of a model and its text; as for `Model`."""

    n_tokens: int
    shape: tuple[int, int, int]
    rope_thetas: list[float]


@dataclass
class Cached:
    """Keys and values as `KVCache` gives them back.

    Parameters
    ----------
    policy : Policy
        All but the number of recent tokens and sinks, which the part says.
    sinks : int, optional
        In place of the part's.
    rope : bool
        Whether the cache knows of the rotary embedding.
    """

    policy: Policy
    sinks: int | None = None
    rope: bool = True
    _cache: KVCache | None = field(default=None, repr=False)

    def make(self, model: Target, part: Part) -> Replace:
        """Return the function that replaces keys and values: it codes all tokens but the sinks."""
        sinks = part.sinks if self.sinks is None else self.sinks
        policy = replace(self.policy, recent=0, chunk=1, sinks=sinks, max_tokens=None)
        age = policy.recode_after
        once = replace(policy, recode_after=None, recoded_key_nbits=None, recoded_value_nbits=None)
        caches = [(0, self._new_cache(model, once))]
        if age is not None:
            caches.append((age, self._new_cache(model, policy)))
        self._cache = caches[-1][1]

        def through(layer: int, keys: Floats, values: Floats) -> list[Stored]:
            for _, cache in caches:
                cache.append(layer, keys, values)
            return [Stored(age, cache.keys(layer), cache.values(layer)) for age, cache in caches]

        return through

    def _new_cache(self, model: Target, policy: Policy) -> KVCache:
        if self.rope:
            return KVCache(*model.shape, policy, rope=[Rope(theta) for theta in model.rope_thetas])
        return KVCache(*model.shape, policy)

    def bits(self, model: Target) -> float:
        """Return the bits per value of the cache of the last run, without what is kept in 16 bits."""
        assert self._cache is not None
        size, tokens = self._cache.nbytes, self._cache.token_counts(0)
        n_layers, heads, d = model.shape
        coded = int(size) - size.uncoded - size.bookkeeping
        return 8 * coded / (2 * n_layers * heads * d * (tokens.coded + tokens.recoded))


@dataclass
class Side:
    """How keys, or values, are coded: by a function of (n, d) rows, less a mean.

    Parameters
    ----------
    coder : callable
        Rows and bits to rows.
    nbits : float
    overhead : int
        Bytes a vector, beside its codes.
    mean : int
        Tokens that the mean is taken of; 0: none is subtracted.
    unrotated : bool
        The mean is that of keys before rotary embedding, and rotated to each token's position.
    """

    coder: Callable[[Floats, float], Floats]
    nbits: float
    overhead: int
    mean: int = 0
    unrotated: bool = False

    def __call__(self, x: Floats, sinks: int, theta: float) -> Floats:
        """Return keys or values, (heads, n, d), as a cache gives them back."""
        coded = x[:, sinks:]
        means = self._means(x, sinks, theta)
        rows = self.coder((coded - means).reshape(-1, x.shape[2]), self.nbits).reshape(coded.shape)
        return np.concatenate([x[:, :sinks], rows + means], axis=1)

    def _means(self, x: Floats, sinks: int, theta: float) -> Floats | np.float32:
        if not self.mean:
            return np.float32(0)
        rows = slice(sinks, sinks + self.mean)
        if not self.unrotated:
            return x[:, rows].mean(axis=1, keepdims=True)
        turns = np.exp(1j * np.arange(x.shape[1])[:, None] * theta ** (-np.arange(0, 1, 2 / x.shape[2])))
        first, second = np.split(x, 2, axis=2)
        mean = ((first + 1j * second) / turns)[:, rows].mean(axis=1, keepdims=True) * turns[sinks:]
        return np.concatenate([mean.real, mean.imag], axis=2).astype(np.float32)

    def bits(self, d: int, n: int) -> float:
        """Return the bits per value."""
        return self.nbits + 8 * self.overhead / d + (32 / n if self.mean else 0)


@dataclass
class Format:
    """A format of another library: a function of all keys, or values, of a layer.

    Parameters
    ----------
    coder : callable
        (heads, n, d) to the same as they come back.
    nbits : float
    overhead : int
        Bytes of each group, beside its codes.
    group : int, optional
        Values of a group. Default: those of a vector.
    """

    coder: Callable[[Floats], Floats]
    nbits: float
    overhead: int
    group: int | None = None

    def __call__(self, x: Floats, sinks: int, theta: float) -> Floats:
        """Return keys or values, (heads, n, d), as a cache gives them back."""
        return np.concatenate([x[:, :sinks], self.coder(x[:, sinks:])], axis=1)

    def bits(self, d: int, n: int) -> float:
        """Return the bits per value."""
        return self.nbits + 8 * self.overhead / (self.group or d)


@dataclass
class Rival:
    """Keys and values coded in other ways; sinks are kept."""

    keys: Side | Format
    values: Side | Format

    def make(self, model: Target, part: Part) -> Replace:
        """Return the function that replaces keys and values."""
        self._n = model.n_tokens - part.sinks

        def through(layer: int, keys: Floats, values: Floats) -> list[Stored]:
            rest = (part.sinks, model.rope_thetas[layer])
            return [Stored(0, self.keys(keys, *rest), self.values(values, *rest))]

        return through

    def bits(self, model: Target) -> float:
        """Return the bits per coded value."""
        return (self.keys.bits(model.shape[2], self._n) + self.values.bits(model.shape[2], self._n)) / 2


Coder = Cached | Rival


def bfloat16(x: NDArray) -> Floats:
    """Round numbers to bfloat16."""
    rounded: Floats = torch.from_numpy(x).to(torch.bfloat16).float().numpy()
    return rounded


def minmax(x: Floats, nbits: float) -> Floats:
    """Round each row between its extremes, which are kept in float16: 4 bytes."""
    low = x.min(axis=1, keepdims=True).astype(np.float16).astype(np.float32)
    step = ((x.max(axis=1, keepdims=True) - low) / (2**nbits - 1)).astype(np.float16).astype(np.float32)
    step = np.maximum(step, 1e-7)
    return np.clip(np.rint((x - low) / step), 0, 2**nbits - 1) * step + low


def prod(x: Floats, nbits: float) -> Floats:
    """Algorithm 2 of the paper, with both scales rounded to bfloat16: 4 bytes."""
    codec = TurboQuant(x.shape[1], nbits, mode="prod")
    codes = codec.encode(x)
    return codec.decode(Codes(codes.data, bfloat16(codes.scale), bfloat16(codes.gamma)))


def trellis(scale: str) -> Callable[[Floats, float], Floats]:
    """The trellis codebook with another rule for the scale, a bfloat16: 2 bytes."""

    def coder(x: Floats, nbits: float) -> Floats:
        codec = TurboQuant(x.shape[1], nbits, codebook="trellis", scale=scale)
        codes = codec.encode(x)
        return codec.decode_unbiased(Codes(codes.data, bfloat16(codes.scale)))

    return coder

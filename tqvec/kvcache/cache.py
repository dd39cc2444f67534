"""KVCache: keys and values of a transformer in a few bits each, and attention on them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tqvec import _validate
from tqvec._config import num_threads
from tqvec._types import Floats
from tqvec.codec.turboquant import MAX_D
from tqvec.errors import FormatError, InputError
from tqvec.kvcache import checks, half_precision
from tqvec.kvcache import file as cache_file
from tqvec.kvcache import state as states
from tqvec.kvcache.attention import Task, attend
from tqvec.kvcache.byte_model import Nbytes
from tqvec.kvcache.codecs import basis, layer_codecs
from tqvec.kvcache.layer import Layer
from tqvec.kvcache.policy import Policy

_MOST = 1024  # layers, or heads


class Tiers(NamedTuple):
    """Tokens of a layer, in order: in 16 bits, in codes made of codes, in codes, in 16 bits; and those dropped."""

    sinks: int
    old: int
    cold: int
    hot: int
    evicted: int


class KVCache:
    """Keys and values of a transformer's tokens, most of them in codes, and attention on these codes.

    Parameters
    ----------
    n_layers, n_kv_heads, head_dim : int
    policy : str or Policy
        What is kept of each token; or the name of a preset (`Policy.from_name`).

    Notes
    -----
    Append to a layer and attend from as many threads as you like: an attention sees the tokens of one moment, and never
    waits. What is stored does not depend on how tokens were cut into calls.

    Examples
    --------
    >>> import numpy as np
    >>> from tqvec.kvcache import KVCache
    >>> rng = np.random.default_rng(1)
    >>> cache = KVCache(n_layers=2, n_kv_heads=2, head_dim=64, policy="turbo3")
    >>> k, v = rng.standard_normal((2, 2, 1000, 64), np.float32)
    >>> cache.append(0, k, v)
    >>> out = cache.attend(0, rng.standard_normal((8, 1, 64), np.float32))
    >>> out.shape
    (8, 1, 64)
    >>> cache.tiers(0)
    Tiers(sinks=4, old=0, cold=832, hot=164, evicted=0)
    """

    def __init__(self, n_layers: int, n_kv_heads: int, head_dim: int, policy: str | Policy = "turbo3"):
        self.n_layers = _validate.integer(n_layers, "n_layers", 1, _MOST)
        self.n_kv_heads = _validate.integer(n_kv_heads, "n_kv_heads", 1, _MOST)
        self.head_dim = _validate.integer(head_dim, "head_dim", 1, MAX_D)
        if isinstance(policy, str):
            policy = Policy.from_name(policy)
        if not isinstance(policy, Policy):
            raise InputError(f"policy must be a Policy or the name of one, got {type(policy).__name__}")
        self.policy = policy
        self._layers = tuple(
            Layer(
                policy,
                layer_codecs(policy, widths, self.head_dim),
                states.empty_state(self.n_kv_heads, self.head_dim, policy.dtype),
            )
            for widths in policy.layers(self.n_layers, self.n_kv_heads)
        )

    def __repr__(self) -> str:
        return f"KVCache({self.n_layers}, {self.n_kv_heads}, {self.head_dim}, {self.policy!r})"

    @property
    def n_tokens(self) -> int:
        """Tokens that all layers hold."""
        return min(layer.state.n for layer in self._layers)

    @property
    def nbytes(self) -> Nbytes:
        """Bytes of all arrays, and what they are for. What forks share counts for each of them."""
        return Nbytes.total(layer.state.nbytes() for layer in self._layers)

    def tiers(self, layer: int) -> Tiers:
        """How many tokens of a layer are in which tier."""
        state = self._layer(layer).state
        return Tiers(state.sinks.n, states.count(state.old), states.count(state.cold), state.hot.n, state.evicted)

    def append(self, layer: int, k: ArrayLike, v: ArrayLike, threads: int | None = None) -> None:
        """Add tokens behind those of a layer.

        Parameters
        ----------
        layer : int
        k, v : (n_kv_heads, n_tokens, head_dim) float16, bfloat16, float32 or float64
            One token, a part of a prompt, or all of it. Keys as attention needs them: after rotary embedding.
        threads : int, optional

        Raises
        ------
        InputError
            Wrong type or shape; NaN, Inf, or a value that the policy's `dtype` can't hold, with layer, head and token.
            Nothing is added then.
        """
        number, target = layer, self._layer(layer)
        keys, values = (
            checks.tokens(x, name, (self.n_kv_heads, self.head_dim), self.policy.dtype, number)
            for x, name in ((k, "k"), (v, "v"))
        )
        if keys.shape != values.shape:
            raise InputError(f"k and v must have the same number of tokens, got {keys.shape[1]} and {values.shape[1]}")
        target.append(keys, values, threads)

    def attend(
        self,
        layer: int,
        q: ArrayLike,
        scale: float | None = None,
        least: float = 0.0,
        threads: int | None = None,
        return_skipped: bool = False,
    ) -> Any:
        """Attention of the newest tokens' queries to all tokens up to their own.

        Parameters
        ----------
        layer : int
        q : (n_heads, n_queries, head_dim) float
            Of the newest `n_queries` tokens, in order. `n_heads` is a multiple of `n_kv_heads`: the first
            ``n_heads / n_kv_heads`` belong to the first KV head, and so on.
        scale : float, optional
            Of the scores. Default: 1/√head_dim.
        least : float
            Values of coded tokens may be skipped where their share of the attention is less than that for every query
            of the KV head. What is skipped counts as the mean value if that is subtracted, otherwise as 0.
        threads : int, optional
            At most one a KV head is used. The result does not depend on it.
        return_skipped : bool
            Return also the share of each query's attention that was skipped.

        Returns
        -------
        out : (n_heads, n_queries, head_dim) float32
        skipped : (n_heads, n_queries) float32
            Only with `return_skipped`.

        Raises
        ------
        InputError
            Wrong type or shape, NaN or Inf, or more queries than tokens.
        """
        target = self._layer(layer)
        state = target.state
        factor = 1 / math.sqrt(self.head_dim) if scale is None else checks.finite(scale, "scale")
        rows = checks.queries(q, (self.n_kv_heads, self.head_dim), factor, layer)
        newest = state.n - (state.sinks.n if state.evicted and state.n > state.sinks.n else 0)
        if not 1 <= rows.shape[1] <= newest:
            raise InputError(
                f"q must have 1 to {newest} queries, the newest tokens of layer {layer}, got {rows.shape[1]}"
            )
        share = checks.share(least, "least")
        task = Task(state, target.codecs, basis(self.head_dim, self.policy.seed), share)
        out, skipped = attend(task, rows, num_threads(threads))
        return (out, skipped) if return_skipped else out

    def keys(self, layer: int, threads: int | None = None) -> Floats:
        """Keys as attention sees them, (n_kv_heads, tokens, head_dim) float32: decoded where they are coded."""
        return self._decoded(layer, "keys", threads)

    def values(self, layer: int, threads: int | None = None) -> Floats:
        """Values as attention sees them, (n_kv_heads, tokens, head_dim) float32: decoded where they are coded."""
        return self._decoded(layer, "values", threads)

    def _decoded(self, layer: int, name: str, threads: int | None) -> Floats:
        """All keys, or all values."""
        state, codecs = self._layer(layer).state, self._layer(layer).codecs
        means = getattr(state.means, name, None)
        mean = 0 if means is None else means[:, None]
        parts = [half_precision.widened(getattr(state.sinks, name)[:, : state.sinks.n])]
        for segments, sides in ((state.old, codecs.old), (state.cold, codecs.cold)):
            side: Any = getattr(sides, name, None)
            parts += [side.decode(getattr(one, name), one.rows, threads) + mean for one in segments]
        parts.append(half_precision.widened(getattr(state.hot, name)[:, : state.hot.n]))
        return np.concatenate(parts, axis=1)

    def truncate(self, n_tokens: int) -> None:
        """Keep only the first `n_tokens` tokens of those that each layer holds, as after a rejected draft.

        Raises
        ------
        InputError
            There are fewer.
        """
        n = _validate.integer(n_tokens, "n_tokens", 0, self.n_tokens)
        for layer in self._layers:
            layer.truncate(n)

    def fork(self) -> KVCache:
        """A cache with the same tokens, which shares their memory; what is added to one does not show in the other."""
        other = KVCache.__new__(KVCache)
        other.n_layers, other.n_kv_heads, other.head_dim = self.n_layers, self.n_kv_heads, self.head_dim
        other.policy = self.policy
        other._layers = tuple(layer.fork() for layer in self._layers)
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cache to a safetensors file, with checksums; an old one stays until the new one is complete.

        What other threads append meanwhile is in the file or not, for each layer by itself.
        """
        cache_file.save(Path(path), self._shape(), [layer.state for layer in self._layers])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> KVCache:
        """Read a file of `save`; every byte is verified.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        FormatError
            It is damaged, truncated, foreign or newer than this version of tqvec.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        with path.open("rb") as file:
            reader, header = cache_file.read_header(path, file)
            try:
                policy = Policy.from_json(header.policy)
                cache = cls(header.n_layers, header.n_kv_heads, header.head_dim, policy)
            except InputError as error:
                raise FormatError(f"{path}: damaged, or this tqvec can't read such a cache: {error}") from error
            states = cache_file.load(reader, header, cache._shape())
        for layer, state in zip(cache._layers, states, strict=True):
            layer.state = state
        return cache

    def _shape(self) -> cache_file.Shape:
        codecs = tuple(layer.codecs for layer in self._layers)
        return cache_file.Shape(self.policy, self.n_kv_heads, self.head_dim, codecs)

    def _layer(self, number: int) -> Layer:
        return self._layers[_validate.integer(number, "layer", 0, self.n_layers - 1)]

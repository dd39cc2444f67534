"""How wrong attention gets under a policy: measured with the codec itself, on captured tensors or on made ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tqvec._random import generator
from tqvec._types import Floats
from tqvec.errors import InputError
from tqvec.kvcache.cache import KVCache
from tqvec.kvcache.policy import Policy

_NAME = re.compile(r"layer\.(\d+)\.([qkv])")
_CONSTANT = 1.1  # length of what all keys share, relative to the rest: their mean unit vector has length .74
_SPREAD = 2.5  # standard deviation of scores, the same for all keys apart


class Layer(NamedTuple):
    """Tensors of a layer, keys as attention needs them.

    Attributes
    ----------
    q : (n_heads, n_queries, head_dim) float32
        Of the newest tokens.
    k, v : (n_kv_heads, n_tokens, head_dim) float32
    """

    q: Floats
    k: Floats
    v: Floats


class Loss(NamedTuple):
    """Relative error of the output over queries, heads and layers: mean, 99th percentile, mean of the worst head."""

    mean: float
    p99: float
    worst_head: float


def made_layer(head_dim: int, n_tokens: int = 2048, n_kv_heads: int = 4, n_queries: int = 32) -> Layer:
    """Tensors as hard as those of real models: keys with a large constant part and channels of unequal size.

    Two query heads a KV head; a query leans towards one of the keys.
    """
    rng = generator(None, "captured tensors")

    def normal(*shape: int) -> NDArray[np.float64]:
        return rng.standard_normal(shape)

    channels = np.exp(0.5 * normal(n_kv_heads, 1, head_dim))
    channels /= np.sqrt(np.mean(np.square(channels), axis=2, keepdims=True))
    own = normal(n_kv_heads, n_tokens, head_dim) * channels
    k = own + _CONSTANT * normal(n_kv_heads, 1, head_dim)
    v = normal(n_kv_heads, n_tokens, head_dim) + 0.3 * normal(n_kv_heads, 1, head_dim)
    chosen = own[:, rng.integers(0, n_tokens - n_queries, 2 * n_queries)]
    q = normal(n_kv_heads, 2 * n_queries, head_dim) + 0.5 * chosen / channels
    scores = np.einsum("hqd,htd->hqt", q, own)
    q *= _SPREAD * np.sqrt(head_dim) / scores.std(axis=2, keepdims=True)
    return Layer(*(x.astype(np.float32) for x in (q.reshape(2 * n_kv_heads, n_queries, head_dim), k, v)))


def read_layers(path: str | Path) -> list[Layer]:
    """Captured tensors: a safetensors file with ``layer.0.q``, ``layer.0.k``, ``layer.0.v`` and so on, as in `Layer`.

    Raises
    ------
    InputError
        It is no such file, a tensor is missing, or shapes don't fit.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise InputError(f"{path}: can't be read as safetensors of float16 or float32: {error}") from None
    numbers = sorted({int(found[1]) for name in tensors if (found := _NAME.fullmatch(name))})
    if not numbers:
        raise InputError(f"{path}: holds no tensors named layer.0.q, layer.0.k, layer.0.v")
    layers = []
    for number in numbers:
        names = [f"layer.{number}.{side}" for side in "qkv"]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise InputError(f"{path}: {missing[0]} is missing")
        layers.append(
            _checked(Layer(*(np.asarray(tensors[name], np.float32) for name in names)), f"{path}: {names[0]}")
        )
    return layers


def _checked(layer: Layer, where: str) -> Layer:
    q, k, v = layer
    sound = q.ndim == k.ndim == 3 and k.shape == v.shape and q.shape[2] == k.shape[2] and 0 not in (*q.shape, *k.shape)
    if not sound or q.shape[0] % k.shape[0] or q.shape[1] > k.shape[1]:
        told = f"{q.shape}, {k.shape} and {v.shape}"
        raise InputError(f"{where}: q, k and v must be (heads, queries, d), (KV heads, tokens, d) twice, got {told}")
    return layer


def measure_loss(layers: list[Layer], policy: Policy, kept: float = 1.0, sinks: int = 4) -> Loss:
    """Attention with what a cache decodes, against that with the tensors themselves.

    Parameters
    ----------
    layers : list of Layer
    policy : Policy
        With one width for all layers, or widths for as many as there are.
    kept : float
        Share of the tokens that there still are: the first `sinks` and the newest.
    sinks : int

    Returns
    -------
    Loss
    """
    _, k, _ = layers[0]
    cache = KVCache(len(layers), k.shape[0], k.shape[2], policy)
    errors = []
    for number, (q, k, v) in enumerate(layers):
        cache.append(number, k, v)
        n = k.shape[1]
        first = min(max(sinks, n - round(kept * n) + sinks), n - q.shape[1]) if kept < 1 else sinks
        there = np.r_[0 : min(sinks, first), first:n]
        others = (cache.keys(number), cache.values(number))
        errors.append(_errors(q, (k, v), others, there))
    found = np.array(errors)
    return Loss(float(found.mean()), float(np.percentile(found, 99)), float(found.mean(axis=2).max()))


def _errors(
    q: Floats, true: tuple[Floats, Floats], others: tuple[Floats, Floats], there: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Relative error of each head and query, (n_heads, n_queries)."""
    group = q.shape[0] // true[0].shape[0]
    n = true[0].shape[1]
    found = []
    for head, rows in enumerate(q.astype(np.float64)):
        k, v = (side[head // group].astype(np.float64) for side in true)
        k_other, v_other = (side[head // group, there].astype(np.float64) for side in others)
        exact = _attention(rows, k, v, np.arange(n))
        out = _attention(rows, k_other, v_other, there)
        found.append(np.linalg.norm(out - exact, axis=1) / np.linalg.norm(exact, axis=1))
    return np.array(found)


def _attention(q: NDArray, k: NDArray, v: NDArray, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Causal attention of the newest queries to tokens at these positions, the last of which is the last query's."""
    scores = q @ k.T / np.sqrt(q.shape[1])
    newest = positions[-1] + 1 - len(q) + np.arange(len(q))
    scores[positions > newest[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights @ v / weights.sum(axis=1, keepdims=True)

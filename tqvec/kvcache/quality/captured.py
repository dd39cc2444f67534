"""Measure the error of attention under a policy with the cache itself, on captured or synthetic tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tqvec import _validate
from tqvec._output import as_path
from tqvec._present import Presented, Sheet, brief
from tqvec._random import generator
from tqvec._types import Floats
from tqvec.codec.bands import MAX_D
from tqvec.errors import InputError
from tqvec.kvcache import checks
from tqvec.kvcache.cache import KVCache
from tqvec.kvcache.policy import MAX_LAYERS, Policy
from tqvec.kvcache.quality.fidelity import output_errors
from tqvec.kvcache.rope import Rope

_NAME = re.compile(r"layer\.(\d+)\.([qkv])")
_ARRAYS = ("queries_f16.npy", "keys_f16.npy", "values_f16.npy")  # of a folder
_CONSTANT = 1.1  # length of the part that all keys share, relative to the rest: their mean unit vector has length 0.74
_MAX_TOKENS = 2**24
_SPREAD = 2.5  # standard deviation of a query's scores


class CapturedLayer(NamedTuple):
    """Queries, keys and values of a layer, as attention needs them: after rotary embedding.

    Attributes
    ----------
    q : (n_heads, n_queries, head_dim) float32
        Queries of the newest tokens.
    k, v : (n_kv_heads, n_tokens, head_dim) float32
    """

    q: Floats
    k: Floats
    v: Floats

    def __repr__(self) -> str:
        return brief(self)


class _LossFields(NamedTuple):
    """The fields of an `AttentionLoss`."""

    mean: float
    p99: float
    worst_head: float


class AttentionLoss(Presented, _LossFields):
    """Relative error of attention over queries, heads and layers: mean, 99th percentile, mean of the worst head."""

    __slots__ = ()

    def _sheet(self) -> Sheet:
        return Sheet(("measure", "value"), list(self._asdict().items()))


def synthesize_layer(
    head_dim: int, n_tokens: int = 2048, n_kv_heads: int = 4, n_queries: int = 32, rope: Rope | None = None
) -> CapturedLayer:
    """Make a layer that is as hard to code as real ones: keys with a large constant part and channels of unequal size.

    There are two query heads per KV head, and each query is biased towards one of the keys. With a `rope` the constant
    part turns with the position, as one that real keys have before rotary embedding does.

    Raises
    ------
    InputError
        A number is out of its range, there are as many queries as tokens, or the rope does not fit `head_dim`.
    """
    head_dim = _validate.integer(head_dim, "head_dim", 1, MAX_D)
    n_tokens = _validate.integer(n_tokens, "n_tokens", 2, _MAX_TOKENS)
    n_kv_heads = _validate.integer(n_kv_heads, "n_kv_heads", 1, MAX_LAYERS)
    n_queries = _validate.integer(n_queries, "n_queries", 1, n_tokens - 1)
    (rope,) = checks.ropes([rope], 1, head_dim)
    rng = generator(None, "captured tensors")

    def normal(*shape: int) -> NDArray[np.float64]:
        return rng.standard_normal(shape)

    channels = np.exp(0.5 * normal(n_kv_heads, 1, head_dim))
    channels /= np.sqrt(np.mean(np.square(channels), axis=2, keepdims=True))
    own = normal(n_kv_heads, n_tokens, head_dim) * channels
    constant = np.repeat(_CONSTANT * normal(n_kv_heads, 1, head_dim), n_tokens, axis=1)
    k = own + (constant if rope is None else rope.rotate(constant, np.arange(n_tokens)))
    v = normal(n_kv_heads, n_tokens, head_dim) + 0.3 * normal(n_kv_heads, 1, head_dim)
    targets = own[:, rng.integers(0, n_tokens - n_queries, 2 * n_queries)]
    q = normal(n_kv_heads, 2 * n_queries, head_dim) + 0.5 * targets / channels
    scores = np.einsum("hqd,htd->hqt", q, own)
    q *= _SPREAD * np.sqrt(head_dim) / scores.std(axis=2, keepdims=True)
    return CapturedLayer(*(x.astype(np.float32) for x in (q.reshape(2 * n_kv_heads, n_queries, head_dim), k, v)))


def read_layers(path: str | Path) -> list[CapturedLayer]:
    """Read captured tensors of some layers from a safetensors file, or from a folder of arrays.

    Parameters
    ----------
    path : str or Path
        A file with ``layer.0.q``, ``layer.0.k``, ``layer.0.v`` and so on; or a folder with ``queries_f16.npy``,
        ``keys_f16.npy`` and ``values_f16.npy``, whose first axis is the layer.

    Raises
    ------
    InputError
        The file or folder can't be read, a tensor is missing, or the shapes don't fit.
    """
    path = as_path(path)
    return _read_folder(path) if path.is_dir() else _read_file(path)


def read_rope(folder: str | Path) -> Rope | None:
    """Read the rotary embedding of captured keys: ``rope_theta`` in the ``manifest.json`` of their folder.

    Returns
    -------
    Rope or None
        None: there is no such file, or it does not say.

    Raises
    ------
    InputError
        The file can't be read, or holds no number.
    """
    path = as_path(folder) / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read as JSON: {error}") from None
    theta = manifest.get("rope_theta") if isinstance(manifest, dict) else None
    return None if theta is None else Rope(_validate.number(theta, f"{path}: rope_theta"))


def _read_folder(path: Path) -> list[CapturedLayer]:
    """Read the layers of a folder of arrays."""
    arrays = [_read_array(path / name) for name in _ARRAYS]
    shapes = [array.shape for array in arrays]
    if any(len(shape) != 4 or shape[0] != shapes[0][0] for shape in shapes) or shapes[0][0] == 0:
        raise InputError(f"{path}: queries, keys and values must be (layers, heads, tokens, d) each, got {shapes}")
    return [
        check_layer(CapturedLayer(*(array[i].astype(np.float32) for array in arrays)), f"{path}: layer {i}")
        for i in range(shapes[0][0])
    ]


def _read_array(path: Path) -> NDArray:
    """Read the array of a side of all layers."""
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: can't be read as an array: {error}") from None


def _read_file(path: Path) -> list[CapturedLayer]:
    """Read the layers of a safetensors file."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise InputError(f"{path}: can't be read as safetensors of float16 or float32: {error}") from None
    numbers = sorted({int(match[1]) for name in tensors if (match := _NAME.fullmatch(name))})
    if not numbers:
        raise InputError(f"{path}: holds no tensors named layer.0.q, layer.0.k, layer.0.v")
    layers = []
    for number in numbers:
        names = [f"layer.{number}.{side}" for side in "qkv"]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise InputError(f"{path}: {missing[0]} is missing")
        layer = CapturedLayer(*(np.asarray(tensors[name], np.float32) for name in names))
        layers.append(check_layer(layer, f"{path}: {names[0]}"))
    return layers


def check_layer(layer: CapturedLayer, where: str) -> CapturedLayer:
    """Return a layer whose arrays hold numbers, in shapes that fit."""
    q, k, v = (_validate.numbers(x, f"{where}: {name}") for name, x in layer._asdict().items())
    sound = q.ndim == k.ndim == 3 and k.shape == v.shape and q.shape[2] == k.shape[2] and 0 not in (*q.shape, *k.shape)
    if not sound or q.shape[0] % k.shape[0] or q.shape[1] > k.shape[1]:
        shapes = f"{q.shape}, {k.shape} and {v.shape}"
        raise InputError(f"{where}: q, k and v must be (heads, queries, d), (KV heads, tokens, d) twice, got {shapes}")
    return CapturedLayer(q, k, v)


def check_layers(layers: Sequence[CapturedLayer], name: str) -> list[CapturedLayer]:
    """Return at least one checked layer, all with the same heads."""
    checked = [
        check_layer(layer, f"{name}[{i}]") for i, layer in enumerate(_validate.sequence(layers, name, CapturedLayer))
    ]
    if not checked:
        raise InputError(f"{name} must not be empty")
    shapes = {(layer.q.shape[:2], layer.k.shape[0], layer.k.shape[2]) for layer in checked}
    if len(shapes) > 1:
        raise InputError(f"{name} must have layers of one shape, got (q, KV heads, d) = {sorted(shapes)}")
    return checked


def measure_loss(
    layers: Sequence[CapturedLayer],
    policy: Policy,
    *,
    kept: float = 1.0,
    sinks: int = 4,
    rope: Rope | Sequence[Rope | None] | None = None,
) -> AttentionLoss:
    """Compare attention on the keys and values that a cache decodes with attention on the tensors themselves.

    Parameters
    ----------
    layers : sequence of CapturedLayer
    policy : Policy
        With one width for all layers, or widths for as many layers as there are.
    kept : float
        Share of the tokens that are not dropped: the first `sinks` tokens and the newest.
    sinks : int
    rope : Rope, None or sequence of them, optional
        The rotary position embedding of the keys, as for `KVCache`.

    Returns
    -------
    AttentionLoss

    Raises
    ------
    InputError
        There is no layer, shapes don't fit, or a number is out of its range.
    """
    layers = check_layers(layers, "layers")
    kept, sinks = _validate.number(kept, "kept"), _validate.integer(sinks, "sinks", 0, _MAX_TOKENS)
    if not 0 <= kept <= 1:
        raise InputError(f"kept must be a share from 0 to 1, got {kept}")
    _, k, _ = layers[0]
    cache = KVCache(len(layers), k.shape[0], k.shape[2], policy, rope)
    errors = []
    for number, (q, k, v) in enumerate(layers):
        cache.append(number, k, v)
        n = k.shape[1]
        first = min(max(sinks, n - round(kept * n) + sinks), n - q.shape[1]) if kept < 1 else sinks
        positions = np.r_[0 : min(sinks, first), first:n]
        errors.append(output_errors(q, (k, v), (cache.keys(number), cache.values(number)), kept=positions))
    error = np.array(errors)
    return AttentionLoss(float(error.mean()), float(np.percentile(error, 99)), float(error.mean(axis=2).max()))

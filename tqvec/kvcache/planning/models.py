"""Models as the planner sees them: what each layer keeps of a sequence. From the catalogue, or from a config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from tqvec import _validate
from tqvec.errors import InputError

_MOST = 2**31
# What a config.json may leave out, by model_type: the defaults of transformers' configuration classes.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 2, "max_position_embeddings": 8192},
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "max_position_embeddings": 131072,
    },
    "qwen3_next": {"full_attention_interval": 4, "head_dim": 256},
    "qwen3_5_text": {"full_attention_interval": 4, "head_dim": 256},
}
_KINDS = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
}
_WINDOWS = {"sliding": "sliding_window", "chunked": "attention_chunk_size"}
_FLOAT32 = 4


class LayerKind(NamedTuple):
    """What a layer keeps of a sequence.

    Attributes
    ----------
    name : str
        "full", "sliding", "chunked" or "linear".
    kv_heads, head_dim : int
        Of the keys and values; 0 where there are none.
    window : int or None
        Newest tokens that it attends to; None: all.
    state : int
        Bytes that do not depend on the number of tokens.
    heads : int
        Of the queries.
    """

    name: str
    kv_heads: int
    head_dim: int
    window: int | None = None
    state: int = 0
    heads: int = 0


class Model(NamedTuple):
    """A model.

    Attributes
    ----------
    name : str
    context : int
        Tokens that it was made for.
    layers : tuple of LayerKind
    source : str
        Where the figures are from.
    """

    name: str
    context: int
    layers: tuple[LayerKind, ...]
    source: str


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Model]:
    """Models that tqvec knows by name; data/models.json has their configurations and where these are from."""
    entries = json.loads(files("tqvec.kvcache").joinpath("data/models.json").read_text(encoding="utf-8"))
    return {name: from_config(entry["config"], name, entry["source"]) for name, entry in entries.items()}


def find_model(model: str | Path) -> Model:
    """A model of the catalogue, or that of a Hugging Face config.json.

    Parameters
    ----------
    model : str or Path
        A name of `catalogue`, in any case; or the path of a config.json, or of a folder that holds one.

    Raises
    ------
    InputError
        Neither, or a config.json that does not say what is needed.
    """
    known = catalogue()
    if isinstance(model, str) and model.lower() in known:
        return known[model.lower()]
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"model must be one of {', '.join(known)}, or the path of a config.json; got {str(model)!r}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON: {error}") from None
    return from_config(config, path.resolve().parent.name, str(path))


def from_config(config: object, name: str, source: str) -> Model:
    """A model by its configuration, with the names that Hugging Face's config.json has.

    Parameters
    ----------
    config : dict
    name, source : str
        Errors name the source.

    Raises
    ------
    InputError
        A number is missing or wrong, or a layer is of a kind that is not known here.
    """
    if isinstance(config, dict) and isinstance(config.get("text_config"), dict):
        config = config["text_config"]
    if not isinstance(config, dict):
        raise InputError(f"{source}: must hold an object, got {str(config)[:40]}")
    given = {key: value for key, value in config.items() if value is not None}
    fields = _Fields(_DEFAULTS.get(str(given.get("model_type")), {}) | given, source)
    if "kv_lora_rank" in fields.given:
        raise InputError(f"{source}: kv_lora_rank: latent attention keeps no keys and values of heads; not modelled")
    kinds = _layer_kinds(fields)
    layers = [_layer(kind, fields) for kind in kinds]
    shared = fields.integer("num_kv_shared_layers", 0)
    if shared:  # the last layers use the keys and values of earlier ones
        layers[-shared:] = [LayerKind("shared", 0, 0)] * min(shared, len(layers))
    return Model(name, fields.integer("max_position_embeddings"), tuple(layers), source)


class _Fields:
    """Numbers of a configuration."""

    def __init__(self, given: Mapping[str, Any], source: str):
        self.given, self.source = given, source

    def integer(self, name: str, default: int | None = None) -> int:
        if name not in self.given:
            if default is None:
                raise InputError(f"{self.source}: {name} is missing")
            return default
        return _validate.integer(self.given[name], f"{self.source}: {name}", 0 if default == 0 else 1, _MOST)


def _layer_kinds(fields: _Fields) -> list[str]:
    """What kind each layer is of: listed, or by a rule."""
    n = fields.integer("num_hidden_layers")
    given = fields.given
    if "layer_types" in given:
        types = given["layer_types"]
        if not isinstance(types, list) or len(types) != n:
            raise InputError(f"{fields.source}: layer_types must list {n} layers")
        for i, kind in enumerate(types):
            if kind not in _KINDS:
                raise InputError(f"{fields.source}: layer_types[{i}]: {kind!r} is not one of {', '.join(_KINDS)}")
        return [_KINDS[kind] for kind in types]
    if "full_attention_interval" in given:
        every = fields.integer("full_attention_interval")
        return ["linear" if (i + 1) % every else "full" for i in range(n)]
    if "sliding_window" not in given or given.get("use_sliding_window") is False:
        return ["full"] * n
    if "sliding_window_pattern" in given:
        every = fields.integer("sliding_window_pattern")
        return ["sliding" if (i + 1) % every else "full" for i in range(n)]
    first = fields.integer("max_window_layers", 0) if "use_sliding_window" in given else 0
    return ["full" if i < first else "sliding" for i in range(n)]


def _layer(kind: str, fields: _Fields) -> LayerKind:
    if kind == "linear":
        return LayerKind(kind, 0, 0, state=_linear_state(fields))
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", heads)
    head_dim = fields.integer("head_dim", fields.integer("hidden_size", 1) // heads)
    if kind == "full":
        kv_heads = fields.integer("num_global_key_value_heads", kv_heads)
        head_dim = fields.integer("global_head_dim", head_dim)
    if head_dim < 1:
        raise InputError(f"{fields.source}: head_dim and hidden_size are missing")
    window = fields.integer(_WINDOWS[kind]) if kind in _WINDOWS else None
    return LayerKind(kind, kv_heads, head_dim, window, heads=heads)


def _linear_state(fields: _Fields) -> int:
    """Bytes of a gated delta net: a float32 matrix a value head, and the last inputs of a convolution in 16 bits."""
    keys, values = (
        (fields.integer(f"linear_num_{side}_heads"), fields.integer(f"linear_{side}_head_dim"))
        for side in ("key", "value")
    )
    matrix = values[0] * keys[1] * values[1] * _FLOAT32
    channels = 2 * keys[0] * keys[1] + values[0] * values[1]
    return matrix + channels * fields.integer("linear_conv_kernel_dim") * 2

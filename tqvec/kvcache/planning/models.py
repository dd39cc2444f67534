"""Models as the planner sees them: the keys and values of each layer, by name or from a config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from tqvec import _validate
from tqvec._present import brief
from tqvec.errors import InputError

_MAX_NUMBER = 2**31
# Defaults of transformers' configuration classes by model_type, which a config.json may leave out.
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
    """The keys, values and state that a layer keeps of a sequence.

    Attributes
    ----------
    name : str
        "full", "sliding", "chunked" or "linear".
    kv_heads, head_dim : int
        Shape of the keys and values; 0 in a layer without them.
    window : int or None
        Newest tokens that the layer attends to; None: all.
    state : int
        Bytes that do not depend on the number of tokens.
    heads : int
        Number of query heads.
    """

    name: str
    kv_heads: int
    head_dim: int
    window: int | None = None
    state: int = 0
    heads: int = 0


class Model(NamedTuple):
    """The shape of a model's cache.

    Attributes
    ----------
    name : str
    context : int
        Tokens that the model was made for.
    layers : tuple of LayerKind
    source : str
        Origin of the figures: a URL or a path.
    """

    name: str
    context: int
    layers: tuple[LayerKind, ...]
    source: str

    def __repr__(self) -> str:
        return brief(self)


@lru_cache(maxsize=1)
def list_models() -> dict[str, Model]:
    """Return the models that `plan` knows by name; `Model.source` says where the figures are from."""
    entries = json.loads(files("tqvec.kvcache").joinpath("data/models.json").read_text(encoding="utf-8"))
    return {name: parse_config(entry["config"], name, entry["source"]) for name, entry in entries.items()}


def find_model(model: str | Path) -> Model:
    """Find a model by name, or read its Hugging Face config.json.

    Parameters
    ----------
    model : str or Path
        A name of `list_models`, in upper or lower case; or the path of a config.json, or of a folder with one.

    Raises
    ------
    InputError
        No model or file has this name, or a number is missing in config.json.
    """
    models = list_models()
    if isinstance(model, str) and model.lower() in models:
        return models[model.lower()]
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"model must be one of {', '.join(models)}, or the path of a config.json; got {str(model)!r}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON: {error}") from None
    return parse_config(config, path.resolve().parent.name, str(path))


def parse_config(config: object, name: str, source: str) -> Model:
    """Return the model of a configuration with the keys of a Hugging Face config.json.

    Parameters
    ----------
    config : dict
    name : str
        Name of the model.
    source : str
        Origin of the configuration, for error messages.

    Raises
    ------
    InputError
        A number is missing or wrong, or the kind of a layer is unknown.
    """
    if isinstance(config, dict) and isinstance(config.get("text_config"), dict):
        config = config["text_config"]
    if not isinstance(config, dict):
        raise InputError(f"{source}: must hold an object, got {str(config)[:40]}")
    values = {key: value for key, value in config.items() if value is not None}
    fields = _Fields(_DEFAULTS.get(str(values.get("model_type")), {}) | values, source)
    if "kv_lora_rank" in fields.values:
        raise InputError(f"{source}: kv_lora_rank: latent attention keeps no keys and values of heads; not modelled")
    kinds = _layer_kinds(fields)
    layers = [_layer(kind, fields) for kind in kinds]
    shared = fields.integer("num_kv_shared_layers", 0)
    if shared:  # the last layers use the keys and values of earlier ones
        layers[-shared:] = [LayerKind("shared", 0, 0)] * min(shared, len(layers))
    return Model(name, fields.integer("max_position_embeddings"), tuple(layers), source)


class _Fields:
    """The values of a configuration, with their source for error messages."""

    def __init__(self, values: Mapping[str, Any], source: str):
        self.values, self.source = values, source

    def integer(self, name: str, default: int | None = None) -> int:
        if name not in self.values:
            if default is None:
                raise InputError(f"{self.source}: {name} is missing")
            return default
        return _validate.integer(self.values[name], f"{self.source}: {name}", 0 if default == 0 else 1, _MAX_NUMBER)


def _layer_kinds(fields: _Fields) -> list[str]:
    """Return the kind of each layer: from a list, or by a rule."""
    n = fields.integer("num_hidden_layers")
    values = fields.values
    if "layer_types" in values:
        types = values["layer_types"]
        if not isinstance(types, list) or len(types) != n:
            raise InputError(f"{fields.source}: layer_types must list {n} layers")
        for i, kind in enumerate(types):
            if kind not in _KINDS:
                raise InputError(f"{fields.source}: layer_types[{i}]: {kind!r} is not one of {', '.join(_KINDS)}")
        return [_KINDS[kind] for kind in types]
    if "full_attention_interval" in values:
        every = fields.integer("full_attention_interval")
        return ["linear" if (i + 1) % every else "full" for i in range(n)]
    if "sliding_window" not in values or values.get("use_sliding_window") is False:
        return ["full"] * n
    if "sliding_window_pattern" in values:
        every = fields.integer("sliding_window_pattern")
        return ["sliding" if (i + 1) % every else "full" for i in range(n)]
    first = fields.integer("max_window_layers", 0) if "use_sliding_window" in values else 0
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
    """Return the state of a gated delta net: a float32 matrix per value head, and 16-bit inputs of a convolution."""
    keys, values = (
        (fields.integer(f"linear_num_{side}_heads"), fields.integer(f"linear_{side}_head_dim"))
        for side in ("key", "value")
    )
    matrix = values[0] * keys[1] * values[1] * _FLOAT32
    channels = 2 * keys[0] * keys[1] + values[0] * values[1]
    return matrix + channels * fields.integer("linear_conv_kernel_dim") * 2

"""Models as the planner sees them: the keys and values of each layer, by name or from a config.json."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from tqvec import _validate
from tqvec._output import as_path
from tqvec._present import brief
from tqvec.codec.bands import MAX_D
from tqvec.errors import InputError
from tqvec.kvcache.planning.architectures import (
    ARCHITECTURES,
    BY_HAND,
    BY_HAND_FIELDS,
    HARMLESS,
    MAX_NUMBER,
    STRUCTURAL,
    Architecture,
    Fields,
)
from tqvec.kvcache.planning.units import MAX_BYTES
from tqvec.kvcache.policy import MAX_LAYERS

_KINDS = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
    "mamba": "linear",
    "conv": "conv",
    "hybrid": "hybrid",
    "moe": "none",
    "mlp": "none",
}
_WINDOWS = {"sliding": "sliding_window", "chunked": "attention_chunk_size"}
_STATES = ("linear", "conv", "hybrid")
_EMPTY = ("linear", "conv", "none", "cross")  # kinds of layers that keep no keys and values of the text
_LAYER_FIELDS = ("num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window", "attention_chunk_size")
_BY_HAND = """describe the model by hand: Model(name, context, (LayerKind("full", kv_heads, head_dim),) * layers) in \
Python, or a config.json without model_type, of num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, \
max_position_embeddings and, if there are windows, layer_types and sliding_window"""


class LayerKind(NamedTuple):
    """The keys, values and state that a layer keeps of a sequence.

    Attributes
    ----------
    name : str
        "full", "sliding" or "chunked"; "linear" or "conv": a state in place of keys and values; "hybrid": both;
        "shared": the keys and values of another layer; "cross": those of images; "none": nothing.
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
        Origin of the figures: a URL, a path, or words.
    """

    name: str
    context: int
    layers: tuple[LayerKind, ...]
    source: str = ""

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
    path = as_path(model, "model")
    config, source = read_file(path, f"model must be one of {', '.join(models)}, or")
    return parse_config(config, Path(source).resolve().parent.name, source)


def read_file(path: Path, message: str) -> tuple[object, str]:
    """Return what a config.json holds, and its path.

    Parameters
    ----------
    path : Path
        Of the file, or of its folder.
    message : str
        The error for a file that is not there, but for its last words.

    Raises
    ------
    InputError
        The file is not there, or is no JSON.
    """
    path = path / "config.json" if os.path.isdir(path) else path
    if not os.path.isfile(path):  # also if the name is too long for one
        raise InputError(f"{message} the path of a config.json; got {str(path)!r}")
    try:
        return json.loads(path.read_text(encoding="utf-8")), str(path)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON: {error}") from None


def as_model(model: str | Path | Model) -> Model:
    """Return the model that `find_model` finds, or check one that was made by hand.

    Raises
    ------
    InputError
        As `find_model`, or a field is wrong.
    """
    if not isinstance(model, Model):
        return find_model(model)
    layers = _validate.sequence(model.layers, "model.layers", LayerKind)
    return Model(
        name=_validate.instance(model.name, "model.name", str),
        context=_validate.integer(model.context, "model.context", 1, MAX_NUMBER),
        layers=tuple(_check_layer(layer, f"model.layers[{i}]") for i, layer in enumerate(layers)),
        source=_validate.instance(model.source, "model.source", str),
    )


def _check_layer(layer: LayerKind, where: str) -> LayerKind:
    """Return a layer with checked numbers; one with keys and values has heads that share them evenly."""
    numbers = {"kv_heads": MAX_LAYERS, "head_dim": MAX_D, "state": MAX_BYTES, "heads": MAX_NUMBER}
    checked = {
        name: _validate.integer(getattr(layer, name), f"{where}.{name}", 0, high) for name, high in numbers.items()
    }
    if bool(checked["kv_heads"]) != bool(checked["head_dim"]):
        raise InputError(f"{where}: kv_heads and head_dim must both be 0, or neither, got {layer}")
    if checked["kv_heads"] and checked["heads"] % checked["kv_heads"]:
        raise InputError(f"{where}: heads must be a multiple of kv_heads, got {layer}")
    window = layer.window
    if window is not None:
        window = _validate.integer(window, f"{where}.window", 1, MAX_NUMBER)
    return LayerKind(_validate.instance(layer.name, f"{where}.name", str), window=window, **checked)


def parse_config(config: object, name: str, source: str) -> Model:
    """Return the model of a configuration with the keys of a Hugging Face config.json.

    Only types of models whose caches are known are read, and only fields that are known for them. A configuration
    without ``model_type`` describes a model by hand: nothing of it is left to defaults.

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
        The type or a field is not known, or a number is missing or wrong.
    """
    name, source = _validate.instance(name, "name", str), _validate.instance(source, "source", str)
    kind, values = text_part(config, source)
    if kind and kind not in ARCHITECTURES:
        raise InputError(f"{source}: model_type {kind!r} is not known; {_BY_HAND}")
    fields, architecture = read_fields(values, kind, source), ARCHITECTURES.get(kind, BY_HAND)
    n = _count_layers(fields)
    kinds = _layer_kinds(fields, architecture, n)
    layers = [_layer(kind, i, _of_layer(i, fields), architecture) for i, kind in enumerate(kinds)]
    shared = fields.integer("num_kv_shared_layers", 0)
    if shared:  # the last layers use the keys and values of earlier ones
        layers[-shared:] = [LayerKind("shared", 0, 0)] * min(shared, len(layers))
    return Model(name, fields.integer("max_position_embeddings"), tuple(layers), source)


@lru_cache(maxsize=1)
def _facts() -> dict[str, Any]:
    return json.loads(files("tqvec.kvcache").joinpath("data/model_types.json").read_text(encoding="utf-8"))


def text_part(config: object, source: str) -> tuple[str, dict[str, Any]]:
    """Return the type of the part of a model that reads text, "" for one by hand, and its configuration.

    Raises
    ------
    InputError
        It is no dictionary.
    """
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise InputError(f"{source}: must hold an object, got {str(config)[:40]}")
    outer, inner = config.get("model_type"), config.get("text_config")
    if isinstance(inner, dict):
        config = inner
    kind = config.get("model_type") or outer
    kind = "" if kind is None else str(kind)
    return _facts()["text types"].get(kind, kind), config  # files from before there was a text_config have all in one


def read_fields(values: dict[str, Any], kind: str, source: str) -> Fields:
    """Return the fields of a known type by their common names, with its defaults; a null is missing in any case.

    Raises
    ------
    InputError
        A field may change what layers keep, and is not known.
    """
    by_hand: dict[str, Any] = {"defaults": {}, "names": {}, "known": BY_HAND_FIELDS}
    facts = _facts()[kind] if kind else by_hand
    known = {*facts["known"], *facts["names"]}
    for key, value in values.items():
        strange = STRUCTURAL.search(key) and not HARMLESS.search(key) and key not in known and key != "per_layer_config"
        if strange and value not in (None, False, [], {}):
            of = f"for model_type {kind!r}" if kind else "in a description by hand"
            raise InputError(
                f"{source}: the field {key} is not known {of}; it may change what layers keep. Remove it from a copy "
                f"of the file if it doesn't; otherwise {_BY_HAND}"
            )
    own = {field: values[other] for field, other in facts["names"].items() if other in values}
    merged = facts["defaults"] | values | own
    return Fields({key: value for key, value in merged.items() if value is not None}, source)


def _count_layers(fields: Fields) -> int:
    """Return the number of layers: some makers write down only their list."""
    lists = (fields.values.get(name) for name in ("layer_types", "hybrid_override_pattern"))
    lengths = [len(each) for each in lists if isinstance(each, (list, str))]
    n = fields.integer("num_hidden_layers", lengths[0] if lengths else None)
    if n > MAX_LAYERS:
        raise InputError(f"{fields.source}: num_hidden_layers must be at most {MAX_LAYERS}, got {n}")
    return n


def _layer_kinds(fields: Fields, architecture: Architecture, n: int) -> list[str]:
    """Return the kind of each layer: from a list, or by the rule of the type."""
    if "layer_types" not in fields.values:
        return architecture.kinds(fields, n)
    types = fields.entries("layer_types", n)
    for i, kind in enumerate(types):
        if not isinstance(kind, str) or kind not in _KINDS:
            raise InputError(f"{fields.source}: layer_types[{i}]: {kind!r} is not one of {', '.join(_KINDS)}")
    return [_KINDS[kind] for kind in types]


def _of_layer(number: int, fields: Fields) -> Fields:
    """Return the fields of a layer, where a configuration has some of its own for it."""
    every = fields.values.get("per_layer_config")
    if every is None:
        return fields
    own = every.get(str(number), {}) if isinstance(every, dict) else None
    source = f"{fields.source}: per_layer_config"
    if not isinstance(own, dict):
        raise InputError(f"{source} must hold an object for each layer that differs")
    strange = [key for key in own if STRUCTURAL.search(key) and key not in _LAYER_FIELDS]
    if strange:
        raise InputError(f"{source}: the field {strange[0]} of layer {number} is not known; {_BY_HAND}")
    return Fields({key: value for key, value in fields.values.items() if "global" not in key} | own, source)


def _layer(kind: str, number: int, fields: Fields, architecture: Architecture) -> LayerKind:
    state = 0
    if kind in _STATES:
        if architecture.state is None:
            raise InputError(f"{fields.source}: {kind} layers are not known for this type; {_BY_HAND}")
        state = architecture.state(fields)
    if kind in _EMPTY:
        return LayerKind(kind, 0, 0, state=state)
    heads = fields.integer("num_attention_heads")
    kv_heads = architecture.heads(fields, heads)
    if "num_key_value_heads_per_layer" in fields.values:
        listed = fields.entries("num_key_value_heads_per_layer", fields.integer("num_hidden_layers"))
        kv_heads = _validate.integer(listed[number], f"num_key_value_heads_per_layer[{number}]", 1, heads)
    head_dim = fields.integer("head_dim", fields.integer("hidden_size", 1) // heads)
    if kind == "full":
        head_dim = fields.integer("global_head_dim", head_dim)
        if fields.values.get("attention_k_eq_v") is not False:
            kv_heads = fields.integer("num_global_key_value_heads", kv_heads)
    if head_dim < 1:
        raise InputError(f"{fields.source}: head_dim and hidden_size are missing")
    window = fields.integer(_WINDOWS[kind]) if kind in _WINDOWS else None
    return LayerKind(name=kind, kv_heads=kv_heads, head_dim=head_dim, window=window, state=state, heads=heads)

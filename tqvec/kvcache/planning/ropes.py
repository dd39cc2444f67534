"""Rotary embeddings of models: how the config.json of each type says what turns its keys.

A type that is not here is refused. Tests compare the keys with those of the models in transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from tqvec import _validate
from tqvec._output import as_path
from tqvec.errors import InputError
from tqvec.kvcache.planning.architectures import MAX_NUMBER, Fields
from tqvec.kvcache.planning.models import LayerKind, parse_config, read_fields, read_file, text_part

_BY_HAND = "give a Rope by hand: Rope(theta, dim, scaling), or None if its keys don't turn"
_LABELS = {"full": "full_attention", "sliding": "sliding_attention"}
_FACTOR, _ORIGINAL = "partial_rotary_factor", "original_max_position_embeddings"

Values: TypeAlias = dict[str, Any]  # arguments of a Rope
Turns: TypeAlias = Callable[[Fields, LayerKind, int], bool]  # of a layer and its number


def _always(fields: Fields, layer: LayerKind, number: int) -> bool:
    return True


def _never(fields: Fields, layer: LayerKind, number: int) -> bool:
    return False


def _in_windows(fields: Fields, layer: LayerKind, number: int) -> bool:
    return layer.window is not None


def _in_windows_if_any(fields: Fields, layer: LayerKind, number: int) -> bool:
    return layer.window is not None or "sliding_window" not in fields.values


def _in_windows_and_dense(fields: Fields, layer: LayerKind, number: int) -> bool:
    """Also in the first layers, without experts, unless they have windows by a pattern of their own."""
    kinds = fields.values.get("mlp_layer_types")
    if kinds is None:
        dense = number < fields.integer("first_k_dense_replace", 0)
    else:
        dense = fields.entries("mlp_layer_types", fields.integer("num_hidden_layers"))[number] == "dense"
    return layer.window is not None or (dense and fields.integer("prefix_dense_sliding_window_pattern", 1) == 1)


def _listed(fields: Fields, layer: LayerKind, number: int) -> bool:
    """All but every n-th layer, or by a list of flags."""
    if fields.values.get("no_rope_layers"):
        return bool(fields.entries("no_rope_layers", fields.integer("num_hidden_layers"))[number])
    return (number + 1) % fields.integer("no_rope_layer_interval", 4) != 0


def _without_alibi(fields: Fields, layer: LayerKind, number: int) -> bool:
    return not fields.flag("alibi")


def _if_named(fields: Fields, layer: LayerKind, number: int) -> bool:
    return fields.values.get("position_embedding_type") == "rope"


def _with_theta(fields: Fields, layer: LayerKind, number: int) -> bool:
    """A theta of null stands for none."""
    parameters = _given(fields, "rope_scaling", "rope_parameters")
    return (parameters.get("rope_theta") if "rope_theta" in parameters else fields.values.get("rope_theta")) is not None


class Rotary(NamedTuple):
    """The rules of a type.

    Attributes
    ----------
    turns : callable
        Whether the keys of a layer turn.
    partial : str
        The field that says how many coordinates turn, if rope_parameters don't; "": always all.
    interleaved, reverse : bool
        As for `Rope`.
    by_kind : mapping or None
        Fields of older files with the theta of a kind of layer; None: all kinds have the same parameters.
    names : mapping
        Rope types by their names in older files.
    alpha : bool
        Whether the rope type "dynamic" may have a fixed factor of theta.
    """

    turns: Turns = _always
    partial: str = ""
    interleaved: bool = False
    reverse: bool = False
    by_kind: Mapping[str, str] | None = None
    names: Mapping[str, str] = {"mrope": "default"}
    alpha: bool = False


ROTARY: dict[str, Rotary] = {
    **dict.fromkeys(
        [
            "apertus",
            "arcee",
            "aria_text",
            "bitnet",
            "cwm",
            "falcon_h1",
            "flex_olmo",
            "gemma",
            "gemma2",
            "gpt_oss",
            "granite",
            "granite_swa",
            "granitemoe",
            "granitemoe_swa",
            "granitemoeshared",
            "hy_v3",
            "hyperclovax",
            "jais2",
            "lfm2",
            "lfm2_moe",
            "llama",
            "minimax",
            "ministral",
            "ministral3",
            "mistral",
            "mixtral",
            "mllama_text_model",
            "olmo",
            "olmo2",
            "olmoe",
            "phimoe",
            "qwen2",
            "qwen2_5_vl_text",
            "qwen2_moe",
            "qwen2_vl_text",
            "qwen3",
            "qwen3_moe",
            "qwen3_vl_moe_text",
            "qwen3_vl_text",
            "seed_oss",
            "solar_open",
            "starcoder2",
            "vaultgemma",
        ],
        Rotary(),
    ),
    **dict.fromkeys(
        [
            "bamba",
            "glm4_moe",
            "gpt_neox",
            "nemotron",
            "persimmon",
            "phi",
            "qwen3_5_moe_text",
            "qwen3_5_text",
            "qwen3_next",
            "stablelm",
        ],
        Rotary(partial=_FACTOR),
    ),
    **dict.fromkeys(["gpt2", "gpt_bigcode", "jamba", "nemotron_h", "opt", "xglm"], Rotary(_never)),
    **dict.fromkeys(["cohere", "ernie4_5", "ernie4_5_moe", "helium"], Rotary(interleaved=True)),
    **dict.fromkeys(["codegen", "gptj"], Rotary(partial="rotary_dim", interleaved=True)),
    **dict.fromkeys(["glm", "glm4"], Rotary(partial=_FACTOR, interleaved=True)),
    **dict.fromkeys(["hunyuan_v1_dense", "hunyuan_v1_moe"], Rotary(alpha=True)),
    **dict.fromkeys(["exaone4", "exaone_moe"], Rotary(_in_windows_if_any)),
    **dict.fromkeys(
        ["gemma3_text", "gemma3n_text"], Rotary(by_kind={"full": "rope_theta", "sliding": "rope_local_base_freq"})
    ),
    **dict.fromkeys(["gemma4_text", "mellum"], Rotary(by_kind={})),
    "afmoe": Rotary(_in_windows),
    "cohere2": Rotary(_in_windows, interleaved=True),
    "cohere2_moe": Rotary(_in_windows_and_dense, interleaved=True),
    "falcon": Rotary(_without_alibi),
    "granitemoehybrid": Rotary(_if_named),
    "laguna": Rotary(partial=_FACTOR, by_kind={}),
    "llama4_text": Rotary(_listed, interleaved=True),
    "minimax_m2": Rotary(partial="rotary_dim"),
    "nanochat": Rotary(reverse=True),
    "olmo3": Rotary(by_kind={"full": "rope_theta"}),
    "olmo_hybrid": Rotary(_with_theta),
    "phi3": Rotary(partial=_FACTOR, names={"su": "longrope", "yarn": "longrope"}),
    "smollm3": Rotary(_listed),
}


def read_ropes(config: object) -> tuple[Values | None, ...]:
    """Return the arguments of the `Rope` of each layer; None: its keys don't turn, or it has none of its own.

    Parameters
    ----------
    config : mapping, configuration of transformers, str or Path
        As `Rope.from_config` takes it.

    Raises
    ------
    InputError
        The type of the model or of its embedding is not known, or a number is missing or wrong.
    """
    everything, source = _as_config(config)
    kind, values = text_part(everything, source)
    if kind not in ROTARY:
        raise InputError(f"{source}: the rotary embedding of model_type {kind!r} is not known; {_BY_HAND}")
    layers, fields = parse_config(everything, "model", source).layers, read_fields(values, kind, source)
    return tuple(_layer(ROTARY[kind], fields, layer, i) for i, layer in enumerate(layers))


def _as_config(config: object) -> tuple[object, str]:
    """Return a configuration as a dictionary, and its name for error messages."""
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        return read_file(as_path(config, "config"), "config must be a configuration, or")
    try:  # only what a file could hold: types of tensors, arrays and the like are in none
        return json.loads(json.dumps(dict(config), default=lambda value: type(value).__name__)), "config"
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"config must hold what JSON can: {error}") from None


def _layer(rotary: Rotary, fields: Fields, layer: LayerKind, number: int) -> Values | None:
    if not layer.kv_heads or not rotary.turns(fields, layer, number):
        return None
    scaling = _of_kind(rotary.by_kind, fields, layer) if rotary.by_kind is not None else _of_all(fields)
    theta = scaling.pop("rope_theta", None)
    if "layer_rope_theta" in fields.values:
        theta = fields.entries("layer_rope_theta", fields.integer("num_hidden_layers"))[number]
        if theta == 0:
            return None
    theta = _validate.number(theta, f"{fields.source}: rope_theta")
    older = scaling.pop("type", "default")
    kind = _validate.instance(scaling.pop("rope_type", older), f"{fields.source}: rope_type", str)
    scaling["rope_type"] = rotary.names.get(kind, kind)
    if kind == "dynamic" and rotary.alpha and scaling.get("alpha"):
        alpha = _validate.number(scaling["alpha"], f"{fields.source}: alpha")
        if not 0 < alpha < MAX_NUMBER:
            raise InputError(f"{fields.source}: alpha must be above 0 and below {MAX_NUMBER}, got {alpha}")
        theta *= alpha ** (layer.head_dim / max(layer.head_dim - 2, 1))
        scaling = {"rope_type": "default"}
    _fill_lengths(fields, scaling)
    return {
        "theta": theta,
        "dim": _dim(rotary, fields, layer, scaling),
        "scaling": scaling,
        "interleaved": rotary.interleaved,
        "reverse": rotary.reverse,
    }


def _given(fields: Fields, *names: str) -> Values:
    """Return the first of these fields that holds something."""
    name = next((name for name in names if fields.values.get(name)), "")
    return dict(_validate.instance(fields.values.get(name, {}), f"{fields.source}: {name}", dict))


def _of_all(fields: Fields) -> Values:
    """Return the parameters of all layers."""
    given = _given(fields, "rope_scaling", "rope_parameters", "default_rope_parameters")
    if any(isinstance(value, dict) for value in given.values()):
        raise InputError(f"{fields.source}: rope_parameters must be the same for all layers; {_BY_HAND}")
    defaults = {"rope_theta": fields.values.get("rope_theta")}
    return defaults | {name: value for name, value in given.items() if value is not None}


def _of_kind(thetas: Mapping[str, str], fields: Fields, layer: LayerKind) -> Values:
    """Return the parameters of layers of this kind; older files have some in other fields."""
    label = _LABELS.get(layer.name, layer.name)
    default = fields.values["default_rope_parameters"].get(label, {})
    given = _given(fields, "rope_parameters") or ({} if thetas else _given(fields, "default_rope_parameters"))
    if not given.keys() <= set(_LABELS.values()) or not (thetas or given.get(label)):
        raise InputError(f"{fields.source}: rope_parameters must hold an object for {label}; {_BY_HAND}")
    own = {name: value for name, value in (given.get(label) or {}).items() if value is not None}
    if thetas:
        own |= _given(fields, "rope_scaling") if layer.name == "full" else {}
        own.setdefault("rope_theta", fields.values.get(thetas.get(layer.name, ""), default["rope_theta"]))
    own.pop("truncate", None)  # transformers does not read it here
    return own


def _fill_lengths(fields: Fields, scaling: Values) -> None:
    """Add the numbers that rope types take from other fields of a configuration."""
    longest = fields.integer("max_position_embeddings")
    if scaling["rope_type"] == "dynamic":
        scaling[_ORIGINAL] = longest
    elif scaling["rope_type"] in ("llama3", "yarn", "longrope"):
        scaling[_ORIGINAL] = fields.values.get(_ORIGINAL, scaling.get(_ORIGINAL, longest))
    if scaling["rope_type"] == "yarn" and "factor" not in scaling:
        scaling["factor"] = longest / _validate.integer(scaling[_ORIGINAL], _ORIGINAL, 1, MAX_NUMBER)


def _dim(rotary: Rotary, fields: Fields, layer: LayerKind, scaling: Values) -> int | None:
    """Return the number of coordinates that turn; None: all."""
    if scaling["rope_type"] == "proportional":  # all are paired, and a part of the pairs turns
        return None
    if rotary.partial == "rotary_dim" and _FACTOR not in scaling and "rotary_dim" in fields.values:
        dim = fields.integer("rotary_dim")
    else:
        factor = _validate.number(scaling.pop(_FACTOR, fields.values.get(_FACTOR, 1.0)), f"{fields.source}: {_FACTOR}")
        if not 0 < factor <= 1:
            raise InputError(f"{fields.source}: {_FACTOR} must be above 0 and at most 1, got {factor}")
        dim = int(layer.head_dim * factor)
    if dim != layer.head_dim and not rotary.partial:
        raise InputError(f"{fields.source}: {_FACTOR} is not known for this model_type; {_BY_HAND}")
    return None if dim == layer.head_dim else dim

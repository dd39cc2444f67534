"""The layers of a model's cache, by transformers' own judgement, and those of them that are kept in a `KVCache`."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, NamedTuple

from tqvec.errors import InputError
from tqvec.integrations.transformers.names import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    STATE_LAYERS,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    GenerationMixin,
    PretrainedConfig,
)
from tqvec.kvcache import Policy, Rope
from tqvec.kvcache.planning.planner import limit_to_window

_ATTENTION = {"full_attention", "attention", "sliding_attention", "chunked_attention"}
# Fields of models whose keys and values differ in size, or which cache more than those of the text.
_OTHER_CACHES = ("kv_lora_rank", "cross_attention_layers", "is_encoder_decoder")
_CACHE_ARGUMENTS = {"cache", "past_key_values"}  # of models, in newer and older versions


class Kind(NamedTuple):
    """What layers must have in common to be in one `KVCache`.

    Attributes
    ----------
    window : int or None
        Newest tokens that the layer attends to at most; None: all.
    n_kv_heads, head_dim : object
        As the config has them for the layer. They only tell layers apart: keys say what their shape is.
    recodes : bool
        Whether the policy may recode tokens of the layer.
    """

    window: int | None
    n_kv_heads: Any
    head_dim: Any
    recodes: bool = True


def read_text_config(config: Any) -> Any:
    """Return the part of a config that describes the text model."""
    if not isinstance(config, PretrainedConfig):
        raise InputError(f"config must be model.config of a transformers model, got {type(config).__name__}")
    return config.get_text_config(decoder=True)


def make_layers(config: Any) -> list[Any]:
    """Return the layers of the cache that transformers makes for a text model.

    Raises
    ------
    InputError
        The model does not use that cache; a layer is of a kind that is not known, or its keys and values differ in
        size; or no layer has keys and values of its own. The message names the fault.
    """
    if not _uses_cache(type(config)):
        raise _refusal(config, "does not use a cache that transformers makes")
    try:
        layers = list(DynamicCache(config=config).layers)
    except Exception as error:  # whatever the code of a strange config may raise
        raise _refusal(config, f"transformers makes no cache for ({type(error).__name__}: {error})") from error
    of_layers = _per_layer(config, 1)
    others = [name for name in _OTHER_CACHES if any(getattr(fields, name, None) for fields in of_layers)]
    if any(_value_dim(fields) != getattr(fields, "head_dim", None) for fields in of_layers):
        others.append("v_head_dim")
    if not STATE_LAYERS:  # this version makes layers with keys and values whatever the kind
        kinds = [*(getattr(config, "layer_types", None) or ()), *(getattr(config, "layers_block_type", None) or ())]
        others += sorted({str(kind) for kind in kinds} - _ATTENTION)
    known = (DynamicLayer, DynamicSlidingWindowLayer, *STATE_LAYERS)
    others += sorted({type(layer).__name__ for layer in layers if type(layer) not in known})
    if others:
        raise _refusal(config, f"has {', '.join(others)}")
    if all(isinstance(layer, STATE_LAYERS) for layer in layers):
        raise _refusal(config, "has no layer with keys and values")
    return layers


def _per_layer(config: Any, n: int) -> list[Any]:
    """Return the config of each layer; the same `n` times in versions in which layers can't differ."""
    return getattr(config, "per_layer_config", None) or [config] * n


def _value_dim(fields: Any) -> Any:
    return getattr(fields, "v_head_dim", None) or getattr(fields, "head_dim", None)


def _uses_cache(config_class: Any) -> bool:
    """Return whether the models of a config take a cache, and one that transformers can make."""
    argument = _CACHE_ARGUMENTS & inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters.keys()
    for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING):
        models = mapping.get(config_class, ())
        for model in models if isinstance(models, (list, tuple)) else (models,):
            if not argument & inspect.signature(model.forward).parameters.keys():
                return False
            if hasattr(model, "_supports_default_dynamic_cache") and not model._supports_default_dynamic_cache():
                return False
    return True


def find_kinds(layers: list[Any], config: Any, policy: Policy) -> list[Kind | None]:
    """Return the kind of each layer, or None if it stays in transformers' own class.

    These are layers without keys and values, and those whose window is not larger than what the policy keeps in 16
    bits anyway.
    """
    of_layers = _per_layer(config, len(layers))
    kinds: list[Kind | None] = []
    for layer, fields in zip(layers, of_layers, strict=True):
        window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
        own = isinstance(layer, STATE_LAYERS) or (window is not None and limit_to_window(policy, window) is None)
        n_kv_heads, head_dim = (getattr(fields, name, None) for name in ("num_key_value_heads", "head_dim"))
        kinds.append(None if own else Kind(window, n_kv_heads, head_dim))
    if policy.recode_after is None or len(set(kinds)) == 1:
        return kinds
    numbers = [number for number, layer in enumerate(layers) if not isinstance(layer, STATE_LAYERS)]
    ends = {*numbers[: policy.protected], *numbers[len(numbers) - policy.protected :]}
    return [kind and kind._replace(recodes=number not in ends) for number, kind in enumerate(kinds)]


def read_ropes(config: Any, n_layers: int) -> tuple[tuple[Rope | None, ...], str]:
    """Return the rotary embedding of each layer, and a fault if the config has one that can't be read.

    Then, and in models without one, all are None. Layers behind `n_layers` have no keys of their own.
    """
    try:
        ropes = (*Rope.from_config(config), *(None,) * n_layers)
    except InputError as error:
        names = [name for name, value in config.to_dict().items() if value is not None]
        turns = any("rope_" in name or "rotary" in name for name in names)
        return (None,) * n_layers, str(error) if turns else ""
    return ropes[:n_layers], ""


def policy_of(policy: Policy, kind: Kind, numbers: tuple[int, ...], n_layers: int, n_kv_heads: int) -> Policy:
    """Return the policy of a `KVCache` with some of a cache's layers.

    Parameters
    ----------
    policy : Policy
        Of the whole cache.
    kind : Kind
    numbers : tuple of int
        The layers of the `KVCache` among those with keys and values.
    n_layers, n_kv_heads : int
        Number of layers with keys and values, and of their KV heads.
    """
    widths = policy.layers(n_layers, n_kv_heads)
    if kind.window is not None:
        limited = limit_to_window(policy, kind.window)
        assert limited is not None
        policy = limited
    if len(numbers) == n_layers or len(set(widths)) == 1:
        return policy
    recodes = policy.recode_after is not None and kind.recodes
    keys, values, recoded_keys, recoded_values = zip(*(widths[number] for number in numbers), strict=True)
    return replace(
        policy,
        key_nbits=keys,
        value_nbits=values,
        protected=0,
        recode_after=policy.recode_after if recodes else None,
        recoded_key_nbits=recoded_keys if recodes else None,
        recoded_value_nbits=recoded_values if recodes else None,
    )


def describe(config: Any) -> str:
    """Return the model type of a config, for messages."""
    return f"model type {config.model_type!r}"


def _refusal(config: Any, fault: str) -> InputError:
    return InputError(
        f"TurboQuantCache is not for {describe(config)}, which {fault}. "
        "Use transformers' DynamicCache(config=model.config)"
    )

"""The shape of a model's cache, read from its config; models whose cache is more than keys and values are refused."""

from __future__ import annotations

from typing import Any, NamedTuple

from tqvec.errors import InputError
from tqvec.integrations.transformers.names import DynamicCache, DynamicLayer, PretrainedConfig

_WINDOWS = ("sliding_window", "attention_chunk_size")
# fields of models that cache something else than the keys and values of all their heads
_OTHER_CACHES = (
    "kv_lora_rank",
    "multi_query",
    "cross_attention_layers",
    "is_encoder_decoder",
    "num_kv_shared_layers",
    "mamba_d_state",
    "state_size",
)


class CacheShape(NamedTuple):
    """Number of layers, of KV heads, and their dimension: the first arguments of a `KVCache`."""

    n_layers: int
    n_kv_heads: int
    head_dim: int


def read_shape(config: Any) -> CacheShape:
    """Return the shape of the cache that a text model needs.

    Parameters
    ----------
    config : PretrainedConfig
        Of the text model, as ``get_text_config`` returns it.

    Raises
    ------
    InputError
        The model's cache is not the keys and values of all tokens in all layers. The message names the field.
    """
    _check_layers(config)
    n_heads = getattr(config, "num_attention_heads", None)
    n_kv_heads: Any = getattr(config, "num_key_value_heads", None) or n_heads
    head_dim: Any = getattr(config, "head_dim", None)
    if head_dim is None and isinstance(n_heads, int):
        head_dim = config.hidden_size // n_heads
    for name, value in (("num_key_value_heads", n_kv_heads), ("head_dim", head_dim)):
        if not isinstance(value, int):
            raise InputError(f"config of {_describe(config)} must have one {name} for all layers, got {value}")
    return CacheShape(config.num_hidden_layers, n_kv_heads, head_dim)


def read_text_config(config: Any) -> Any:
    """Return the part of a config that describes the text model."""
    if not isinstance(config, PretrainedConfig):
        raise InputError(f"config must be model.config of a transformers model, got {type(config).__name__}")
    return config.get_text_config(decoder=True)


def _check_layers(config: Any) -> None:
    """Refuse models with a layer that does not attend to all tokens, or that caches something else."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = [name for name in _WINDOWS if getattr(config, name, None) is not None] or ["full_attention"]
    kinds = [*kinds, *(getattr(config, "layers_block_type", None) or ())]  # the name in some models, in older versions
    others = sorted({str(kind) for kind in kinds} - {"full_attention", "attention"})
    others += [name for name in _OTHER_CACHES if getattr(config, name, None)]
    others += sorted({type(layer).__name__ for layer in DynamicCache(config=config).layers} - {DynamicLayer.__name__})
    if others:
        raise InputError(
            f"TurboQuantCache is for models with full attention in all layers; {_describe(config)} has "
            f"{', '.join(others)}. Use transformers' DynamicCache(config=model.config)"
        )


def _describe(config: Any) -> str:
    return f"model type {config.model_type!r}"

"""The names of torch and transformers that the package uses, or an error that says how to install them."""

from tqvec.errors import UnsupportedError

try:
    import transformers

    if int(transformers.__version__.split(".")[0]) < 5:
        raise ImportError(f"this is transformers {transformers.__version__}")
    import torch
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_MAPPING,
        AttentionInterface,
        Cache,
        DynamicCache,
        GenerationMixin,
        PretrainedConfig,
        cache_utils,
    )
    from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
except ImportError as error:
    raise UnsupportedError(f"needs transformers 5 and torch ({error}): pip install 'tqvec[llm]'") from error

# Layers without keys and values; older versions have none.
STATE_LAYERS = tuple(
    getattr(cache_utils, name) for name in ("LinearAttentionLayer", "DummyLayer") if hasattr(cache_utils, name)
)

__all__ = [
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_MAPPING",
    "STATE_LAYERS",
    "AttentionInterface",
    "AttentionMaskInterface",
    "Cache",
    "CacheLayerMixin",
    "DynamicCache",
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "GenerationMixin",
    "PretrainedConfig",
    "sdpa_attention_forward",
    "sdpa_mask",
    "torch",
]

"""Use a `KVCache` in ``generate`` of transformers, 5.0 and newer.

The cache stores the keys that the model hands over: after rotary embedding. Tokens that arrive together attend to each
other exactly; their stored form is read from the next call on. By default the model's own attention runs on the decoded
keys and values of all tokens in each step. It can also run on the codes, which costs no memory and less time::

    model.set_attn_implementation("tqvec")

Then `KVCache.attend` computes each step of a single token, on the CPU. Longer inputs, such as the prompt, still use
transformers' ``sdpa``. transformers knows the name once this module has been imported.
"""

from __future__ import annotations

from typing import Any

from tqvec._types import Floats
from tqvec.errors import InputError, UnsupportedError
from tqvec.kvcache import KVCache, Nbytes, Policy

try:
    import torch
    from transformers import AttentionInterface, Cache
    from transformers.cache_utils import CacheLayerMixin
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
except ImportError as error:
    raise UnsupportedError(f"needs transformers 5 and torch ({error}): pip install 'tqvec[llm]'") from error

ATTENTION = "tqvec"  # name of the attention on codes
_REFUSED = ("sliding_window", "softcap", "s_aux", "position_bias")  # options that attention on codes lacks


class TurboQuantCache(Cache):
    """A cache of one sequence for ``past_key_values`` of a model, kept in a `KVCache`.

    Parameters
    ----------
    config : PretrainedConfig
        ``model.config``, for the number of layers and of KV heads, and their dimension.
    policy : str or Policy
        How tokens are stored, as for `KVCache`.

    Attributes
    ----------
    kv : KVCache
        The tokens. Changing it changes what the model sees.

    Raises
    ------
    InputError
        A layer of the model is not full attention; or, when the model runs, the batch has more than one sequence.

    Examples
    --------
    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from tqvec.integrations.transformers import TurboQuantCache
    >>> shape = dict(num_hidden_layers=2, hidden_size=128, num_attention_heads=4, num_key_value_heads=2)
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=100, intermediate_size=64, **shape))
    >>> cache = TurboQuantCache(model.config, policy="turbo4")
    >>> prompt = torch.arange(300)[None] % 100
    >>> out = model.generate(prompt, past_key_values=cache, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    >>> cache.kv.n_tokens, cache.kv.token_counts(0).coded
    (304, 128)
    """

    def __init__(self, config: Any, policy: str | Policy = "turbo4"):
        text = config.get_text_config(decoder=True)
        _check_layers(text)
        n_heads = text.num_attention_heads
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // n_heads
        self.kv = KVCache(
            text.num_hidden_layers, getattr(text, "num_key_value_heads", None) or n_heads, head_dim, policy
        )
        super().__init__(layers=[TurboQuantLayer(self.kv, number, text) for number in range(text.num_hidden_layers)])

    @property
    def nbytes(self) -> Nbytes:
        """Bytes of the tokens, itemised."""
        return self.kv.nbytes

    def crop(self, max_length: int) -> None:
        """Drop the newest tokens: keep the first `max_length`, or drop ``-max_length``.

        transformers 5.0 passes either, newer versions only negative numbers.
        """
        held = self.kv.token_counts(0).held
        if max_length != 0:
            self.kv.truncate(min(max_length, held) if max_length > 0 else max(0, held + max_length))

    def reset(self) -> None:
        """Drop all tokens."""
        self.kv.truncate(0)


class TurboQuantLayer(CacheLayerMixin):
    """A layer of a `TurboQuantCache`, with the interface of transformers.

    Parameters
    ----------
    kv : KVCache
    number : int
        Number of the layer in `kv`.
    config : PretrainedConfig
        The model's; it says at each step whether attention runs on codes.
    """

    is_sliding = False

    def __init__(self, kv: KVCache, number: int, config: Any):
        super().__init__()
        self._kv, self._number, self._config = kv, number, config

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Do nothing: memory is allocated as tokens are added."""
        self.is_initialized = True

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Store the keys and values of new tokens, (1, heads, n, head_dim), and return those of all tokens.

        Stored keys and values are decoded, new ones are returned unchanged. If attention runs on codes, the returned
        tensors have a shape but no memory; they are for `attend_on_codes`.
        """
        if key_states.shape[0] != 1:
            raise InputError(f"TurboQuantCache holds one sequence, got a batch of {key_states.shape[0]}")
        self.is_initialized = True
        new = (key_states, value_states)
        on_codes = self._config._attn_implementation == ATTENTION and key_states.shape[-2] == 1
        stored = () if on_codes or self._held() == 0 else (self._kv.keys(self._number), self._kv.values(self._number))
        self._kv.append(self._number, _array(key_states), _array(value_states))
        if on_codes:
            shape = (1, key_states.shape[1], self._held(), key_states.shape[3])
            keys, values = torch.empty(shape, device="meta"), torch.empty(shape, device="meta")
            keys.tqvec_layer = self
            return keys, values
        if not stored:
            return new
        keys, values = (torch.cat([_like(x, y), y], dim=-2) for x, y in zip(stored, new, strict=True))
        return keys, values

    def attend(self, query: Any, scale: float | None) -> Any:
        """Compute attention of the newest tokens, (1, n_heads, n, head_dim), on codes: (1, n, n_heads, head_dim)."""
        return _like(self._kv.attend(self._number, _array(query), scale=scale), query).transpose(1, 2)

    def _held(self) -> int:
        return self._kv.token_counts(self._number).held

    def get_seq_length(self) -> int:
        """Return the tokens so far, dropped ones included: the position of the next token."""
        return sum(self._kv.token_counts(self._number))

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Return the number of keys that `update` will return, and the position of the first.

        transformers 5.0 passes the positions of the queries in place of their number.
        """
        n = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self._held() + n, self._kv.token_counts(self._number).evicted

    def get_max_length(self) -> int:
        """Return -1: the length has no limit."""
        return -1

    get_max_cache_shape = get_max_length  # its name in transformers 5.0


def attend_on_codes(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **kwargs: Any
) -> tuple[Any, None]:
    """Compute attention for transformers: on codes if `key` is of a `TurboQuantLayer`, otherwise by ``sdpa``.

    Raises
    ------
    InputError
        The step needs a mask, a sliding window or another option that attention on codes lacks.
    """
    layer = getattr(key, "tqvec_layer", None)
    if layer is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return out, None
    refused = [name for name in _REFUSED if kwargs.get(name) is not None]
    if attention_mask is not None:
        refused.append("a mask, as for padding")
    if refused:
        raise InputError(f"attention on codes does not have {', '.join(refused)}")
    return layer.attend(query, scaling), None


AttentionInterface.register(ATTENTION, attend_on_codes)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _check_layers(config: Any) -> None:
    """Refuse models with a layer that does not attend to all tokens."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        limits = [
            name for name in ("sliding_window", "attention_chunk_size") if getattr(config, name, None) is not None
        ]
        kinds = limits or ["full_attention"]
    others = sorted(set(kinds) - {"full_attention"})
    if others:
        raise InputError(
            f"TurboQuantCache is for models with full attention in all layers; this model has {', '.join(others)}"
        )


def _array(tensor: Any) -> Floats:
    """Return a batch of one as an array, (heads, n, head_dim)."""
    array: Floats = tensor[0].detach().to("cpu", torch.float32).numpy()
    return array


def _like(array: Floats, tensor: Any) -> Any:
    """Return a batch of one, on the device and of the type of `tensor`."""
    return torch.from_numpy(array)[None].to(tensor.device, tensor.dtype)

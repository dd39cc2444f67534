"""A `KVCache` for ``generate`` of transformers, 5.0 and newer.

What the cache stores is what the model hands over: keys after rotary embedding. Tokens that arrive together attend to
each other exactly; what is stored of them is read from the next call on. The model's own attention runs on decoded keys
and values, of all tokens in each step. Or it runs on the codes, which costs no memory and less time::

    model.set_attn_implementation("tqvec")

Then `KVCache.attend` does each step of a single token, on the CPU; longer inputs, as the prompt, are done by
transformers' ``sdpa`` all the same. The name is known to transformers once this module has been imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
_REFUSED = ("sliding_window", "softcap", "s_aux", "position_bias")  # of attention functions: not done on codes


class TurboQuantCache(Cache):
    """Keys and values of one sequence in a `KVCache`, as ``past_key_values`` of a model.

    Parameters
    ----------
    config : PretrainedConfig
        ``model.config``: number of layers, of KV heads, and their dimension.
    policy : str or Policy
        As for `KVCache`.

    Attributes
    ----------
    kv : KVCache
        The tokens. Changing it changes what the model sees.

    Raises
    ------
    InputError
        The model has other layers than full attention; later, in the model, a batch of more than one sequence.

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
    >>> cache.kv.n_tokens, cache.kv.tiers(0).cold
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
        """Bytes of the tokens, and what they are for."""
        return self.kv.nbytes

    def crop(self, max_length: int) -> None:
        """Forget the newest tokens: keep `max_length` of them, or drop as many as a negative number says.

        transformers 5.0 gives either, newer ones only negative numbers.
        """
        held = sum(self.kv.tiers(0)[:-1])
        if max_length != 0:
            self.kv.truncate(min(max_length, held) if max_length > 0 else max(0, held + max_length))

    def reset(self) -> None:
        """Forget all tokens."""
        self.kv.truncate(0)


class TurboQuantLayer(CacheLayerMixin):
    """A layer of a `TurboQuantCache`, as transformers wants it.

    Parameters
    ----------
    kv : KVCache
    number : int
        Of the layer in `kv`.
    config : PretrainedConfig
        Of the model: says at each step whether its attention runs on codes.
    """

    is_sliding = False

    def __init__(self, kv: KVCache, number: int, config: Any):
        super().__init__()
        self._kv, self._number, self._config = kv, number, config

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Nothing to do: memory is taken as tokens come."""
        self.is_initialized = True

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Store the keys and values of new tokens, (1, heads, n, head_dim), and return those of all.

        Stored ones are decoded, new ones are as they came. If the model attends on codes: nothing but the shape of
        keys and values, in tensors without memory, for `attend_on_codes`.
        """
        if key_states.shape[0] != 1:
            raise InputError(f"TurboQuantCache holds one sequence, got a batch of {key_states.shape[0]}")
        self.is_initialized = True
        news = (key_states, value_states)
        on_codes = self._config._attn_implementation == ATTENTION and key_states.shape[-2] == 1
        old = () if on_codes or self._held() == 0 else (self._kv.keys(self._number), self._kv.values(self._number))
        self._kv.append(self._number, _array(key_states), _array(value_states))
        if on_codes:
            shape = (1, key_states.shape[1], self._held(), key_states.shape[3])
            keys, values = torch.empty(shape, device="meta"), torch.empty(shape, device="meta")
            keys.tqvec_layer = self
            return keys, values
        if not old:
            return news
        keys, values = (torch.cat([_like(x, new), new], dim=-2) for x, new in zip(old, news, strict=True))
        return keys, values

    def attend(self, query: Any, scale: float | None) -> Any:
        """Attention of the newest tokens, (1, n_heads, n, head_dim), on codes: (1, n, n_heads, head_dim)."""
        return _like(self._kv.attend(self._number, _array(query), scale), query).transpose(1, 2)

    def _held(self) -> int:
        return sum(self._kv.tiers(self._number)[:-1])

    def get_seq_length(self) -> int:
        """Tokens so far, dropped ones included: the position of the next one."""
        return sum(self._kv.tiers(self._number))

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Keys that `update` will return, and the position of the first.

        transformers 5.0 gives the positions of the queries in place of their number.
        """
        n = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self._held() + n, self._kv.tiers(self._number).evicted

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    get_max_cache_shape = get_max_length  # its name in transformers 5.0


def attend_on_codes(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **kwargs: Any
) -> tuple[Any, None]:
    """Attention function of transformers: on codes, if `key` comes from a `TurboQuantLayer`, otherwise ``sdpa``.

    Raises
    ------
    InputError
        The step needs a mask, a sliding window or the like.
    """
    layer = getattr(key, "tqvec_layer", None)
    if layer is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return out, None
    wanted = [name for name in _REFUSED if kwargs.get(name) is not None]
    if attention_mask is not None:
        wanted.append("a mask, as for padding")
    if wanted:
        raise InputError(f"attention on codes does not have {', '.join(wanted)}")
    return layer.attend(query, scaling), None


AttentionInterface.register(ATTENTION, attend_on_codes)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _check_layers(config: Any) -> None:
    """Refuse models in which a layer does not attend to all tokens."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        limits = [
            name for name in ("sliding_window", "attention_chunk_size") if getattr(config, name, None) is not None
        ]
        kinds = limits or ["full_attention"]
    others = sorted(set(kinds) - {"full_attention"})
    if others:
        raise InputError(
            f"TurboQuantCache is for models with full attention in all layers; this has {', '.join(others)}"
        )


def _array(tensor: Any) -> NDArray[np.float32]:
    """(heads, n, head_dim) of a batch of one."""
    array: NDArray[np.float32] = tensor[0].detach().to("cpu", torch.float32).numpy()
    return array


def _like(array: NDArray[np.float32], tensor: Any) -> Any:
    """A batch of one, where `tensor` is and of its type."""
    return torch.from_numpy(array)[None].to(tensor.device, tensor.dtype)

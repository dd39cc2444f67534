"""A layer of a `TurboQuantCache`, and what it hands to attention on codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tqvec._types import Floats
from tqvec.errors import InputError
from tqvec.integrations.transformers.names import CacheLayerMixin, torch
from tqvec.kvcache import KVCache

ATTENTION = "tqvec"  # name of the attention on codes
REMEDY = 'model.set_attn_implementation("eager") keeps the cache in codes and gives the model decoded keys and values'
_METADATA = {
    getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout")
} | {torch.Tensor.size, torch.Tensor.dim}


class OnCodes(torch.Tensor):
    """Keys or values of a layer whose attention runs on codes: a shape without memory.

    A model that computes anything with it before its attention would get another result than its own attention gives.
    Therefore every operation but reading the shape is refused.

    Attributes
    ----------
    layer : TurboQuantLayer
    side : str
        "keys" or "values".
    """

    layer: TurboQuantLayer
    side: str

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _METADATA:
            return super().__torch_function__(function, types, args, kwargs or {})
        found = next(_find_on_codes([*args, *(kwargs or {}).values()]))
        raise InputError(
            f"{found.layer.model_type} computes {getattr(function, '__name__', function)} on {found.side} between its "
            f'cache and attention "{ATTENTION}", which runs on the codes of what was cached. {REMEDY}'
        )

    def __repr__(self, **_: Any) -> str:
        return f"OnCodes({self.side}, {tuple(self.shape)})"


def _find_on_codes(items: Any) -> Iterator[OnCodes]:
    for item in items:
        if isinstance(item, OnCodes):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _find_on_codes(item)


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
    batch_size = max_batch_size = 1
    max_cache_len = -1

    def __init__(self, kv: KVCache, number: int, config: Any):
        self._kv, self._number, self._config = kv, number, config

    @property
    def model_type(self) -> str:
        """The model type that the config names, for messages."""
        return f"model type {self._config.model_type!r}"

    @property
    def is_initialized(self) -> bool:
        """Whether the layer has tokens."""
        return self.get_seq_length() > 0

    @property
    def is_croppable(self) -> bool:
        """Whether `TurboQuantCache.crop` undoes an update: not if tokens are dropped for newer ones."""
        return self._kv.policy.max_tokens is None

    @property
    def keys(self) -> Any:
        """The keys that attention sees, (1, heads, tokens, head_dim) float32; coded ones are decoded."""
        return torch.from_numpy(self._kv.keys(self._number))[None]

    @property
    def values(self) -> Any:
        """The values that attention sees, (1, heads, tokens, head_dim) float32; coded ones are decoded."""
        return torch.from_numpy(self._kv.values(self._number))[None]

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Check the shape of keys and values. Memory is allocated as tokens are added."""
        if key_states.shape[0] != 1:
            raise InputError(f"TurboQuantCache holds one sequence, got a batch of {key_states.shape[0]}")
        n = key_states.shape[-2]
        expected = (1, self._kv.n_kv_heads, n, self._kv.head_dim)
        if not expected == tuple(key_states.shape) == tuple(value_states.shape):
            raise InputError(
                f"keys and values of layer {self._number} must have shape {expected} by the config, but "
                f"{self.model_type} caches {tuple(key_states.shape)} and {tuple(value_states.shape)}. "
                "Use transformers' DynamicCache(config=model.config)"
            )

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Store the keys and values of new tokens, (1, heads, n, head_dim), and return those of all tokens.

        Stored keys and values are decoded, new ones are returned unchanged. If attention runs on codes, the returned
        tensors have a shape but no memory; they are for `attend_on_codes`.
        """
        self.lazy_initialization(key_states, value_states)
        new = (key_states, value_states)
        on_codes = self._config._attn_implementation == ATTENTION and key_states.shape[-2] == 1
        stored = () if on_codes or self._held() == 0 else (self._kv.keys(self._number), self._kv.values(self._number))
        self._kv.append(self._number, _array(key_states), _array(value_states))
        if on_codes:
            return self._on_codes("keys", key_states), self._on_codes("values", value_states)
        if not stored:
            return new
        keys, values = (torch.cat([_like(x, y), y], dim=-2) for x, y in zip(stored, new, strict=True))
        return keys, values

    def _on_codes(self, side: str, new: Any) -> OnCodes:
        """Return what stands for the keys or values of all tokens."""
        shape = (1, new.shape[1], self._held(), new.shape[3])
        tensor: OnCodes = torch.empty(shape, dtype=new.dtype, device="meta").as_subclass(OnCodes)
        tensor.layer, tensor.side = self, side
        return tensor

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

    get_max_cache_shape = get_max_length  # its name up to transformers 5.10

    def reorder_cache(self, beam_idx: Any) -> None:
        """Accept the order of a single sequence, ``[0]``."""
        self._check_batch("reorder_cache", [int(index) for index in beam_idx], [0])

    def batch_select_indices(self, indices: Any) -> None:
        """Accept the choice of the single sequence: ``[0]``, or the mask ``[True]``."""
        chosen = torch.as_tensor(indices)
        if chosen.dtype == torch.bool:
            chosen = chosen.nonzero()[:, 0]
        self._check_batch("batch_select_indices", chosen.tolist(), [0])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Accept 1."""
        self._check_batch("batch_repeat_interleave", int(repeats), 1)

    def _check_batch(self, method: str, given: Any, identity: Any) -> None:
        if given != identity:
            raise InputError(
                f"TurboQuantCache holds one sequence: {method} takes {identity}, got {given}. Beam search and batches "
                "need a cache per sequence; TurboQuantCache.fork() makes another"
            )

    def offload(self) -> None:
        """Do nothing: tokens are in the CPU's memory."""

    def prefetch(self) -> None:
        """Do nothing: tokens are in the CPU's memory."""

    def reset(self) -> None:
        """Refuse: all layers of a cache have the same tokens."""
        raise InputError("a single layer can't be reset: reset() of the TurboQuantCache drops the tokens of all layers")

    def crop(self, max_length: int) -> None:
        """Refuse: all layers of a cache have the same tokens."""
        raise InputError("a single layer can't be cropped: crop() of the TurboQuantCache drops tokens of all layers")


def _array(tensor: Any) -> Floats:
    """Return a batch of one as an array, (heads, n, head_dim)."""
    array: Floats = tensor[0].detach().to("cpu", torch.float32).numpy()
    return array


def _like(array: Floats, tensor: Any) -> Any:
    """Return a batch of one, on the device and of the type of `tensor`."""
    return torch.from_numpy(array)[None].to(tensor.device, tensor.dtype)

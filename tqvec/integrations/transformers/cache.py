"""`TurboQuantCache`: a `KVCache` with the interface of transformers."""

from __future__ import annotations

import copy
import sys
from typing import Any

from tqvec import _validate
from tqvec.errors import InputError
from tqvec.integrations.transformers.layer import TurboQuantLayer
from tqvec.integrations.transformers.names import Cache
from tqvec.integrations.transformers.shape import CacheShape, read_shape, read_text_config
from tqvec.kvcache import KVCache, Nbytes, Policy


class TurboQuantCache(Cache):
    """A cache of one sequence for ``generate`` of a model, kept in a `KVCache`.

    Parameters
    ----------
    config : PretrainedConfig
        ``model.config``, for the number of layers and of KV heads, and their dimension.
    policy : str or Policy, optional
        How tokens are stored, as for `KVCache`. Default: "turbo4".
    kv : KVCache, optional
        Tokens to continue from, with their policy: a loaded cache, or a fork of another. The cache
        works on `kv` itself.

    Raises
    ------
    InputError
        A layer of the model is not full attention, or `kv` has another shape than the model. Later, when the model
        runs: the batch has more than one sequence, or an earlier call failed midway and left layers of unequal length.

    Notes
    -----
    `copy.copy`, `copy.deepcopy` and `fork` make a cache with the same tokens, in shared memory. Later changes to either
    don't show in the other.

    Examples
    --------
    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from tqvec.integrations.transformers import TurboQuantCache
    >>> shape = dict(num_hidden_layers=2, hidden_size=128, num_attention_heads=4, num_key_value_heads=2)
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=100, intermediate_size=64, **shape))
    >>> cache = TurboQuantCache(model.config, policy="turbo4")
    >>> prompt = torch.arange(300)[None] % 100
    >>> out = model.generate(prompt, cache=cache, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    >>> cache.kv.n_tokens, cache.kv.token_counts(0).coded
    (304, 128)
    """

    def __init__(self, config: Any, policy: str | Policy | None = None, *, kv: KVCache | None = None):
        self._config = read_text_config(config)
        shape = read_shape(self._config)
        super().__init__(layers=[])
        if kv is None:
            kv = KVCache(*shape, "turbo4" if policy is None else policy)
        elif policy is not None:
            raise InputError("policy must be left out with kv, which has its own")
        self.kv = kv

    def _hold(self, kv: KVCache) -> None:
        """Take the tokens from `kv`."""
        self._kv = kv
        self.layers = [TurboQuantLayer(kv, number, self._config) for number in range(kv.n_layers)]

    @property
    def kv(self) -> KVCache:
        """The tokens. Changing them, or setting another `KVCache` of the model's shape, changes what the model sees."""
        return self._kv

    @kv.setter
    def kv(self, kv: KVCache) -> None:
        """Take other tokens, of the model's shape."""
        if not isinstance(kv, KVCache):
            raise InputError(f"kv must be a KVCache, got {type(kv).__name__}")
        given, shape = CacheShape(kv.n_layers, kv.n_kv_heads, kv.head_dim), read_shape(self._config)
        if given != shape:
            raise InputError(f"kv must have the model's {shape}, got {given}")
        self._hold(kv)

    @property
    def nbytes(self) -> Nbytes:
        """Bytes of the tokens, itemised."""
        return self._kv.nbytes

    def fork(self) -> TurboQuantCache:
        """Return a cache with the same tokens, in shared memory; later changes to either don't show in the other."""
        forked = self.__class__.__new__(self.__class__)
        forked.__dict__.update(self.__dict__)
        forked._hold(self._kv.fork())
        return forked

    __copy__ = fork

    def __deepcopy__(self, memo: dict[int, Any]) -> TurboQuantCache:
        forked = memo[id(self)] = self.fork()
        forked._hold(copy.deepcopy(self._kv, memo))
        for name in self.__dict__.keys() - {"_config", "_kv", "layers"}:  # the config stays that of the model
            forked.__dict__[name] = copy.deepcopy(self.__dict__[name], memo)
        return forked

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "layers"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._hold(self._kv)

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Store the keys and values of new tokens of a layer, and return those of all tokens."""
        if not 0 <= layer_idx < len(self.layers):
            raise InputError(f"layer_idx must be from 0 to {len(self.layers) - 1}, as the config says, got {layer_idx}")
        if layer_idx == 0:
            self._equal_length()
        else:
            first, before = (self.layers[number].get_seq_length() for number in (0, layer_idx))
            if before + key_states.shape[-2] != first:
                raise _unequal([first, before])
        return self.layers[layer_idx].update(key_states, value_states, *args, **kwargs)

    def _equal_length(self) -> int:
        """Return the tokens so far, which must be the same number in all layers."""
        lengths = {layer.get_seq_length() for layer in self.layers}
        if len(lengths) > 1:
            raise _unequal(list(lengths))
        return lengths.pop()

    def crop(self, max_length: int) -> None:
        """Drop the newest tokens: keep the first `max_length`, or drop ``-max_length``.

        A positive number also makes layers equal after a call that failed midway. transformers 5.0 passes either, newer
        versions only negative numbers.

        Raises
        ------
        InputError
            Tokens would have to be kept that the policy's `max_tokens` has dropped, or more dropped than there are.
        """
        n = _validate.integer(max_length, "max_length", -sys.maxsize, sys.maxsize)
        counts = [self._kv.token_counts(number) for number in range(len(self.layers))]
        shortest = min(map(sum, counts))
        if n == 0 or (n >= shortest and n >= max(map(sum, counts))):
            return
        keep = n if n > 0 else self._equal_length() + n
        held = {keep - count.evicted for count in counts}
        if keep > shortest or len(held) > 1:
            raise _unequal([sum(count) for count in counts])
        first = min(count.evicted + count.sinks if count.evicted else 0 for count in counts)
        if keep < first:
            raise InputError(
                f"crop({n}) would keep the first {keep} of {shortest} tokens, but only {first} or more can be kept"
                + (f", since {counts[0].evicted} were dropped for newer ones" if first else "")
                + "; reset() drops all"
            )
        self._kv.truncate(held.pop())

    def reset(self) -> None:
        """Drop all tokens. The next ones are the first of a sequence, as in a new cache."""
        self._kv.reset()

    def get_mask_sizes(self, query_length: Any, layer_idx: int) -> tuple[int, int]:
        """Return the number of keys that `update` will return, and the position of the first."""
        policy = self._kv.policy
        if policy.max_tokens is not None and policy.sinks:
            # transformers tells a cache nothing of padding. With the position of the first key it can only describe
            # keys without gaps, so that padding among the sinks would be attended to once tokens behind them are gone.
            mask = sys._getframe(1).f_locals.get("attention_mask")
            if mask is not None and not mask.all():
                raise InputError(
                    f"attention_mask must have no padding, since the policy keeps {policy.sinks} sinks and drops "
                    "tokens behind them (max_tokens): remove the padding, or use a policy with sinks=0"
                )
        return self.layers[layer_idx].get_mask_sizes(query_length)

    def prefetch(self, layer_idx: int, only_non_sliding: bool = True) -> None:
        """Do nothing: tokens are in the CPU's memory."""

    def _refuse_states(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: only layers of other kinds have states."""
        raise InputError("TurboQuantCache has keys and values only, no convolution, recurrent or indexer states")

    get_conv_state = update_conv_state = get_recurrent_state = update_recurrent_state = _refuse_states
    update_indexer = has_previous_state = _refuse_states


def _unequal(lengths: list[int]) -> InputError:
    return InputError(
        f"layers have {max(lengths)} and {min(lengths)} tokens, as after a call that failed midway: "
        f"crop({min(lengths)}) drops the surplus, reset() drops all"
    )

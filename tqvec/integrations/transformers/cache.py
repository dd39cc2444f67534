"""`TurboQuantCache`: KV caches with the interface of transformers."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from typing import Any

from tqvec import _validate
from tqvec.errors import InputError, LossWarning
from tqvec.integrations.transformers.layer import TurboQuantLayer
from tqvec.integrations.transformers.model_layers import describe, find_kinds, make_layers, read_ropes, read_text_config
from tqvec.integrations.transformers.names import Cache, torch
from tqvec.integrations.transformers.sequences import Sequences, find_places, make_groups
from tqvec.kvcache import KVCache, Nbytes, Policy
from tqvec.kvcache.policy import as_policy


class TurboQuantCache(Cache):
    """A cache for ``generate`` of a model, whose keys and values are kept in `KVCache`.

    Parameters
    ----------
    config : PretrainedConfig
        ``model.config``, for the kinds of the model's layers and their rotary embedding.
    policy : str or Policy, optional
        How tokens are stored, as for `KVCache`. Default: "turbo4".
    kv : KVCache, optional
        Tokens to continue from, with their policy: a loaded cache, or a fork of another. The cache
        works on `kv` itself. For one sequence of a model whose layers are all in one `KVCache`.

    Raises
    ------
    InputError
        The model caches something else than transformers' layers of keys, values and states, or `kv` has another
        number of layers. Later, when the model runs: the batch has another number of sequences than the cache, or an
        earlier call failed midway and left layers of unequal length.

    Warns
    -----
    LossWarning
        The rotary embedding of the model's keys can't be read from `config`, so their error is larger. Later, when
        tokens are stored, as `KVCache.append`.

    Notes
    -----
    Each sequence of a batch has its own `KVCache`, which stores its tokens and no padding. Layers with full attention
    share one, and layers of each window another, without sinks, that drops what the window has left. Windows not larger
    than what the policy keeps in 16 bits anyway, and layers with states, stay in transformers' own classes.

    `copy.copy`, `copy.deepcopy` and `fork` make a cache with the same tokens, in shared memory. Later changes to either
    don't show in the other. A pickle holds everything.

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
        if kv is not None and policy is not None:
            raise InputError("policy must be left out with kv, which has its own")
        rules = as_policy("turbo4" if policy is None else policy) if kv is None else _as_kv(kv).policy
        layers = make_layers(self._config)
        kinds = find_kinds(layers, self._config, rules)
        ropes, fault = read_ropes(self._config, len(layers))
        if fault and kv is None and rules.recent is not None:
            _warn_of_ropes(fault)
        self._sequences = Sequences(make_groups(layers, kinds, rules, ropes))
        for number, (group, place) in find_places(kinds).items():
            layers[number] = TurboQuantLayer(self._sequences, group, place, self._config)
        super().__init__(layers=layers)
        self._kept = self._find_kept()
        if kv is not None:
            self.kv = kv

    def _find_kept(self) -> list[TurboQuantLayer]:
        """Return the layers that are kept in a `KVCache`."""
        return [layer for layer in self.layers if isinstance(layer, TurboQuantLayer)]

    @property
    def _others(self) -> list[Any]:
        """The layers in transformers' own classes."""
        return [layer for layer in self.layers if not isinstance(layer, TurboQuantLayer)]

    @property
    def sequences(self) -> tuple[tuple[KVCache, ...], ...]:
        """The caches of each sequence, one per kind of layers; nothing before the first tokens."""
        self._settle()
        groups = [group.kvs for group in self._sequences.groups if group.kvs]
        return tuple(zip(*groups, strict=True))

    @property
    def kv(self) -> KVCache:
        """The tokens of a single sequence of a model whose layers are all in one `KVCache`.

        Changing them, or setting another `KVCache` with as many layers, changes what the model sees.

        Raises
        ------
        InputError
            There is no such cache, or not yet.
        """
        self._check_single("kv")
        if len(self.sequences) != 1:
            raise InputError(
                f"kv is the cache of one sequence, there are {len(self.sequences)}"
                + ("; sequences has the caches of all" if self.sequences else " before the first tokens")
            )
        return self.sequences[0][0]

    @kv.setter
    def kv(self, kv: KVCache) -> None:
        """Take other tokens, of the model's number of layers."""
        self._check_single("kv")
        if _as_kv(kv).n_layers != len(self._kept):
            raise InputError(f"kv must have the model's {len(self._kept)} layers, got {kv.n_layers}")
        self.reset()
        self._sequences.groups[0].kvs = [kv]

    def _check_single(self, name: str) -> None:
        """Refuse models whose tokens are not all in one `KVCache` per sequence."""
        if self._others or len(self._sequences.groups) > 1:
            raise InputError(
                f"{name} is for models whose layers are all in one KVCache, but {describe(self._config)} has "
                f"{len(self._sequences.groups)}, and {len(self._others)} layers in transformers' own classes. "
                "sequences has the caches; a pickle or copy.deepcopy of the TurboQuantCache holds everything"
            )

    @property
    def nbytes(self) -> Nbytes:
        """Bytes of the tokens, itemised; those of layers in transformers' own classes are `uncoded`."""
        self._settle()
        tensors = [value for layer in self._others for value in vars(layer).values()]
        states = [tensor for value in tensors if isinstance(value, dict) for tensor in value.values()]
        others = sum(tensor.nbytes for tensor in [*tensors, *states] if isinstance(tensor, torch.Tensor))
        return Nbytes.total([Nbytes(uncoded=others), *(kv.nbytes for kvs in self.sequences for kv in kvs)])

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the tokens of a single sequence to a file, as `KVCache.save`; padding is not in it.

        Raises
        ------
        InputError
            There are several sequences, or the model's layers are not all in one `KVCache`; or as `KVCache.save`.
        """
        self._check_single("save")
        self.kv.save(path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], config: Any) -> TurboQuantCache:
        """Read a file that `save` wrote, for a model with this ``model.config``.

        Raises
        ------
        FormatError, FileNotFoundError
            As `KVCache.load`.
        """
        return cls(config, kv=KVCache.load(path))

    def fork(self) -> TurboQuantCache:
        """Return a cache with the same tokens, in shared memory; later changes to either don't show in the other."""
        return self._copy(self._sequences.fork(), {})

    __copy__ = fork

    def _copy(self, sequences: Sequences, memo: dict[int, Any]) -> TurboQuantCache:
        """Return a cache of copied sequences; memory of transformers' own layers is copied too."""
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        layers = [
            layer.moved(sequences) if isinstance(layer, TurboQuantLayer) else copy.deepcopy(layer, memo)
            for layer in self.layers
        ]
        copied.__dict__.update(self.__dict__, _sequences=sequences, layers=layers)
        copied._kept = copied._find_kept()
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> TurboQuantCache:
        copied = self._copy(self._sequences.deepcopy(memo), memo)
        # The config stays that of the model.
        for name in self.__dict__.keys() - {"_config", "_sequences", "_kept", "layers"}:
            copied.__dict__[name] = copy.deepcopy(self.__dict__[name], memo)
        return copied

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Store the keys and values of new tokens of a layer, and return those of all tokens."""
        if not 0 <= layer_idx < len(self.layers):
            raise InputError(f"layer_idx must be from 0 to {len(self.layers) - 1}, as the config says, got {layer_idx}")
        layer = self.layers[layer_idx]
        if isinstance(layer, TurboQuantLayer) and layer is self._kept[0]:
            self._equal_length()
        elif isinstance(layer, TurboQuantLayer):
            first, before = self._kept[0].get_seq_length(), layer.get_seq_length()
            if before + key_states.shape[-2] != first:
                raise _unequal([first, before])
        return layer.update(key_states, value_states, *args, **kwargs)

    def _lengths(self) -> list[int]:
        """Return the positions so far, of each layer and sequence."""
        return [length for layer in self._kept for length in layer.lengths()] or [self.get_seq_length()]

    def _equal_length(self) -> int:
        """Return the positions so far, which must be as many in all layers."""
        lengths = self._lengths()
        if len(set(lengths)) > 1:
            raise _unequal(lengths)
        return lengths[0]

    def _settle(self) -> None:
        """Store the tokens of the last call, where they wait."""
        for layer in self._kept:
            layer.settle()

    def crop(self, max_length: int) -> None:
        """Drop the newest tokens: keep the first `max_length` positions, or drop ``-max_length``.

        A positive number also makes layers equal after a call that failed midway. transformers 5.0 passes either, newer
        versions only negative numbers.

        Raises
        ------
        InputError
            Tokens would have to be kept that the policy's `max_tokens` or a window has dropped, or more dropped than
            there are; or a layer in transformers' own classes can't go back. `activate_past_recording` before a call
            makes it possible to undo that call, unless a layer has a recurrent state.
        """
        n = _validate.integer(max_length, "max_length", -sys.maxsize, sys.maxsize)
        lengths = self._lengths()
        keep = min(n, max(lengths)) if n > 0 else self._equal_length() + n
        if keep < 0:
            raise InputError(f"crop({n}) would keep the first {keep} of {lengths[0]} tokens; reset() drops all")
        if keep > min(lengths):
            raise _unequal(lengths)
        dropped = max(lengths) - keep
        try:
            self._count_kept(keep)
            for layer in self._others:
                if dropped or getattr(layer, "record_past", False):
                    layer.crop(-dropped)
        except (InputError, RuntimeError, ValueError) as error:
            raise InputError(
                f"crop({n}) would keep the first {keep} of {lengths[0]} tokens, but {error}; reset() drops all"
            ) from error
        for layer in self._kept:
            layer.forget(keep)
        for group, kept in zip(self._sequences.groups, self._count_kept(keep), strict=True):
            for kv, count in zip(group.kvs, kept, strict=True):
                kv.truncate(count)
        self._sequences.crop(keep)

    def _count_kept(self, length: int) -> list[list[int]]:
        """Return how many tokens are among the first positions in the cache of each group and sequence."""
        counts: list[list[list[int]]] = [[] for _ in self._sequences.groups]
        for layer in self._kept:
            counts[layer.group].append(layer.count_kept(length))
        if any(count != each[0] for each in counts for count in each):
            raise _unequal(self._lengths())
        return [each[0] for each in counts]

    def reset(self) -> None:
        """Drop all tokens. The next ones are the first of their sequences, as in a new cache."""
        self._sequences.reset()
        fresh = make_layers(self._config)
        for number, layer in enumerate(self.layers):
            if isinstance(layer, TurboQuantLayer):
                layer.clear()
            else:
                self.layers[number] = fresh[number]

    def reorder_cache(self, beam_idx: Any) -> None:
        """Take these sequences, some perhaps several times; beams that share a past share its memory."""
        self._select([int(index) for index in beam_idx])

    def batch_select_indices(self, indices: Any) -> None:
        """Take the sequences of these numbers, or where a mask is true."""
        chosen = torch.as_tensor(indices)
        self._select((chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen).tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Take each sequence so many times, in shared memory."""
        n = _validate.integer(repeats, "repeats", 1, sys.maxsize)
        self._select([index for index in range(self._n_sequences) for _ in range(n)])

    @property
    def _n_sequences(self) -> int:
        """Number of sequences; 0 before the first tokens."""
        return max((len(group.kvs) for group in self._sequences.groups), default=0)

    def _select(self, indices: list[int]) -> None:
        n = self._n_sequences
        if n == 0 and self._kept:
            return
        if n and not (indices and all(0 <= index < n for index in indices)):
            raise InputError(f"indices must be of the {n} sequences of the cache, got {indices}")
        for layer in self.layers:
            if isinstance(layer, TurboQuantLayer):
                layer.select(indices)
            else:
                layer.reorder_cache(torch.tensor(indices))
        self._sequences.select(indices)

    def get_mask_sizes(self, query_length: Any, layer_idx: int) -> tuple[int, int]:
        """Return the number of keys that `update` will return, and the position of the first."""
        # transformers tells a cache nothing of padding, but asks it for these sizes where it makes the mask.
        mask = sys._getframe(1).f_locals.get("attention_mask")
        if self._kept:
            self._settle()
            start = self._kept[0].get_seq_length()
            stop = start + (query_length if isinstance(query_length, int) else query_length.shape[0])
            if isinstance(mask, torch.Tensor) and mask.ndim == 2 and mask.shape[1] >= stop:
                self._sequences.learn_padding(mask.to("cpu", torch.bool).numpy(), start, stop)
            elif mask is None:
                self._sequences.learn_padding(None, start, stop)
        return super().get_mask_sizes(query_length, layer_idx)

    def prefetch(self, layer_idx: int, only_non_sliding: bool = True) -> None:
        """Do nothing: tokens are in the CPU's memory."""

    def update_indexer(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: models with an indexer are refused by the constructor."""
        raise InputError("TurboQuantCache has keys, values and states, but no indexer")


def _warn_of_ropes(fault: str) -> None:
    text = (
        f"keys are coded without their rotary embedding, at a larger error that grows with the context, since {fault}. "
        "If all layers are in one KVCache, hand it over: TurboQuantCache(config, kv=KVCache(..., rope=Rope(...)))"
    )
    warnings.warn(text, LossWarning, stacklevel=3)


def _as_kv(kv: object) -> KVCache:
    if not isinstance(kv, KVCache):
        raise InputError(f"kv must be a KVCache, got {type(kv).__name__}")
    return kv


def _unequal(lengths: list[int]) -> InputError:
    return InputError(
        f"layers have {max(lengths)} and {min(lengths)} tokens, as after a call that failed midway: "
        f"crop({min(lengths)}) drops the surplus, reset() drops all"
    )

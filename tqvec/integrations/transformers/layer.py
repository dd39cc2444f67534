"""A layer of a `TurboQuantCache`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Floats
from tqvec.errors import InputError
from tqvec.integrations.transformers.model_layers import describe
from tqvec.integrations.transformers.names import CacheLayerMixin, torch
from tqvec.integrations.transformers.on_codes import ATTENTION, OnCodes
from tqvec.integrations.transformers.sequences import Group, Sequences
from tqvec.kvcache import KVCache


class Layout(NamedTuple):
    """Where the stored tokens are among the keys that a call returns, before the call's own tokens.

    Attributes
    ----------
    kept : list of int
        Stored tokens of each sequence that are returned: sinks, and the newest of the others.
    columns : list of array, or None
        Their columns, for each sequence; other columns are zeros. None: all sequences have as many, and no padding.
    width : int
        Number of columns.
    offset : int
        Position of the first column.
    """

    kept: list[int]
    columns: list[NDArray[np.int64]] | None
    width: int
    offset: int


class TurboQuantLayer(CacheLayerMixin):
    """A layer of a `TurboQuantCache`, with the interface of transformers.

    Parameters
    ----------
    sequences : Sequences
    group : int
        The layer's group in `sequences`.
    number : int
        Number of the layer in the group's caches.
    config : PretrainedConfig
        The model's; it says at each step whether attention runs on codes.

    Attributes
    ----------
    record_past : bool
        Whether `TurboQuantCache.crop` has to be able to undo the last call although the policy drops tokens: the tokens
        of a call are then stored at the next one.
    """

    max_cache_len = -1

    def __init__(self, sequences: Sequences, group: int, number: int, config: Any):
        self.config, self.record_past = config, False
        self._sequences, self.group, self._number = sequences, group, number
        self.clear()

    def clear(self) -> None:
        """Follow `Sequences.reset`."""
        self._padding = np.zeros(1, np.int64)  # positions so far that are padding, per sequence
        self._waiting: tuple[Any, ...] = ()  # keys and values that are not yet stored

    @property
    def _group(self) -> Group:
        return self._sequences.groups[self.group]

    @property
    def kvs(self) -> list[KVCache]:
        """The caches of the layer's group, one per sequence."""
        return self._group.kvs

    def moved(self, sequences: Sequences) -> TurboQuantLayer:
        """Return the same layer of a copy of its tokens."""
        layer = copy.copy(self)
        layer._sequences = sequences
        return layer

    @property
    def is_sliding(self) -> bool:
        """Whether the layer attends to a window."""
        return self._group.kind.window is not None

    @property
    def batch_size(self) -> int:
        """Number of sequences; -1 before the first tokens."""
        return len(self.kvs) or -1

    max_batch_size = batch_size  # its name in older versions

    @property
    def is_initialized(self) -> bool:
        """Whether the layer has tokens."""
        return self.get_seq_length() > 0

    @property
    def _drops_tokens(self) -> bool:
        return self.is_sliding or self._group.policy.max_tokens is not None

    @property
    def is_croppable(self) -> bool:
        """Whether `TurboQuantCache.crop` undoes a call: if tokens are dropped for newer ones, only after recording."""
        return self.record_past or not self._drops_tokens

    def activate_past_recording(self) -> None:
        """Make calls from now on undoable by `TurboQuantCache.crop`, although the policy drops tokens."""
        self.record_past = True

    @property
    def keys(self) -> Any:
        """The keys that are held, (batch, heads, tokens, head_dim) float32; coded ones are decoded. None at first."""
        return self._held("keys")

    @property
    def values(self) -> Any:
        """The values that are held, (batch, heads, tokens, head_dim) float32; coded ones are decoded. None at first."""
        return self._held("values")

    def _held(self, side: str) -> Any:
        self.settle()
        return torch.from_numpy(self._stored(side, self._layout(0))) if self.is_initialized else None

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Check the shape of keys and values. Memory is allocated as tokens are added."""
        batch, heads, n, head_dim = key_states.shape
        if key_states.shape != value_states.shape:
            raise InputError(
                f"keys and values must have the same shape, but {describe(self.config)} caches "
                f"{tuple(key_states.shape)} and {tuple(value_states.shape)}. "
                "Use transformers' DynamicCache(config=model.config)"
            )
        self._group.open(batch, heads, head_dim)
        expected = (batch, self.kvs[0].n_kv_heads, n, self.kvs[0].head_dim)
        if expected != tuple(key_states.shape):
            raise InputError(
                f"keys and values must have shape {expected}, as those before, but {describe(self.config)} caches "
                f"{tuple(key_states.shape)}: the tokens are another model's, or its layers differ in a way that its "
                "config does not say"
            )
        if len(self._padding) != batch:
            self._padding = np.zeros(batch, np.int64)

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Store the keys and values of new tokens, (batch, heads, n, head_dim), and return those of all tokens.

        Stored keys and values are decoded, new ones are returned unchanged. If attention runs on codes, the returned
        tensors have a shape but no memory; they are for `attend_on_codes`.
        """
        self.settle()
        self.lazy_initialization(key_states, value_states)
        new, n = (key_states, value_states), key_states.shape[-2]
        layout, waits = self._layout(n), self.record_past and self._drops_tokens
        start = self.get_seq_length()
        real = self._sequences.tokens(start, start + n)
        padded = real is not None and not real.all()
        on_codes = self.config._attn_implementation == ATTENTION and n == 1 and not waits and not padded
        stored = ()
        if layout.width and not on_codes:
            stored = tuple(_like(self._stored(side, layout), key_states) for side in ("keys", "values"))
        if waits:
            self._waiting = new
        else:
            self._append(new)
        if on_codes:
            return self._on_codes("keys", key_states, layout), self._on_codes("values", value_states, layout)
        if not stored:
            return new
        keys, values = (torch.cat([x, y], dim=-2) for x, y in zip(stored, new, strict=True))
        return keys, values

    def settle(self) -> None:
        """Store the tokens of the last call, if they wait."""
        if self._waiting:
            waiting, self._waiting = self._waiting, ()
            self._append(waiting)

    def _append(self, new: tuple[Any, ...]) -> None:
        """Store new tokens, but no padding."""
        start, n = self.get_seq_length(), new[0].shape[-2]
        real = self._sequences.tokens(start, start + n)
        for i, kv in enumerate(self.kvs):
            arrays = [_array(side[i]) for side in new]
            kv.append(self._number, *(arrays if real is None else [array[:, real[i]] for array in arrays]))
        if real is not None:
            self._padding = self._padding + n - real.sum(axis=1)

    def _layout(self, n: int) -> Layout:
        """Return which stored tokens a call with `n` tokens returns, and where."""
        start = self.get_seq_length()
        if start == 0:
            return Layout([], None, 0, 0)
        real = self._sequences.tokens(0, start + n)
        new = [n] * len(self.kvs) if real is None else real[:, start:].sum(axis=1).tolist()
        kept = [self._count_kept(kv, count) for kv, count in zip(self.kvs, new, strict=True)]
        if real is None:
            return Layout(kept, None, kept[0], start - kept[0])
        places = [np.flatnonzero(row[:start]) for row in real]
        columns = [each[each.size - count :] for each, count in zip(places, kept, strict=True)]
        offset = min((int(each[0]) for each in columns if each.size), default=start)
        return Layout(kept, [each - offset for each in columns], start - offset, offset)

    def _count_kept(self, kv: KVCache, n: int) -> int:
        """Return how many stored tokens `n` new ones attend to.

        These are the tokens that are still held when the new ones are stored. In a layer with a window, whose first new
        token attends to tokens that the last one does not, they are all of the window.
        """
        counts, limit = kv.token_counts(self._number), kv.policy.max_tokens
        if limit is None:
            return counts.held
        if self._keeps_window(kv):
            return min(counts.held, limit - 1)
        return counts.held - min(max(0, counts.held + n - limit), counts.held - counts.sinks)

    def _keeps_window(self, kv: KVCache) -> bool:
        """Return whether the cache keeps the layer's window, and not less by the policy's `max_tokens`."""
        return kv.policy.max_tokens == self._group.kind.window is not None

    def _stored(self, side: str, layout: Layout) -> Floats:
        """Return stored keys or values, (batch, heads, width, head_dim), decoded."""
        parts = [self._decode(side, kv, kept) for kv, kept in zip(self.kvs, layout.kept, strict=True)]
        if layout.columns is None:
            return parts[0][None] if len(parts) == 1 else np.stack(parts)
        heads, _, head_dim = parts[0].shape
        out = np.zeros((len(parts), heads, layout.width, head_dim), np.float32)
        for sequence, columns, part in zip(out, layout.columns, parts, strict=True):
            sequence[:, columns] = part
        return out

    def _decode(self, side: str, kv: KVCache, kept: int) -> Floats:
        """Return the keys or values of a sequence that a call returns, (heads, kept, head_dim)."""
        array = kv.keys(self._number) if side == "keys" else kv.values(self._number)
        dropped = array.shape[1] - kept
        if dropped == 0:
            return array
        sinks = kv.token_counts(self._number).sinks
        return np.concatenate([array[:, :sinks], array[:, sinks + dropped :]], axis=1)

    def _on_codes(self, side: str, new: Any, layout: Layout) -> OnCodes:
        """Return what stands for the keys or values of all tokens."""
        shape = (*new.shape[:2], layout.width + 1, new.shape[3])
        tensor: OnCodes = torch.empty(shape, dtype=new.dtype, device="meta").as_subclass(OnCodes)
        tensor.layer, tensor.side, tensor.shown = self, side, None
        if layout.columns is not None:
            tensor.shown = torch.zeros(len(self.kvs), layout.width + 1, dtype=torch.bool)
            tensor.shown[:, -1] = True
            for row, columns in zip(tensor.shown, layout.columns, strict=True):
                row[columns] = True
        return tensor

    def attend(self, query: Any, newest: Sequence[int], **options: Any) -> Any:
        """Compute attention of the newest token on codes.

        Parameters
        ----------
        query : (batch, n_heads, 1, head_dim) tensor
        newest : sequence of int
            How many of the held tokens of each sequence, the newest ones, are attended to.
        **options
            `scale`, `softcap` and `sinks` of `KVCache.attend`.

        Returns
        -------
        out : (batch, 1, n_heads, head_dim) tensor
        """
        out = [
            kv.attend(self._number, _array(one), window=self._reach(kv, n), **options)
            for kv, one, n in zip(self.kvs, query, newest, strict=True)
        ]
        return _like(np.stack(out), query).transpose(1, 2)

    def _reach(self, kv: KVCache, n: int) -> int:
        """Return the window, in positions, that has the newest `n` of the tokens that are held."""
        counts = kv.token_counts(self._number)
        return n if n <= counts.held - counts.sinks else n + counts.evicted

    def lengths(self) -> list[int]:
        """Return the positions so far of each sequence, dropped tokens and padding included."""
        waiting = self._waiting[0].shape[-2] if self._waiting else 0
        counts = [sum(kv.token_counts(self._number)) for kv in self.kvs]
        padding = np.broadcast_to(self._padding, len(counts)).tolist()
        return [count + before + waiting for count, before in zip(counts, padding, strict=True)]

    def get_seq_length(self) -> int:
        """Return the positions so far, dropped tokens and padding included: the position of the next token."""
        return self.lengths()[0] if self.kvs else 0

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Return the number of keys that `update` will return, and the position of the first.

        transformers 5.0 passes the positions of the queries in place of their number.
        """
        n = query_length if isinstance(query_length, int) else query_length.shape[0]
        layout = self._layout(n)
        return layout.width + n, layout.offset

    def get_max_length(self) -> int:
        """Return the window, or -1: the length has no limit."""
        return self._group.kind.window or -1

    get_max_cache_shape = get_max_length  # its name up to transformers 5.10

    def select(self, indices: Sequence[int]) -> None:
        """Prepare for `Sequences.select`."""
        self._padding = np.broadcast_to(self._padding, len(self.kvs))[list(indices)]
        self._waiting = tuple(side[list(indices)] for side in self._waiting)

    def count_kept(self, length: int) -> list[int]:
        """Return how many tokens of each sequence's cache are among its first `length` positions.

        Raises
        ------
        InputError
            Tokens that were dropped, or sinks among them, would come back.
        """
        real = self._sequences.tokens(0, length)
        kept = [length] * len(self.kvs) if real is None else real.sum(axis=1).tolist()
        for kv, n in zip(self.kvs, kept, strict=True):
            counts = kv.token_counts(self._number)
            needed = (kv.policy.max_tokens or 1) - 1 if self._keeps_window(kv) else counts.sinks
            first = counts.evicted + needed if counts.evicted else 0
            if n < first:
                raise InputError(
                    f"only {first} tokens or more can be kept, since {counts.evicted} were dropped for newer ones"
                )
        return [n - kv.token_counts(self._number).evicted for kv, n in zip(self.kvs, kept, strict=True)]

    def forget(self, length: int) -> None:
        """Drop what waits behind the first `length` positions, store the rest, and follow the crop of the cache."""
        if self._waiting:
            stored = self.get_seq_length() - self._waiting[0].shape[-2]
            self._waiting = tuple(side[:, :, : max(0, length - stored)] for side in self._waiting)
            self.settle()
        real = self._sequences.tokens(0, length)
        if real is not None:
            self._padding = (~real).sum(axis=1)

    def reorder_cache(self, beam_idx: Any) -> None:
        """Refuse: all layers of a cache have the same sequences."""
        raise _of_the_whole("reorder_cache")

    def batch_select_indices(self, indices: Any) -> None:
        """Refuse: all layers of a cache have the same sequences."""
        raise _of_the_whole("batch_select_indices")

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Refuse: all layers of a cache have the same sequences."""
        raise _of_the_whole("batch_repeat_interleave")

    def reset(self) -> None:
        """Refuse: all layers of a cache have the same tokens."""
        raise _of_the_whole("reset")

    def crop(self, max_length: int) -> None:
        """Refuse: all layers of a cache have the same tokens."""
        raise _of_the_whole("crop")

    def offload(self) -> None:
        """Do nothing: tokens are in the CPU's memory."""

    def prefetch(self) -> None:
        """Do nothing: tokens are in the CPU's memory."""


def _of_the_whole(method: str) -> InputError:
    return InputError(
        f"{method} of a single layer is refused, since all layers have the same tokens: use {method} of the "
        "TurboQuantCache"
    )


def _array(tensor: Any) -> Floats:
    """Return keys, values or queries of a sequence as an array, (heads, n, head_dim)."""
    array: Floats = tensor.detach().to("cpu", torch.float32).numpy()
    return array


def _like(array: Floats, tensor: Any) -> Any:
    """Return an array on the device and of the type of `tensor`."""
    return torch.from_numpy(array).to(tensor.device, tensor.dtype)

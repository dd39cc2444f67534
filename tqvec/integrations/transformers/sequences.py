"""The tokens of a batch: a `KVCache` per sequence for the layers of each kind, and the padding between the tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec.errors import InputError
from tqvec.integrations.transformers.model_layers import Kind, policy_of
from tqvec.integrations.transformers.names import STATE_LAYERS
from tqvec.kvcache import KVCache, Policy, Rope


class Group:
    """The layers of one kind, in a `KVCache` per sequence; in none before the first tokens, which say their shape.

    Parameters
    ----------
    kind : Kind
    numbers : tuple of int
        The group's layers, among those of the model that have keys and values.
    n_layers : int
        Number of layers of the model that have keys and values.
    policy : Policy
        Of the whole cache.
    ropes : tuple of Rope or None
        The rotary embedding of each of the group's layers.
    """

    def __init__(
        self, kind: Kind, numbers: tuple[int, ...], n_layers: int, policy: Policy, ropes: tuple[Rope | None, ...]
    ):
        self.kind, self.numbers, self.n_layers, self.policy, self.ropes = kind, numbers, n_layers, policy, ropes
        self.kvs: list[KVCache] = []

    def make_kv(self, n_kv_heads: int, head_dim: int) -> KVCache:
        """Return a `KVCache` without tokens."""
        policy = policy_of(self.policy, self.kind, self.numbers, self.n_layers, n_kv_heads)
        return KVCache(len(self.numbers), n_kv_heads, head_dim, policy, self.ropes)

    @property
    def n_tokens(self) -> int:
        """Most tokens of any layer and sequence, dropped ones included."""
        return max((sum(kv.token_counts(i)) for kv in self.kvs for i in range(kv.n_layers)), default=0)

    def open(self, batch: int, n_kv_heads: int, head_dim: int) -> None:
        """Make as many caches as a batch needs, if there are no tokens yet.

        Raises
        ------
        InputError
            There are tokens of another number of sequences.
        """
        if not self.kvs:
            self.kvs = [self.make_kv(n_kv_heads, head_dim)]
        if len(self.kvs) == batch:
            return
        if self.n_tokens:
            raise InputError(
                f"TurboQuantCache holds tokens of {len(self.kvs)} sequences, got a batch of {batch}: "
                "batch_repeat_interleave and batch_select_indices change their number, reset() drops all"
            )
        self.kvs = [self.kvs[0].fork() for _ in range(batch)]

    def select(self, indices: Sequence[int]) -> None:
        """Take these sequences, some perhaps several times: their memory is shared."""
        if self.kvs:
            first = {index: place for place, index in reversed(list(enumerate(indices)))}
            self.kvs = [
                self.kvs[index] if first[index] == place else self.kvs[index].fork()
                for place, index in enumerate(indices)
            ]


def make_groups(
    layers: Sequence[Any], kinds: Sequence[Kind | None], policy: Policy, ropes: Sequence[Rope | None]
) -> list[Group]:
    """Return a group per kind of layers.

    Parameters
    ----------
    layers : sequence
        The layers that transformers makes.
    kinds : sequence
        Of each layer; None for those that stay as they are.
    policy : Policy
        Of the whole cache.
    ropes : sequence of Rope or None
        The rotary embedding of each layer.
    """
    numbers = [number for number, layer in enumerate(layers) if not isinstance(layer, STATE_LAYERS)]
    groups = []
    for kind in dict.fromkeys(kind for kind in kinds if kind is not None):
        alike = [i for i, number in enumerate(numbers) if kinds[number] == kind]
        of_group = tuple(ropes[numbers[i]] for i in alike)
        groups.append(Group(kind, tuple(alike), len(numbers), policy, of_group))
    return groups


def find_places(kinds: Sequence[Kind | None]) -> dict[int, tuple[int, int]]:
    """Return the group of each layer of `make_groups`, and its number there."""
    order = [kind for kind in dict.fromkeys(kinds) if kind is not None]
    return {
        number: (order.index(kind), kinds[:number].count(kind)) for number, kind in enumerate(kinds) if kind is not None
    }


class Sequences:
    """All tokens of a `TurboQuantCache` that are kept in a `KVCache`.

    Attributes
    ----------
    groups : list of Group
    real : (batch, positions) bool, or None
        Which positions hold tokens; the others are padding, which is not stored. None: no position is padding.
    """

    def __init__(self, groups: list[Group]):
        self.groups = groups
        self.real: NDArray[np.bool_] | None = None

    def fork(self) -> Sequences:
        """Return the same tokens, in shared memory; later changes to either don't show in the other."""
        return self._copy(lambda kv: kv.fork())

    def deepcopy(self, memo: dict[int, Any]) -> Sequences:
        """Return the same tokens, with deep copies of attributes that a `KVCache` of a user may have."""
        return self._copy(lambda kv: copy.deepcopy(kv, memo))

    def _copy(self, copy_kv: Any) -> Sequences:
        other = copy.copy(self)
        other.groups = [copy.copy(group) for group in self.groups]
        for group in other.groups:
            group.kvs = [copy_kv(kv) for kv in group.kvs]
        return other

    def learn_padding(self, mask: NDArray[np.bool_] | None, start: int, stop: int) -> None:
        """Take from a mask, (batch, ≥ stop), which of the next positions are padding; without a mask none is.

        Raises
        ------
        InputError
            Padding follows a token, but the policy keeps sinks and drops tokens behind them.
        """
        before = None if self.real is None or start == 0 else self.real[:, :start]
        if mask is not None and (before is not None or not mask[:, start:stop].all()):
            before = np.ones((len(mask), start), bool) if before is None else before
            before = np.concatenate([before, mask[:, start:stop]], axis=1)
            policies = [group.policy for group in self.groups]
            gaps = (before[:, :-1] & ~before[:, 1:]).any()
            if gaps and any(policy.max_tokens and policy.sinks for policy in policies):
                raise InputError(
                    "attention_mask may have padding only before the first token of a sequence, since the policy keeps "
                    f"{policies[0].sinks} sinks and drops tokens behind them (max_tokens): pad on the left, or use a "
                    "policy with sinks=0"
                )
        self.real = before

    def tokens(self, start: int, stop: int) -> NDArray[np.bool_] | None:
        """Return which positions hold tokens, (batch, stop - start), or None if all do."""
        if self.real is None:
            return None
        known = self.real[:, start:stop]
        missing = stop - start - known.shape[1]
        return np.pad(known, ((0, 0), (0, missing)), constant_values=True) if missing else known

    def select(self, indices: Sequence[int]) -> None:
        """Take these sequences, some perhaps several times."""
        for group in self.groups:
            group.select(indices)
        if self.real is not None:
            self.real = self.real[list(indices)]

    def crop(self, length: int) -> None:
        """Forget which positions behind the first `length` were padding."""
        if self.real is not None:
            self.real = self.real[:, :length]

    def reset(self) -> None:
        """Drop all tokens, and all sequences but one."""
        self.real = None
        for group in self.groups:
            group.kvs = group.kvs[:1]
            for kv in group.kvs:
                kv.reset()

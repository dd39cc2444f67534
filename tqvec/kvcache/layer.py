"""A layer of a cache: one writer at a time, and any number of readers, which never wait."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tqvec._locks import ForkLock
from tqvec._types import Bytes, Floats
from tqvec.kvcache import byte_model, key_warnings
from tqvec.kvcache import state as states
from tqvec.kvcache.codecs import KVCodecs, LayerCodecs, adapt
from tqvec.kvcache.half_precision import Halves, round_to_half, to_half
from tqvec.kvcache.key_basis import Layout, learn
from tqvec.kvcache.policy import Policy
from tqvec.kvcache.state import Learned, Segments, State, Uncoded

_LEAST_TOKENS = 64  # coded together from which drift is told: fewer may be unusual
_PART = 2048  # vectors coded at a time: they stay in the second-level cache


class Layer:
    """The tokens of a layer, and the changes to them.

    Parameters
    ----------
    number : int
        Named in warnings.
    policy : Policy
    codecs : LayerCodecs
        Those of the policy, of keys in bands.
    turning : Layout
        How the coordinates of keys turn with the position.
    state : State
        Its arrays may be shared with other layers: this layer copies them before it writes.

    Attributes
    ----------
    state : State
        The state at this moment. A reader takes it once and works on it.
    """

    def __init__(self, number: int, policy: Policy, codecs: LayerCodecs, turning: Layout, state: State):
        self.number, self.policy, self.turning, self.state = number, policy, turning, state
        self._codecs = codecs
        self._sizes = byte_model.segment_sizes(policy, codecs.recoded is not None)
        self._lock = ForkLock()
        self._warned = False  # of keys that no longer fit
        self._owner = object()  # of the arrays that this layer made; not the layer itself, which would be a cycle

    def codecs(self, kinds: tuple[int, ...]) -> LayerCodecs:
        """Return the codecs of a layer whose keys are coded in these ways, by head (see `State.kinds`)."""
        return adapt(self._codecs, kinds) if any(kinds) else self._codecs

    def append(self, keys: NDArray, values: NDArray, threads: int | None) -> None:
        """Add checked tokens, (heads, n, head_dim): float32, or of the policy's type."""
        with self._lock:
            state, keys, values = self._fill_sinks(self.state, keys, values)
            state = self._add(state, keys, values, threads)
            state = self._recode(state, threads)
            self.state = self._evict(state)

    def _fill_sinks(self, state: State, keys: NDArray, values: NDArray) -> tuple[State, NDArray, NDArray]:
        """Return the state with as many sinks as there can be, and the tokens left over."""
        n = min(self.policy.sinks - state.sinks.n, keys.shape[1])
        if n == 0:
            return state, keys, values
        sinks = state.sinks.extend([to_half(side[:, :n], self.policy.dtype) for side in (keys, values)], self._owner)
        return state._replace(sinks=sinks), keys[:, n:], values[:, n:]

    def _add(self, state: State, keys: NDArray, values: NDArray, threads: int | None) -> State:
        """Return the state with new tokens behind the recent ones; tokens that leave their window are coded."""
        recent, n = state.recent, state.recent.n + keys.shape[1]
        leaving = byte_model.count_to_code(self.policy, n, state.learned is not None)
        if leaving == 0:
            if keys.shape[1] == 0:
                return state
            new = [to_half(side, self.policy.dtype) for side in (keys, values)]
            return state._replace(recent=recent.extend(new, self._owner))
        waiting = _Waiting(recent, keys, values, self.policy.dtype)
        if state.learned is None and self.policy.mean_tokens:
            state = state._replace(learned=self._learn(state.first_coded, waiting))
        state = self._code(state, waiting, leaving, threads)
        # New arrays: readers of earlier states still see the tokens at the beginning of the old ones.
        rest = recent._replace(n=0, owner=None).extend(waiting.halves(leaving, n), self._owner)
        return state._replace(recent=rest)

    def _learn(self, first: int, waiting: _Waiting) -> Learned:
        """Learn from the first tokens, which don't depend on how the tokens were cut into calls."""
        keys, values = waiting.floats(0, self.policy.mean_tokens)
        side = self._codecs.coded.keys
        codecs = [side.groups[group].codec for group, _ in side.positions]
        basis = learn(keys, first, self.turning, [(codec.bands, codec.band_std) for codec in codecs])
        if basis.guarded_heads:
            key_warnings.warn_of_guard(self.number, basis.guarded_heads, self.turning)
        if not self.policy.value_means:
            return Learned(basis, None)
        return Learned(basis, values.mean(axis=1, dtype=np.float64).astype(np.float32))

    def _code(self, state: State, waiting: _Waiting, n: int, threads: int | None) -> State:
        """Return the state with codes of the first `n` tokens that wait."""
        codecs, learned = self.codecs(state.kinds).coded, state.learned
        first = state.first_coded + states.count(state.recoded) + states.count(state.coded)
        parts = []
        step = max(1, _PART // len(codecs.keys.positions))
        for start in range(0, n, step):
            keys, values = waiting.floats(start, min(start + step, n))
            plain = None
            if learned is not None:
                keys, plain = learned.keys.centre(keys, first + start, self.turning, threads)
                if learned.values is not None:
                    values -= learned.values[:, None]
            parts.append((codecs.keys.encode(keys, plain, threads), codecs.values.encode(values, None, threads)))
        new = states.concat([part[0] for part in parts]), states.concat([part[1] for part in parts])
        if learned is not None and n >= _LEAST_TOKENS and not self._warned:
            squared = codecs.keys.squared_lengths(new[0])
            self._warned = key_warnings.warn_of_drift(self.number, learned.keys, squared, self.turning)
        return state._replace(coded=states.extend(state.coded, codecs, new, self._sizes.coded, self._owner))

    def _recode(self, state: State, threads: int | None) -> State:
        """Return the state in which the oldest coded tokens are recoded."""
        recodes = self._codecs.recoded is not None
        leaving = byte_model.count_to_recode(self.policy, states.count(state.coded)) if recodes else 0
        if leaving == 0:
            return state
        before, codecs = self.codecs(state.kinds)
        assert codecs is not None
        recoded = state.recoded
        step = max(1, _PART // len(codecs.keys.positions))
        for keys, plain, values in _decode(states.keep_first(state.coded, leaving), before, step, threads):
            new = (codecs.keys.encode(keys, plain, threads), codecs.values.encode(values, None, threads))
            recoded = states.extend(recoded, codecs, new, self._sizes.recoded, self._owner)
        return state._replace(recoded=recoded, coded=states.drop_first(state.coded, leaving))

    def _evict(self, state: State) -> State:
        """Return the state without the oldest coded tokens beyond `max_tokens`."""
        extra = 0 if self.policy.max_tokens is None else max(0, state.n - self.policy.max_tokens)
        if extra == 0:
            return state
        from_recoded = min(extra, states.count(state.recoded))
        return state._replace(
            recoded=states.drop_first(state.recoded, from_recoded),
            coded=states.drop_first(state.coded, extra - from_recoded),
            evicted=state.evicted + extra,
        )

    def truncate(self, n: int) -> None:
        """Keep the first `n` tokens of those that the layer holds."""
        with self._lock:
            state = self.state
            if n >= state.n:
                return
            sinks = state.sinks.first(min(n, state.sinks.n))
            n -= sinks.n
            recoded = states.keep_first(state.recoded, n)
            n -= states.count(recoded)
            coded = states.keep_first(state.coded, n)
            self.state = State(
                sinks=sinks,
                recoded=recoded,
                coded=coded,
                recent=state.recent.first(n - states.count(coded)),
                learned=state.learned if recoded or coded else None,
                evicted=state.evicted,
            )

    def reset(self) -> None:
        """Forget all tokens, and those that were evicted."""
        with self._lock:
            self.state = states.empty_state(*self.state.shape, self.policy.dtype)

    def fork(self) -> Layer:
        """Return another layer with the same tokens; additions to either layer don't show in the other."""
        return Layer(self.number, self.policy, self._codecs, self.turning, self.state)


class _Waiting:
    """Recent tokens and new ones, one behind the other."""

    def __init__(self, recent: Uncoded, keys: NDArray, values: NDArray, dtype: str):
        self._n, self._dtype = recent.n, dtype
        self._sides = ((recent.keys, keys), (recent.values, values))

    def _split(self, start: int, stop: int) -> tuple[slice, slice]:
        """Return the positions of some tokens among the recent and among the new ones."""
        n = self._n
        return slice(min(start, n), min(stop, n)), slice(max(start - n, 0), max(stop - n, 0))

    def halves(self, start: int, stop: int) -> list[Halves]:
        """Return keys and values of some tokens, in 16 bits."""
        before, after = self._split(start, stop)
        return [np.concatenate([a[:, before], to_half(b[:, after], self._dtype)], axis=1) for a, b in self._sides]

    def floats(self, start: int, stop: int) -> list[Floats]:
        """Return keys and values of some tokens as float32, rounded to 16 bits."""
        before, after = self._split(start, stop)
        count = before.stop - before.start
        sides = []
        for recent, new in self._sides:
            out = np.empty((recent.shape[0], stop - start, recent.shape[2]), np.float32)
            round_to_half(recent[:, before], self._dtype, out[:, :count])
            round_to_half(new[:, after], self._dtype, out[:, count:])
            sides.append(out)
        return sides


def _decode(
    segments: Segments, codecs: KVCodecs, step: int, threads: int | None
) -> Iterator[tuple[Floats, Bytes, Floats]]:
    """Yield keys as they were coded, which of them have no mean, and values less theirs; ≤ `step` tokens at a time."""
    for segment in segments:
        for start in range(segment.start, segment.stop, step):
            rows = slice(start, min(start + step, segment.stop))
            keys, plain = codecs.keys.decode(segment.keys, rows, threads), codecs.keys.plain(segment.keys, rows)
            yield keys, plain, codecs.values.decode(segment.values, rows, threads)

"""A layer of a cache: one writer at a time, and any number of readers, who never wait."""

from __future__ import annotations

from collections.abc import Iterator
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from tqvec.kvcache import byte_model
from tqvec.kvcache import state as states
from tqvec.kvcache.codecs import LayerCodecs, Sides
from tqvec.kvcache.half_precision import Halves, narrowed, rounded
from tqvec.kvcache.policy import Policy
from tqvec.kvcache.state import Hot, Means, Segments, State

_PART = 2048  # vectors coded at a time: they stay in the second-level cache


class Layer:
    """Tokens of a layer, and what becomes of them.

    Parameters
    ----------
    policy : Policy
    codecs : LayerCodecs
    state : State
        That belongs to others too, if it has tokens: it is never written to.

    Attributes
    ----------
    state : State
        Of now. A reader takes it once and works on it.
    """

    def __init__(self, policy: Policy, codecs: LayerCodecs, state: State):
        self.policy, self.codecs, self.state = policy, codecs, state
        self._sizes = byte_model.segment_sizes(policy, codecs.old is not None)
        self._lock = RLock()
        self._disown()

    def _disown(self) -> None:
        """From now on no array is this layer's own, to be written to."""
        self._own_sinks = self._own_old = self._own_cold = self._own_hot = False

    def append(self, keys: NDArray, values: NDArray, threads: int | None) -> None:
        """Add checked tokens, (heads, n, head_dim): float32, or of the policy's type."""
        with self._lock:
            try:
                state, keys, values = self._with_sinks(self.state, keys, values)
                state = self._with_new(state, keys, values, threads)
                state = self._aged(state, threads)
                self.state = self._evicted(state)
            except BaseException:
                self._disown()
                raise

    def _with_sinks(self, state: State, keys: NDArray, values: NDArray) -> tuple[State, NDArray, NDArray]:
        """State with as many sinks as there can be, and the tokens that are none."""
        taken = min(self.policy.sinks - state.sinks.n, keys.shape[1])
        if taken == 0:
            return state, keys, values
        first = [narrowed(side[:, :taken], self.policy.dtype) for side in (keys, values)]
        sinks = state.sinks.longer(first, self._own_sinks)
        self._own_sinks = True
        return state._replace(sinks=sinks), keys[:, taken:], values[:, taken:]

    def _with_new(self, state: State, keys: NDArray, values: NDArray, threads: int | None) -> State:
        """State with new tokens behind the hot ones; those that leave the hot window are coded."""
        hot, n = state.hot, state.hot.n + keys.shape[1]
        leaving = byte_model.leaving(self.policy, n, state.means is not None)
        if leaving == 0:
            if keys.shape[1]:
                new = [narrowed(side, self.policy.dtype) for side in (keys, values)]
                state = state._replace(hot=hot.longer(new, self._own_hot))
                self._own_hot = True
            return state
        waiting = _Waiting(hot, keys, values, self.policy.dtype)
        if state.means is None and self.policy.mean_tokens:
            state = state._replace(means=self._means(waiting))
        state = self._coded(state, waiting, leaving, threads)
        rest = waiting.halves(leaving, n)
        self._own_hot = True
        return state._replace(hot=hot._replace(n=0).longer(rest, mine=False))

    def _means(self, waiting: _Waiting) -> Means:
        """Means of the first tokens: they don't depend on how these came."""
        keys, values = (
            side.mean(axis=1, dtype=np.float64).astype(np.float32)
            for side in waiting.numbers(0, self.policy.mean_tokens)
        )
        return Means(keys, values if self.policy.value_means else None)

    def _coded(self, state: State, waiting: _Waiting, n: int, threads: int | None) -> State:
        """State with codes of the first `n` tokens that wait."""
        sides = self.codecs.cold
        parts = []
        step = max(1, _PART // len(sides.keys.places))
        for start in range(0, n, step):
            keys, values = waiting.numbers(start, min(start + step, n))
            if state.means is not None:
                keys -= state.means.keys[:, None]
                if state.means.values is not None:
                    values -= state.means.values[:, None]
            parts.append((sides.keys.encode(keys, threads), sides.values.encode(values, threads)))
        coded = states.joined([part[0] for part in parts]), states.joined([part[1] for part in parts])
        cold = states.longer(state.cold, sides, coded, self._sizes.cold, self._own_cold)
        self._own_cold = True
        return state._replace(cold=cold)

    def _aged(self, state: State, threads: int | None) -> State:
        """State in which the oldest cold tokens are coded once more."""
        old = self.codecs.old
        leaving = byte_model.aging(self.policy, states.count(state.cold)) if old is not None else 0
        if leaving == 0 or old is None:
            return state
        segments = state.old
        step = max(1, _PART // len(old.keys.places))
        for keys, values in _decoded(states.first(state.cold, leaving), self.codecs.cold, step, threads):
            coded = (old.keys.encode(keys, threads), old.values.encode(values, threads))
            segments = states.longer(segments, old, coded, self._sizes.old, self._own_old)
            self._own_old = True
        return state._replace(old=segments, cold=states.without_first(state.cold, leaving))

    def _evicted(self, state: State) -> State:
        """State of at most `max_tokens`."""
        extra = 0 if self.policy.max_tokens is None else max(0, state.n - self.policy.max_tokens)
        if extra == 0:
            return state
        from_old = min(extra, states.count(state.old))
        return state._replace(
            old=states.without_first(state.old, from_old),
            cold=states.without_first(state.cold, extra - from_old),
            evicted=state.evicted + extra,
        )

    def truncate(self, n: int) -> None:
        """Keep the first `n` tokens, of those that there are."""
        with self._lock:
            state = self.state
            if n >= state.n:
                return
            sinks = min(n, state.sinks.n)
            n -= sinks
            old = states.first(state.old, n)
            n -= states.count(old)
            cold = states.first(state.cold, n)
            n -= states.count(cold)
            self._disown()
            self.state = State(
                state.sinks.first(sinks),
                old,
                cold,
                state.hot.first(n),
                state.means if old or cold else None,
                state.evicted,
            )

    def fork(self) -> Layer:
        """Another layer with the same tokens; what is added to either does not show in the other."""
        return Layer(self.policy, self.codecs, self.state)


class _Waiting:
    """Hot tokens and new ones, one behind the other."""

    def __init__(self, hot: Hot, keys: NDArray, values: NDArray, dtype: str):
        self._n, self._dtype = hot.n, dtype
        self._sides = ((hot.keys, keys), (hot.values, values))

    def _places(self, start: int, stop: int) -> tuple[slice, slice]:
        """Where some tokens are among the hot and the new ones."""
        n = self._n
        return slice(min(start, n), min(stop, n)), slice(max(start - n, 0), max(stop - n, 0))

    def halves(self, start: int, stop: int) -> list[Halves]:
        """Keys and values of some tokens, in 16 bits."""
        old, new = self._places(start, stop)
        return [np.concatenate([a[:, old], narrowed(b[:, new], self._dtype)], axis=1) for a, b in self._sides]

    def numbers(self, start: int, stop: int) -> list[NDArray[np.float32]]:
        """Keys and values of some tokens as float32, rounded to 16 bits."""
        old, new = self._places(start, stop)
        found = []
        for hot, more in self._sides:
            out = np.empty((hot.shape[0], stop - start, hot.shape[2]), np.float32)
            count = old.stop - old.start
            rounded(hot[:, old], self._dtype, out[:, :count])
            rounded(more[:, new], self._dtype, out[:, count:])
            found.append(out)
        return found


def _decoded(
    segments: Segments, sides: Sides, step: int, threads: int | None
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Keys and values of all tokens, (heads, ≤ step, head_dim) each, a part at a time; less the means."""
    for segment in segments:
        for start in range(segment.start, segment.stop, step):
            rows = slice(start, min(start + step, segment.stop))
            yield sides.keys.decode(segment.keys, rows, threads), sides.values.decode(segment.values, rows, threads)

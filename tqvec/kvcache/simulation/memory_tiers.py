"""Where blocks of tokens are: tiers of memory, and who goes when one is full."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _validate
from tqvec.errors import InputError
from tqvec.kvcache.planning.units import parse_bytes

GONE = -1  # the tier of a block that is nowhere
EVICTIONS = ("oldest", "lru", "window", "belady")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


class Tier(NamedTuple):
    """A memory. The first of several is the one that attention works in.

    Attributes
    ----------
    name : str
    capacity : int
        Bytes.
    bandwidth : float
        Bytes a second to and from the first tier.
    latency : float
        Seconds before the first byte.
    """

    name: str
    capacity: int
    bandwidth: float = math.inf
    latency: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Tier:
        """The tier of ``"disk:100GiB:2GB/s:100us"``; latency may be left out, and for the first tier bandwidth too.

        Raises
        ------
        InputError
            It is written otherwise.
        """
        name, *parts = text.split(":")
        if not name or len(parts) not in (1, 2, 3) or (len(parts) > 1 and not parts[1].endswith("/s")):
            raise InputError(
                f"tier must be name:capacity[:bandwidth[:latency]], as disk:100GiB:2GB/s:100us; got {text!r}"
            )
        capacity = parse_bytes(parts[0], f"capacity of tier {name!r}")
        if len(parts) == 1:
            return cls(name, capacity)
        rate = parse_bytes(parts[1].removesuffix("/s"), f"bandwidth of tier {name!r}")
        if rate == 0:
            raise InputError(f"bandwidth of tier {name!r} must be more than 0")
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|ms|us)", "0s" if len(parts) == 2 else parts[2], re.ASCII)
        if found is None:
            raise InputError(f"latency of tier {name!r} must be a number with s, ms or us, got {parts[2]!r}")
        return cls(name, capacity, rate, float(found[1]) * _SECONDS[found[2]])


class Blocks:
    """Blocks of tokens that follow each other.

    Attributes
    ----------
    where : (n,) int8
        Tier of each block, or `GONE`.
    size, born : (n,) int64
        Bytes of each block, and how many blocks there were before it in all.
    last : int
        Number of the request that last used it.
    next : float
        Of the one that will use it next; infinity: none.
    """

    def __init__(self) -> None:
        self._n = 0
        self._room = (np.empty(8, np.int8), np.empty(8, np.int64), np.empty(8, np.int64))
        self.last = 0
        self.next = math.inf

    def __len__(self) -> int:
        return self._n

    @property
    def where(self) -> NDArray[np.int8]:
        """Tier of each block."""
        return self._room[0][: self._n]

    @property
    def size(self) -> NDArray[np.int64]:
        """Bytes of each block."""
        return self._room[1][: self._n]

    @property
    def born(self) -> NDArray[np.int64]:
        """When each block was made."""
        return self._room[2][: self._n]

    def append(self, size: int, born: int) -> None:
        """One more block, which is nowhere yet."""
        if self._n == self._room[0].size:
            where, sizes, births = (np.concatenate([array, np.empty_like(array)]) for array in self._room)
            self._room = (where, sizes, births)
        where, sizes, births = self._room
        where[self._n], sizes[self._n], births[self._n] = GONE, size, born
        self._n += 1

    def inside(self, tier: int) -> NDArray[np.int64]:
        """Blocks that are in a tier."""
        return np.flatnonzero(self.where == tier)


class Moved(NamedTuple):
    """Bytes that went down into a tier, or up from it, and how many blocks."""

    down: int = 0
    up: int = 0
    blocks: int = 0


class Store:
    """Blocks in tiers. A full tier gives blocks to the next one; from the last one they are gone.

    Parameters
    ----------
    tiers : list of Tier
    eviction : str
        Of `EVICTIONS`. "oldest": the block that was made first. "lru" and "window": the last block of the sequence that
        was not used for longest. "belady": of the one that will not be used for longest, which nobody can know: the
        bound of what a choice can reach.

    Notes
    -----
    Blocks of the sequences in `running` go only when there are no others: the first ones first, but their very first
    block last, since models attend to it most.
    """

    def __init__(self, tiers: list[Tier], eviction: str):
        self.tiers = tiers
        self.used = [0] * len(tiers)
        self.peak = [0] * len(tiers)
        self.moved = [Moved() for _ in tiers]
        self.born = 0
        self.running: list[Blocks] = []
        self._key = _KEYS[_validate.choice(eviction, "eviction", EVICTIONS)]
        self._oldest = eviction == "oldest"
        self._queues: list[list[tuple[float, int, Blocks]]] = [[] for _ in tiers]
        self._pushes = 0

    def new_block(self, sequence: Blocks, size: int) -> bool:
        """Add a block to a running sequence; False if it is nowhere, since all is full."""
        sequence.append(size, self.born)
        self.born += 1
        return self.bring(sequence, len(sequence) - 1, displace=True)

    def bring(self, sequence: Blocks, block: int, displace: bool = False) -> bool:
        """Put a block into the first tier, if there is room or idle blocks give way; `displace`: or running ones."""
        before = int(sequence.where[block])
        if not self._make_room(0, int(sequence.size[block]), displace):
            return False
        if before != GONE:
            self._leave(sequence, block)
            self._count(before, up=int(sequence.size[block]))
        self._enter(sequence, block, 0)
        return True

    def idle(self, sequence: Blocks) -> None:
        """A sequence has been used, and is in line again for all tiers."""
        for tier in range(len(self.tiers)):
            self._queue(sequence, tier)

    def seconds(self, before: list[Moved]) -> float:
        """What moving took since `moved` was as `before`: nothing else goes on meanwhile."""
        total = 0.0
        for tier, new, old in zip(self.tiers, self.moved, before, strict=True):
            total += (new.down - old.down + new.up - old.up) / tier.bandwidth + (new.blocks - old.blocks) * tier.latency
        return total

    def _queue(self, sequence: Blocks, tier: int) -> None:
        inside = sequence.inside(tier)
        if inside.size:
            self._pushes += 1
            heapq.heappush(self._queues[tier], (self._key(sequence, inside), self._pushes, sequence))

    def _make_room(self, tier: int, size: int, displace: bool) -> bool:
        capacity = self.tiers[tier].capacity
        while self.used[tier] + size > capacity:
            victim = self._idle_victim(tier) if size <= capacity else None
            if victim is None and displace and size <= capacity:
                victim = self._running_victim(tier)
            if victim is None:
                return False
            self._demote(*victim, tier)
        return True

    def _idle_victim(self, tier: int) -> tuple[Blocks, int] | None:
        """The block that an idle sequence gives; entries of the queue that are out of date are dropped or renewed."""
        queue = self._queues[tier]
        while queue:
            key, _, sequence = queue[0]
            inside = sequence.inside(tier)
            if sequence in self.running or not inside.size:
                heapq.heappop(queue)  # `idle` brings it back
            elif key != self._key(sequence, inside):
                heapq.heappop(queue)
                self._queue(sequence, tier)
            else:
                return sequence, int(inside[0] if self._oldest else inside[-1])
        return None

    def _running_victim(self, tier: int) -> tuple[Blocks, int] | None:
        for sequence in self.running:
            inside = sequence.inside(tier)
            if inside.size:
                return sequence, int(inside[1] if inside[0] == 0 and inside.size > 1 else inside[0])
        return None

    def _demote(self, sequence: Blocks, block: int, tier: int) -> None:
        """Move a block to the next tier that makes room, or nowhere."""
        self._leave(sequence, block)
        running = sequence in self.running
        for lower in range(tier + 1, len(self.tiers)):
            if self._make_room(lower, int(sequence.size[block]), displace=running):
                self._enter(sequence, block, lower)
                self._count(lower, down=int(sequence.size[block]))
                if not running:
                    self._queue(sequence, lower)
                return

    def _leave(self, sequence: Blocks, block: int) -> None:
        self.used[sequence.where[block]] -= int(sequence.size[block])
        sequence.where[block] = GONE

    def _enter(self, sequence: Blocks, block: int, tier: int) -> None:
        sequence.where[block] = tier
        self.used[tier] += int(sequence.size[block])
        self.peak[tier] = max(self.peak[tier], self.used[tier])

    def forget(self, sequence: Blocks, block: int) -> None:
        """Let a block go for good."""
        if sequence.where[block] != GONE:
            self._leave(sequence, block)

    def _count(self, tier: int, down: int = 0, up: int = 0) -> None:
        old = self.moved[tier]
        self.moved[tier] = Moved(old.down + down, old.up + up, old.blocks + 1)


def _born(sequence: Blocks, inside: NDArray[np.int64]) -> float:
    return float(sequence.born[inside[0]])


def _last(sequence: Blocks, inside: NDArray[np.int64]) -> float:
    return float(sequence.last)


def _next(sequence: Blocks, inside: NDArray[np.int64]) -> float:
    return -sequence.next


_KEYS: dict[str, Callable[[Blocks, NDArray[np.int64]], float]] = {
    "oldest": _born,
    "lru": _last,
    "window": _last,
    "belady": _next,
}

"""Memory tiers of a simulated server, and the blocks of tokens in them: a full tier evicts blocks to the next one."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _validate
from tqvec.errors import InputError
from tqvec.kvcache.planning.units import MAX_BYTES, parse_bandwidth, parse_bytes

GONE = -1  # the tier of a block that was dropped
EVICTIONS = ("oldest", "lru", "window", "belady")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


class MemoryTier(NamedTuple):
    """A memory of a simulated server. Attention works in the first of several.

    Attributes
    ----------
    name : str
    capacity : int
        Bytes.
    bandwidth : float
        Bytes per second to and from the first tier.
    latency : float
        Seconds before the first byte.
    """

    name: str
    capacity: int
    bandwidth: float = math.inf
    latency: float = 0.0

    @classmethod
    def parse(cls, text: str) -> MemoryTier:
        """Read a tier from ``"disk:100GiB:2GB/s:100us"``: name, capacity and, optionally, bandwidth and latency.

        Raises
        ------
        InputError
            The text has another form.
        """
        name, *parts = _validate.instance(text, "tier", str).split(":")
        if not name or len(parts) not in (1, 2, 3) or (len(parts) > 1 and not parts[1].endswith("/s")):
            raise InputError(
                f"tier must be name:capacity[:bandwidth[:latency]], as disk:100GiB:2GB/s:100us; got {text!r}"
            )
        capacity = parse_bytes(parts[0], f"capacity of tier {name!r}")
        if len(parts) == 1:
            return cls(name, capacity)
        rate = parse_bandwidth(parts[1], f"bandwidth of tier {name!r}")
        latency = re.fullmatch(r"(\d+(?:\.\d+)?)(s|ms|us)", "0s" if len(parts) == 2 else parts[2], re.ASCII)
        if latency is None:
            raise InputError(f"latency of tier {name!r} must be a number with s, ms or us, got {parts[2]!r}")
        return cls(name, capacity, rate, float(latency[1]) * _SECONDS[latency[2]])


def check_tiers(tiers: Sequence[MemoryTier]) -> tuple[MemoryTier, ...]:
    """Return at least one tier with checked fields; no two have one name."""
    checked: list[MemoryTier] = []
    for i, tier in enumerate(_validate.sequence(tiers, "tiers", MemoryTier)):
        where = f"tiers[{i}]"
        name = _validate.instance(tier.name, f"{where}.name", str)
        capacity = _validate.integer(tier.capacity, f"{where}.capacity", 0, MAX_BYTES)
        bandwidth, latency = (_validate.number(getattr(tier, x), f"{where}.{x}") for x in ("bandwidth", "latency"))
        if bandwidth <= 0:
            raise InputError(f"{where}.bandwidth must be more than 0 bytes per second, got {bandwidth}")
        if not 0 <= latency < math.inf:
            raise InputError(f"{where}.latency must be 0 or more seconds, got {latency}")
        if name in (other.name for other in checked):
            raise InputError(f"{where}: there is another tier with the name {name!r}")
        checked.append(MemoryTier(name, capacity, bandwidth, latency))
    if not checked:
        raise InputError("tiers must have at least one")
    return tuple(checked)


class BlockSequence:
    """Blocks of tokens that follow each other.

    Attributes
    ----------
    where : (n,) int8
        Tier of each block, or `GONE`.
    size, born : (n,) int64
        Bytes of each block, and the number of blocks that were made before it.
    last : int
        Number of the request that used it last.
    next : float
        Number of the request that will use it next; infinity: none.
    """

    def __init__(self) -> None:
        self._n = 0
        self._arrays = (np.empty(8, np.int8), np.empty(8, np.int64), np.empty(8, np.int64))
        self.last = 0
        self.next = math.inf

    def __len__(self) -> int:
        return self._n

    @property
    def where(self) -> NDArray[np.int8]:
        """Tier of each block, or `GONE`."""
        return self._arrays[0][: self._n]

    @property
    def size(self) -> NDArray[np.int64]:
        """Bytes of each block."""
        return self._arrays[1][: self._n]

    @property
    def born(self) -> NDArray[np.int64]:
        """Number of blocks that were made before each block."""
        return self._arrays[2][: self._n]

    def append(self, size: int, born: int) -> None:
        """Append a block that is in no tier yet."""
        if self._n == self._arrays[0].size:
            where, sizes, births = (np.concatenate([array, np.empty_like(array)]) for array in self._arrays)
            self._arrays = (where, sizes, births)
        where, sizes, births = self._arrays
        where[self._n], sizes[self._n], births[self._n] = GONE, size, born
        self._n += 1

    def blocks_in(self, tier: int) -> NDArray[np.int64]:
        """Return the numbers of the blocks in a tier."""
        return np.flatnonzero(self.where == tier)


class Traffic(NamedTuple):
    """Bytes moved down into a tier and up from it, and the number of blocks moved."""

    down: int = 0
    up: int = 0
    blocks: int = 0


class BlockStore:
    """Blocks in memory tiers. A full tier evicts blocks to the next one; the last tier drops them.

    Parameters
    ----------
    tiers : list of MemoryTier
    eviction : str
        The block that a full tier evicts, one of `EVICTIONS`. "oldest": the block that was made first. "lru" and
        "window": the last block of the sequence that was not used for the longest time. "belady": the last block of
        the sequence that will not be used for the longest time. No server can know it: it bounds all other choices.

    Notes
    -----
    Blocks of the sequences in `running` are evicted only if there are no others. Their first blocks go first, but for
    the very first, since models attend to it most.
    """

    def __init__(self, tiers: list[MemoryTier], eviction: str):
        self.tiers = tiers
        self.used = [0] * len(tiers)
        self.peak = [0] * len(tiers)
        self.traffic = [Traffic() for _ in tiers]
        self.born = 0
        self.running: list[BlockSequence] = []
        self._key = _KEYS[_validate.choice(eviction, "eviction", EVICTIONS)]
        self._oldest = eviction == "oldest"
        self._queues: list[list[tuple[float, int, BlockSequence]]] = [[] for _ in tiers]
        self._pushes = 0

    def new_block(self, sequence: BlockSequence, size: int) -> bool:
        """Add a block to a running sequence; return False if it fits no tier and is dropped."""
        sequence.append(size, self.born)
        self.born += 1
        return self.bring(sequence, len(sequence) - 1, displace=True)

    def bring(self, sequence: BlockSequence, block: int, displace: bool = False) -> bool:
        """Move a block to the first tier if it fits after evictions; `displace`: running sequences are evicted too."""
        before = int(sequence.where[block])
        if not self._free(0, int(sequence.size[block]), displace):
            return False
        if before != GONE:
            self._leave(sequence, block)
            self._count(before, up=int(sequence.size[block]))
        self._enter(sequence, block, 0)
        return True

    def idle(self, sequence: BlockSequence) -> None:
        """Make the blocks of a sequence that was running candidates for eviction again."""
        for tier in range(len(self.tiers)):
            self._queue(sequence, tier)

    def seconds(self, before: list[Traffic]) -> float:
        """Return the seconds of all moves since `traffic` was `before`."""
        total = 0.0
        for tier, new, old in zip(self.tiers, self.traffic, before, strict=True):
            total += (new.down - old.down + new.up - old.up) / tier.bandwidth + (new.blocks - old.blocks) * tier.latency
        return total

    def _queue(self, sequence: BlockSequence, tier: int) -> None:
        blocks = sequence.blocks_in(tier)
        if blocks.size:
            self._pushes += 1
            heapq.heappush(self._queues[tier], (self._key(sequence, blocks), self._pushes, sequence))

    def _free(self, tier: int, size: int, displace: bool) -> bool:
        """Evict blocks until `size` bytes fit a tier; return False if they can't."""
        capacity = self.tiers[tier].capacity
        while self.used[tier] + size > capacity:
            victim = self._idle_victim(tier) if size <= capacity else None
            if victim is None and displace and size <= capacity:
                victim = self._running_victim(tier)
            if victim is None:
                return False
            self._demote(*victim, tier)
        return True

    def _idle_victim(self, tier: int) -> tuple[BlockSequence, int] | None:
        """Return the block of an idle sequence to evict; outdated entries of the queue are dropped or renewed."""
        queue = self._queues[tier]
        while queue:
            key, _, sequence = queue[0]
            blocks = sequence.blocks_in(tier)
            if sequence in self.running or not blocks.size:
                heapq.heappop(queue)  # `idle` queues it again
            elif key != self._key(sequence, blocks):
                heapq.heappop(queue)
                self._queue(sequence, tier)
            else:
                return sequence, int(blocks[0] if self._oldest else blocks[-1])
        return None

    def _running_victim(self, tier: int) -> tuple[BlockSequence, int] | None:
        for sequence in self.running:
            blocks = sequence.blocks_in(tier)
            if blocks.size:
                return sequence, int(blocks[1] if blocks[0] == 0 and blocks.size > 1 else blocks[0])
        return None

    def _demote(self, sequence: BlockSequence, block: int, tier: int) -> None:
        """Move a block to the next tier that it fits, or drop it."""
        self._leave(sequence, block)
        running = sequence in self.running
        for lower in range(tier + 1, len(self.tiers)):
            if self._free(lower, int(sequence.size[block]), displace=running):
                self._enter(sequence, block, lower)
                self._count(lower, down=int(sequence.size[block]))
                if not running:
                    self._queue(sequence, lower)
                return

    def _leave(self, sequence: BlockSequence, block: int) -> None:
        self.used[sequence.where[block]] -= int(sequence.size[block])
        sequence.where[block] = GONE

    def _enter(self, sequence: BlockSequence, block: int, tier: int) -> None:
        sequence.where[block] = tier
        self.used[tier] += int(sequence.size[block])
        self.peak[tier] = max(self.peak[tier], self.used[tier])

    def drop(self, sequence: BlockSequence, block: int) -> None:
        """Drop a block."""
        if sequence.where[block] != GONE:
            self._leave(sequence, block)

    def _count(self, tier: int, down: int = 0, up: int = 0) -> None:
        old = self.traffic[tier]
        self.traffic[tier] = Traffic(old.down + down, old.up + up, old.blocks + 1)


# The idle sequence with the smallest key is evicted first; its blocks in the tier are the second argument.
_KEYS: dict[str, Callable[[BlockSequence, NDArray[np.int64]], float]] = {
    "oldest": lambda sequence, blocks: float(sequence.born[blocks[0]]),
    "lru": lambda sequence, _: float(sequence.last),
    "window": lambda sequence, _: float(sequence.last),
    "belady": lambda sequence, _: -sequence.next,
}

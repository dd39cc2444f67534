"""Holder: some shards of a sharded index, and the answers that they give together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tqvec._locks import ForkLock
from tqvec._types import Floats, Ids
from tqvec.errors import FormatError
from tqvec.index.probes import Probes
from tqvec.shards.folder import Folder
from tqvec.shards.hits import Hits, merge
from tqvec.shards.manifest import Manifest, Shard, open_manifest
from tqvec.shards.opened import Choice, OpenShard

MERGED = 16  # hits of shards at a time
_RETRY = 10.0  # seconds after which a shard that could not be opened is tried again


class Failure(NamedTuple):
    """Why a shard can't be searched.

    Attributes
    ----------
    reason : str
    is_damage : bool
        Whether a file is damaged or not there; otherwise another try may succeed.
    """

    reason: str
    is_damage: bool


class Request(NamedTuple):
    """The shards that are asked.

    Attributes
    ----------
    manifest : str
        Name of the manifest that has them.
    left_out : frozenset of str
        Names of shards that are not asked.
    """

    manifest: str
    left_out: frozenset[str] = frozenset()


class Answer(NamedTuple):
    """What a holder answers.

    Attributes
    ----------
    value : object
        None if a shard failed, or none has anything to tell.
    failures : dict of Failure
        By names of shards.
    """

    value: Any
    failures: dict[str, Failure]


def shards_of(manifest: Manifest, part: int, parts: int) -> tuple[Shard, ...]:
    """Return the shards of one part of many: they stay with it when more are appended."""
    return manifest.shards[part::parts]


class Holder:
    """One part of the shards of an index, open in this process.

    Shards are opened when they are first asked, so a new holder is as good as the one that it replaces.

    Parameters
    ----------
    folder : Folder
    cache : Path, optional
        As of `local_file`.
    threads : int
        For each scan.
    part, parts : int
        Which of how many parts.
    """

    def __init__(self, folder: Folder, cache: Path | None = None, threads: int = 1, part: int = 0, parts: int = 1):
        self._folder, self._cache, self._threads = folder, cache, threads
        self._part = part, parts
        self._manifests: dict[str, Manifest] = {}
        self._shards: dict[Shard, OpenShard] = {}
        self._failures: dict[Shard, tuple[Failure, float]] = {}
        self._lock = ForkLock()

    def open(self, request: Request, choice: Choice | None = None) -> Answer:
        """Open all shards that are asked, and return how many these are."""
        shards, failures = self._opened(request)
        return Answer(len(shards), failures)

    def keep(self, manifests: Iterable[str]) -> None:
        """Close shards that none of some manifests has."""
        kept = {name: self._manifest(name) for name in manifests}
        wanted = {shard for manifest in kept.values() for shard in shards_of(manifest, *self._part)}
        with self._lock:
            self._manifests = kept
            self._shards = {shard: opened for shard, opened in self._shards.items() if shard in wanted}
            self._failures = {shard: why for shard, why in self._failures.items() if shard in wanted}

    def count(self, request: Request, choice: Choice | None) -> Answer:
        """Return the number of rows that a search may return."""
        return self._answer(request, lambda shards: sum(shard.count(choice) for shard in shards))

    def scan(self, request: Request, choice: Choice | None, shifted: Floats, k: int) -> Answer:
        """Return the best `k` rows for each query, as `Hits`."""
        return self._answer(request, lambda shards: _merged((shard.scan(choice, shifted, k) for shard in shards), k))

    def scan_lists(self, request: Request, choice: Choice | None, shifted: Floats, k: int, probes: Probes) -> Answer:
        """Return the same of the lists that each query probes."""
        return self._answer(
            request, lambda shards: _merged((shard.scan_lists(choice, shifted, k, probes) for shard in shards), k)
        )

    def take(self, request: Request, choice: Choice | None, ids: Ids, columns: Sequence[str]) -> Answer:
        """Return records of those ids that are here: pairs of positions in `ids` and a pyarrow.Table."""
        return self._answer(request, lambda shards: list(_taken(shards, ids, columns)))

    def _answer(self, request: Request, answer: Callable[[list[OpenShard]], Any]) -> Answer:
        shards, failures = self._opened(request)
        return Answer(None if failures else answer(shards), failures)

    def _opened(self, request: Request) -> tuple[list[OpenShard], dict[str, Failure]]:
        """The shards that are asked, in order, and why some of them can't be opened."""
        manifest = self._manifest(request.manifest)
        shards, failures = list[OpenShard](), dict[str, Failure]()
        for shard in shards_of(manifest, *self._part):
            if shard.vectors.name in request.left_out:
                continue
            opened = self._shards.get(shard) or self._open(shard, manifest)
            if isinstance(opened, Failure):
                failures[shard.vectors.name] = opened
            else:
                shards.append(opened)
        return shards, failures

    def _open(self, shard: Shard, manifest: Manifest) -> OpenShard | Failure:
        with self._lock:  # another thread may have opened it meanwhile
            if (there := self._shards.get(shard)) is not None:
                return there
            failure, until = self._failures.get(shard, (None, 0.0))
            if failure is not None and time.monotonic() < until:
                return failure
            try:
                opened = OpenShard(self._folder, shard, manifest, self._cache, self._threads)
            except (FormatError, OSError) as error:
                failure = Failure(str(error), isinstance(error, FormatError))
                self._failures[shard] = failure, time.monotonic() + _RETRY
                return failure
            self._shards = {**self._shards, shard: opened}
            return opened

    def _manifest(self, name: str) -> Manifest:
        manifest = self._manifests.get(name)
        if manifest is None:
            manifest = open_manifest(self._folder, name)
            self._manifests = {**self._manifests, name: manifest}
        return manifest


def _merged(hits: Iterable[Hits | None], k: int) -> Hits | None:
    """The best of all hits; those of few shards are in memory at a time."""
    kept: list[Hits] = []
    for more in hits:
        if more is not None:
            kept.append(more)
        if len(kept) == MERGED:
            kept = [merge(kept, k)]
    return merge(kept, k) if kept else None


def _taken(shards: Iterable[OpenShard], ids: Ids, columns: Sequence[str]) -> Iterator[tuple[Ids, Any]]:
    for shard in shards:
        mine = np.flatnonzero((ids >= shard.first) & (ids < shard.first + shard.rows))
        if mine.size:
            yield mine, shard.take(ids[mine] - shard.first, columns)

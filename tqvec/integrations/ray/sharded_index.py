"""ShardedIndex: a sharded index that is searched by the actors of a Ray cluster."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar

from tqvec import _validate
from tqvec._config import num_threads
from tqvec._locks import ForkLock
from tqvec._output import as_path
from tqvec.errors import FormatError, InputError
from tqvec.integrations.ray.files import FileSearch, search_file
from tqvec.integrations.ray.fleet import ShardServer, ray, start_fleet
from tqvec.shards.folder import Folder
from tqvec.shards.holder import Request, shards_of
from tqvec.shards.manifest import manifest_names
from tqvec.shards.opened import Choice
from tqvec.shards.sharded import MissingShards, Sharded, Version, read_version

_MANIFEST = re.compile(r"(.+)/(manifests/\d{8}-[0-9a-f]{16}\.json)")
_OPTIONS = {"filter", "where", "return_error", "confidence", "nprobe", "recall"}  # of searches for files
_TIMEOUT = 60.0
_PATIENCE = 1.0


class ShardedIndex(Sharded):
    """A sharded index whose shards are held by the actors of a Ray cluster; see the "Sharded index" page.

    Searches return the ids and scores, to the last bit, of one index of all vectors. Each actor maps some shards from
    its node's disk. Ray replaces lost actors; they open their shards again when they are asked. Any number of threads
    may search at a time. ``ray.init`` is called first, or Ray starts a cluster on this machine.

    Parameters
    ----------
    manifest : path or str
        The folder of a sharded index, whose newest manifest is read; or one manifest file of it, which stays the one.
    filesystem : pyarrow.fs.FileSystem, optional
        `manifest` is then a path in it.
    replicas : int
        Actors that hold each shard. With two or more, a search goes on at once when an actor is lost, and a slow one is
        not waited for.
    actors : int, optional
        Into how many parts the shards are divided; there are `replicas` actors for each. Default: as many as the free
        CPUs but one are enough for, at most one for each shard.
    cache : path, optional
        A folder of each node for copies of the files, which are kept for the next time. Default: a folder on a local
        disk is read where it is, and of others there are copies in the temporary folder while they are used.
    threads : int
        Of each actor, which has as many CPUs.
    timeout : float
        Seconds in which shards must answer a request. A search makes one or a few.
    patience : float
        Seconds after which a replica is asked what another one has not answered.

    Raises
    ------
    InputError
        An argument is out of its range.
    FileNotFoundError
        There is no manifest.
    FormatError
        A file is damaged, not there or of a newer version; all shards are opened, and the message names those files.
    UnavailableError
        Actors did not start in time, or a store failed.
    UnsupportedError
        pyarrow is not installed.
    """

    _server: ClassVar[type[ShardServer]] = ShardServer

    def __init__(
        self,
        manifest: str | os.PathLike[str],
        *,
        filesystem: Any = None,
        replicas: int = 1,
        actors: int | None = None,
        cache: str | os.PathLike[str] | None = None,
        threads: int = 1,
        timeout: float = _TIMEOUT,
        patience: float = _PATIENCE,
    ) -> None:
        replicas = _validate.integer(replicas, "replicas", 1, 1000)
        timing = _seconds(timeout, "timeout"), _seconds(patience, "patience")
        threads = num_threads(threads)
        match = _MANIFEST.fullmatch(os.fspath(manifest).replace(os.sep, "/"))
        self._pinned = match is not None
        self._folder = Folder(manifest if match is None else match[1], filesystem)
        self._cache = None if cache is None else as_path(cache, "cache").absolute()
        version = read_version(self._folder, None if match is None else match[2], self._cache)
        super().__init__(version, threads)
        self._lock, self._refreshing, self._is_owner = ForkLock(), ForkLock(), True
        self._users: Counter[str] = Counter()  # searches that go on, by the names of manifests
        self._shards_of: dict[str, list[list[str]]] = {}  # names of the shards of each part, by those of manifests
        if not ray.is_initialized():
            ray.init()
        self._parts = _count_parts(len(version.manifest.shards), actors, replicas, threads)
        self._fleet = start_fleet(self._server, (self._folder, self._cache, threads), self._parts, replicas, timing)
        try:
            self._fleet.wait_for_start()
            self._open(version)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        manifest, members = self.manifest, self._fleet.members
        size = f"d={manifest.d}, nbits={manifest.nbits}, metric={manifest.metric!r}, ntotal={manifest.ntotal}"
        actors = f"{len(members)} actors × {len(members[0])}" if len(members[0]) > 1 else f"{len(members)} actors"
        return f"ShardedIndex({str(self._folder)!r}, {size}, {len(manifest.shards)} shards, {actors})"

    def __enter__(self) -> ShardedIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Make a copy in another process ask the same actors, which it neither ends nor tells of new manifests."""
        return {**vars(self), "_pinned": True, "_is_owner": False}

    def close(self) -> None:
        """End all actors. Searches that go on fail."""
        if self._is_owner:
            self._fleet.close()

    def search_file(
        self,
        queries: Any,
        output: str | os.PathLike[str],
        k: int = 10,
        *,
        vectors: str = "vector",
        batch: int = 1024,
        progress: bool = True,
        filesystem: Any = None,
        **options: Any,
    ) -> None:
        """Search for the queries of files, and write the results to Parquet, by tasks of Ray Data.

        They need a free CPU of the cluster beside those of the actors.

        Parameters
        ----------
        queries : path, str or sequence of these
            Parquet files or folders of them, or ``.npy`` files, which every node can read.
        output : path or str
            A folder that is empty or not there. Its files, in the order of their names, have the rows in the order of
            the queries: all columns of these, and ``ids`` (list of int64) and ``scores`` (list of float32), best first;
            with ``return_error=True`` also ``error``. Of ``.npy`` files there are the results alone.
        k : int
        vectors : str
            Column of the vectors.
        batch : int
            Queries that are searched at a time.
        progress : bool
            Show the bars of Ray Data.
        filesystem : pyarrow.fs.FileSystem, optional
            `queries` and `output` are then paths in it.
        **options
            ``filter``, ``where``, ``return_error``, ``confidence``, ``nprobe`` and ``recall``, as of `search`.

        Raises
        ------
        InputError
            `output` has files, no such column, a column with the name of a result; otherwise as `search`. Nothing is
            left in `output` then, nor after any other failure.
        """
        if unknown := options.keys() - _OPTIONS:
            raise InputError(f"search_file takes no {min(unknown)!r}; options are {', '.join(sorted(_OPTIONS))}")
        task = FileSearch(self, vectors, {"k": _validate.integer(k, "k", 1, 2**31 - 1), **options})
        search_file(task, queries, output, _validate.integer(batch, "batch", 1, 2**31 - 1), progress, filesystem)

    def refresh(self) -> bool:
        """Go over to the newest manifest, and return whether there is a newer one.

        Its new shards are opened first; searches go on meanwhile. Those that have begun end with the shards of before.

        Raises
        ------
        FormatError
            A file of it is damaged or not there, or it is another index. Searches stay with the manifest of before.
        UnavailableError
            A store failed.
        """
        if self._pinned:
            return False
        with self._refreshing:
            names = manifest_names(self._folder)
            name = names[max(names)] if names else self._version.name
            if name == self._version.name:
                return False
            version = read_version(self._folder, name, self._cache)
            if version.manifest.fingerprint != self.manifest.fingerprint or version.manifest.d != self.d:
                raise FormatError(f"{self._folder}/{name}: is the manifest of another index: open it anew")
            self._open(version)
            with self._lock:
                self._version = version
            self._drop_unused()
        return True

    def _open(self, version: Version) -> None:
        """Let actors open the shards of a version."""
        parts = self._parts
        names = [[shard.vectors.name for shard in shards_of(version.manifest, i, parts)] for i in range(parts)]
        with self._lock:
            self._shards_of[version.name] = names
        try:
            self._fleet.open(Request(version.name))
        except MissingShards as error:
            raise error.to_error(len(version.manifest.shards)) from None

    @contextmanager
    def _using(self) -> Iterator[Version]:
        with self._lock:
            version = self._version
            self._users[version.name] += 1
        try:
            yield version
        finally:
            with self._lock:
                self._users[version.name] -= 1
            if version is not self._version:
                self._drop_unused()

    def _drop_unused(self) -> None:
        """Let actors close shards of versions that no search uses any more."""
        with self._lock:
            used = {self._version.name} | {name for name, users in self._users.items() if users}
            if unused := self._shards_of.keys() - used:
                self._shards_of = {name: parts for name, parts in self._shards_of.items() if name in used}
                self._users = Counter({name: self._users[name] for name in used})
        if unused:
            self._fleet.keep(sorted(used))

    def _ask(self, request: Request, choice: Choice | None, method: str, *arguments: Any) -> Sequence[Any]:
        parts = [
            [name for name in names if name not in request.left_out] for names in self._shards_of[request.manifest]
        ]
        return self._fleet.ask(parts, request, choice, method, *arguments)


def _seconds(value: float, name: str) -> float:
    value = _validate.number(value, name)
    if value <= 0:
        raise InputError(f"{name} must be above 0 seconds, got {value}")
    return value


def _count_parts(shards: int, actors: int | None, replicas: int, threads: int) -> int:
    """Number of parts that shards are divided into."""
    if actors is None:
        free = int(ray.available_resources().get("CPU", 0)) - 1  # one is left for tasks, such as those of Ray Data
        actors = free // (replicas * threads)
    else:
        actors = _validate.integer(actors, "actors", 1, 100_000)
    return max(1, min(shards, actors))

"""ShardedIndex: a sharded index that is searched by the actors of a Ray cluster."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from tqvec import _validate
from tqvec._config import num_threads
from tqvec._locks import ForkLock
from tqvec._output import as_path
from tqvec.errors import InputError, UnavailableError
from tqvec.integrations.ray.fleet import ShardServer, ray, start_fleet
from tqvec.shards.folder import Folder
from tqvec.shards.holder import Request, shards_of
from tqvec.shards.manifest import manifest_names
from tqvec.shards.opened import Choice
from tqvec.shards.sharded import MissingShards, Sharded, Version, error_of, read_version

_MANIFEST = re.compile(r"(.+)/(manifests/\d{8}-[0-9a-f]{16}\.json)")
_TIMEOUT = 60.0
_PATIENCE = 1.0


class ShardedIndex(Sharded):
    """A sharded index whose shards are held by the actors of a Ray cluster.

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
        Seconds in which actors must have started, and in which shards must answer.
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

    Examples
    --------
    >>> with ShardedIndex("s3://bucket/index") as index:  # doctest: +SKIP
    ...     scores, ids = index.search(queries, k=10, recall=0.9)
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
        self._lock, self._refreshing = ForkLock(), ForkLock()
        self._versions = {version.name: version}
        self._users: Counter[str] = Counter()
        if not ray.is_initialized():
            ray.init()
        parts = max(1, min(len(version.manifest.shards), self._parts(actors, replicas)))
        arguments = self._folder, self._cache, threads
        self._fleet = start_fleet(self._server, arguments, parts, replicas, timing)
        self._parts_of: dict[str, list[list[str]]] = {}
        try:
            self._fleet.wait_for_start()
            self._open(version)
        except BaseException:
            self.close()
            raise

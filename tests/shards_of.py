"""Sharded indexes for tests: an index cut up by its public methods alone, and searched in this process."""

from __future__ import annotations

import copy
import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tqvec.shards.folder import Folder, StoredFile
from tqvec.shards.holder import Answer, Holder
from tqvec.shards.manifest import Manifest, Shard, first_manifest, write_manifest
from tqvec.shards.sharded import MissingShards, Sharded, read_version


def cut(index, folder, sizes, records=None, before: Manifest | None = None) -> Manifest:
    """Write an index, whose ids are 0, 1, 2, …, as shards of some sizes; a table of records in row groups of three.

    With a manifest from `before`, these are the shards, and records, of the rows that came after it.
    """
    done = 0 if before is None else before.ntotal
    starts = done + np.cumsum([0, *sizes])
    assert starts[-1] == index.ntotal
    folder, shards = Path(folder), []
    for first, end in pairwise(starts.tolist()):
        part = copy.copy(index)
        part.remove_ids(np.setdiff1d(index.ids, np.arange(first, end)))
        vectors = put_file(folder, f"shards/{first:012d}", ".tqv", part.save)
        own = None
        if records is not None:
            table = records.slice(first - done, end - first)
            own = put_file(
                folder,
                f"records/{first:012d}",
                ".parquet",
                lambda path, t=table: pq.write_table(t, path, row_group_size=3),
            )
        shards.append(Shard(first, end - first, vectors, own))
    if before is None:
        empty = copy.copy(index)
        empty.reset()
        columns = () if records is None else tuple(records.column_names)
        manifest = first_manifest(index, put_file(folder, "codec", ".tqv", empty.save), columns, shards)
    else:
        manifest = before.extended(shards, f"rows from {done}")
    write_manifest(Folder(folder), manifest)
    return manifest


def put_file(folder, name, ending, write) -> StoredFile:
    """Write a file, and give it a name with its digest."""
    beside = folder / "beside"
    beside.parent.mkdir(parents=True, exist_ok=True)
    write(beside)
    content = beside.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{name}-{digest[:16]}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    beside.rename(path)
    return StoredFile(path.relative_to(folder).as_posix(), len(content), digest)


class PlainSharded(Sharded):
    """A sharded index whose holders are in this process, and asked one after the other."""

    def __init__(self, folder, parts=2, cache=None, threads=1):
        folder = folder if isinstance(folder, Folder) else Folder(folder)
        super().__init__(read_version(folder, cache=cache), threads)
        self.holders = [Holder(folder, cache, threads, part, parts) for part in range(parts)]
        self.asked = []

    def _ask(self, request, choice, method, *arguments):
        self.asked.append(method)
        answers: list[Answer] = [getattr(holder, method)(request, choice, *arguments) for holder in self.holders]
        failures = {name: failure for answer in answers for name, failure in answer.failures.items()}
        if failures:
            raise MissingShards(failures)
        return [answer.value for answer in answers]

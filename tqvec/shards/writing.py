"""Writing: the files of a sharded index, made on a local disk and put into the folder under their digests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from copy import copy
from pathlib import Path

from tqvec.codec.turboquant import TurboQuant
from tqvec.index.file import io
from tqvec.index.index import Index
from tqvec.index.rows import Rows
from tqvec.shards.folder import Folder, StoredFile, digest_of


def write_codec(folder: Folder, index: Index) -> StoredFile:
    """Write the codec of an index, and its lists if it is partitioned, as an index file without vectors."""
    like = copy(index)
    like.reset()
    with tempfile.TemporaryDirectory(prefix="tqvec-") as workspace:
        path = Path(workspace, "codec.tqv")
        like.save(path)
        return put_codec(folder, path)


def write_vectors(
    folder: Folder, codec: TurboQuant, metric: str, first: int, n: int, parts: Iterable[Rows]
) -> StoredFile:
    """Write the index file of a shard without lists; only a part is in memory.

    Parameters
    ----------
    folder : Folder
    codec : TurboQuant
    metric : str
    first : int
        Id of the first row; the others follow.
    n : int
        Rows of the shard.
    parts : iterable of dict of arrays
        Their codes, scales and, for l2, squared lengths, some rows at a time.

    Raises
    ------
    InputError
        The parts have more or fewer rows, or other arrays than the codec makes.
    """
    with tempfile.TemporaryDirectory(prefix="tqvec-") as workspace:
        path = Path(workspace, "shard.tqv")
        io.save(path, codec, metric, n, parts, first)
        return put_vectors(folder, path, first)


def put_codec(folder: Folder, path: Path) -> StoredFile:
    """Copy an index file without vectors into the folder."""
    return _put(folder, path, "codec-", ".tqv")


def put_vectors(folder: Folder, path: Path, first: int) -> StoredFile:
    """Copy the index file of a shard, whose first id is `first`, into the folder."""
    return _put(folder, path, f"shards/{first:012d}-", ".tqv")


def put_records(folder: Folder, path: Path, first: int) -> StoredFile:
    """Copy the Parquet file of a shard into the folder."""
    return _put(folder, path, f"records/{first:012d}-", ".parquet")


def _put(folder: Folder, path: Path, beginning: str, ending: str) -> StoredFile:
    digest = digest_of(path)
    return folder.put(path, f"{beginning}{digest[:16]}{ending}", digest)

"""Maintained: what keeps a collection small and fast, and moves it elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tqvec import _validate
from tqvec._output import as_path
from tqvec.errors import InputError
from tqvec.index.training_result import Training
from tqvec.shards.folder import Folder
from tqvec.store.change import Change
from tqvec.store.checking import find_problems
from tqvec.store.fetch import vectors_of
from tqvec.store.info import CollectionInfo, measure
from tqvec.store.opened import Opened
from tqvec.store.segments import Segment
from tqvec.store.sharding import write_shards
from tqvec.store.snapshots import copy_collection
from tqvec.store.where import compile_where

_MOST_ALIKE = 4  # segments of about one size
_DEAD = 0.3  # share of removed rows of a segment
_SAMPLE = 65_536


class Maintained(Opened):
    """A collection that can be trained, partitioned, compacted, checked and copied."""

    def compact(self) -> None:
        """Write one segment in place of all, without deleted records, and give the space back.

        Its bytes are those of a collection that was made anew of the same records. Searches go on meanwhile.
        """
        with self._rebuilding("compact") as change:
            segments = change.state.segments
            if len(segments) > 1 or any(segment.dead for segment in segments):
                change.merge(segments)
            change.connection.execute("INSERT INTO documents (documents) VALUES ('optimize')")

    @contextmanager
    def _rebuilding(self, operation: str) -> Iterator[Change]:
        """Hold a transaction that writes, with all vectors in segments; the space of what it replaces is given back."""
        with self._changing(operation) as change:
            change.flush()
        with self._changing(operation) as change:
            yield change
        self._catalog.shrink()

    def partition(self, nlist: int | None = None) -> None:
        """Compact the collection, and group its vectors into lists of near ones; see `Index.partition`.

        Records that are added later are searched beside the lists until the next `compact`, which puts them there.

        Parameters
        ----------
        nlist : int, optional
            Number of lists. Default: ``4 √n``.

        Raises
        ------
        InputError
            There are fewer vectors than lists, or none.
        """
        number = 0 if nlist is None else _validate.integer(nlist, "nlist", 1, 2**31 - 1)
        with self._rebuilding("partition") as change:
            total = sum(segment.index.ntotal for segment in change.state.segments)
            if total == 0 or number > total:
                raise InputError(f"nlist must be from 1 to {total}, the number of records, got {number or 'a default'}")
            change.merge(change.state.segments, number)

    def train(self, *, queries: ArrayLike | None = None) -> Training:
        """Fit the codec to the stored vectors, and encode them anew, if that helps; see `Index.train`.

        Parameters
        ----------
        queries : (m, d), optional
            Queries like those to come.

        Returns
        -------
        Training
            The decision and its reasons.

        Raises
        ------
        InputError
            The collection keeps no originals, or too few records are there.
        """
        if self.settings.keep is None:
            raise InputError("train needs the originals: create the collection with keep='float16'")
        with self._rebuilding("train") as change:
            rows = np.concatenate([np.zeros(0, np.int64), *(s.index.ids for s in change.state.segments)])
            chosen = np.sort(np.random.default_rng(self.settings.seed + 1).permutation(rows)[:_SAMPLE])
            sample = vectors_of(change.connection, change.state, chosen)
            codec = self._untrained.__copy__()
            training = codec.train(sample, queries=queries, threads=self._threads)
            if training.accepted:
                change.recode(codec)
        return training

    def check(self) -> list[str]:
        """Compare all checksums, and records with vectors; return what is wrong, in sentences.

        Returns
        -------
        list of str
            Empty if all is well.
        """
        with self._reading() as (connection, _):
            return find_problems(connection, self._folder, self.settings)

    def info(self) -> CollectionInfo:
        """Return counts and bytes; prints as a table."""
        with self._reading() as (connection, state):
            return measure(connection, self._folder, self.settings, state)

    def snapshot(self, folder: str | os.PathLike[str]) -> None:
        """Copy the collection as it is now to a new folder; segments are hard links where the disk has them.

        Parameters
        ----------
        folder : path
            There must be nothing. It appears when the copy is complete.

        Raises
        ------
        InputError
            There is something.
        """
        # The writer's transaction keeps files from being deleted; a copy of the catalog needs a reader's.
        with self._changing("snapshot"), self._catalog.reading() as connection:
            copy_collection(connection, self._folder, as_path(folder))

    def shard(
        self,
        destination: str | os.PathLike[str],
        *,
        shard_rows: int = 1_000_000,
        where: Mapping[str, Any] | None = None,
        filesystem: Any = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Write records as a sharded index, as of this moment; see the "Sharded index" page.

        Codes are copied, so results are those of the collection. The id of a vector is the number of its record, from
        0, in the order of `scan`. Each shard has a file of Parquet with a row per vector: ``id``, ``document`` and
        ``metadata`` (JSON text), and a column per field of `indexed` for conditions. A field gets none if its values
        are of several types, lists or objects, if no record has it, or if its name is one of these three. Lists of
        partitioned segments are left out, since each segment has its own.

        Nothing is seen of the index before all of it is there. After a crash call it again: files that are there and
        have the same content are not written once more.

        Parameters
        ----------
        destination : path or str
            A new folder, or a URI such as ``s3://bucket/folder``.
        shard_rows : int
            Vectors per shard.
        where : dict, optional
            As in `search`.
        filesystem : pyarrow.fs.FileSystem, optional
            `destination` is then a path in it.
        progress : callable, optional
            Called with the number of records that are done.

        Returns
        -------
        int
            Number of records.

        Raises
        ------
        InputError
            There is a sharded index at the destination, or no record to write.
        UnsupportedError
            pyarrow is not installed.
        """
        rows = _validate.integer(shard_rows, "shard_rows", 1, 2**31 - 1)
        _validate.function(progress, "progress")
        condition = compile_where({} if where is None else where, self.settings.columns)
        folder = Folder(destination, filesystem)
        with self._reading() as (connection, state):
            return write_shards(connection, state, self.settings, folder, condition, rows, progress)

    def _tidy(self) -> None:
        """Merge neighbouring segments of about one size when they are many, and those with many deleted records."""
        while (chosen := _to_merge(self._snapshot_segments())) is not None:
            with self._changing("merge segments") as change:
                numbers = {segment.entry.number for segment in chosen}
                segments = [segment for segment in change.state.segments if segment.entry.number in numbers]
                if len(segments) == len(chosen):  # otherwise another process did it
                    change.merge(segments)

    def _snapshot_segments(self) -> Sequence[Segment]:
        with self._reading() as (_, state):
            return state.segments


def _to_merge(segments: Sequence[Segment]) -> Sequence[Segment] | None:
    """Return neighbours to merge: one with many removed rows, or as many of one size as there may be."""
    for i, segment in enumerate(segments):
        if segment.dead > _DEAD * segment.entry.rows:
            return segments[i : i + 1]
    for first in range(len(segments) - _MOST_ALIKE + 1):
        some = segments[first : first + _MOST_ALIKE]
        sizes = [segment.index.ntotal for segment in some]
        if max(sizes) <= _MOST_ALIKE * min(sizes) and not any(segment.index.nlist for segment in some):
            return some
    return None

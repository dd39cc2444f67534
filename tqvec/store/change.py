"""Change: one transaction that writes to a collection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tqvec._types import Floats, Ids
from tqvec.index.index import Index
from tqvec.store.catalog import read_setting, write_setting
from tqvec.store.records import Batch
from tqvec.store.segments import Segment, delete_files, delete_others, index_path, write_segment
from tqvec.store.settings import Settings
from tqvec.store.state import State, read_entries, read_rows, read_tail

_TAIL = 4_096  # vectors that are in the catalog at most; then they become a segment


class Change:
    """A transaction of a connection: what it writes counts once it has committed.

    Parameters
    ----------
    connection : sqlite3.Connection
        Within a transaction that writes.
    folder : Path
    settings : Settings
    state : State
        The vectors as they are now.
    threads : int, optional
    """

    def __init__(
        self, connection: sqlite3.Connection, folder: Path, settings: Settings, state: State, threads: int | None
    ) -> None:
        self.connection, self.state = connection, state
        self._folder, self._settings, self._threads = folder, settings, threads
        self._generation = state.generation + 1
        self._written: list[int] = []
        self._replaced: list[int] = []
        self._buried = 0

    def commit(self) -> None:
        """Give the collection its next generation; the transaction ends after that."""
        write_setting(self.connection, "generation", self._generation)

    def take_back(self) -> None:
        """Delete the files that were written."""
        delete_files(self._folder, self._written)

    def delete_replaced(self) -> None:
        """Delete files that the collection needs no longer, after the commit."""
        delete_files(self._folder, self._replaced)

    @property
    def is_untidy(self) -> bool:
        """Whether there are more segments now, or more removed rows in them."""
        return bool(self._written) or self._buried > 0

    def note_import(self, source: str, done: int) -> None:
        """Note how many records of a file are there; 0 when all of them are."""
        self.connection.execute("DELETE FROM imports WHERE source = ?", (source,))
        if done:
            self.connection.execute("INSERT INTO imports VALUES (?, ?)", (source, done))

    def sweep(self) -> None:
        """Delete files that a killed writer left behind."""
        needed = {entry.number for entry in read_entries(self.connection)} | {self.state.codec}
        delete_others(self._folder, needed)

    def find(self, ids: Sequence[str]) -> dict[str, int]:
        """Return the rows of ids, as far as they are there."""
        sql = "SELECT id, row FROM records WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self.connection.execute(sql, (json.dumps(ids),)).fetchall())

    def insert(self, batch: Batch, vectors: Floats) -> None:
        """Add records, in place of those with the same ids."""
        self.remove(np.array(sorted(self.find(batch.ids).values()), np.int64))
        rows = self._next_rows(len(batch))
        documents = batch.documents or [None] * len(batch)
        metadatas = batch.metadatas or ["{}"] * len(batch)
        self._insert_records(rows, zip(batch.ids, documents, metadatas, strict=True))
        self._store(rows, vectors)

    def set_fields(self, rows: Sequence[int], column: str, values: Sequence[Any]) -> None:
        """Replace documents or metadata of rows that stay."""
        if column not in ("document", "metadata"):
            raise ValueError(column)
        self.connection.executemany(f"UPDATE records SET {column} = ? WHERE row = ?", zip(values, rows, strict=True))

    def set_vectors(self, rows: Sequence[int], vectors: Floats) -> None:
        """Replace vectors: their records move to new rows."""
        new = self._next_rows(len(rows))
        select = "SELECT id, document, metadata FROM records WHERE row = ?"
        records = [self.connection.execute(select, (row,)).fetchone() for row in rows]
        self.remove(np.array(rows, np.int64))
        self._insert_records(new, records)
        self._store(new, vectors)

    def _insert_records(self, rows: Ids, records: Iterable[tuple[str, str | None, str]]) -> None:
        self.connection.executemany(
            "INSERT INTO records (row, id, document, metadata) VALUES (?, ?, ?, ?)",
            ((row, *record) for row, record in zip(rows.tolist(), records, strict=True)),
        )

    def remove(self, rows: Ids) -> None:
        """Remove records, and their vectors: those of segments get a tombstone."""
        text = (json.dumps(rows.tolist()),)
        among = "row IN (SELECT value FROM json_each(?))"
        in_tail = read_rows(self.connection, f"SELECT row FROM tail WHERE {among}", text)
        self.connection.execute(f"DELETE FROM records WHERE {among}", text)
        self.connection.execute(f"DELETE FROM tail WHERE {among}", text)
        buried = np.setdiff1d(rows, in_tail).tolist()
        self.connection.executemany("INSERT INTO tombstones VALUES (?, ?)", ((row, self._generation) for row in buried))
        self._buried += len(buried)

    def _next_rows(self, n: int) -> Ids:
        first = read_setting(self.connection, "next_row")
        write_setting(self.connection, "next_row", first + n)
        return np.arange(first, first + n, dtype=np.int64)

    def _next_number(self) -> int:
        number: int = read_setting(self.connection, "next_segment")
        write_setting(self.connection, "next_segment", number + 1)
        self._written.append(number)
        return number

    def _store(self, rows: Ids, vectors: Floats) -> None:
        (held,) = self.connection.execute("SELECT count(*) FROM tail").fetchone()
        if held + len(rows) < _TAIL:
            blobs = (vector.astype("<f4").tobytes() for vector in vectors)
            self.connection.executemany("INSERT INTO tail VALUES (?, ?)", zip(rows.tolist(), blobs, strict=True))
        else:
            self._write_tail(rows, vectors)

    def flush(self) -> None:
        """Write the vectors of the tail to a segment."""
        self._write_tail(np.zeros(0, np.int64), np.zeros((0, self._settings.d), np.float32))

    def _write_tail(self, rows: Ids, vectors: Floats) -> None:
        """Write a segment of the vectors of the tail and further ones."""
        before, held = read_tail(self.connection, self._settings.d)
        rows, vectors = np.concatenate([before, rows]), np.concatenate([held, vectors])
        if rows.size:
            index = self.state.empty.__copy__()
            index.add(vectors, ids=rows, threads=self._threads)
            self._write(index, [(rows, vectors)])
            self.connection.execute("DELETE FROM tail")

    def _write(self, index: Index, vectors: Iterable[tuple[Ids, Floats]]) -> None:
        entry = write_segment(self._folder, self._next_number(), index, self._settings.keep, vectors)
        self.connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)", entry)

    def merge(self, segments: Sequence[Segment], nlist: int | None = None) -> None:
        """Write one segment in place of some that follow each other, without removed rows.

        Rows go to the lists of a partitioned segment among them; `nlist` makes new ones, 0 for their default number.
        """
        merged = self._merged(segments)
        if nlist is not None:
            merged.partition(nlist or None, threads=self._threads)
        if merged.ntotal:
            self._write(merged, _iter_originals(segments))
        self._drop(segments)

    def _merged(self, segments: Sequence[Segment]) -> Index:
        lists = next((segment for segment in segments if segment.index.nlist), None)
        merged = self.state.empty.__copy__()
        if lists is not None:
            merged = lists.index.__copy__()
            merged.reset()
        for segment in segments:
            merged.merge_from(segment.index)
        return merged

    def _drop(self, segments: Sequence[Segment]) -> None:
        """Forget segments and the tombstones of their rows."""
        for segment in segments:
            self.connection.execute("DELETE FROM segments WHERE number = ?", (segment.entry.number,))
            span = segment.entry.first, segment.entry.last  # no two segments overlap
            self.connection.execute("DELETE FROM tombstones WHERE row BETWEEN ? AND ?", span)
            self._replaced.append(segment.entry.number)

    def recode(self, codec: Index) -> None:
        """Write all vectors anew, from their originals, in the codec of an index without vectors. The tail is empty."""
        number = self._next_number()
        codec.save(index_path(self._folder, number), overwrite=True)
        if self.state.codec:
            self._replaced.append(self.state.codec)
        write_setting(self.connection, "codec", number)
        index = codec.__copy__()
        for rows, vectors in _iter_originals(self.state.segments):
            index.add(vectors, ids=rows, threads=self._threads)
        if index.ntotal:
            self._write(index, _iter_originals(self.state.segments))
        self._drop(self.state.segments)


def _iter_originals(segments: Sequence[Segment]) -> Iterator[tuple[Ids, Floats]]:
    """Yield rows that were not removed, in order, and their vectors, some at a time."""
    for segment in segments:
        yield from segment.iter_originals()

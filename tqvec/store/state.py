"""State: the vectors of a collection as of one commit, in memory and in mapped files."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tqvec._locks import cached_property
from tqvec._types import Floats, Ids
from tqvec.index.index import Index
from tqvec.store.catalog import read_setting
from tqvec.store.originals import Kept, Originals, as_kept
from tqvec.store.segments import Entry, Segment, index_path

_LAST = 2**62  # above all rows


@dataclass(frozen=True)
class IndexPart:
    """An index that has vectors, and the rows of its vectors.

    Attributes
    ----------
    index : Index
    first, last : int
        Bounds of the rows.
    originals : Originals or None
        None for those of the tail too, which are in the catalog.
    """

    index: Index
    first: int
    last: int
    originals: Originals | None


@dataclass(frozen=True)
class State:
    """Vectors as of one commit.

    Attributes
    ----------
    generation : int
        Number of the commit.
    codec : int
        Number of the file of the trained codec; 0 if it is not trained.
    empty : Index
        An index without vectors, of the codec.
    segments : tuple of Segment
        In the order of their rows.
    tail : Index
        The last vectors, whose codes are in memory alone.
    kept : {"float32", "float16", "int8"} or None
        Type of the originals.
    """

    generation: int
    codec: int
    empty: Index
    segments: tuple[Segment, ...]
    tail: Index
    kept: Kept | None

    def originals_of_tail(self, connection: sqlite3.Connection, rows: Ids) -> Floats:
        """Return vectors of the tail as they will be when they are in a segment."""
        if self.kept is None:
            return self.tail.reconstruct(rows)
        known, vectors = read_tail(connection, self.tail.d)
        return as_kept(vectors[np.searchsorted(known, rows)], self.kept)

    @cached_property
    def parts(self) -> tuple[IndexPart, ...]:
        """All indexes that have vectors, in the order of their rows."""
        parts = [IndexPart(s.index, s.entry.first, s.entry.last, s.originals) for s in self.segments]
        return tuple(part for part in (*parts, IndexPart(self.tail, 0, _LAST, None)) if part.index.ntotal)

    @cached_property
    def ntotal(self) -> int:
        """Number of vectors."""
        return sum(part.index.ntotal for part in self.parts)


def read_rows(connection: sqlite3.Connection, sql: str, parameters: tuple[object, ...] = ()) -> Ids:
    """Return the integers that a statement selects, rising. One text takes half the time of as many Python tuples."""
    (text,) = connection.execute(f"SELECT group_concat(row) FROM ({sql})", parameters).fetchone()
    return np.zeros(0, np.int64) if text is None else np.sort(np.fromstring(text, np.int64, sep=","))


def read_tail(connection: sqlite3.Connection, d: int, after: int = 0) -> tuple[Ids, Floats]:
    """Return rows of the tail behind a row, and their vectors."""
    rows, blobs = [], []
    for row, blob in connection.execute("SELECT row, vector FROM tail WHERE row > ? ORDER BY row", (after,)):
        rows.append(row)
        blobs.append(blob)
    vectors = np.frombuffer(b"".join(blobs), "<f4").reshape(-1, d).astype(np.float32)
    return np.array(rows, np.int64), vectors


def read_entries(connection: sqlite3.Connection) -> list[Entry]:
    """Return the segments of the catalog in the order of their rows."""
    sql = "SELECT number, rows, first, last, digest, originals FROM segments ORDER BY first"
    return [Entry(*row) for row in connection.execute(sql)]


def read_state(
    connection: sqlite3.Connection, folder: Path, kept: Kept | None, untrained: Index, before: State | None
) -> State:
    """Return the state as of the transaction of a connection; what did not change is that of the state before."""
    generation = read_setting(connection, "generation")
    if before is not None and before.generation == generation:
        return before
    codec = read_setting(connection, "codec")
    if before is None or before.codec != codec:
        empty = Index.load(index_path(folder, codec)) if codec else untrained
        before = State(generation=-1, codec=codec, empty=empty, segments=(), tail=empty.__copy__(), kept=kept)
    entries = read_entries(connection)
    known = {segment.entry: segment for segment in before.segments}
    dead = read_rows(connection, "SELECT row FROM tombstones WHERE generation > ?", (before.generation,))
    gone = dead if before.generation < 0 else None
    segments = []
    for entry in entries:
        if entry in known:
            segments.append(known[entry].without(dead))
        else:
            if gone is None:
                gone = read_rows(connection, "SELECT row FROM tombstones")
            segments.append(Segment.open(folder, entry, kept).without(gone))
    tail = _read_tail(connection, before)
    return replace(before, generation=generation, segments=tuple(segments), tail=tail)


def _read_tail(connection: sqlite3.Connection, before: State) -> Index:
    """Return the index of the tail: that of the state before, with what was added and without what was removed."""
    rows = read_rows(connection, "SELECT row FROM tail")
    old = before.tail.ids
    if np.array_equal(rows, old):
        return before.tail
    tail, last = before.empty.__copy__(), 0
    if old.size and rows.size:
        tail, last = before.tail.__copy__(), int(old[-1])
        tail.remove_ids(np.setdiff1d(old, rows))
    added, vectors = read_tail(connection, tail.d, last)
    if added.size:
        tail.add(vectors, ids=added)
    return tail

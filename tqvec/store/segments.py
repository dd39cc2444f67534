"""Segments: the immutable files of a collection, each an index file and, if originals are kept, a file of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tqvec import _safetensors
from tqvec._types import Flags, Floats, Ids
from tqvec.errors import FormatError
from tqvec.index.index import Index
from tqvec.store.originals import Kept, Originals, write_originals

FOLDER = "segments"
_PART = 16_384


class Entry(NamedTuple):
    """A segment in the catalog.

    Attributes
    ----------
    number : int
        Of its files.
    rows, first, last : int
        Number of rows when it was written, the smallest and the largest of them.
    digest : str
        SHA-256 of the head of the index file, which has the checksums of all else in it.
    originals : str or None
        Checksum of the originals.
    """

    number: int
    rows: int
    first: int
    last: int
    digest: str
    originals: str | None

    def spans(self, rows: Ids) -> Flags:
        """Return which rows are between the first and the last, (n,) bool; no two segments overlap."""
        return (rows >= self.first) & (rows <= self.last)


@dataclass(frozen=True)
class Segment:
    """An open segment: its files stay readable when they are deleted.

    Attributes
    ----------
    entry : Entry
    index : Index
        Of the rows that were not removed; ids are row numbers.
    originals : Originals or None
        The vectors that were handed over, if they are kept.
    """

    entry: Entry
    index: Index
    originals: Originals | None

    @classmethod
    def open(cls, folder: Path, entry: Entry, kept: Kept | None) -> Segment:
        """Map the files of a segment.

        Raises
        ------
        FormatError
            A file is damaged, or another one than the catalog says.
        FileNotFoundError
            A file is not there.
        """
        path = index_path(folder, entry.number)
        if digest_of(path) != entry.digest:
            raise FormatError(f"{path}: is not the file that the catalog has; put a snapshot() in its place")
        originals = None if kept is None else Originals(originals_path(folder, entry.number), kept)
        return cls(entry, Index.load(path, mmap=True), originals)

    def without(self, rows: Ids) -> Segment:
        """Return the segment without some rows; those of other segments are passed over."""
        mine = rows[self.entry.spans(rows)]
        if mine.size == 0:
            return self
        index = self.index.__copy__()
        index.remove_ids(mine)
        return replace(self, index=index)

    @property
    def dead(self) -> int:
        """Number of removed rows."""
        return self.entry.rows - self.index.ntotal

    def iter_originals(self) -> Iterator[tuple[Ids, Floats]]:
        """Yield rows that were not removed, in order, and their vectors, some at a time."""
        rows = np.sort(self.index.ids)
        if self.originals is None:
            raise TypeError("no originals are kept")
        for first in range(0, rows.size, _PART):
            part = rows[first : first + _PART]
            yield part, self.originals.of(part)


def index_path(folder: Path, number: int) -> Path:
    """Return the path of the index file of a segment."""
    return folder / FOLDER / f"{number:08d}.tqv"


def originals_path(folder: Path, number: int) -> Path:
    """Return the path of the originals of a segment."""
    return folder / FOLDER / f"{number:08d}.safetensors"


def digest_of(path: Path) -> str:
    """Return the digest of the head of a file."""
    with _safetensors.open_file(path) as file:
        return _safetensors.head_digest(file)


def write_segment(
    folder: Path, number: int, index: Index, kept: Kept | None, vectors: Iterable[tuple[Ids, Floats]]
) -> Entry:
    """Write the files of a segment; they are on the disk when this returns.

    Parameters
    ----------
    folder : Path
    number : int
    index : Index
        With row numbers as ids; at least one.
    kept : {"float32", "float16", "int8"}, optional
    vectors : iterable of ((m,) int64, (m, d) float32)
        Rows in order and their vectors, read if `kept` is given.
    """
    path, rows, checksum = index_path(folder, number), index.ids, None
    index.save(path, overwrite=True)
    if kept is not None:
        checksum = write_originals(originals_path(folder, number), rows.size, index.d, kept, vectors)
    return Entry(
        number=number,
        rows=rows.size,
        first=int(rows.min()),
        last=int(rows.max()),
        digest=digest_of(path),
        originals=checksum,
    )


def delete_others(folder: Path, numbers: Iterable[int]) -> None:
    """Delete all files but those of some segments: what killed writers left behind."""
    needed = {path for number in numbers for path in (index_path(folder, number), originals_path(folder, number))}
    for path in (folder / FOLDER).iterdir():
        if path not in needed:
            with suppress(OSError):
                path.unlink()


def delete_files(folder: Path, numbers: Iterable[int]) -> None:
    """Delete the files of segments; those that are mapped stay readable."""
    for number in numbers:
        for path in (index_path(folder, number), originals_path(folder, number)):
            with suppress(OSError):  # Windows deletes no mapped file: the next writer tries again
                path.unlink(missing_ok=True)

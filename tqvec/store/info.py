"""Info: counts and bytes of a collection."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from tqvec._present import Presented, Sheet
from tqvec.store.catalog import NAME
from tqvec.store.segments import index_path, originals_path
from tqvec.store.settings import Settings
from tqvec.store.state import State


class _InfoFields(NamedTuple):
    records: int
    deleted: int
    segments: int
    lists: int
    generation: int
    trained: bool
    catalog_bytes: int
    code_bytes: int
    original_bytes: int
    settings: Settings


class CollectionInfo(Presented, _InfoFields):
    """Counts and bytes.

    Attributes
    ----------
    records, deleted : int
        Records, and deleted ones whose codes are still there.
    segments, lists : int
        Segments, and lists of the partitioned ones.
    generation : int
        Number of the last commit.
    trained : bool
    catalog_bytes, code_bytes, original_bytes : int
        Bytes on the disk: ids, documents and metadata; codes; the vectors that are kept.
    settings : Settings
    """

    __slots__ = ()

    @property
    def bytes_per_record(self) -> float:
        """Bytes on the disk per record."""
        return (self.catalog_bytes + self.code_bytes + self.original_bytes) / max(1, self.records)

    _derived = ("bytes_per_record",)

    def _sheet(self) -> Sheet:
        rows: list[tuple[object, ...]] = [
            (name.replace("_", " "), getattr(self, name))
            for name in self._fields
            if name not in ("settings", "trained")
        ]
        rows.append(("bytes per record", self.bytes_per_record))
        s = self.settings
        kept = "codes alone" if s.keep is None else f"originals in {s.keep}"
        note = f"d={s.d}, {s.metric}, {s.nbits} bits, {s.codebook}{', trained' if self.trained else ''}, {kept}"
        return Sheet(("", "collection"), rows, notes=(note,))


def measure(connection: sqlite3.Connection, folder: Path, settings: Settings, state: State) -> CollectionInfo:
    """Count a collection as of the transaction of a connection."""
    entries = [segment.entry for segment in state.segments]
    catalog = sum(path.stat().st_size for path in folder.glob(f"{NAME}*"))
    kept = [] if settings.keep is None else [originals_path(folder, entry.number) for entry in entries]
    return CollectionInfo(
        records=state.ntotal,
        deleted=sum(segment.dead for segment in state.segments),
        segments=len(entries),
        lists=sum(segment.index.nlist or 0 for segment in state.segments),
        generation=state.generation,
        trained=state.codec > 0,
        catalog_bytes=catalog,
        code_bytes=sum(index_path(folder, entry.number).stat().st_size for entry in entries),
        original_bytes=sum(path.stat().st_size for path in kept),
        settings=settings,
    )

"""Written: a collection to which records are added, changed and deleted."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tqvec import _validate
from tqvec._output import as_path
from tqvec._types import Floats
from tqvec._vectors import Vectors
from tqvec.errors import InputError
from tqvec.store.maintained import Maintained
from tqvec.store.originals import check_kept
from tqvec.store.records import Batch, Metadata, iter_batches, read_columns, read_ids, write_metadata
from tqvec.store.state import read_rows
from tqvec.store.transfer import describe_file
from tqvec.store.where import compile_where


class Written(Maintained):
    """A collection to which records are added, changed and deleted."""

    def upsert(
        self,
        records: Any = None,
        *,
        ids: Iterable[str] | None = None,
        vectors: ArrayLike | None = None,
        documents: Iterable[str | None] | None = None,
        metadatas: Iterable[Metadata | None] | None = None,
    ) -> int:
        """Add records, in place of those with the same ids.

        Parameters
        ----------
        records : list of dict, DataFrame, Arrow table, Hugging Face dataset, path, or iterator, optional
            Records with ``id``, ``vector``, ``document`` and ``metadata``; other fields belong to the metadata. A path
            is that of a file of Parquet or JSON lines. An iterator yields records, or lists or tables of them. Each
            10,000 records are one transaction, and so is each table of an iterator.
        ids : list of str, optional
            In place of `records`: a column for each.
        vectors : (n, d), optional
            Needed unless the collection has `embed`.
        documents : list of (str or None), optional
        metadatas : list of (dict or None), optional
            Values are numbers, texts, booleans, and lists of these. None and NaN mean that there is no such field.

        Returns
        -------
        int
            Number of records.

        Raises
        ------
        InputError
            Bad ids, vectors, documents or metadata, with the row; an id that is given twice.
        BusyError
            Another process wrote for longer than `timeout`.
        """
        if (records is None) == (ids is None):
            raise InputError("hand over either records, or ids with vectors or documents")
        if ids is not None:
            return self._upsert(read_columns(ids, vectors, documents, metadatas))
        if vectors is not None or documents is not None or metadatas is not None:
            raise InputError("vectors, documents and metadatas belong to ids, not to records")
        return sum(self._upsert(batch) for batch in iter_batches(records))

    def _upsert(self, batch: Batch, source: str | None = None, done: int = 0) -> int:
        """Add a batch; `source` names a file of which so many records are done then."""
        vectors = self._checked(batch)
        with self._changing("upsert") as change:
            if len(batch):
                change.insert(batch, vectors)
            if source is not None:
                change.note_import(source, done)
        if change.is_untidy:
            self._tidy()
        return len(batch)

    def _checked(self, batch: Batch) -> Floats:
        """Return the vectors of a batch, made of its documents if there are none."""
        given = batch.vectors
        if given is None:
            texts = batch.documents
            if texts is None or None in texts:
                row = "" if texts is None else f" row {batch.first + texts.index(None)}"
                raise InputError(f"ids{row} have no vector and no document; hand over vectors")
            given = self._vectors_of_texts([text for text in texts if text is not None]) if texts else None
        vectors = np.zeros((0, self.settings.d), np.float32)
        if given is not None and len(batch):
            vectors = Vectors(given, self.settings.d, "vectors", batch.first).checked()
        if len(vectors) != len(batch):
            raise InputError(f"vectors must have a row for each of the {len(batch)} ids, got {len(vectors)}")
        if self.settings.keep is not None:
            check_kept(vectors, self.settings.keep, "vectors", batch.first)
        return vectors

    def update(
        self,
        ids: Iterable[str] | str,
        *,
        vectors: ArrayLike | None = None,
        documents: Iterable[str | None] | None = None,
        metadatas: Iterable[Metadata | None] | None = None,
    ) -> None:
        """Change parts of records that are there; what is not given stays.

        Parameters
        ----------
        ids : list of str
        vectors : (n, d), optional
        documents : list of (str or None), optional
            With `embed` and without `vectors`, the vectors are made anew.
        metadatas : list of (dict or None), optional
            Fields that are set; those with the value None are removed, and others stay.

        Raises
        ------
        InputError
            An id is not there, or as `upsert`. Nothing is changed then.
        """
        fields = None if metadatas is None else _validate.entries(metadatas, "metadatas")
        batch = read_columns(read_ids(ids), vectors, documents, fields)
        texts = batch.documents
        embedded = vectors is None and texts is not None and self._embed is not None and None not in texts
        new = self._checked(batch) if vectors is not None or embedded else None
        with self._changing("update") as change:
            known = change.find(batch.ids)
            for row, name in enumerate(batch.ids):
                if name not in known:
                    raise InputError(f"ids row {row}: there is no record {name!r}; add it with upsert")
            rows = [known[name] for name in batch.ids]
            if texts is not None:
                change.set_fields(rows, "document", texts)
            if fields is not None:
                change.set_fields(rows, "metadata", _merged_fields(change.connection, rows, fields))
            if new is not None and rows:
                change.set_vectors(rows, new)
        if change.is_untidy:
            self._tidy()

    def import_file(self, path: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None) -> int:
        """Add the records of a file of Parquet or JSON lines, as `upsert`; a call that was killed is taken up again.

        Each 10,000 records are one transaction, which also notes how far the file was read. A second call for the same
        file, by name, size and time, passes over these records, until all of them are there.

        Parameters
        ----------
        path : path
        progress : callable, optional
            Called with the number of records that are done.

        Returns
        -------
        int
            Number of records of the file.
        """
        _validate.function(progress, "progress")
        source, done = describe_file(path), 0
        with self._reading() as (connection, _):
            row = connection.execute("SELECT done FROM imports WHERE source = ?", (source,)).fetchone()
        before = 0 if row is None else row[0]
        for batch in iter_batches(as_path(path)):
            done += len(batch)
            if done > before:
                self._upsert(batch, source, done)
            if progress is not None:
                progress(done)
        with self._changing("import") as change:
            change.note_import(source, 0)
        return done

    def delete(self, ids: Iterable[str] | str | None = None, *, where: Mapping[str, Any] | None = None) -> int:
        """Delete records by id, or those of a condition; ids that are not there are passed over.

        Parameters
        ----------
        ids : list of str, optional
        where : dict, optional
            As in `search`; ``{}`` deletes all records.

        Returns
        -------
        int
            Number of deleted records.
        """
        if (ids is None) == (where is None):
            raise InputError("hand over either ids or where; where={} deletes all records")
        names = None if ids is None else read_ids(ids)
        condition = None if where is None else compile_where(where, self.settings.columns)
        with self._changing("delete") as change:
            if names is not None:
                rows = np.array(sorted(change.find(names).values()), np.int64)
            elif condition is not None:
                rows = read_rows(
                    change.connection, f"SELECT row FROM records WHERE {condition.sql}", condition.parameters
                )
            change.remove(rows)
        if change.is_untidy:
            self._tidy()
        return int(rows.size)


def _merged_fields(
    connection: sqlite3.Connection, rows: Sequence[int], changes: Sequence[Metadata | None]
) -> list[str]:
    """Return metadata of rows as JSON, after some of their fields were set or, with None, removed."""
    merged = []
    for i, (row, change) in enumerate(zip(rows, changes, strict=True)):
        (text,) = connection.execute("SELECT metadata FROM records WHERE row = ?", (row,)).fetchone()
        merged.append(write_metadata({**json.loads(text), **(change or {})}, i))
    return merged

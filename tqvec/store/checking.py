"""Checking: whether the files of a collection are what its catalog says."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np

from tqvec._types import Ids
from tqvec.errors import TqvecError
from tqvec.index.index import Index
from tqvec.store.originals import Originals
from tqvec.store.segments import Entry, digest_of, index_path, originals_path
from tqvec.store.settings import Settings
from tqvec.store.state import read_entries, read_rows


def find_problems(connection: sqlite3.Connection, folder: Path, settings: Settings) -> list[str]:
    """Return what is wrong, in sentences; nothing if all checksums and rows agree."""
    problems = [f"catalog: {text}" for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
    tail = read_rows(connection, "SELECT row FROM tail")
    rows = [tail]
    for entry in read_entries(connection):
        found = _check_segment(folder, entry, settings)
        if isinstance(found, str):
            problems.append(found)
        else:
            rows.append(found)
    if not problems:
        problems = _compare_rows(connection, np.concatenate(rows))
    return problems


def _check_segment(folder: Path, entry: Entry, settings: Settings) -> Ids | str:
    """Return the rows of a segment, or what is wrong with its files."""
    try:
        return _read_rows(folder, entry, settings)
    except (TqvecError, OSError) as error:
        return str(error)


def _read_rows(folder: Path, entry: Entry, settings: Settings) -> Ids:
    path = index_path(folder, entry.number)
    rows = Index.load(path, verify=True).ids
    if digest_of(path) != entry.digest or rows.size != entry.rows:
        raise TqvecError(f"{path}: is not the file that the catalog has")
    if settings.keep is not None:
        originals = Originals(originals_path(folder, entry.number), settings.keep)
        checksum = originals.checksum()
        if checksum != entry.originals:
            raise TqvecError(f"{originals.path}: has checksum {checksum}, the catalog says {entry.originals}")
        if not np.array_equal(originals.rows, np.sort(rows)):
            raise TqvecError(f"{originals.path}: has other rows than its index")
    return rows


def _compare_rows(connection: sqlite3.Connection, stored: Ids) -> list[str]:
    """Return whether records and vectors belong together."""
    problems = []
    dead = read_rows(connection, "SELECT row FROM tombstones")
    alive = np.setdiff1d(stored, dead)
    records = read_rows(connection, "SELECT row FROM records")
    if alive.size + dead.size != stored.size:
        problems.append("a vector is in two segments, or a deleted one in none")
    for rows, text in ((np.setdiff1d(records, alive), "no vector"), (np.setdiff1d(alive, records), "no record")):
        if rows.size:
            problems.append(f"{rows.size:,} rows have {text}, the first is {rows[0]}")
    return problems

"""Snapshots: copies of a collection in another folder."""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from pathlib import Path

from tqvec import _atomic
from tqvec.errors import InputError
from tqvec.store.catalog import NAME, read_setting
from tqvec.store.segments import FOLDER, index_path, originals_path
from tqvec.store.state import read_entries


def copy_collection(connection: sqlite3.Connection, source: Path, target: Path) -> None:
    """Copy the collection of a connection within a transaction; `target` appears when it is complete."""
    if os.path.lexists(target):
        raise InputError(f"folder: {target} exists; a snapshot needs a new name")
    temporary = _atomic.name_beside(target, f".{secrets.token_hex(4)}.tmp")
    try:
        (temporary / FOLDER).mkdir(parents=True)
        with sqlite3.connect(temporary / NAME) as copy:
            connection.backup(copy)
        copy.close()
        numbers = [entry.number for entry in read_entries(connection)]
        for number in filter(None, [*numbers, read_setting(connection, "codec")]):
            for path_of in (index_path, originals_path):
                if path_of(source, number).exists():
                    _link(path_of(source, number), path_of(temporary, number))
        _sync(temporary)
        os.rename(temporary, target)
        _atomic.flush_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _link(source: Path, target: Path) -> None:
    """Make a hard link, or a copy where the disk has none, or another disk is meant."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sync(folder: Path) -> None:
    for path in (*(folder / FOLDER).iterdir(), folder / NAME):
        with path.open("rb+") as file:
            _atomic.flush(file)
    _atomic.flush_folder(folder / FOLDER)
    _atomic.flush_folder(folder)

"""Catalog: the SQLite file of a collection, its tables, and its connections.

SQLite is the only log: a commit of it is a commit of the collection. Files that a transaction writes belong to the
collection once it has committed.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from tqvec import _validate
from tqvec._locks import ForkLock
from tqvec.errors import BusyError, FormatError, InputError, UnsupportedError
from tqvec.store.where import check_field, json_path, scalar_sql

NAME = "catalog.sqlite"
VERSION = 1
WRITER = "writer.json"
_APPLICATION = 0x74717663  # "tqvc"
_TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE records (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, document TEXT, metadata TEXT NOT NULL);
CREATE TABLE segments (
    number INTEGER PRIMARY KEY, rows INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    digest TEXT NOT NULL, originals TEXT
);
CREATE TABLE tombstones (row INTEGER PRIMARY KEY, generation INTEGER NOT NULL);
CREATE INDEX tombstones_generation ON tombstones (generation);
CREATE TABLE tail (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE imports (source TEXT PRIMARY KEY, done INTEGER NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE documents USING fts5(document, content='records', content_rowid='row', detail=none);
CREATE TRIGGER document_added AFTER INSERT ON records WHEN new.document IS NOT NULL BEGIN
    INSERT INTO documents (rowid, document) VALUES (new.row, new.document);
END;
CREATE TRIGGER document_removed AFTER DELETE ON records WHEN old.document IS NOT NULL BEGIN
    INSERT INTO documents (documents, rowid, document) VALUES ('delete', old.row, old.document);
END;
CREATE TRIGGER document_replaced AFTER UPDATE OF document ON records WHEN old.document IS NOT new.document BEGIN
    INSERT INTO documents (documents, rowid, document)
        SELECT 'delete', old.row, old.document WHERE old.document IS NOT NULL;
    INSERT INTO documents (rowid, document) SELECT new.row, new.document WHERE new.document IS NOT NULL;
END;
"""
_NOTE = 512  # bytes
_CACHE = 32 * 1024  # KiB of pages that a connection keeps
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "beegfs"}
_INHERITED: list[sqlite3.Connection] = []  # a forked child must neither use nor close connections of its parent


class Catalog:
    """Connections to a catalog: any number that read, each for one caller at a time, and one that writes.

    Parameters
    ----------
    folder : Path
    timeout : float
        Seconds to wait for another writer.
    """

    def __init__(self, folder: Path, timeout: float) -> None:
        self.folder, self._timeout = folder, timeout
        self._file_system: str | None = None  # once it is known
        self._note: FileIO | None = None
        self._process, self._idle, self._lock = os.getpid(), list[sqlite3.Connection](), ForkLock()

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self.folder / NAME

    def connected(self) -> AbstractContextManager[sqlite3.Connection]:
        """Hold a connection: each of its statements sees the commit that is the last one when it begins."""
        return _Connected(self)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold a connection within a transaction: all its statements see one commit."""
        with self.connected() as connection:
            connection.execute("BEGIN")
            yield connection

    @contextmanager
    def writing(self, operation: str) -> Iterator[sqlite3.Connection]:
        """Hold a connection within the only transaction that writes; an exception takes everything back.

        Raises
        ------
        BusyError
            Another one wrote for longer than the timeout.
        """
        self._refuse_network()
        with self.connected() as connection:
            self._begin(connection, operation)
            yield connection
            connection.execute("COMMIT")

    def shrink(self) -> None:
        """Give space back to the disk; that of the log only if no reader needs it now."""
        with self.connected() as connection:
            try:
                connection.executescript("PRAGMA incremental_vacuum; PRAGMA busy_timeout = 0")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {round(1000 * self._timeout)}")

    def close(self) -> None:
        """Close all connections that nobody holds; in a forked child those of its parent are left alone."""
        if self._process != os.getpid():
            self._leave_inherited()
            return
        with suppress(IndexError):
            while True:
                self._idle.pop().close()
        if self._note is not None:
            self._note.close()
            self._note = None

    def take(self) -> sqlite3.Connection:
        """Return a connection that nobody holds."""
        if self._process != os.getpid():
            self._leave_inherited()
        try:
            return self._idle.pop()  # one step, so no thread needs a lock; `append` too
        except IndexError:
            return _connect(self.path, self._timeout)

    def give_back(self, connection: sqlite3.Connection) -> None:
        """Take back what is not committed, and let others have the connection."""
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        self._idle.append(connection)

    def _leave_inherited(self) -> None:
        """Begin without connections in a forked child."""
        with self._lock:
            if self._process != os.getpid():
                _INHERITED.extend(self._idle)
                self._idle.clear()
                self._process = os.getpid()

    def _begin(self, connection: sqlite3.Connection, operation: str) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            holder = _holder(self.folder / WRITER)
            raise BusyError(
                f"{self.folder}: another writer{holder} did not finish within {self._timeout:g} s; try again, or open "
                "the collection with a longer timeout"
            ) from None
        note = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "operation": operation})
        with suppress(OSError):  # it serves the message above alone
            if self._note is None:  # to open a file for each change would take most of its time
                self._note = FileIO(os.open(self.folder / WRITER, os.O_RDWR | os.O_CREAT, 0o666), "r+")
            self._note.seek(0)
            self._note.write(note.encode().ljust(_NOTE))

    def _refuse_network(self) -> None:
        if self._file_system is None:
            self._file_system = _file_system(self.folder)
        if self._file_system in _NETWORK:
            raise UnsupportedError(
                f"{self.folder}: is on a network file system ({self._file_system}), whose locks SQLite can't rely on; "
                "write on a local disk, and copy a snapshot() there"
            )


class _Connected:
    """A connection that is held. Errors of SQLite become those of tqvec, which say what to do."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def __enter__(self) -> sqlite3.Connection:
        try:
            self._connection = self._catalog.take()
        except sqlite3.Error as error:
            _explain(error, self._catalog.path)
            raise
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._catalog.give_back(self._connection)
        if isinstance(error, sqlite3.Error):
            _explain(error, self._catalog.path)


def _explain(error: sqlite3.Error, path: Path) -> None:
    """Raise the error of tqvec in place of one of SQLite, if there is one."""
    if isinstance(error, sqlite3.OperationalError):
        text = str(error)
        if "full" in text:
            raise OSError(errno.ENOSPC, "no space left on the disk; nothing was changed", str(path)) from error
        if "readonly" in text or "read-only" in text:
            raise PermissionError(errno.EROFS, "the collection can only be read here", str(path)) from error
        if "locked" in text:
            raise BusyError(f"{path}: {text}; try again") from error
        raise OSError(errno.EIO, f"SQLite: {text}", str(path)) from error
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)
    ):
        raise FormatError(f"{path}: damaged ({error}); put a snapshot() in its place") from error


def _holder(note: Path) -> str:
    """Say who wrote last, for the message that somebody writes."""
    try:
        holder = json.loads(note.read_text())
        return f" (process {holder['pid']} on {holder['host']}: {holder['operation']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _file_system(folder: Path) -> str:
    """Return the type of the file system of a folder, on Linux; otherwise nothing."""
    best, kind = "", ""
    real = os.path.realpath(folder)
    with suppress(OSError), open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            _, point, name, *_ = line.split(" ")
            point = point.replace("\\040", " ")
            if len(point) >= len(best) and (real + "/").startswith(point.rstrip("/") + "/"):
                best, kind = point, name
    return kind


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    """Open the catalog of a collection.

    Raises
    ------
    FormatError
        The file is not that of a collection, or of a newer version.
    """
    writable = os.access(path.parent, os.W_OK) and os.access(path, os.W_OK)
    alone = not writable and not path.with_name(path.name + "-wal").exists()
    mode = "mode=rw" if writable else "mode=ro" + ("&immutable=1" if alone else "")
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
    )
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            raise FormatError(f"{path}: an SQLite file, but not that of a collection of tqvec")
        if version > VERSION:
            raise FormatError(f"{path}: written in version {version}; this tqvec reads up to {VERSION}: upgrade it")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE}")
    except BaseException:
        connection.close()
        raise
    return connection


def create(path: Path, settings: dict[str, Any], indexed: Sequence[str]) -> None:
    """Make the catalog of an empty collection; `path` has no file yet."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript("BEGIN;" + _TABLES)
        for i, name in enumerate(indexed):
            value = scalar_sql("'" + json_path(name).replace("'", "''") + "'")
            connection.execute(f"ALTER TABLE records ADD COLUMN field_{i} GENERATED ALWAYS AS ({value}) VIRTUAL")
            connection.execute(f"CREATE INDEX records_field_{i} ON records (field_{i})")
        for name, setting in settings.items():
            write_setting(connection, name, setting)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if "fts5" in str(error):
            raise UnsupportedError("this build of SQLite lacks FTS5, the full-text search of collections") from error
        raise
    finally:
        connection.close()


def read_settings(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return all settings by name."""
    return {name: json.loads(value) for name, value in connection.execute("SELECT name, value FROM settings")}


def read_setting(connection: sqlite3.Connection, name: str) -> Any:
    """Return one setting."""
    (value,) = connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
    return json.loads(value)


def write_setting(connection: sqlite3.Connection, name: str, value: Any) -> None:
    """Replace one setting."""
    connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, json.dumps(value)))


def check_indexed(indexed: Sequence[str]) -> list[str]:
    """Return the names of fields that get an index."""
    if isinstance(indexed, str):
        raise InputError(f"indexed must be a list of fields, got the str {indexed!r}")
    names = _validate.entries(indexed, "indexed")
    for name in names:
        check_field(name, "indexed")
    return list(dict.fromkeys(names))

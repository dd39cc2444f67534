"""Opened: the folder of a collection, its catalog, and the state that searches see."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from weakref import finalize

from tqvec import _atomic, _validate
from tqvec._config import num_threads
from tqvec._locks import ForkLock
from tqvec._output import as_path
from tqvec.errors import FormatError, InputError, UnsupportedError
from tqvec.store import catalog
from tqvec.store.catalog import Catalog
from tqvec.store.change import Change
from tqvec.store.embedding import as_function, name_of
from tqvec.store.filters import FilterCache
from tqvec.store.segments import FOLDER
from tqvec.store.settings import Settings, check_same, make_settings, read_stored
from tqvec.store.state import State, read_state

Self = TypeVar("Self", bound="Opened")
_ATTEMPTS = 5  # to read a state, while another process replaces files


class _Pin:
    """A transaction that reads and stays, its state, and the number of its users; the collection is one."""

    def __init__(
        self, transaction: AbstractContextManager[sqlite3.Connection], connection: sqlite3.Connection, state: State
    ) -> None:
        self.transaction, self.connection, self.state, self.users = transaction, connection, state, 1


class Opened:
    """An open collection.

    Parameters
    ----------
    path : path or None
        None: a temporary folder, which goes with the collection.
    given : dict
        Settings that were asked for; None where none was.
    embed : function or model, optional
    refresh : bool
    timeout : float
    threads : int, optional
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        given: dict[str, Any],
        embed: Any,
        refresh: bool,
        timeout: float,
        threads: int | None,
    ) -> None:
        self._embed = None if embed is None else as_function(embed)
        self._threads = None if threads is None else num_threads(threads)
        given = {**given, "indexed": tuple(catalog.check_indexed(given["indexed"]))}
        given["embedding"] = None if embed is None else name_of(embed)
        timeout = _validate.number(timeout, "timeout")
        self._remove: Callable[[], object] | None = None
        if path is None or not self.exists(path):
            settings = make_settings(given)  # a wrong one leaves no folder
            if path is None:
                path = tempfile.mkdtemp(prefix="tqvec-")
                self._remove = finalize(self, _remove_own, Path(path), os.getpid())
            _create(as_path(path), settings)
        self._folder = as_path(path)
        self._catalog = Catalog(self._folder, timeout)
        finalize(self, self._catalog.close)  # at the end of the program, too
        with self._catalog.reading() as connection:
            self._settings = read_stored(catalog.read_settings(connection))
        check_same(self._settings, given, str(self._folder))
        self._untrained = self._settings.make_index()
        self._filters = FilterCache()
        self._state: State | None = None
        self._lock = ForkLock()
        self._pin: _Pin | None = None
        self._auto_refresh, self._swept, self._closed = refresh, False, False
        self._settled = False  # whether the last transaction found no other commit than the known one
        if not refresh:
            self.refresh()

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Return whether there is a collection in a folder."""
        return (as_path(path) / catalog.NAME).exists()

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def settings(self) -> Settings:
        """The settings that the collection was created with."""
        return self._settings

    def refresh(self) -> None:
        """See the last commit from now on; with ``refresh=True`` each call does so."""
        if self._auto_refresh:
            return
        transaction = self._catalog.reading()
        connection = transaction.__enter__()
        try:
            pin = _Pin(transaction, connection, self._read(connection))
        except BaseException:
            transaction.__exit__(None, None, None)
            raise
        with self._lock:
            before, self._pin = self._pin, pin
        if before is not None:
            self._leave(before)

    def close(self) -> None:
        """Close the files. What was committed is on the disk already; a temporary folder is removed."""
        with self._lock:
            pin, self._pin, self._closed, self._state = self._pin, None, True, None
        if pin is not None:
            self._leave(pin)
        self._catalog.close()
        if self._remove is not None:
            self._remove()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[tuple[sqlite3.Connection, State]]:
        """Hold a connection within a transaction, and the state as of this transaction."""
        self._require_open()
        if not self._auto_refresh:
            with self._lock:
                self._require_open()
                pin = self._pin
                assert pin is not None
                pin.users += 1
            try:
                yield pin.connection, pin.state
            finally:
                self._leave(pin)
            return
        for attempt in range(_ATTEMPTS):
            with self._catalog.reading() as connection:
                try:
                    state = self._read(connection)
                except (FileNotFoundError, FormatError):
                    if attempt == _ATTEMPTS - 1:
                        raise
                    continue  # another process has replaced a file since this transaction began
                yield connection, state
                return

    def _leave(self, pin: _Pin) -> None:
        """End the transaction of a pin, when the last of its users has left it."""
        with self._lock:
            pin.users -= 1
            unused = pin.users == 0
        if unused:
            pin.transaction.__exit__(None, None, None)

    def _probable_state(self) -> State | None:
        """Return the state that the next transaction will probably find; None if there is none.

        While others write, no state is probable: a search of the wrong one takes as long as another.
        """
        self._require_open()
        return self._state if self._settled and self._auto_refresh else None

    def _read(self, connection: sqlite3.Connection) -> State:
        before = self._state
        state = read_state(connection, self._folder, self._settings.keep, self._untrained, before)
        self._settled = state is before
        if before is None or before.generation < state.generation:
            self._state = state
        return state

    @contextmanager
    def _changing(self, operation: str) -> Iterator[Change]:
        """Hold a transaction that writes; an exception takes everything back."""
        self._require_open()
        if not self._auto_refresh:
            raise InputError("a collection that was opened with refresh=False is for reading; open it again to write")
        with self._catalog.writing(operation) as connection:
            state = self._read(connection)
            change = Change(connection, self._folder, self._settings, state, self._threads)
            if not self._swept:
                change.sweep()
                self._swept = True
            try:
                yield change
                change.commit()
            except BaseException:
                change.take_back()
                raise
        self._settled = False
        change.delete_replaced()

    def _require_open(self) -> None:
        if self._closed:
            raise InputError("the collection is closed")

    def _vectors_of_texts(self, texts: Sequence[str]) -> Any:
        if self._embed is None:
            raise InputError("texts need vectors: open the collection with embed=, or hand over vectors")
        return self._embed(texts)

    def __getstate__(self) -> Mapping[str, Any]:
        raise UnsupportedError("a collection can't be copied or pickled: hand over its path, and open it there")


def _remove_own(folder: Path, owner: int) -> None:
    """Remove the temporary folder of a process; a child that forked from it leaves it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _create(folder: Path, settings: Settings) -> None:
    """Make an empty collection, unless another process was as fast.

    Raises
    ------
    InputError
        The folder has other files.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"path must be a folder, or a name for one, but {folder} is a file")
    strange = sorted(path.name for path in folder.iterdir() if _is_strange(path.name)) if folder.exists() else []
    if strange:
        raise InputError(
            f"{folder}: is no collection, and has other files ({', '.join(strange[:3])}); take another path"
        )
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    path = folder / catalog.NAME
    temporary = _atomic.name_beside(path, f".{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        stored = {**settings._asdict(), "generation": 0, "next_row": 1, "next_segment": 1, "codec": 0}
        catalog.create(temporary, stored, settings.indexed)
        _give_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _give_name(temporary: Path, path: Path) -> None:
    """Give a file its name, unless another process has made it meanwhile."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        os.replace(temporary, path)


def _is_strange(name: str) -> bool:
    return not name.startswith(catalog.NAME) and name not in (FOLDER, catalog.WRITER)

"""Outputs: every file that the library and the command line write, opened in one way.

To make an `Output` is to check it, before any work: nothing that a user would miss may be lost. The "Files" page says
what it promises.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from tqvec import _atomic
from tqvec._safetensors import Seen, head_digest
from tqvec.errors import InputError

PathLike: TypeAlias = "str | os.PathLike[str]"

_LOOKED_AT = 4096  # bytes of the beginning and of the end, where a file says what it is
_MOST_LINKS = 40  # that are followed, as Linux does


class Kind(NamedTuple):
    """A kind of file that tqvec writes, and how to know one."""

    name: str  # with an article
    pattern: re.Pattern[bytes]  # found in the first bytes, or the last

    def describes(self, path: Path) -> bool:
        """Return whether a file is of this kind, or empty; one that can't be read is not."""
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                ends = file.read(_LOOKED_AT)
                file.seek(max(len(ends), size - _LOOKED_AT))
                ends += file.read()
        except OSError:
            return False
        return not ends or self.pattern.search(ends) is not None


class Output:
    """A file to be written, which appears under its name when it is complete, or a device or FIFO.

    Symbolic links are followed. A file that is replaced keeps its mode and owner. To a device or FIFO the complete file
    is copied at the end.

    Parameters
    ----------
    path : path
    kind : Kind
        Of the new file. Only an empty file or one of this kind is replaced without `overwrite`.
    overwrite : bool
        Replace a file of any kind, a read-only one, and one that is not as it was `seen`.
    inputs : iterable of paths
        What the new file is made of, and other outputs: it must be none of these. Some may not be there.
    seen : dict, optional
        The files of the object that is saved. One that another process has changed since is not replaced.
    remedy : str
        How the user asks for `overwrite`, for messages.

    Attributes
    ----------
    path : Path
        As given.
    target : Path
        Where links lead.
    is_stream : bool
        Whether it is a device or FIFO.

    Raises
    ------
    InputError
        Not a path, a file that must not be replaced, or a socket or block device.
    OSError
        A folder, or nothing that this process could write. The message names the path.
    """

    def __init__(
        self,
        path: PathLike,
        kind: Kind,
        *,
        overwrite: bool = False,
        inputs: Iterable[PathLike] = (),
        seen: Seen | None = None,
        remedy: str = "overwrite=True",
    ):
        if not isinstance(overwrite, bool):
            raise InputError(f"overwrite must be True or False, got {overwrite!r}")
        self.path, self.overwrite, self.remedy = as_path(path), overwrite, remedy
        self._seen = seen
        self._first_mode: int | None = None
        try:
            mode: int | None = self.path.stat().st_mode
        except FileNotFoundError:
            mode = None
        self.target = _follow(self.path)
        self.is_stream = mode is not None and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode))
        if self.is_stream:
            self._check_right(self.path)
            return
        for source in inputs:
            if _same(self.target, Path(source)):
                raise InputError(f"{self.path}: is the same file as {source}; name another output")
        if mode is not None:
            self._check_old(mode, kind)
        if not self.target.parent.is_dir():
            raise FileNotFoundError(f"{self.path}: its folder does not exist")
        if not _may(self.target.parent, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.path}: nothing can be written to its folder: no right, or it is read-only")

    def _check_old(self, mode: int, kind: Kind) -> None:
        """Raise InputError or OSError for what is there and must not, or can't, be replaced."""
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{self.path}: is a folder; name a file")
        if not stat.S_ISREG(mode):
            raise InputError(f"{self.path}: is a socket or a block device; name a file")
        if not self.target.exists():
            raise InputError(f"{self.path}: is an open file that has no name any more; name another")
        if not self.overwrite:
            self._check_right(self.target)
            if not kind.describes(self.target):
                raise InputError(
                    f"{self.path}: there is a file that is not {kind.name}; name another, or replace it with "
                    f"{self.remedy}"
                )
        if _is_mounted(self.target):
            raise _mounted(self.path)
        if self._key in self._known:
            with _atomic.hold(self.target):
                self._check_unchanged()

    def _check_right(self, path: Path) -> None:
        if not _may(path, os.W_OK):
            raise PermissionError(f"{self.path}: you have no right to write to it")

    @property
    def _known(self) -> Seen:
        return {} if self._seen is None else self._seen

    @property
    def _key(self) -> str:
        return os.path.realpath(self.target)

    def _check_unchanged(self) -> None:
        """Raise InputError if the file is there but not as it was seen."""
        before = self._known.get(self._key)
        if before is None or self.overwrite or not self.target.exists() or not self.target.stat().st_size:
            return
        with self.target.open("rb") as file:
            if head_digest(file) != before:
                raise InputError(
                    f"{self.path}: the file has changed since it was loaded or saved here, and the changes would be "
                    f"lost; load it again, save to another path, or replace it with {self.remedy}"
                )

    def beside(self, ending: str, kind: Kind, known: bool = False) -> Output:
        """Return an output beside this one, with an ending behind its name; `known` to be of tqvec, or by its kind."""
        path = _atomic.name_beside(self.target, ending)
        if path.is_symlink():
            raise InputError(f"{path}: is a link; delete it, since {self.path} is made there")
        side = Output(path, kind, overwrite=self.overwrite or known, remedy=self.remedy)
        if side.is_stream:
            raise InputError(f"{path}: is a device or FIFO; delete it, since {self.path} is made there")
        side._first_mode = _atomic.first_mode(self.target)
        return side

    def create(self) -> BinaryIO:
        """Open a new file, to write and to read, for `publish` or `_atomic.discard`."""
        with self.naming():
            return tempfile.TemporaryFile() if self.is_stream else _atomic.create(self.target, self._first_mode)

    def publish(self, file: BinaryIO) -> None:
        """Give a complete file its name, or copy it to the device or FIFO.

        Raises
        ------
        InputError
            Another process has changed the file that was `seen`.
        OSError
            The disk is full, for example.
        """
        with self.naming():
            if self.is_stream:
                self._copy(file)
            elif self._seen is None:
                _atomic.publish(file, self.target)
            else:
                _atomic.flush(file)  # not while others wait
                file.seek(0)
                digest = head_digest(file)
                with _atomic.hold(self.target):
                    self._check_unchanged()
                    _atomic.publish(file, self.target)
                    self._seen[self._key] = digest

    def _copy(self, file: BinaryIO) -> None:
        file.seek(0)
        flags = os.O_WRONLY | getattr(os, "O_NOCTTY", 0)
        with file, open(self.path, "wb", opener=lambda name, _: os.open(name, flags)) as sink:
            shutil.copyfileobj(file, sink, 1 << 20)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open a new file to write to; it gets its name at the end, and is deleted on an exception."""
        file = self.create()
        try:
            with self.naming():
                yield file
            self.publish(file)
        finally:
            _atomic.discard(file)

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Name this file in an `OSError` that names none, or the temporary one."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise _mounted(self.path) from error
            if error.errno is None or not str(error.filename or ".tmp").endswith(".tmp"):
                raise
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def as_path(path: Any, name: str = "path") -> Path:
    """Return a path; InputError, with the name of the argument, for what is none."""
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise InputError(f"{name} must be a str or a path, got {type(path).__name__}") from None
    if not text or "\0" in text:
        raise InputError(f"{name} must be the name of a file, got {text!r}")
    return Path(text)


def _follow(path: Path) -> Path:
    """Return the path that a symbolic link leads to, in the end; it need not be there."""
    for _ in range(_MOST_LINKS):
        if not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
    return path


def _same(one: Path, other: Path) -> bool:
    """Return whether two paths are one file, which may not be there yet."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def _may(path: Path, right: int) -> bool:
    """Return whether this process has a right."""
    return os.access(path, right, effective_ids=os.access in os.supports_effective_ids)


def _mounted(path: Path) -> OSError:
    return OSError(errno.EBUSY, "it is mounted by itself, so it can't be replaced; mount its folder", str(path))


def _is_mounted(path: Path) -> bool:
    """Return whether a file is a mount of its own, as containers have them: then it can't be replaced."""
    return _mount(path) != _mount(path.parent)


def _mount(path: Path) -> str | None:
    """Return the number of the mount that a path is in, None if the system doesn't tell."""
    if not hasattr(os, "O_PATH"):
        return None
    try:
        number = os.open(path, os.O_PATH)
    except OSError:
        return None
    try:
        text = Path(f"/proc/self/fdinfo/{number}").read_text()
    except OSError:
        return None
    finally:
        os.close(number)
    found = re.search(r"^mnt_id:\s*(\d+)", text, re.MULTILINE)
    return found and found[1]

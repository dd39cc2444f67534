"""Files that appear under their name when they are complete.

They are written beside it, under another name, and then renamed. Their writer holds a lock on them. The system takes it
back when the process ends, however it ends. So the files of a killed process differ from those that are being written.

`tqvec._output` decides whether a file may be written at all.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PRIVATE = 0o600  # mode of a new file until it has the rights of the one that it replaces
_LOCK = ".00000000.tmp"  # a stale one is deleted as other temporary files are
# Network file systems, and folders that this process may not read, can't be forced to the disk.
_NO_SYNC = {errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.EROFS, errno.ENOTSUP, errno.ENOSYS}


def name_beside(path: Path, ending: str) -> Path:
    """Return the path of a file beside `path`: its name and an ending, cut to what the folder takes."""
    name = os.fsencode(path.name)
    room = _longest_name(path.parent) - len(ending)
    if len(name) > room:
        digest = hashlib.sha256(name).hexdigest()[:16]
        return path.with_name(name[: max(0, room - 17)].decode(errors="ignore") + "." + digest + ending)
    return path.with_name(path.name + ending)


def _longest_name(folder: Path) -> int:
    """Return the bytes that a name in a folder may have."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows, or a folder that is not there
        return 255


def create(path: Path, mode: int | None = None) -> BinaryIO:
    """Open a new file that is to become `path`, and delete those that killed processes left behind.

    `mode` is `first_mode` by default.
    """
    remove_stale(path)
    mode = first_mode(path) if mode is None else mode
    while True:
        name = name_beside(path, f".{secrets.token_hex(4)}.tmp")
        file = open(name, "xb+", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
        if try_lock(file, without_locks=True):
            return file
        file.close()  # another process took it for a stale one, before it was locked


def first_mode(path: Path) -> int:
    """Return the mode of a new file that is to become `path`: never more readable than the file that it replaces."""
    return _PRIVATE if os.path.lexists(path) else 0o666


def open_exclusive(path: Path, mode: int = 0o666) -> BinaryIO | None:
    """Open a file, or create it, that outlives the process; return None while another process has it open so."""
    extra = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    file = open(path, "r+b", opener=lambda name, flags: os.open(name, flags | extra, mode))  # noqa: SIM115
    if mode == _PRIVATE and fcntl is not None:
        with suppress(OSError):
            os.fchmod(file.fileno(), mode)  # it may be of a time when more was allowed
    if try_lock(file, without_locks=True):
        return file
    file.close()
    return None


def try_lock(file: BinaryIO, without_locks: bool) -> bool:
    """Lock an open file until it is closed, and return whether that was possible.

    Parameters
    ----------
    file : file
    without_locks : bool
        The result on systems that have no locks.

    Returns
    -------
    bool
        False if another process has locked it, or renamed or deleted it before it could be locked here.
    """
    if fcntl is None:
        return without_locks
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network file system may have none
        return without_locks
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except FileNotFoundError:
        return False


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold back other threads and processes that call this to look at a file and replace it; without locks, nothing."""
    if fcntl is None:
        yield
        return
    while (file := open_exclusive(name_beside(path, _LOCK), _PRIVATE)) is None:
        time.sleep(0.001)
    with file:
        try:
            yield
        finally:
            with suppress(FileNotFoundError):  # without locks, another process was as fast
                os.unlink(file.name)  # while it is locked: who waits for it sees that it is gone


def publish(file: BinaryIO, path: Path) -> None:
    """Flush a complete file to the disk, and rename it to `path`, with owner and mode of a file that was there."""
    _adopt_rights(file, path)
    flush(file)
    if fcntl is None:
        file.close()  # Windows renames no open file; elsewhere the lock is kept until it has its name
    os.replace(file.name, path)
    file.close()
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Write the names of a folder to the disk."""
    with suppress(PermissionError):  # Windows opens no folder
        number = os.open(folder, os.O_RDONLY)
        try:
            _sync(number)
        finally:
            os.close(number)


def _adopt_rights(file: BinaryIO, path: Path) -> None:
    """Give a file group, access list, mode and owner of the one that it is to replace, as far as this process may."""
    if fcntl is None or not path.exists():
        return
    old, number = path.stat(), file.fileno()
    with suppress(OSError):
        os.fchown(number, -1, old.st_gid)
    mode = stat.S_IMODE(old.st_mode)
    if os.fstat(number).st_gid == old.st_gid:
        with suppress(OSError, AttributeError):  # no access list, or a system that has none
            os.setxattr(number, "system.posix_acl_access", os.getxattr(path, "system.posix_acl_access"))
    else:  # members of another group get the rights of all others
        mode = mode & ~0o070 | (mode & 0o007) << 3
    with suppress(OSError):
        os.fchmod(number, mode)
    with suppress(OSError):
        os.fchown(number, old.st_uid, -1)


def flush(file: BinaryIO) -> None:
    """Write a file to the disk: its content so far survives a loss of power."""
    file.flush()
    _sync(file.fileno())


def _sync(number: int) -> None:
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def discard(file: BinaryIO) -> None:
    """Close and delete a file; one that `publish` has renamed is left alone."""
    with suppress(OSError):
        file.close()  # the rest of its content may not fit the disk
    if isinstance(file.name, str):  # others have no name
        Path(file.name).unlink(missing_ok=True)


def remove_stale(path: Path) -> None:
    """Delete the files that processes left behind which were killed while they wrote `path`."""
    stem = name_beside(path, _LOCK).name.removesuffix(_LOCK)
    pattern = re.compile(re.escape(stem) + r"\.[0-9a-f]{8}\.tmp")
    try:
        names = os.listdir(path.parent)
    except PermissionError:  # to list a folder is another right than to write there
        return
    for name in filter(pattern.fullmatch, names):
        with suppress(OSError):
            _remove_unlocked(path.parent / name)


def _remove_unlocked(path: Path) -> None:
    """Delete a regular file that nobody has locked."""
    if stat.S_ISREG(path.lstat().st_mode):  # to open a FIFO would wait
        with path.open("rb") as file:
            if try_lock(file, without_locks=False):
                path.unlink()

"""Files that appear under their name when they are complete.

They are written beside it, under another name, and then renamed. Their writer holds a lock on them. The system takes it
back when the process ends, however it ends. So the files of a killed process differ from those that are being written.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def create(path: Path) -> BinaryIO:
    """Open a new file that is to become `path`, and delete those that killed processes left behind."""
    remove_stale(path)
    while True:
        file = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp").open("xb+")
        if try_lock(file, without_locks=True):
            return file
        file.close()  # another process took it for a stale one, before it was locked


def open_exclusive(path: Path) -> BinaryIO | None:
    """Open a file, or create it, that outlives the process; return None while another process has it open so."""
    file = open(path, "r+b", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666))  # noqa: SIM115
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


def publish(file: BinaryIO, path: Path) -> None:
    """Flush a complete file to the disk, and rename it to `path`."""
    flush(file)
    if fcntl is None:
        file.close()  # Windows renames no open file; elsewhere the lock is kept until it has its name
    os.replace(file.name, path)
    file.close()
    with suppress(PermissionError):  # Windows opens no folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def flush(file: BinaryIO) -> None:
    """Write a file to the disk: its content so far survives a loss of power."""
    file.flush()
    os.fsync(file.fileno())


def discard(file: BinaryIO) -> None:
    """Close and delete a file; one that `publish` has renamed is left alone."""
    with suppress(OSError):
        file.close()  # the rest of its content may not fit the disk
    Path(file.name).unlink(missing_ok=True)


def remove_stale(path: Path) -> None:
    """Delete the files that processes left behind which were killed while they wrote `path`."""
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{8}\.tmp")
    try:
        names = os.listdir(path.parent)
    except PermissionError:  # to list a folder is another right than to write there
        return
    for name in filter(pattern.fullmatch, names):
        with suppress(OSError), open(path.parent / name, "rb") as file:
            if try_lock(file, without_locks=False):
                os.unlink(file.name)

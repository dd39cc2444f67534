"""Folder: named files on a local disk or in an object store, through the file systems of pyarrow."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tqvec._output import as_path
from tqvec._present import import_optional
from tqvec.errors import FormatError, InputError

_CHUNK = 1 << 22  # bytes that are copied at a time
_URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_RENAMED = re.compile(r"\.[0-9a-f]{8}\.tmp$")  # what a killed process leaves behind on a local disk


class StoredFile(NamedTuple):
    """A file of a folder, and what is in it.

    Attributes
    ----------
    name : str
        Relative to the folder, with ``/``.
    nbytes : int
    sha256 : str
        Of the content, in hexadecimal digits.
    """

    name: str
    nbytes: int
    sha256: str


class Folder:
    """A folder of a file system.

    A file appears under its name when it is complete: on a disk it is renamed, and object stores show no unfinished
    one.

    Parameters
    ----------
    place : path or str
        A path, or a URI such as ``s3://bucket/folder``.
    filesystem : pyarrow.fs.FileSystem, optional
        `place` is then a path in it.

    Raises
    ------
    InputError
        `place` is no path, or the URI of a file system that pyarrow doesn't have.
    UnsupportedError
        pyarrow is not installed.
    """

    def __init__(self, place: str | os.PathLike[str], filesystem: Any = None) -> None:
        fs = import_optional("pyarrow.fs", "shards", "ray")
        if filesystem is not None and not isinstance(filesystem, fs.FileSystem):
            raise InputError(f"filesystem must be of pyarrow.fs, got a {type(filesystem).__name__}")
        if filesystem is None and isinstance(place, str) and _URI.match(place):
            try:
                filesystem, place = fs.FileSystem.from_uri(place)
            except (ValueError, OSError) as error:
                raise InputError(f"{place}: pyarrow can't open this URI ({error})") from error
        elif filesystem is None:
            filesystem, place = fs.LocalFileSystem(), str(as_path(place).absolute())
        self.filesystem, self.path = filesystem, str(place).rstrip("/") or "/"

    def __repr__(self) -> str:
        return f"Folder({str(self)!r})"

    def __str__(self) -> str:
        kind = self.filesystem.type_name
        return self.path if self.is_local else f"{kind}://{self.path}"

    @property
    def is_local(self) -> bool:
        """Whether the folder is one of the system that this process runs on."""
        return bool(self.filesystem.type_name == "local")

    def at(self, name: str) -> str:
        """Return the path of a file in the file system."""
        return f"{self.path}/{name}"

    def sizes(self, below: str = "") -> dict[str, int]:
        """Return the names of all files, or of those of a folder in it, and their bytes; unfinished ones are none."""
        fs = import_optional("pyarrow.fs", "shards", "ray")
        start = self.at(below).rstrip("/") if below else self.path
        found = self.filesystem.get_file_info(fs.FileSelector(start, allow_not_found=True, recursive=True))
        files = {info.path[len(self.path) :].lstrip("/"): info.size for info in found if info.is_file}
        return {name: size for name, size in files.items() if not _RENAMED.search(name)}

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None if it is not there."""
        info = self.filesystem.get_file_info(self.at(name))
        return info.size if info.is_file else None

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        with self.filesystem.open_input_stream(self.at(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> StoredFile:
        """Write a file, in place of an old one."""
        with self._writing(name) as stream:
            stream.write(content)
        return StoredFile(name, len(content), hashlib.sha256(content).hexdigest())

    def put(self, path: Path, name: str, sha256: str) -> StoredFile:
        """Copy a local file into the folder, unless it is there already.

        Parameters
        ----------
        path : Path
        name : str
            It must have the digest in it, so that equal names mean equal contents.
        sha256 : str
            Of the content.
        """
        stored = StoredFile(name, path.stat().st_size, sha256)
        if self.size(name) != stored.nbytes:
            with path.open("rb") as source, self._writing(name) as stream:
                while chunk := source.read(_CHUNK):
                    stream.write(chunk)
        self.check_size(stored)
        return stored

    def fetch(self, stored: StoredFile, path: Path) -> None:
        """Copy a file of the folder to a local one, which appears when its digest was verified.

        Raises
        ------
        FormatError
            It has other bytes than were noted, or is not there.
        """
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        digest, size = hashlib.sha256(), 0
        try:
            with self.filesystem.open_input_stream(self.at(stored.name)) as source, beside.open("xb") as file:
                while chunk := source.read(_CHUNK):
                    size += file.write(chunk)
                    digest.update(chunk)
            if (size, digest.hexdigest()) != (stored.nbytes, stored.sha256):
                raise FormatError(f"{self}/{stored.name}: damaged: its bytes are not those that were written")
            os.replace(beside, path)
        except FileNotFoundError as error:
            raise FormatError(f"{self}/{stored.name}: is missing, though the manifest names it") from error
        finally:
            beside.unlink(missing_ok=True)

    def check_size(self, stored: StoredFile) -> None:
        """Raise FormatError for a file that is not there or has another size than was noted."""
        size = self.size(stored.name)
        if size != stored.nbytes:
            found = "is missing" if size is None else f"has {size:,} bytes, not {stored.nbytes:,}"
            raise FormatError(f"{self}/{stored.name}: {found}")

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self.at(name))

    def delete_below(self, name: str) -> None:
        """Delete a folder in this one with all that it has, if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.at(name))

    @contextmanager
    def _writing(self, name: str) -> Iterator[Any]:
        path = self.at(name)
        parent = path.rsplit("/", 1)[0]
        if not self.is_local:  # object stores have no folders, and show a file when its stream is closed
            with self.filesystem.open_output_stream(path) as stream:
                yield stream
            return
        self.filesystem.create_dir(parent, recursive=True)
        beside = f"{path}.{secrets.token_hex(4)}.tmp"
        try:
            with self.filesystem.open_output_stream(beside) as stream:
                yield stream
            _flush(Path(beside))
            self.filesystem.move(beside, path)
        finally:
            with suppress(FileNotFoundError):
                self.filesystem.delete_file(beside)


def _flush(path: Path) -> None:
    """Write a closed file to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a local file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    """Do the same before Python 3.11."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()

"""Folder: named files on a local disk or in an object store, through the file systems of pyarrow."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tqvec import _atomic
from tqvec._output import as_path
from tqvec._present import import_optional
from tqvec.errors import FormatError, InputError

_CHUNK = 1 << 22  # bytes that are copied at a time
_URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_RENAMED = re.compile(r"\.[0-9a-f]{8}\.tmp$")  # what a killed process leaves behind on a local disk
_FRESH = 86_400  # seconds; a file that is taken again is never older, so that none is collected that is being used


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
    one. Where a write fails, an object store may show the first part of it for a moment, so readers compare sizes and
    digests.

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
        is_uri = isinstance(place, str) and _URI.match(place)
        if is_uri and filesystem is not None:
            raise InputError(f"{place}: is a URI; hand over a path in the file system, or the URI alone")
        if is_uri:
            try:
                filesystem, place = fs.FileSystem.from_uri(place)
            except (ValueError, OSError) as error:
                raise InputError(f"{place}: pyarrow can't open this URI ({error})") from error
        elif filesystem is None:
            filesystem, place = fs.LocalFileSystem(), as_path(place).absolute()
        else:
            place = as_path(place)
        while filesystem.type_name == "subtree":
            filesystem, place = filesystem.base_fs, f"{filesystem.base_path.rstrip('/')}/{str(place).lstrip('/')}"
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
        return {name: info.size for name, info in self._infos(below).items() if not _RENAMED.search(name)}

    def times(self) -> dict[str, float]:
        """Return the names of all files, unfinished ones too, and when they were written, in seconds since 1970.

        A file whose time the file system doesn't tell counts as written now.
        """
        now = time.time()
        return {name: now if info.mtime is None else info.mtime_ns / 1e9 for name, info in self._infos("").items()}

    def _infos(self, below: str) -> dict[str, Any]:
        fs = import_optional("pyarrow.fs", "shards", "ray")
        start = self.at(below).rstrip("/") if below else self.path
        found = self.filesystem.get_file_info(fs.FileSelector(start, allow_not_found=True, recursive=True))
        return {info.path[len(self.path) :].lstrip("/"): info for info in found if info.is_file}

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
        """Copy a local file into the folder, unless it is there already, and of this day.

        Parameters
        ----------
        path : Path
        name : str
            It must have the digest in it, so that equal names mean equal contents.
        sha256 : str
            Of the content.
        """
        stored = StoredFile(name, path.stat().st_size, sha256)
        there = self.filesystem.get_file_info(self.at(name))
        if there.size != stored.nbytes or time.time() - (there.mtime_ns or 0) / 1e9 > _FRESH:
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
            source = self.filesystem.open_input_stream(self.at(stored.name))
        except FileNotFoundError as error:
            raise FormatError(f"{self}/{stored.name}: is missing, though the manifest names it") from error
        try:
            with source, beside.open("xb") as file:
                while chunk := source.read(_CHUNK):
                    size += file.write(chunk)
                    digest.update(chunk)
            if (size, digest.hexdigest()) != (stored.nbytes, stored.sha256):
                raise FormatError(f"{self}/{stored.name}: damaged: its bytes are not those that were written")
            os.replace(beside, path)
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
        # A stream can only be closed, and an object store then shows what was written before an exception.
        beside = f"{path}.{secrets.token_hex(4)}.tmp" if self.is_local else path
        if self.is_local:
            self.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        try:
            with self.filesystem.open_output_stream(beside) as stream:
                yield stream
            if self.is_local:
                _give_name(Path(beside), Path(path))
        except BaseException:
            with suppress(OSError):
                self.filesystem.delete_file(beside)
            raise


def _give_name(temporary: Path, path: Path) -> None:
    """Write a closed file to the disk, rename it, and write its name."""
    with temporary.open("rb+") as file:
        _atomic.flush(file)
    os.replace(temporary, path)
    _atomic.flush_folder(path.parent)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a local file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

"""Downloads that go on where they were cut, and appear under their name when they are complete and as expected."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqvec import __version__, _atomic
from tqvec.errors import FormatError

Report: TypeAlias = Callable[[str, int, "int | None"], None]
"""``report(what, done, total)``: bytes so far, and of the whole file if the server tells."""

_BLOCK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_PAUSE = 0.2  # seconds between two looks at a file that another process downloads
_SIGNATURES = {".hdf5": b"\x89HDF\r\n\x1a\n", ".parquet": b"PAR1"}
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_UNSATISFIABLE = 416


class _CutError(Exception):
    """The connection broke, or there was none."""


def download(url: str, path: Path, check: Callable[[Path], str], report: Report) -> str | None:
    """Download a file.

    It grows as ``NAME.part`` beside `path`, and stays there if the connection breaks: the next call goes on, unless the
    server has another version by then. A second process waits for the first.

    Parameters
    ----------
    url : str
        Redirections are followed. Proxies are those of the environment.
    path : Path
        Its folder is made.
    check : callable
        Returns the SHA-256 of the complete file, whose path it gets, before the file has its name. If it raises
        `FormatError`, the file is deleted.
    report : callable

    Returns
    -------
    str or None
        What `check` returned; None if another process has downloaded the file.

    Raises
    ------
    FormatError
        What the server sent is no file of this kind, or `check` raises it.
    OSError
        No connection, an error of the server, or a folder that can't be written to. The message says what to do.
    """
    part = _atomic.name_beside(path, ".part")
    with _open_part(part, path, report) as file:
        if file is None:
            return None
        transfer = _Transfer(url, path, file, report)
        transfer.run()
        try:
            _check_signature(url, file, path.suffix)
            digest = check(part)
        except FormatError:
            transfer.forget()
            part.unlink()
            raise
        transfer.forget()
        _atomic.publish(file, path)
    return digest


@contextmanager
def _open_part(part: Path, path: Path, report: Report) -> Iterator[BinaryIO | None]:
    """Open the unfinished file, when no other process has it; None if that one has finished it."""
    with naming(part.parent):
        part.parent.mkdir(parents=True, exist_ok=True)
        while (file := _atomic.open_exclusive(part)) is None:
            report(f"waiting for another process: {path.name}", 0, None)
            time.sleep(_PAUSE)
    with file:
        if path.is_file():
            part.unlink()
            yield None
        else:
            yield file


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Say in an `OSError` of writing to a folder how to choose another."""
    try:
        yield
    except OSError as error:
        text = f"{error.strerror}; set TQVEC_DATASETS to a folder that can be written to"
        raise OSError(error.errno, text, str(folder)) from error


class _Transfer:
    """The way of a file from its server."""

    def __init__(self, url: str, path: Path, file: BinaryIO, report: Report):
        self._url, self._path, self._file, self._report = url, path, file, report
        self._version = Path(f"{file.name}.version")  # the server's name of the version that the part is of
        self._reason = ""

    def run(self) -> None:
        """Fill the file; go on as long as each connection brings more of it."""
        most = -1
        while self._has_cut():
            if self._size() <= most:
                raise self._failure(self._reason)
            most = self._size()

    def _has_cut(self) -> bool:
        """Receive what is missing, and return whether some still is, for the reason that is kept."""
        try:
            self._receive()
        except HTTPError as error:
            error.close()
            if error.code != _UNSATISFIABLE or not self._size():
                raise self._failure(f"HTTP status {error.code} ({error.reason})") from None
            self._file.truncate(0)
            self._reason = "the server refuses the rest of the file"
        except _CutError as error:
            self._reason = str(error)
        else:
            return False
        return True

    def forget(self) -> None:
        """Delete the note of the version."""
        self._version.unlink(missing_ok=True)

    def _size(self) -> int:
        return self._file.seek(0, os.SEEK_END)

    def _known(self) -> str:
        """Return the version of what is there; empty if there is nothing, or the server told no version."""
        with suppress(FileNotFoundError):
            return self._version.read_text(encoding="latin-1") if self._size() else ""
        return ""

    def _failure(self, reason: str) -> OSError:
        kept = f"{self._size():,} bytes are kept, and the same call goes on behind them; or " if self._known() else ""
        return OSError(f"{self._url}: {reason}; {kept}download it elsewhere and put it at {self._path}")

    def _receive(self) -> None:
        """Append what the server sends to the file, up to the end."""
        with self._request() as response:
            total = self._start(response.status, response.headers)
            if total is None and not response.chunked:
                raise self._failure("the server tells no size, so a broken connection would not be noticed")
            done = self._size()
            while block := _read(response):
                with naming(self._path.parent):
                    self._file.write(block)
                    self._file.flush()
                done += len(block)
                self._report(f"downloading {self._path.name}", done, total)
        if total is not None and done != total:
            raise _CutError(f"the connection ended after {done:,} of {total:,} bytes")

    def _request(self) -> Any:
        """Ask for the rest of the file if it is still of the same version, and otherwise for all of it."""
        headers = {"User-Agent": f"tqvec/{__version__}"}
        if version := self._known():
            headers |= {"Range": f"bytes={self._size()}-", "If-Range": version}
        try:
            return urlopen(Request(self._url, headers=headers), timeout=_TIMEOUT)
        except HTTPError:
            raise
        except URLError as error:
            raise _CutError(f"no connection ({error.reason})") from error
        except (OSError, HTTPException) as error:
            raise _CutError(f"no connection ({error})") from error

    def _start(self, status: int, headers: Message) -> int | None:
        """Cut the file to where the answer begins, and return the size of the whole, if the server tells."""
        if status == 206:
            match = _RANGE.fullmatch(headers.get("Content-Range", ""))
            if match is None or int(match[1]) != self._size():
                raise _CutError("the server sent another part of the file than it was asked for")
            return None if match[2] == "*" else int(match[2])
        self._file.truncate(0)
        etag = headers.get("ETag", "")
        version = etag if etag.startswith('"') else headers.get("Last-Modified", "")  # W/… doesn't stand for all bytes
        with naming(self._path.parent):
            self._version.write_text(version, encoding="latin-1")
        length = headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None


def _read(response: Any) -> bytes:
    try:
        block: bytes = response.read(_BLOCK)
    except (OSError, HTTPException) as error:
        raise _CutError(f"the connection broke ({error})") from error
    return block


def _check_signature(url: str, file: BinaryIO, suffix: str) -> None:
    """Raise FormatError for a page of a proxy or a server that stands in for the file."""
    file.seek(0)
    signature = _SIGNATURES.get(suffix, b"")
    if (start := file.read(len(signature))) != signature:
        raise FormatError(f"{url}: the server sent no {suffix} file: it begins with {start!r}; try again later")

"""Files of data sets: downloaded once, and compared with their SHA-256 at each use."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from tqvec import _atomic
from tqvec.errors import FormatError
from tqvec.eval.datasets.catalog import Entry, File
from tqvec.eval.datasets.downloading import Report, download, naming

_BLOCK = 1 << 20
_NOTE = re.compile(r"([0-9a-f]{64})\b.*\s*")


class Fetched(NamedTuple):
    """A file that is there, and is as expected.

    Attributes
    ----------
    path : Path
    nbytes : int
    sha256 : str
        In hex.
    published : bool
        Whether the catalogue has the SHA-256. If not, it is that of the first use, noted in ``NAME.sha256``.
    """

    path: Path
    nbytes: int
    sha256: str
    published: bool


def fetch(entry: Entry, report: Report | None = None) -> list[Fetched]:
    """Return the files of a data set; download those that are missing, and compare all with their SHA-256.

    Parameters
    ----------
    entry : Entry
    report : callable, optional
        ``report(what, done, total)`` is called with a text and bytes of a file; `total` may be None.

    Raises
    ------
    FileNotFoundError
        A file that is not published is missing; the message says how to build it.
    FormatError
        A file has another SHA-256 than the catalogue, or than at its first use.
    OSError
        A file can't be downloaded; the message says what to do.
    """
    return [_fetch_file(entry, file, report or _ignore) for file in entry.files]


def _ignore(what: str, done: int, total: int | None) -> None:
    """Report nothing."""


def _fetch_file(entry: Entry, file: File, report: Report) -> Fetched:
    path, digest = entry.folder / file.name, None

    def check(part: Path) -> str:
        digest = _sha256(part, report)
        if file.sha256 not in (None, digest):
            raise FormatError(
                f"{file.url}: SHA-256 is {digest}, not {file.sha256}: the published file has changed, or was "
                f"damaged on its way; nothing is kept"
            )
        _note_of(path).unlink(missing_ok=True)  # of a file that was deleted since
        return digest

    if not path.is_file():
        if file.url is None:
            raise FileNotFoundError(
                f"{path} is missing: it is not published, but built by {entry.build} of tqvec's source, as its README "
                f"says; put it there"
            )
        digest = download(file.url, path, check, report)
    digest = digest or _sha256(path, report)
    expected = file.sha256 or _read_note(path)
    if expected is None:
        _write_note(path, digest)
    elif digest != expected:
        origin = "of the catalogue" if file.sha256 else f"noted in {_note_of(path).name}"
        raise FormatError(f"{path}: SHA-256 is {digest}, not {expected} {origin}: the file has changed; delete it")
    return Fetched(path, path.stat().st_size, digest, file.sha256 is not None)


def _sha256(path: Path, report: Report) -> str:
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            report(f"checking {path.name}", done, total)
    return digest.hexdigest()


def _note_of(path: Path) -> Path:
    return _atomic.name_beside(path, ".sha256")


def _read_note(path: Path) -> str | None:
    """Return the SHA-256 of the first use; None if none is noted."""
    note = _note_of(path)
    if not note.is_file():
        return None
    match = _NOTE.fullmatch(note.read_text(encoding="utf-8", errors="replace"))
    if match is None:
        raise FormatError(f"{note}: holds no SHA-256; delete it to note that of {path.name} anew")
    return match[1]


def _write_note(path: Path, digest: str) -> None:
    """Note a SHA-256 as ``sha256sum --check`` reads it."""
    with naming(path.parent):
        file = _atomic.create(_note_of(path))
        try:
            file.write(f"{digest}  {path.name}\n".encode())
            _atomic.publish(file, _note_of(path))
        finally:
            _atomic.discard(file)

"""Builds of an index file that outlive their process: the next one goes on where the last one stopped.

Beside the file to be, say ``x.tqv``, lie ``x.tqv.part`` and ``x.tqv.journal``. The part has the rows written so far,
each where it will stay. The journal says how many of them have reached the disk, their checksums, and their source.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from tqvec import _atomic
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError, TqvecError
from tqvec.index.file.header import parse_fields
from tqvec.index.file.io import Writer, codec_of, read_calibration


class Journal:
    """A record of how far a `Writer` has come.

    As a context manager it deletes part and journal at the end, and after a `TqvecError`, which would come again. Any
    other exception, as for a full disk or Ctrl-C, leaves them.

    Parameters
    ----------
    path : Path
        The file to be.
    request : dict
        Source and settings of the rows, as JSON gives them back. Only the work of an equal request is resumed.

    Raises
    ------
    InputError
        Another process is at work on this file.
    """

    def __init__(self, path: Path, request: dict[str, Any]):
        self._path, self._request = path, request
        self._notes = path.with_name(path.name + ".journal")
        file = _atomic.open_exclusive(path.with_name(path.name + ".part"))
        if file is None:
            raise InputError(f"{path}: another process is at work on it")
        self._file = file
        for target in (path, self._notes):
            _atomic.remove_stale(target)

    def resume(self) -> Writer | None:
        """Return a writer that goes on where the last one of this request was noted; None if there is no sound note."""
        try:
            notes = json.loads(self._notes.read_bytes())
            if notes["request"] != self._request:
                return None
            header = parse_fields(self._notes, notes["header"])
            codec = codec_of(self._notes, header, read_calibration(self._file, header))
            first = None if "ids" in header.crc32 else header.first_id
            writer = Writer(self._path, codec, header.metric, header.ntotal, first, header.next_id, file=self._file)
            writer.resume(notes["rows"], header)
        except (OSError, ValueError, KeyError, TypeError):  # a FormatError is a ValueError
            return None
        return writer

    def start(
        self, codec: TurboQuant, metric: str, n: int, first_id: int | None = 0, next_id: int | None = None
    ) -> Writer:
        """Return a writer of `n` rows, noted at once: a calibration takes long to fit; ids are those of `Writer`."""
        self._notes.unlink(missing_ok=True)
        self._file.truncate(0)
        writer = Writer(self._path, codec, metric, n, first_id, next_id, file=self._file)
        self.note(writer)
        return writer

    def note(self, writer: Writer) -> None:
        """Keep the rows of a writer for the next process, even after a loss of power."""
        writer.flush()
        notes = {"request": self._request, "rows": writer.rows, "header": writer.header.fields()}
        file = _atomic.create(self._notes)
        try:
            file.write(json.dumps(notes).encode())
            _atomic.publish(file, self._notes)
        finally:
            _atomic.discard(file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, TqvecError) and self._notes.exists():
            self._file.close()
            return
        self._notes.unlink(missing_ok=True)
        if not self._file.closed:  # it has not become the file
            _atomic.discard(self._file)

"""Builds of an index file that outlive their process: the next one goes on where the last one stopped.

Beside the file to be, say ``x.tqv``, lie ``x.tqv.part`` and ``x.tqv.journal``. The part has the rows written so far,
each where it will stay. The journal says how many of them have reached the disk, their checksums, and their source.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from tqvec import _atomic
from tqvec._output import Kind, Output
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError, TqvecError
from tqvec.index.file.header import KIND, Header, parse_fields
from tqvec.index.file.io import Writer, codec_of, read_calibration

# The head of a part is written last.
_PART = Kind("the part of an unfinished build", re.compile(rb"\A\0{64}|" + KIND.pattern.pattern, re.DOTALL))
_NOTES = Kind("the journal of an unfinished build", re.compile(rb'\A\{"request": '))


class Journal:
    """A record of how far a `Writer` has come.

    As a context manager it deletes part and journal at the end, and after a `TqvecError`, which would come again. Any
    other exception, as for a full disk or Ctrl-C, leaves them.

    Parameters
    ----------
    output : Output or Path
        The file to be. A device or FIFO gets no part and no journal: nothing of its work is resumed.
    request : dict
        Source and settings of the rows, as JSON gives them back. Only the work of an equal request is resumed.

    Raises
    ------
    InputError
        Another process is at work on this file, or a foreign file has the name of the part or the journal.
    """

    def __init__(self, output: Output | Path, request: dict[str, Any]):
        self._output = output if isinstance(output, Output) else Output(output, KIND)
        self._request = request
        self._file: BinaryIO | None = None
        if self._output.is_stream:
            return
        self._part = self._output.beside(".part", _PART)
        begun = self._part.target.exists() and self._part.target.stat().st_size > 0
        self._notes = self._output.beside(".journal", _NOTES, known=begun)
        self._file = self._open()
        for each in (self._output, self._notes):
            _atomic.remove_stale(each.target)

    def _open(self) -> BinaryIO:
        """Open the part; other processes stay away while it is open."""
        file = _atomic.open_exclusive(self._part.target, _atomic.first_mode(self._output.target))
        if file is None:
            raise InputError(f"{self._output.path}: another process is at work on it")
        return file

    def resume(self) -> Writer | None:
        """Return a writer that goes on where the last one of this request was noted; None if there is no sound note."""
        if self._file is None:
            return None
        path = self._notes.target
        try:
            header, rows = self._noted()
            codec = codec_of(path, header, read_calibration(self._file, header))
            first = None if "ids" in header.crc32 else header.first_id
            writer = Writer(self._output, codec, header.metric, header.ntotal, first, header.next_id, file=self._file)
            writer.resume(rows, header)
        except (OSError, ValueError, KeyError, TypeError):  # a FormatError is a ValueError
            return None
        return writer

    def _noted(self) -> tuple[Header, int]:
        """Header and rows of the last note; OSError, ValueError, KeyError or TypeError where this request has none."""
        notes = json.loads(self._notes.target.read_bytes())
        if notes["request"] != self._request:
            raise ValueError("the note is of another request")
        return parse_fields(self._notes.target, notes["header"]), notes["rows"]

    def start(
        self, codec: TurboQuant, metric: str, n: int, first_id: int | None = 0, next_id: int | None = None
    ) -> Writer:
        """Return a writer of `n` rows, noted at once: a calibration takes long to fit; ids are those of `Writer`."""
        if self._file is not None:
            self._notes.target.unlink(missing_ok=True)
            self._file.truncate(0)
        writer = Writer(self._output, codec, metric, n, first_id, next_id, file=self._file)
        self.note(writer)
        return writer

    def note(self, writer: Writer) -> None:
        """Keep the rows of a writer for the next process, even after a loss of power."""
        if self._file is None:
            return
        writer.flush()
        notes = {"request": self._request, "rows": writer.rows, "header": writer.header.fields()}
        with self._notes.open() as file:
            file.write(json.dumps(notes).encode())

    def complete(self, writer: Writer) -> None:
        """Give the file its name, and keep the journal for work on it that follows: see `completed`."""
        self.note(writer)
        writer.close()
        if self._file is not None:
            self._file = self._open()

    def completed(self) -> Header | None:
        """Return the header of the file if `complete` was called for this request and the file is as it was then."""
        if self._file is None:
            return None
        try:
            header, _ = self._noted()
            head = header.head()
            with self._output.target.open("rb") as file:
                return header if file.read(len(head)) == head else None
        except (OSError, ValueError, KeyError, TypeError):  # a FormatError is a ValueError
            return None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        if error is not None and not isinstance(error, TqvecError) and self._notes.target.exists():
            if self._file.closed or os.fstat(self._file.fileno()).st_size:
                self._file.close()
            else:
                _atomic.discard(self._file)
            return
        self._notes.target.unlink(missing_ok=True)
        if not self._file.closed:  # it has not become the file
            _atomic.discard(self._file)

"""The verbs' output: results on standard output, progress and notes on standard error.

Nothing here reads markup in texts. Characters that the encoding of a stream lacks are spelled in ASCII.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Annotated, Any

import typer
from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tqvec._present import to_plain

SCHEMA = 1  # of the JSON documents; it changes when a name in them is taken away or changes its meaning
BROKEN_PIPE = 141  # the exit status that shells show for a program whose reader has gone
FALLBACK = "tqvec-ascii"
"""Name of the error handler of streams: ASCII for what their encoding lacks."""

_UNLIMITED = 100_000  # columns: lines of files and pipes are neither wrapped nor cut
_ASCII = {
    "±": "+-",
    "×": "x",
    "·": "*",
    "→": "->",
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "√": "sqrt",
    "‖": "||",
    "⟨": "<",
    "⟩": ">",
    "✓": "+",
    "✗": "x",
    "²": "^2",
    "•": "*",
    "━": "-",
    "╸": "-",
    "╺": "-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else")]


class _Console(Console):
    """A console that takes texts as they are. Its width is that of the terminal; files and pipes have no width."""

    def __init__(self, stderr: bool = False):
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def on_broken_pipe(self) -> None:
        """End the program quietly where standard output has no reader; rich would do so with status 1."""
        _discard(self.file)
        if not self.stderr:
            raise SystemExit(BROKEN_PIPE)

    @property  # type: ignore[misc]
    def size(self) -> ConsoleDimensions:
        """The columns and lines of the stream."""
        return super().size if self.file.isatty() else ConsoleDimensions(_UNLIMITED, 25)


console = _Console()
notes = _Console(stderr=True)


def show(text: str | Text) -> None:
    """Print text."""
    plain = Text(printable(text)) if isinstance(text, str) else text
    _render(plain, soft_wrap=True)


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", right: str = "", headings: bool = True
) -> None:
    """Print a table.

    Parameters
    ----------
    columns : sequence of str
        The headings.
    rows : sequence of sequences of str
    title : str
        A line above it.
    right : str
        Headings, separated by commas, of columns that are aligned to the right.
    headings : bool
        Whether the headings are shown.
    """
    numbers = {name.strip() for name in right.split(",") if name}
    table = Table(show_header=headings)
    for name in columns:
        table.add_column(printable(name), justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    if title:
        show(title)
    _render(table)


def show_json(command: str, document: Mapping[str, Any]) -> None:
    """Print a JSON document, in ASCII; NaN and infinity are null."""
    content = {"schema": SCHEMA, "command": command} | {name: to_plain(value) for name, value in document.items()}
    if sys.stdout is None:
        raise OSError("standard output is closed")
    with _guarded_output():
        console.file.write(json.dumps(content, allow_nan=False) + "\n")


def note(text: str, to: Console = notes) -> None:
    """Print a note while there is work to do, by default to standard error; where it can't be written, it is lost."""
    with suppress(OSError):
        if to.is_terminal:  # above a bar that is being drawn
            to.print(Text(printable(text, to.file)), soft_wrap=True)
        else:
            print(printable(text, to.file), file=to.file, flush=True)


def show_error(text: str) -> None:
    """Print the line of an error to standard error; where it can't be written, it is lost."""
    with suppress(OSError):
        notes.print(Text.assemble(("error:", "red"), " ", printable(text, notes.file)), soft_wrap=True)


def printable(text: str, stream: IO[str] | None = None) -> str:
    """Return a text as a stream, by default standard output, can show it: control characters are escaped."""
    encoding = getattr(stream or console.file, "encoding", None) or "utf-8"
    visible = (c.encode("unicode_escape").decode() if _is_control(c) else c for c in text)
    return "".join(visible).encode(encoding, FALLBACK).decode(encoding)


def progress(*counts: ProgressColumn) -> Progress:
    """Return a bar with counts, by default of steps, and the time left; it goes to standard error, if a terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *(counts or [MofNCompleteColumn()]),
        TimeRemainingColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    )


def settle_streams() -> None:
    """Make sure that the interpreter has nothing left to write when it ends: it would complain, and lose the status."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                _discard(stream)


def _is_control(c: str) -> bool:
    return c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs")


def _to_ascii(error: UnicodeError) -> tuple[str, int]:
    """Spell characters in ASCII: the error handler `FALLBACK`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end


codecs.register_error(FALLBACK, _to_ascii)


def _render(content: Any, soft_wrap: bool = False) -> None:
    with _guarded_output():
        console.print(content, soft_wrap=soft_wrap)


@contextmanager
def _guarded_output() -> Iterator[None]:
    """Name standard output in an error of writing to it; a reader that has gone ends the program quietly."""
    stream = console.file  # takes everything and keeps nothing, if standard output is closed
    try:
        yield
        stream.flush()
    except BrokenPipeError:
        _discard(stream)
        raise SystemExit(BROKEN_PIPE) from None
    except OSError as error:
        _discard(stream)
        raise OSError(f"standard output: {error.strerror or error}") from error


def _discard(stream: IO[str]) -> None:
    """Send what a stream still holds, and whatever follows, to nowhere."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

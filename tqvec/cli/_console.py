"""What the verbs print through."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tqvec.errors import UnsupportedError

console = Console()


def progress() -> Progress:
    """A bar with a count and the time left; it goes to standard error and leaves results on standard output alone."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def pyplot() -> Any:
    """matplotlib.pyplot, for files.

    Raises
    ------
    UnsupportedError
        It is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UnsupportedError("plots need matplotlib: pip install 'tqvec[plot]'") from error
    matplotlib.use("agg")
    import matplotlib.pyplot

    return matplotlib.pyplot

"""``tqvec verify``: does a port do what its profile says, and if not, why?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tqvec import oracle
from tqvec.cli._console import console


def verify(
    port: Annotated[str, typer.Argument(metavar="PORT", help="A Python file, or a command (see the Oracle page)")],
    profile: Annotated[
        list[str] | None, typer.Option(help="Profile; may be repeated; default: those of the port")
    ] = None,
    d: Annotated[list[int] | None, typer.Option("-d", help="Dimension; may be repeated")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the statistics, which need many vectors")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the report as JUnit XML")] = None,
) -> None:
    """Verify a port stage by stage; exit status 1 if any stage is wrong."""
    report = oracle.verify(port, profiles=profile or (), dims=d or (), quick=quick)
    text = Text(str(report))
    text.highlight_regex(r"✓|\bpassed\b", "green")
    text.highlight_regex(r"✗|\bfailed\b", "red")
    console.print(text, soft_wrap=True)
    for path, write in ((json, report.to_json), (junit, report.to_junit)):
        if path is not None:
            path.write_text(write(), encoding="utf-8")
    if not report.passed:
        raise typer.Exit(1)

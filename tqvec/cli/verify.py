"""``tqvec verify``: does a port do what its profile says, and if not, why?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqvec.cli._console import console
from tqvec.oracle import ports, report, runner


def verify(
    port: Annotated[str, typer.Argument(metavar="PORT", help="A Python file, or a command (docs/oracle.md)")],
    profile: Annotated[list[str] | None, typer.Option(help="Default: what the port names; may be repeated")] = None,
    d: Annotated[list[int] | None, typer.Option("-d", help="Dimension; may be repeated")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the report as JUnit XML")] = None,
) -> None:
    """Judge a port stage by stage; exit status 1 if any stage is wrong."""
    found = runner.verify(ports.load(port), profile or (), d or ())
    console.print(report.table(found))
    for line in report.details(found):
        console.print(line, highlight=False, markup=False)
    for path, text in ((json, report.to_json), (junit, report.to_junit)):
        if path is not None:
            path.write_text(text(found), encoding="utf-8")
    if not found.passed:
        raise typer.Exit(1)

"""``tqvec verify``: does a port do what its profile says, and if not, why?"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tqvec import oracle
from tqvec.cli._console import Json, printable, show, show_json
from tqvec.errors import InputError


def verify(
    port: Annotated[str, typer.Argument(metavar="PORT", help="A Python file, or a command (see the Oracle page)")],
    report_file: Annotated[
        Path | None, typer.Argument(metavar="[REPORT.json]", help="With --json: write the report to this file instead")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="Profile; may be repeated; default: those of the port")
    ] = None,
    d: Annotated[list[int] | None, typer.Option("-d", help="Dimension; may be repeated")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the statistics, which need many vectors")] = False,
    json: Json = False,
    junit: Annotated[Path | None, typer.Option(help="Write the report as JUnit XML")] = None,
) -> None:
    """Verify a port stage by stage; exit status 1 if any stage is wrong."""
    if report_file is not None and (not json or report_file.suffix != ".json"):
        raise InputError(f"{report_file}: only a report may follow the port, a .json file with --json")
    with contextlib.redirect_stdout(sys.stderr):  # a port may print, which is no part of the report
        report = oracle.verify(port, profiles=profile or (), dims=d or (), quick=quick)
    for path, write in ((report_file, report.to_json), (junit, report.to_junit)):
        if path is not None:
            path.write_text(write(), encoding="utf-8")
    if json and report_file is None:
        show_json("verify", report.to_dict())
    else:
        _show(report)
    if not report.passed:
        raise typer.Exit(1)


def _show(report: oracle.Report) -> None:
    text = Text(printable(str(report)))
    text.highlight_regex(r"✓|\bpassed\b", "green")
    text.highlight_regex(r"✗|\bfailed\b", "red")
    show(text)

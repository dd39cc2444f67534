"""``tqvec verify``: does a port do what its profile says, and if not, why?"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tqvec import oracle
from tqvec._output import Kind
from tqvec.cli._console import Json, printable, show, show_json
from tqvec.cli._output import plan_output, with_force
from tqvec.errors import InputError

_JSON = Kind("a report of `tqvec verify`", re.compile(rb'\A\s*\{\s*"port":'))
_JUNIT = Kind("a report of `tqvec verify`", re.compile(rb'<testsuite name="tqvec verify'))


@with_force
def verify(
    port: Annotated[str, typer.Argument(metavar="PORT", help="A Python file, or a command (see the Oracle page)")],
    report_file: Annotated[
        Path | None, typer.Argument(metavar="[REPORT]", help="With --json: write the report to this file instead")
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
    if report_file is not None and not json:
        raise InputError(f"{report_file}: only a report may follow the port, with --json")
    others, outputs = [Path(port)], []
    for path, kind in ((report_file, _JSON), (junit, _JUNIT)):
        if path is not None:
            outputs.append((plan_output(path, kind, others), kind))
            others.append(path)
    with contextlib.redirect_stdout(sys.stderr):  # a port may print, which is no part of the report
        report = oracle.verify(port, profiles=profile or (), dims=d or (), quick=quick)
    for output, kind in outputs:
        with output.open() as file:
            file.write((report.to_json() if kind is _JSON else report.to_junit()).encode())
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

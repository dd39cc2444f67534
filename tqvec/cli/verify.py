"""``tqvec verify``: does a port do what its profile says, and if not, why?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tqvec.cli._console import console
from tqvec.oracle import ports, report, runner

_SIGNS = {"passed": "[green]✓[/green]", "failed": "[red]✗[/red]", "absent": "·"}


def verify(
    port: Annotated[str, typer.Argument(metavar="PORT", help="A Python file, or a command (docs/oracle.md)")],
    profile: Annotated[list[str] | None, typer.Option(help="Default: what the port names; may be repeated")] = None,
    d: Annotated[list[int] | None, typer.Option("-d", help="Dimension; may be repeated")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the statistics, which need many vectors")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the report as JUnit XML")] = None,
) -> None:
    """Judge a port stage by stage; exit status 1 if any stage is wrong."""
    found = runner.verify(ports.load(port), profile or (), d or (), not quick)
    console.print(_table(found))
    for line in report.details(found):
        console.print(line, highlight=False, markup=False)
    for path, text in ((json, report.to_json), (junit, report.to_junit)):
        if path is not None:
            path.write_text(text(found), encoding="utf-8")
    if not found.passed:
        raise typer.Exit(1)


def _table(found: runner.Report) -> Table:
    """A line for each profile and dimension: a sign for each stage, and the first broken one with its reason."""
    table = Table(title=f"{found.port}, {found.dtype}", caption="✓ passed  ✗ failed  · not there; in order of the data")
    for heading in ("profile", "d", "stages", "verdict"):
        table.add_column(heading, justify="right" if heading == "d" else "left", no_wrap=heading != "verdict")
    for result in found.results:
        stages = "".join(_SIGNS[verdict.status] for verdict in result.verdicts)
        verdict = "[green]passed[/green], " if result.passed else "[red]failed[/red] at "
        table.add_row(result.profile, str(result.d), stages, verdict + report.summary(result))
    return table

"""The ``tqvec`` command: one file per verb."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.markup import escape

from tqvec.cli import build, check, demo, diagnose, info, kv, merge, oracle, search, verify, warmup
from tqvec.errors import TqvecError

app = typer.Typer(
    help="Compress vectors to 1–8 bits per coordinate, and search them in compressed form.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo.demo)
app.command()(build.build)
app.command()(search.search)
app.command()(diagnose.diagnose)
app.command()(info.info)
app.command()(check.check)
app.command()(merge.merge)
app.command()(warmup.warmup)
app.add_typer(kv.app, name="kv")
app.command()(verify.verify)
app.add_typer(oracle.app, name="oracle")


def main() -> None:
    """Run the command; an error that a user can mend is one line and exit status 1."""
    try:
        app()
    except (TqvecError, OSError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False, markup=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""The ``tqvec`` command: one file per verb."""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from typing import Annotated, Any

import typer

from tqvec import __version__
from tqvec.cli import (
    bench,
    build,
    check,
    collection,
    datasets,
    demo,
    diagnose,
    info,
    kv,
    merge,
    oracle,
    search,
    shards,
    verify,
    warmup,
)
from tqvec.cli._console import FALLBACK, note, settle_streams, show, show_error
from tqvec.cli._options import expand
from tqvec.errors import TqvecError
from tqvec.kernels.compiling import watch_compilations

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit statuses: an error or a bad result; a command line that is not understood; Ctrl-C."""
_PATIENCE = 2.0  # seconds of compiling that need no word
_CLICK_ERROR: Any = typer.BadParameter.__mro__[2]  # the base of its errors, which typer does not export

_GROUPS = {
    "collection": collection.app,
    "datasets": datasets.app,
    "kv": kv.app,
    "oracle": oracle.app,
    "shards": shards.app,
}


class _Verbs(typer.core.TyperGroup):
    """The verbs; the options of groups are built when one is used, since that takes time and memory."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _GROUPS and cmd_name not in self.commands:
            group = typer.main.get_command(_GROUPS[cmd_name])
            group.name = cmd_name
            self.add_command(group)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *(name for name in _GROUPS if name not in self.commands)]


app = typer.Typer(
    cls=_Verbs,
    help="Compress vectors to 1–8 bits per coordinate, and search them in compressed form.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(expand(build.build))
app.command()(expand(search.search))
app.command()(expand(diagnose.diagnose))
app.command()(info.info)
app.command()(check.check)
app.command()(merge.merge)
app.command()(expand(bench.bench))
app.command()(warmup.warmup)
app.command()(verify.verify)


def _show_version(wanted: bool) -> None:
    if wanted:
        show(f"tqvec {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Compress vectors to 1–8 bits per coordinate, and search them in compressed form."""


def main() -> None:
    """Run the command, and exit: 0, or `FAILED`, `USAGE` or `INTERRUPTED`. Errors are a line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # closed, or of a program that runs this one
            stream.reconfigure(errors=FALLBACK)  # type: ignore[union-attr]
    status = FAILED
    try:
        with warnings.catch_warnings(), watch_compilations(_say_compiling, _PATIENCE):
            warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
            status = _run()
    finally:
        settle_streams()
    sys.exit(status)


def _run() -> int:
    """Run the command, and return its exit status."""
    try:
        status = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except _CLICK_ERROR as error:
        return _show_usage(error)
    except (TqvecError, OSError, MemoryError) as error:
        show_error(str(error) or "not enough memory")
        return FAILED
    if status == INTERRUPTED:
        note("interrupted")
    return status if isinstance(status, int) else 0


def _show_usage(error: Any) -> int:
    """Say what is wrong with the command line, and where help is."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    path = "tqvec" if context is None else context.command_path
    if type(error).__name__ != "NoArgsIsHelpError":
        show_error(f"{message.rstrip('.')}; see {path} --help")
    elif message:  # rich has printed the help
        show(message)
    return USAGE


def _say_compiling() -> None:
    note("compiling kernels: once per machine, for up to a minute; `tqvec warmup` compiles all of them ahead")


if __name__ == "__main__":
    main()

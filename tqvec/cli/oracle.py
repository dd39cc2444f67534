"""``tqvec oracle``: the profiles that ports are compared with, and their golden vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tqvec.cli._console import console
from tqvec.cli._output import REMEDY, check_name, force, with_force
from tqvec.oracle import describe, golden
from tqvec.oracle.families.registry import instantiate
from tqvec.oracle.profiles import PROFILES, find

app = typer.Typer(help="Show the profiles of ports, and export golden vectors.", no_args_is_help=True)


@app.command()
def profiles() -> None:
    """List all profiles."""
    table = Table()
    for heading in ("profile", "bits", "rotation", "codebook", "scale", "layout", "dimensions"):
        table.add_column(heading, justify="right" if heading == "bits" else "left")
    for p in PROFILES.values():
        scale = f"{p.scale}, {p.scale_dtype}"
        table.add_row(p.name, str(p.nbits), p.rotation, p.codebook, scale, p.layout, describe.describe_dimensions(p))
    console.print(table)


@app.command()
def show(
    profile: Annotated[str, typer.Argument(metavar="PROFILE")],
    d: Annotated[int, typer.Option("-d", help="Dimension, for the tables")] = 128,
) -> None:
    """Describe a profile completely: every choice, and its tables in hexadecimal floats."""
    for each in find(profile):
        console.print(describe.to_text(instantiate(each, d)), highlight=False, markup=False, soft_wrap=True)


@app.command()
@with_force
def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to")],
    profile: Annotated[list[str] | None, typer.Option(help="Name or family; may be repeated; default: all")] = None,
    d: Annotated[list[int] | None, typer.Option("-d", help="Dimension; may be repeated; default: 64, 100, 128")] = None,
    raw: Annotated[bool, typer.Option(help="Also write each tensor as a .bin file, with a JSON file of all")] = False,
) -> None:
    """Write golden vectors: tables, inputs and outputs of every stage, with a manifest of SHA-256."""
    check_name(output)
    chosen = [each for name in (profile or sorted({p.split("@")[0] for p in PROFILES})) for each in find(name)]
    manifest = golden.export(chosen, d or (64, 100, 128), output, raw, overwrite=force(), remedy=REMEDY)
    console.print(f"{output}: {len(manifest)} files and {golden.MANIFEST}", highlight=False)

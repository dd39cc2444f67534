"""``tqvec oracle``: the profiles that ports are compared with, and their golden vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqvec.cli._console import Json, show_json, show_table
from tqvec.cli._console import show as show_text
from tqvec.cli._output import REMEDY, check_name, force, with_force
from tqvec.oracle import describe, golden
from tqvec.oracle.families.registry import instantiate
from tqvec.oracle.profiles import PROFILES, find

app = typer.Typer(help="Show the profiles of ports, and export golden vectors.", no_args_is_help=True)


@app.command()
def profiles(json: Json = False) -> None:
    """List all profiles."""
    if json:
        show_json("oracle profiles", {"profiles": list(PROFILES.values())})
        return
    rows = []
    for p in PROFILES.values():
        scale = f"{p.scale}, {p.scale_dtype}"
        rows.append([p.name, str(p.nbits), p.rotation, p.codebook, scale, p.layout, describe.describe_dimensions(p)])
    headings = ["profile", "bits", "rotation", "codebook", "scale", "layout", "dimensions"]
    show_table(headings, rows, right="bits")


@app.command()
def show(
    profile: Annotated[str, typer.Argument(metavar="PROFILE")],
    d: Annotated[int, typer.Option("-d", help="Dimension, for the tables")] = 128,
    json: Json = False,
) -> None:
    """Describe a profile completely: every choice, and its tables in hexadecimal floats."""
    instances = [instantiate(each, d) for each in find(profile)]
    if not json:
        for each in instances:
            show_text(describe.to_text(each))
        return
    described = [
        {
            "profile": each.profile.name,
            "version": each.profile.version,
            "fields": [field._asdict() for field in describe.iter_fields(each.profile)],
            "tables": {
                name: {"shape": table.shape, "dtype": str(table.dtype), "values": describe.to_hexadecimal(table)}
                for name, table in each.tables.items()
            },
        }
        for each in instances
    ]
    show_json("oracle show", {"d": d, "profiles": described})


@app.command()
@with_force
def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to")],
    profile: Annotated[list[str] | None, typer.Option(help="Name or family; may be repeated; default: all")] = None,
    d: Annotated[list[int] | None, typer.Option("-d", help="Dimension; may be repeated; default: 64, 100, 128")] = None,
    raw: Annotated[bool, typer.Option(help="Also write each tensor as a .bin file, with a JSON file of all")] = False,
    json: Json = False,
) -> None:
    """Write golden vectors: tables, inputs and outputs of every stage, with a manifest of SHA-256."""
    check_name(output)
    chosen = [each for name in (profile or sorted({p.split("@")[0] for p in PROFILES})) for each in find(name)]
    manifest = golden.export(chosen, d or (64, 100, 128), output, raw, overwrite=force(), remedy=REMEDY)
    if json:
        show_json("oracle export", {"output": output, "manifest": golden.MANIFEST, "files": sorted(manifest)})
    else:
        show_text(f"{output}: {len(manifest)} files and {golden.MANIFEST}")

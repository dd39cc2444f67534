"""``tqvec shards``: indexes cut into files in a folder, which may be that of an object store."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from tqvec.cli._console import Json, progress, show, show_json
from tqvec.cli._output import plan_output, with_force
from tqvec.cli.merge import join
from tqvec.errors import FormatError, InputError
from tqvec.index.file.header import KIND
from tqvec.shards.checking import verify as verify_files
from tqvec.shards.collecting import collect as collect_files
from tqvec.shards.folder import Folder
from tqvec.shards.info import describe
from tqvec.shards.manifest import read_manifest

app = typer.Typer(
    help="Look after sharded indexes: folders of index files, on a disk or in an object store.", no_args_is_help=True
)
Place = Annotated[str, typer.Argument(metavar="FOLDER", help="A path, or a URI such as s3://bucket/folder")]
_AGE = re.compile(r"([0-9]+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@app.command()
def info(folder: Place, json: Json = False) -> None:
    """Print settings, counts, bytes and versions."""
    facts = describe(Folder(folder))
    if json:
        show_json("shards info", {"folder": folder, **facts.to_dict()})
    else:
        show(str(facts))


@app.command()
def verify(folder: Place, json: Json = False) -> None:
    """Read all files, and compare them with the newest manifest; exit status 1 if something is wrong."""
    place = Folder(folder)
    manifest = read_manifest(place)
    with progress() as bar:
        task = bar.add_task("files", total=len(manifest.files))
        result = verify_files(place, manifest, lambda done: bar.update(task, completed=done))
    if json:
        show_json("shards verify", {"folder": folder, **result.to_dict()})
    if not result.sound:
        raise FormatError("; ".join(result.faults))
    if not json:
        show(f"{folder}: sound, manifest {result.number}: {result.files:,} files, {result.nbytes:,} bytes")


@app.command()
def collect(
    folder: Place,
    older_than: Annotated[
        str, typer.Option(help="Age of what is deleted: 12h, 7d, 2w; longer than any append and any reader takes")
    ] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing, but print the names")] = False,
    json: Json = False,
) -> None:
    """Delete old versions, and files that no version has."""
    names = collect_files(Folder(folder), _parse_age(older_than), dry_run=dry_run)
    if json:
        show_json("shards collect", {"folder": folder, "dry_run": dry_run, "deleted": names})
    else:
        verb = "would be deleted" if dry_run else "deleted"
        show("\n".join([*names, f"{folder}: {len(names):,} files {verb}"]))


@app.command()
@with_force
def merge(
    folder: Place,
    output: Annotated[Path, typer.Option("--output", "-o", help="Index file to write")],
    json: Json = False,
) -> None:
    """Join the shards to the single index; all of them are copied to this machine's disk first."""
    target = plan_output(output, KIND, [])
    place = Folder(folder)
    manifest = read_manifest(place)
    with tempfile.TemporaryDirectory(prefix="tqvec-") as workspace, progress() as bar:
        task = bar.add_task("shards", total=len(manifest.shards))
        paths: list[Path] = []
        for stored in (manifest.codec, *(shard.vectors for shard in manifest.shards)):
            paths.append(Path(workspace, f"{len(paths)}.tqv"))
            place.fetch(stored, paths[-1])
            bar.update(task, completed=len(paths) - 1)
        header = join(paths[1:] or paths, target)
    facts: dict[str, Any] = {"folder": folder, "output": output, "ntotal": header.ntotal, "d": header.d}
    if json:
        show_json("shards merge", facts | {"file_bytes": header.file_bytes})
    else:
        show(f"{output}: {header.ntotal:,} vectors of d={header.d}, {header.file_bytes:,} bytes")


def _parse_age(text: str) -> float:
    match = _AGE.fullmatch(text)
    if match is None:
        raise InputError(f"--older-than must be a whole number and one of s, m, h, d, w, such as 7d, got {text}")
    return int(match[1]) * _SECONDS[match[2]]

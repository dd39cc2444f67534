"""``tqvec datasets``: data sets for measurements, downloaded once."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.progress import DownloadColumn, TransferSpeedColumn

from tqvec.cli._console import Json, note, progress, show, show_json, show_table
from tqvec.eval.datasets.catalog import Entry, find, iter_entries
from tqvec.eval.datasets.fetching import Fetched, fetch

app = typer.Typer(help="List and download data sets for measurements.", no_args_is_help=True)


@app.command("list")
def list_all(json: Json = False) -> None:
    """List all data sets, and which of them are here."""
    entries = list(iter_entries())
    if json:
        show_json("datasets list", {"datasets": [_describe(entry) for entry in entries]})
        return
    headings = ["name", "n", "d", "metric", "bytes", "licence", "source", "here"]
    rows = [
        [
            entry.name,
            f"{entry.n:,}",
            str(entry.d),
            entry.metric,
            _format_bytes(entry.nbytes),
            entry.licence or "not stated",
            entry.page,
            _presence(entry),
        ]
        for entry in entries
    ]
    show_table(headings, rows, right="n, d, bytes")


@app.command()
def get(name: Annotated[str, typer.Argument(metavar="NAME")], json: Json = False) -> None:
    """Download a data set, unless it is here; check it, and print the path of its file, or of the folder of several."""
    entry = find(name)
    if entry.missing:
        note(f"{name}: to {entry.folder}; licence: {entry.licence or 'not stated'}, see {entry.page}")
    with progress(DownloadColumn(), TransferSpeedColumn()) as bar:
        task = bar.add_task(name, total=None)
        files = fetch(entry, lambda what, done, total: bar.update(task, description=what, completed=done, total=total))
    if not all(file.published for file in files):
        note(f"{name}: SHA-256 not published: noted at the first download, and verified at each use")
    if json:
        show_json("datasets get", _describe(entry) | {"files": [_describe_file(file) for file in files]})
    else:
        show(str(files[0].path if len(files) == 1 else entry.folder))


def _presence(entry: Entry) -> str:
    missing = len(entry.missing)
    return "yes" if not missing else "no" if missing == len(entry.files) else "in part"


def _describe(entry: Entry) -> dict[str, Any]:
    names = ("name", "n", "d", "metric", "nbytes", "licence", "page", "folder")
    return {name: getattr(entry, name) for name in names} | {"here": not entry.missing}


def _describe_file(file: Fetched) -> dict[str, Any]:
    return {"path": file.path, "nbytes": file.nbytes, "sha256": file.sha256, "published": file.published}


def _format_bytes(nbytes: int | None) -> str:
    if nbytes is None:
        return "not stated"
    return f"{nbytes / 1e9:.3g} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.3g} MB"

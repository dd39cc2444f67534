"""``tqvec collection``: folders of records with ids, vectors, documents and metadata."""

from __future__ import annotations

import json as json_module
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tqvec.cli._console import Json, progress, show_json
from tqvec.cli._console import show as show_text
from tqvec.cli._output import force, with_force
from tqvec.cli.search import read_queries
from tqvec.errors import FormatError, InputError
from tqvec.store import Collection, Hits

app = typer.Typer(
    help="Make, fill, search and maintain collections: records with ids, vectors, documents and metadata.",
    no_args_is_help=True,
)
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Of the collection")]
Where = Annotated[
    str | None, typer.Option(help='Condition on the metadata as JSON: \'{"year": {"$gte": 2020}, "kind": "note"}\'')
]
Vectors = Annotated[bool, typer.Option("--vectors", help="Print the vectors too, as JSON")]


@app.command()
def create(
    folder: Folder,
    d: Annotated[int, typer.Option("-d", help="Dimension of the vectors")],
    metric: Annotated[str | None, typer.Option(help="cosine (the default), ip or l2")] = None,
    nbits: Annotated[float | None, typer.Option(help="Bits per coordinate; default: 4")] = None,
    codebook: Annotated[str | None, typer.Option(help="scalar (the default) or trellis")] = None,
    keep: Annotated[str | None, typer.Option(help="Also keep the vectors: float16, int8 or float32")] = None,
    index: Annotated[list[str] | None, typer.Option(help="Field of the metadata to index; may be repeated")] = None,
    json: Json = False,
) -> None:
    """Make an empty collection."""
    if os.path.lexists(folder):
        raise InputError(f"{folder}: exists; a collection needs a new name")
    width: Any = int(nbits) if nbits is not None and nbits.is_integer() else nbits
    options: dict[str, Any] = {"metric": metric, "nbits": width, "codebook": codebook, "keep": keep}
    with Collection(folder, d, indexed=index or (), **options) as collection:
        if json:
            show_json("collection create", {"folder": folder, "settings": collection.settings})
        else:
            show_text(f"created: {folder}")


@app.command()
def add(
    folder: Folder,
    records: Annotated[
        Path,
        typer.Argument(help=".parquet or .jsonl with id, vector, document, metadata; other fields are metadata"),
    ],
    json: Json = False,
) -> None:
    """Add the records of a file, in place of those with the same ids; a second call goes on where a killed one was."""
    with _open(folder) as collection, progress() as bar:
        task = bar.add_task("records", total=None)
        n = collection.import_file(records, progress=lambda done: bar.update(task, completed=done))
        facts = {"folder": folder, "file": records, "added": n, "records": len(collection)}
    _report("collection add", facts, f"{n:,} records of {records}; {folder} has {facts['records']:,}", json)


@app.command()
def search(
    folder: Folder,
    queries: Annotated[Path | None, typer.Option(help="Vectors: .npy and what `tqvec search` reads")] = None,
    text: Annotated[str | None, typer.Option(help="Words to search documents for, alone or beside one vector")] = None,
    k: Annotated[int, typer.Option("-k", help="Records per query")] = 10,
    where: Where = None,
    rerank: Annotated[bool, typer.Option("--rerank", help="Order by exact scores with the kept vectors")] = False,
    recall: Annotated[float | None, typer.Option(help="Of a partitioned collection; default: 0.95")] = None,
    json: Json = False,
) -> None:
    """Search for vectors, for words, or for both."""
    rows = None if queries is None else read_queries(queries)
    with _open(folder) as collection:
        result = collection.search(rows, k, text=text, where=_parse(where), rerank=rerank, recall=recall)
    if json:
        show_json("collection search", {"folder": folder, "k": k, "results": [_records(hits) for hits in result]})
    else:
        show_text(str(result))


@app.command()
def get(
    folder: Folder,
    ids: Annotated[list[str] | None, typer.Argument(help="Default: all records, or those of --where")] = None,
    where: Where = None,
    limit: Annotated[int | None, typer.Option(help="Records at most; default: 20 without --json, all with it")] = None,
    vectors: Vectors = False,
    json: Json = False,
) -> None:
    """Print records by id, or those of a condition."""
    columns = ("documents", "metadatas", *(("vectors",) if vectors else ()))
    most = 20 if limit is None and not json and not ids else limit
    with _open(folder) as collection:
        hits = collection.get(ids or None, where=_parse(where), limit=most, include=columns)
    if json:
        show_json("collection get", {"folder": folder, "records": _records(hits)})
    elif vectors:
        show_text("\n".join(json_module.dumps(record) for record in _records(hits)))
    else:
        show_text(str(hits))


@app.command()
def delete(
    folder: Folder,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of the records")] = None,
    where: Where = None,
    json: Json = False,
) -> None:
    """Delete records by id, or those of a condition; --where '{}' deletes all."""
    with _open(folder) as collection:
        n = collection.delete(ids or None, where=_parse(where))
        facts = {"folder": folder, "deleted": n, "records": len(collection)}
    _report("collection delete", facts, f"deleted: {n:,} records; {facts['records']:,} are left", json)


@app.command()
def info(folder: Folder, json: Json = False) -> None:
    """Print counts, bytes and settings."""
    with _open(folder) as collection:
        facts = collection.info()
    if json:
        show_json("collection info", {"folder": folder, **facts.to_dict()})
    else:
        show_text(str(facts))


@app.command()
def compact(folder: Folder, json: Json = False) -> None:
    """Merge all segments to one, without deleted records, and give the space back."""
    with _open(folder) as collection, progress() as bar:
        bar.add_task("merging segments", total=None)
        before = collection.info()
        collection.compact()
        after = collection.info()
    sizes = [facts.catalog_bytes + facts.code_bytes + facts.original_bytes for facts in (before, after)]
    facts = {"folder": folder, "bytes_before": sizes[0], "bytes": sizes[1], "segments": after.segments}
    _report("collection compact", facts, f"{sizes[0]:,} bytes before, {sizes[1]:,} now", json)


@app.command()
def check(folder: Folder, json: Json = False) -> None:
    """Compare all checksums, and records with vectors; exit status 1 if something is wrong."""
    with _open(folder) as collection, progress() as bar:
        bar.add_task("reading everything", total=None)
        problems = collection.check()
    if json:
        show_json("collection check", {"folder": folder, "sound": not problems, "problems": problems})
    if problems:
        raise FormatError("; ".join(problems))
    if not json:
        show_text(f"{folder}: sound")


@app.command()
def snapshot(folder: Folder, target: Annotated[Path, typer.Argument(help="A new folder")], json: Json = False) -> None:
    """Copy the collection as it is now; segments are hard links where the disk has them."""
    with _open(folder) as collection:
        collection.snapshot(target)
        facts = {"folder": folder, "target": target, "records": len(collection)}
    _report("collection snapshot", facts, f"{target}: {facts['records']:,} records", json)


@app.command()
@with_force
def export(
    folder: Folder,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .parquet or .jsonl")],
    where: Where = None,
    json: Json = False,
) -> None:
    """Write records to a file that `add` reads."""
    with _open(folder) as collection, progress() as bar:
        task = bar.add_task("records", total=len(collection) if where is None else None)
        n = collection.export(
            output,
            where=_parse(where),
            overwrite=force(),
            progress=lambda done: bar.update(task, completed=done),
        )
    _report("collection export", {"folder": folder, "output": output, "records": n}, f"{output}: {n:,} records", json)


@app.command()
def shard(
    folder: Folder,
    destination: Annotated[str, typer.Argument(help="A new folder, or a URI such as s3://bucket/folder")],
    shard_rows: Annotated[int, typer.Option(help="Vectors per shard")] = 1_000_000,
    where: Where = None,
    json: Json = False,
) -> None:
    """Write the collection as a sharded index, as it is now, with the codes that it has."""
    condition = _parse(where)
    with _open(folder) as collection, progress() as bar:
        task = bar.add_task("records", total=len(collection) if where is None else None)
        n = collection.shard(
            destination,
            shard_rows=shard_rows,
            where=condition,
            progress=lambda done: bar.update(task, completed=done),
        )
    facts = {"folder": folder, "destination": destination, "records": n}
    _report("collection shard", facts, f"{destination}: {n:,} records", json)


def _open(folder: Path) -> Collection:
    if not Collection.exists(folder):
        raise InputError(f"{folder}: there is no collection; make one with `tqvec collection create`")
    return Collection(folder)


def _parse(where: str | None) -> Any:
    if where is None:
        return None
    try:
        return json_module.loads(where)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--where is no JSON: {error}") from None


def _records(hits: Hits) -> list[dict[str, Any]]:
    records = hits.to_records()
    for record in records:
        for name in ("score", "vector"):
            if name in record:
                record[name] = record[name].tolist()
    return records


def _report(command: str, facts: dict[str, Any], text: str, json: bool) -> None:
    if json:
        show_json(command, facts)
    else:
        show_text(text)

"""``tqvec shards``: indexes cut into files in a folder, which may be that of an object store."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

import tqvec
from tqvec._present import import_optional
from tqvec.cli._console import Json, progress, show, show_json
from tqvec.cli._options import expand
from tqvec.cli._output import plan_output, with_force
from tqvec.cli.build import parse_lists, parse_width
from tqvec.cli.merge import join
from tqvec.cli.search import read_queries, show_results
from tqvec.errors import FormatError, InputError
from tqvec.index.file.header import KIND
from tqvec.shards.checking import verify as verify_files
from tqvec.shards.collecting import collect as collect_files
from tqvec.shards.folder import Folder
from tqvec.shards.info import describe
from tqvec.shards.manifest import Manifest, read_manifest

app = typer.Typer(
    help="Build, search and look after sharded indexes: folders of index files, on a disk or in an object store.",
    no_args_is_help=True,
)
Place = Annotated[str, typer.Argument(metavar="FOLDER", help="A path, or a URI such as s3://bucket/folder")]
Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE...", help=".parquet or .npy files, folders of them, URIs")
]
Address = Annotated[str | None, typer.Option(help="Of the Ray cluster; default: RAY_ADDRESS, or one of this machine")]
_AGE = re.compile(r"([0-9]+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class Learned(NamedTuple):
    """Options of `build` for the codec and the lists."""

    nbits: Annotated[
        float, typer.Option(parser=parse_width, metavar="BITS", help="Bits per coordinate: 1 to 8, 2.5, 3.5")
    ] = 4
    metric: Annotated[str, typer.Option(help="ip, cosine or l2")] = "ip"
    codebook: Annotated[str, typer.Option(help="scalar or trellis")] = "scalar"
    seed: Annotated[int, typer.Option(help="Seed of the rotation")] = 0
    train: Annotated[bool, typer.Option("--train", help="Fit the codec to a sample first, if that helps")] = False
    nlist: Annotated[
        int | None,
        typer.Option(parser=parse_lists, metavar="LISTS", help="Partition the index: a number of lists, or auto"),
    ] = None


class Cut(NamedTuple):
    """Options of `build` and `append` for the shards."""

    vectors: Annotated[str, typer.Option(help="Column of the vectors in Parquet files")] = "vector"
    shard_rows: Annotated[int, typer.Option(help="Vectors in a shard")] = 1_000_000
    threads: Annotated[int, typer.Option(help="CPUs of a task, which makes one shard")] = 1
    address: Address = None


_LEARNED, _CUT = Learned(), Cut()


def build(
    sources: Sources,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write, or its URI")],
    d: Annotated[int, typer.Option("-d", help="Dimension of the vectors")],
    column: Annotated[list[str] | None, typer.Option(help="Column to keep as records; may be repeated")] = None,
    json: Json = False,
    learned: Learned = _LEARNED,
    cut: Cut = _CUT,
) -> None:
    """Compress vectors to a sharded index, on all machines of a Ray cluster; a second call goes on with a first one."""
    _connect(cut.address)
    with _counting("compressing") as progress:
        manifest = tqvec.ray.build(
            sources, output, d, columns=column or (), **_options(cut), **learned._asdict(), progress=progress
        )
    _report("build", output, manifest, json)


def append(
    sources: Sources,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of the sharded index, or its URI")],
    json: Json = False,
    cut: Cut = _CUT,
) -> None:
    """Add vectors to a sharded index, as new shards; readers see all of them or none."""
    _connect(cut.address)
    with _counting("compressing") as progress:
        manifest = tqvec.ray.append(sources, output, **_options(cut), progress=progress)
    _report("append", output, manifest, json)


app.command()(expand(build))
app.command()(expand(append))


@app.command()
def search(
    folder: Place,
    queries: Annotated[Path, typer.Argument(help="Vectors, as `tqvec search` reads them")],
    k: Annotated[int, typer.Option("-k", help="Results per query")] = 10,
    recall: Annotated[float | None, typer.Option(help="Of a partitioned index; default: 0.95")] = None,
    replicas: Annotated[int, typer.Option(help="Actors that hold each shard")] = 1,
    address: Address = None,
    json: Json = False,
) -> None:
    """Search a sharded index on a Ray cluster; print the first results, with --json all."""
    rows = read_queries(queries)
    _connect(address)
    with tqvec.ray.ShardedIndex(folder, replicas=replicas) as index:
        start = time.perf_counter()
        scores, ids = index.search(rows, k=k, recall=recall)
        seconds = time.perf_counter() - start
        facts = {"metric": index.manifest.metric, "ntotal": index.ntotal, "k": k, "seconds": seconds}
    if json:
        show_json("shards search", {"folder": folder, **facts, "scores": scores, "ids": ids})
        return
    show_results({"scores": scores, "ids": ids}, index.manifest.metric)
    show(f"{len(ids):,} queries on {facts['ntotal']:,} vectors in {seconds:.3f} s")


def _connect(address: str | None) -> None:
    """Connect to a Ray cluster, or start one on this machine; the rest of what it prints is for its developers."""
    ray = import_optional("ray", "this verb", "ray")
    ray.init(address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)


def _options(cut: Cut) -> dict[str, Any]:
    return {"vectors": cut.vectors, "shard_rows": cut.shard_rows, "threads": cut.threads}


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar, and yield what moves it."""
    with progress() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _report(verb: str, folder: str, manifest: Manifest, json: bool) -> None:
    shards, n, size = len(manifest.shards), manifest.ntotal, manifest.nbytes
    if json:
        facts = {"folder": folder, "number": manifest.number, "ntotal": n, "shards": shards, "nbytes": size}
        show_json(f"shards {verb}", facts)
        return
    show(f"{folder}: manifest {manifest.number}: {n:,} vectors in {shards:,} shards, {size:,} bytes")


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

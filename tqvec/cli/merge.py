"""``tqvec merge``: join index files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqvec._output import Output
from tqvec.cli._console import Json, show, show_json
from tqvec.cli._output import plan_output, with_force
from tqvec.errors import InputError
from tqvec.index.file import io
from tqvec.index.file.header import KIND, Header
from tqvec.index.file.merge import merge as merge_files
from tqvec.index.index import Index
from tqvec.index.saved import write


@with_force
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="INDEX...", help="Index files of one codec and metric")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Index file to write, none of the others")],
    json: Json = False,
) -> None:
    """Join index files into one, as if their vectors had been compressed together; automatic ids are numbered anew."""
    target = plan_output(output, KIND, files)
    header = join(files, target)
    first = None if "ids" in header.crc32 else header.first_id
    size = header.file_bytes
    if json:
        facts = {"output": output, "files": files, "ntotal": header.ntotal, "d": header.d}
        show_json("merge", facts | {"first_id": first, "file_bytes": size})
        return
    ids = "each its own" if first is None else f"from {first}"
    show(f"{output}: {header.ntotal:,} vectors of d={header.d}, ids {ids}, {size:,} bytes")


def join(files: list[Path], target: Output) -> Header:
    """Write the vectors of all files to one, and return its header."""
    partitioned = any(io.load(path, mmap=True).lists for path in files)
    return _merge_lists(files, target) if partitioned else merge_files(files, target)


def _merge_lists(files: list[Path], target: Output) -> Header:
    """Merge files of which some are partitioned, in memory: vectors of all go to the lists of the first, if it has."""
    index = Index.load(files[0], verify=True)
    try:
        for path in files[1:]:
            index.merge_from(Index.load(path, verify=True))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return write(index, target)

"""``tqvec merge``: join index files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqvec.cli._console import Json, show, show_json
from tqvec.cli._output import plan_output, with_force
from tqvec.index.file.header import KIND
from tqvec.index.file.merge import merge as merge_files


@with_force
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="INDEX...", help="Index files of one codec and metric")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Index file to write, none of the others")],
    json: Json = False,
) -> None:
    """Join index files into one, as if their vectors had been compressed together; automatic ids are numbered anew."""
    header = merge_files(files, plan_output(output, KIND, files))
    first = None if "ids" in header.crc32 else header.first_id
    size = header.file_bytes
    if json:
        facts = {"output": output, "files": files, "ntotal": header.ntotal, "d": header.d}
        show_json("merge", facts | {"first_id": first, "file_bytes": size})
        return
    ids = "each its own" if first is None else f"from {first}"
    show(f"{output}: {header.ntotal:,} vectors of d={header.d}, ids {ids}, {size:,} bytes")

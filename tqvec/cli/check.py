"""``tqvec check``: verify an index file to the last byte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tqvec.cli._console import console
from tqvec.index.file import io


def check(index_file: Annotated[Path, typer.Argument(metavar="INDEX")]) -> None:
    """Verify every byte of an index file; exit status 1, and the first fault, if it is damaged."""
    header, _, calibration = io.load(index_file, mmap=True, verify=True)
    io.codec_of(index_file, header, calibration)
    table = Table()
    for heading in ("tensor", "type", "shape", "bytes", "checksums"):
        table.add_column(heading, justify="left" if heading in ("tensor", "type") else "right")
    for name, tensor in header.tensors().items():
        shape = " × ".join(f"{count:,}" for count in tensor.shape)
        table.add_row(name, tensor.kind, shape, f"{tensor.stop - tensor.start:,}", f"{len(header.crc32[name]):,}")
    console.print(table)
    console.print(f"{index_file}: sound, format version {header.version}", highlight=False)

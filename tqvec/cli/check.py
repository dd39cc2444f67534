"""``tqvec check``: verify an index file to the last byte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tqvec.cli._console import Json, show, show_json, show_table
from tqvec.errors import FormatError
from tqvec.index.file import io


def check(index_file: Annotated[Path, typer.Argument(metavar="INDEX")], json: Json = False) -> None:
    """Verify every byte of an index file; exit status 1, and the first fault, if it is damaged."""
    try:
        header, _, calibration, _ = io.load(index_file, mmap=True, verify=True)
        io.codec_of(index_file, header, calibration)
    except FormatError as error:
        if json:
            show_json("check", {"file": index_file, "sound": False, "fault": str(error)})
        raise
    tensors: list[dict[str, Any]] = [
        {
            "tensor": name,
            "type": tensor.kind,
            "shape": tensor.shape,
            "bytes": tensor.stop - tensor.start,
            "checksums": len(header.crc32[name]),
        }
        for name, tensor in header.tensors().items()
    ]
    if json:
        facts = {"file": index_file, "sound": True, "fault": None, "version": header.version, "ntotal": header.ntotal}
        show_json("check", facts | {"tensors": tensors})
        return
    rows = [
        [
            tensor["tensor"],
            tensor["type"],
            " × ".join(f"{count:,}" for count in tensor["shape"]),
            f"{tensor['bytes']:,}",
            f"{tensor['checksums']:,}",
        ]
        for tensor in tensors
    ]
    show_table(["tensor", "type", "shape", "bytes", "checksums"], rows, right="shape, bytes, checksums")
    show(f"{index_file}: sound, format version {header.version}")

"""``tqvec info``: an index file, or this installation."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tqvec import __version__, simd_info
from tqvec._config import num_threads
from tqvec.cli._console import console
from tqvec.codec.quantizer import TurboQuant
from tqvec.index.flat import Index

_PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "safetensors", "faiss-cpu", "matplotlib")


def info(
    index_file: Annotated[Path | None, typer.Argument(metavar="[INDEX]")] = None,
) -> None:
    """Describe an index file (and verify it), or versions, SIMD level and threads of this installation."""
    rows = _installation() if index_file is None else _index(index_file)
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def _index(path: Path) -> dict[str, str]:
    index = Index.load(path)
    codec = index.codec
    return {
        "file": f"{path}, {path.stat().st_size:,} bytes, checksums match",
        "vectors": f"{index.ntotal:,} of d={index.d}",
        "metric": index.metric,
        "codec": f"{_width(codec)}, mode {codec.mode}, codebook {codec.codebook}, rotation {codec.rotation}",
        "seed": str(codec.seed),
        "bytes a vector": f"{index.code_size} (float32: {4 * index.d}, {4 * index.d / index.code_size:.1f} times more)",
        "expected distortion": f"{codec.distortion:.5f} of the squared length",
        "fingerprint": codec.fingerprint,
    }


def _width(codec: TurboQuant) -> str:
    """Bits a coordinate, band by band unless all have the same."""
    if isinstance(codec.nbits, int):
        return f"{codec.nbits} bits"
    return " + ".join(f"{band.stop - band.start} × {band.nbits}" for band in codec.bands) + " bits"


def _installation() -> dict[str, str]:
    simd = simd_info()
    return {
        "tqvec": __version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "cpu (Numba's target)": simd["cpu"],
        "SIMD level": f"{simd['level']} ({simd['reason']}; available: {', '.join(simd['available'])})",
        "threads": str(num_threads()),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

"""``tqvec info``: describe an index file, this installation, or the family of codecs."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tqvec import __version__, simd_info
from tqvec._config import num_threads
from tqvec.cli._console import console
from tqvec.codec.bands import mean
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError
from tqvec.index.file import io
from tqvec.index.metrics import Metric
from tqvec.kernels._jit import Folder, folders

_PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "safetensors", "faiss-cpu", "matplotlib")
# The rows of ``--codecs``: a name, and the arguments of `TurboQuant` beside d.
_CODECS: list[tuple[str, dict[str, Any]]] = [
    *(("scalar", {"nbits": nbits}) for nbits in (1, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8)),
    *(("trellis", {"nbits": nbits, "codebook": "trellis"}) for nbits in (1, 2, 2.5, 3, 3.5, 4, 5)),
    *(
        (f"prod, {qjl}", {"nbits": nbits, "mode": "prod", "qjl": qjl})
        for qjl in ("gaussian", "hadamard")
        for nbits in (1, 2, 3, 4)
    ),
]


def info(
    index_file: Annotated[Path | None, typer.Argument(metavar="[INDEX]")] = None,
    codecs: Annotated[bool, typer.Option("--codecs", help="Show bits and errors of all codecs")] = False,
    d: Annotated[int, typer.Option("-d", help="Dimension, for --codecs")] = 128,
) -> None:
    """Describe an index file, or versions, SIMD level and threads of this installation."""
    if codecs:
        if index_file is not None:
            raise InputError("--codecs takes no index file")
        console.print(_tabulate_codecs(d))
        return
    rows = _describe_installation() if index_file is None else _describe_index(index_file)
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def _describe_index(path: Path) -> dict[str, str]:
    header, _, calibration = io.load(path, mmap=True)
    codec = io.codec_of(path, header, calibration)
    size = codec.code_size + Metric(header.metric).extra_bytes
    return {
        "file": f"{path}, {path.stat().st_size:,} bytes, version {header.version}; `tqvec check` verifies it",
        "vectors": f"{header.ntotal:,} of d={header.d}",
        "metric": header.metric,
        "codec": f"{_format_width(codec)}, mode {codec.mode}, codebook {codec.codebook}, rotation {codec.rotation}",
        "seed": str(codec.seed),
        "bytes per vector": f"{size} (float32: {4 * header.d}, {4 * header.d / size:.1f} times more)",
        "expected distortion": f"{codec.distortion:.5f} of the squared length",
        "fingerprint": codec.fingerprint,
    }


def _tabulate_codecs(d: int) -> Table:
    """Return a table of bits and errors of every codec that takes dimension `d`."""
    table = Table(
        title=f"codecs at d={d}",
        caption="stored: bits per coordinate, with scales. D: expected squared error of a decoded unit vector, with "
        "its length as the scale. D·4^bits: without scales, since a unit vector needs none; 1 is Shannon's limit.",
    )
    for heading in ("codec", "nbits", "code bits", "stored", "D", "D·4^bits", "entropy"):
        table.add_column(heading, justify="left" if heading == "codec" else "right")
    for name, options in _CODECS:
        try:
            codec = TurboQuant(d, **options)
        except InputError:
            if name == "scalar":
                raise  # it takes every dimension
            continue
        bits = mean(codec.d, codec.bands, [band.nbits for band in codec.bands])
        error = codec.distortion
        cells = (f"{bits:g}", f"{8 * codec.code_size / d:.3f}", f"{error:.4g}", f"{error * 4**bits:.3f}")
        table.add_row(name, str(codec.nbits), *cells, f"{codec.entropy:.3f}")
    return table


def _format_width(codec: TurboQuant) -> str:
    """Return the bits per coordinate, band by band unless all have the same."""
    if isinstance(codec.nbits, int) and codec.calibration is None:
        return f"{codec.nbits} bits"
    return " + ".join(f"{band.stop - band.start} × {band.nbits}" for band in codec.bands) + " bits"


def _describe_installation() -> dict[str, str]:
    simd = simd_info()
    return {
        "tqvec": __version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "cpu (Numba's target)": simd["cpu"],
        "SIMD level": f"{simd['level']} ({simd['reason']}; available: {', '.join(simd['available'])})",
        "threads": str(num_threads()),
        "compiled kernels": "\n".join(map(_describe_folder, folders()))
        or "kept nowhere: no home folder is known, or NUMBA_DISABLE_JIT is set",
    }


def _describe_folder(folder: Folder) -> str:
    """Return what a folder of compiled kernels holds, and whether more can be kept there."""
    content = f"{folder.kept:,} kept, {folder.nbytes / 1e6:,.1f} MB" if folder.kept else "none kept"
    if folder.ignored:
        content += f", {folder.ignored:,} ignored (another user's, or not readable)"
    return f"{folder.path}: {content}, {'writable' if folder.problem is None else f'not writable: {folder.problem}'}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

"""``tqvec info``: describe an index file, this installation, or the family of codecs."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from tqvec import __version__, simd_info
from tqvec._config import num_threads
from tqvec.cli._console import Json, show, show_json, show_table
from tqvec.codec.bands import mean
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError
from tqvec.index.file import io
from tqvec.index.file.header import CENTROIDS
from tqvec.index.metrics import Metric
from tqvec.kernels._jit import Folder, folders

_PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "safetensors", "faiss-cpu", "matplotlib")
_LISTS = "{nlist:,}, of {smallest:,} to {largest:,} vectors, median {median:,g}; centroids: {centroid_bytes:,} bytes"
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
    json: Json = False,
) -> None:
    """Describe an index file, or versions, SIMD level and threads of this installation."""
    if codecs:
        if index_file is not None:
            raise InputError("--codecs takes no index file")
        family = _list_codecs(d)
        if json:
            show_json("info", {"d": d, "codecs": family})
        else:
            _show_codecs(family, d)
        return
    facts = _describe_installation() if index_file is None else _describe_index(index_file)
    if json:
        show_json("info", facts)
        return
    rows = facts if index_file is None else _word_index(facts)
    show_table(["", ""], [[name, str(value)] for name, value in rows.items()], headings=False)


def _describe_index(path: Path) -> dict[str, Any]:
    header, _, calibration, lists = io.load(path, mmap=True)
    codec = io.codec_of(path, header, calibration)
    return {
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "version": header.version,
        "ntotal": header.ntotal,
        "d": header.d,
        "metric": header.metric,
        "nbits": _format_width(codec),
        "mode": codec.mode,
        "codebook": codec.codebook,
        "rotation": codec.rotation,
        "seed": codec.seed,
        "code_size": codec.code_size + Metric(header.metric).extra_bytes,
        "distortion": codec.distortion,
        "fingerprint": codec.fingerprint,
        "lists": _describe_lists(lists) if lists else None,
    }


def _describe_lists(lists: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the sizes of the lists of a partitioned file."""
    sizes = np.diff(lists["list_starts"])
    return {
        "nlist": sizes.size,
        "smallest": int(sizes.min()),
        "median": float(np.median(sizes)),
        "largest": int(sizes.max()),
        "centroid_bytes": sum(array.nbytes for name, array in lists.items() if name in CENTROIDS),
    }


def _word_index(facts: dict[str, Any]) -> dict[str, str]:
    """Return the lines that describe an index file."""
    full, lists = 4 * facts["d"], facts["lists"]
    words = {} if lists is None else {"lists": _LISTS.format(**lists)}
    return {
        "file": "{file}, {file_bytes:,} bytes, version {version}; `tqvec check` verifies it".format(**facts),
        "vectors": "{ntotal:,} of d={d}".format(**facts),
        "metric": facts["metric"],
        "codec": "{nbits}, mode {mode}, codebook {codebook}, rotation {rotation}".format(**facts),
        "seed": str(facts["seed"]),
        "bytes per vector": f"{facts['code_size']} (float32: {full}, {full / facts['code_size']:.1f} times more)",
        "expected distortion": f"{facts['distortion']:.5f} of the squared length",
        "fingerprint": facts["fingerprint"],
    } | words


def _list_codecs(d: int) -> list[dict[str, Any]]:
    """Return bits and errors of every codec that takes dimension `d`."""
    family = []
    for name, options in _CODECS:
        try:
            codec = TurboQuant(d, **options)
        except InputError:
            if name == "scalar":
                raise  # it takes every dimension
            continue
        bits = mean(codec.d, codec.bands, [band.nbits for band in codec.bands])
        figures = {"code_bits": bits, "stored_bits": 8 * codec.code_size / d, "distortion": codec.distortion}
        entropy = {"distortion_times_4_to_the_bits": codec.distortion * 4**bits, "entropy": codec.entropy}
        family.append({"codec": name, "nbits": codec.nbits} | figures | entropy)
    return family


def _show_codecs(family: list[dict[str, Any]], d: int) -> None:
    headings = ["codec", "nbits", "code bits", "stored", "D", "D·4^bits", "entropy"]
    formats = ("", "", "g", ".3f", ".4g", ".3f", ".3f")
    cells = [[format(value, how) for value, how in zip(row.values(), formats, strict=True)] for row in family]
    show_table(headings, cells, title=f"codecs at d={d}", right=", ".join(headings[1:]))
    show(
        "stored: bits per coordinate, with scales. D: expected squared error of a decoded unit vector, with its length "
        "as the scale. D·4^bits: without scales, since a unit vector needs none; 1 is Shannon's limit."
    )


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

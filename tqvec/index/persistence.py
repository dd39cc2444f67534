"""Index files: one safetensors file, a versioned header in its metadata. docs/format.md is the specification."""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tqvec.codec.bands import Band, Width, code_bytes
from tqvec.codec.calibration import Calibration
from tqvec.codec.quantizer import TurboQuant
from tqvec.codec.tangents import forgotten
from tqvec.errors import FormatError

KEY = "tqvec"  # of the metadata
VERSION = 5  # that is written; older ones are read
FIRST_WITH_TANGENTS = 5  # in the low bytes of scales, and with what a calibration knows of errors

LEARNED = ("centre", "matrix", "spreads", "near")  # arrays of a calibration

Rows = dict[str, NDArray]


class Header(NamedTuple):
    """What the metadata of a file say."""

    version: int
    d: int
    nbits: Width
    metric: str
    codebook: str
    seed: int
    ntotal: int
    fingerprint: str
    bands: tuple[Band, ...]
    crc32: dict[str, str]


def empty_rows(codec: TurboQuant, metric: str) -> Rows:
    """The arrays of an index with no vectors; their names are those of the file's tensors."""
    rows: Rows = {"codes": np.empty((0, code_bytes(codec.bands)), np.uint8), "scale": np.empty(0, np.float32)}
    if metric == "l2":
        rows["squared_norm"] = np.empty(0, np.float32)
    return rows


def _checksums(rows: Rows) -> dict[str, str]:
    """CRC-32 of each array's bytes."""
    flat = {name: np.ascontiguousarray(array).reshape(-1).view(np.uint8) for name, array in rows.items()}
    return {name: f"{zlib.crc32(array.data):08x}" for name, array in flat.items()}


def _learned(codec: TurboQuant) -> Rows:
    """The arrays of a calibration, if there is one."""
    if codec.calibration is None:
        return {}
    return {name: getattr(codec.calibration, name) for name in LEARNED}


def _metadata(codec: TurboQuant, metric: str, tensors: Rows) -> dict[str, str]:
    """All fields as JSON under one key: safetensors writes several keys in no fixed order, and equal indexes shall
    make equal files."""
    fields = {
        "version": VERSION,
        "d": codec.d,
        "nbits": codec.nbits,
        "bands": codec.bands,
        "mode": codec.mode,
        "codebook": codec.codebook,
        "rotation": codec.rotation,
        "seed": codec.seed,
        "metric": metric,
        "ntotal": tensors["scale"].shape[0],
        "fingerprint": codec.fingerprint,
        "crc32": _checksums(tensors),
    }
    return {KEY: json.dumps(fields | {"header_crc32": _header_crc(fields)}, sort_keys=True)}


def _header_crc(fields: dict[str, Any]) -> str:
    rest = {name: value for name, value in fields.items() if name != "header_crc32"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x}"


def save(path: Path, codec: TurboQuant, metric: str, rows: Rows) -> None:
    """Write a file beside `path`, flush it to the disk and rename it."""
    handle, name = tempfile.mkstemp(prefix=path.name + ".", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        tensors = rows | _learned(codec)
        save_file(tensors, temporary, metadata=_metadata(codec, metric, tensors))
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load(path: Path) -> tuple[Header, Rows, Calibration | None]:
    """Read a file and verify every byte of it.

    Raises
    ------
    FormatError
        It is damaged, truncated, foreign or newer than this version of tqvec.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            header = _parse(path, (file.metadata() or {}).get(KEY))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise FormatError(f"{path}: not a safetensors file, or damaged or truncated ({error})") from error
    expected = _expected(header)
    found = {name: (array.shape, array.dtype.type) for name, array in tensors.items()}
    if found != expected:
        raise FormatError(f"{path}: damaged: expected tensors {expected}, found {found}")
    checksums = _checksums(tensors)
    if checksums != header.crc32:
        raise FormatError(f"{path}: damaged: its tensors have checksums {checksums}, its header says {header.crc32}")
    if header.version < FIRST_WITH_TANGENTS:
        tensors["scale"] = forgotten(tensors["scale"])
    learned = {name: tensors.pop(name) for name in LEARNED if name in tensors}
    return header, tensors, Calibration(bands=header.bands, **learned) if learned else None


def _expected(header: Header) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and type of each tensor."""
    expected: dict[str, tuple[tuple[int, ...], type]] = {
        "codes": ((header.ntotal, code_bytes(header.bands)), np.uint8),
        "scale": ((header.ntotal,), np.float32),
    }
    if header.metric == "l2":
        expected["squared_norm"] = ((header.ntotal,), np.float32)
    if LEARNED[0] in header.crc32:
        d = header.d
        shapes: dict[str, tuple[int, ...]] = {"centre": (d,), "matrix": (d, d), "spreads": (len(header.bands),)}
        if header.version >= FIRST_WITH_TANGENTS:
            shapes["near"] = (2,)
        expected |= {name: (shape, np.float32) for name, shape in shapes.items()}
    return expected


def _parse(path: Path, text: str | None) -> Header:
    if text is None:
        raise FormatError(f"{path}: a safetensors file, but not a tqvec index")
    try:
        fields = json.loads(text)
        if fields["version"] > VERSION:
            raise FormatError(
                f"{path}: written in format version {fields['version']}; this tqvec reads up to {VERSION}: upgrade it"
            )
        if fields["header_crc32"] != _header_crc(fields):
            raise FormatError(f"{path}: damaged: the header's checksum does not match")
        fields["bands"] = tuple(Band(*band) for band in fields["bands"])
        fields["crc32"] = dict(fields["crc32"])
        return Header(**{name: fields[name] for name in Header._fields})
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: damaged: the header lacks or garbles {error}") from error


def check_fingerprint(path: Path, header: Header, codec: TurboQuant) -> None:
    """Refuse codes that this codec would misread."""
    if header.fingerprint != codec.fingerprint:
        raise FormatError(
            f"{path}: its codec has fingerprint {header.fingerprint}, this tqvec makes {codec.fingerprint} "
            "from the same parameters"
        )

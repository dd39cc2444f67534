"""Index files: one safetensors file, a versioned header in its metadata. docs/format.md is the specification."""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tqvec.codec.bands import code_bytes
from tqvec.codec.quantizer import TurboQuant
from tqvec.errors import FormatError

FORMAT = "tqvec.index"
VERSION = 1

Rows = dict[str, NDArray]


class Header(NamedTuple):
    """What the metadata of a file say."""

    d: int
    nbits: int
    metric: str
    codebook: str
    seed: int
    ntotal: int
    fingerprint: str


def empty_rows(codec: TurboQuant, metric: str) -> Rows:
    """The arrays of an index with no vectors; their names are those of the file's tensors."""
    rows: Rows = {"codes": np.empty((0, code_bytes(codec.bands)), np.uint8), "scale": np.empty(0, np.float32)}
    if metric == "l2":
        rows["squared_norm"] = np.empty(0, np.float32)
    return rows


def _crc(array: NDArray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _metadata(codec: TurboQuant, metric: str, rows: Rows) -> dict[str, str]:
    fields = {
        "format": FORMAT,
        "version": str(VERSION),
        "d": str(codec.d),
        "nbits": str(codec.nbits),
        "bands": json.dumps(codec.bands),
        "mode": codec.mode,
        "codebook": codec.codebook,
        "rotation": codec.rotation,
        "seed": str(codec.seed),
        "metric": metric,
        "ntotal": str(rows["scale"].shape[0]),
        "fingerprint": codec.fingerprint,
    }
    for name, array in rows.items():
        fields[f"crc32.{name}"] = f"{_crc(array):08x}"
    fields["crc32"] = _header_crc(fields)
    return fields


def _header_crc(fields: dict[str, str]) -> str:
    text = "".join(f"{name}={fields[name]}\n" for name in sorted(fields) if name != "crc32")
    return f"{zlib.crc32(text.encode()):08x}"


def save(path: Path, codec: TurboQuant, metric: str, rows: Rows) -> None:
    """Write a file beside `path`, flush it to the disk and rename it."""
    handle, name = tempfile.mkstemp(prefix=path.name + ".", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        save_file(rows, temporary, metadata=_metadata(codec, metric, rows))
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


def load(path: Path) -> tuple[Header, Rows]:
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
            fields = file.metadata() or {}
            header = _parse(path, fields)
            rows = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise FormatError(f"{path}: not a safetensors file, or damaged or truncated ({error})") from error
    expected = {"codes": ((header.ntotal, _code_bytes(fields)), np.uint8), "scale": ((header.ntotal,), np.float32)}
    if header.metric == "l2":
        expected["squared_norm"] = ((header.ntotal,), np.float32)
    found = {name: (array.shape, array.dtype.type) for name, array in rows.items()}
    if found != expected:
        raise FormatError(f"{path}: damaged: expected tensors {expected}, found {found}")
    for name, array in rows.items():
        if f"{_crc(array):08x}" != fields[f"crc32.{name}"]:
            raise FormatError(f"{path}: damaged: the checksum of {name!r} does not match")
    return header, rows


def _code_bytes(fields: dict[str, str]) -> int:
    return (sum((stop - start) * nbits for start, stop, nbits in json.loads(fields["bands"])) + 7) // 8


def _parse(path: Path, fields: dict[str, str]) -> Header:
    if fields.get("format") != FORMAT:
        raise FormatError(f"{path}: a safetensors file, but not a tqvec index")
    version = fields.get("version", "")
    if version.isdigit() and int(version) > VERSION:
        raise FormatError(f"{path}: written in format version {version}; this tqvec reads up to {VERSION}: upgrade it")
    if fields.get("crc32") != _header_crc(fields):
        raise FormatError(f"{path}: damaged: the header's checksum does not match")
    try:
        return Header(
            int(fields["d"]),
            int(fields["nbits"]),
            fields["metric"],
            fields["codebook"],
            int(fields["seed"]),
            int(fields["ntotal"]),
            fields["fingerprint"],
        )
    except (KeyError, ValueError) as error:
        raise FormatError(f"{path}: the header lacks or garbles {error}") from error


def check_fingerprint(path: Path, header: Header, codec: TurboQuant) -> None:
    """Refuse codes that this codec would misread."""
    if header.fingerprint != codec.fingerprint:
        raise FormatError(
            f"{path}: its codec has fingerprint {header.fingerprint}, this tqvec makes {codec.fingerprint} "
            "from the same parameters"
        )

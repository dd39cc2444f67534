"""The header of an index file: its fields, and the tensors that follow from them.

The "File format" page is the specification. Nothing here reads or writes a file.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqvec import _safetensors
from tqvec._output import Kind
from tqvec._safetensors import Tensor, integer, string
from tqvec._types import CodebookName
from tqvec.codec.bands import MAX_BANDS, MAX_D, MAX_NBITS, Band, Width, code_bytes, parse
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError
from tqvec.index.metrics import METRICS
from tqvec.index.partition.partition import Partition
from tqvec.index.partition.probing import TARGETS

KEY = "tqvec"  # of the metadata that hold the fields
KIND = Kind("an index of tqvec", re.compile(rb'\A.{8}\{\s*"__metadata__"\s*:\s*\{\s*"tqvec"\s*:', re.DOTALL))
VERSION = 8  # the newest that is read
FIRST_WITH_LISTS = 8  # of a partitioned index; files without them have version 6 or 7
FIRST_WITH_BYTES = 7  # in the matrix of a calibration; files without it have version 6
FIRST_WITH_ERROR_BYTES = 5  # in scales, and with the errors of near neighbours in a calibration
FIRST_CANONICAL = 6  # the first whose head follows from its fields to the last byte
CHECKSUM_ROWS = 65536  # rows that share a checksum
# Tensors of a calibration, and the fields of `Calibration` that they hold.
LEARNED = {
    "centre": "centre",
    "matrix": "matrix",
    "spreads": "band_std",
    "near": "near_error",
    "steps": "row_steps",
}
# Tensors of a partition, and the numbers of results that it was calibrated for, times the targets.
CENTROIDS = ("centroid_codes", "centroid_scales", "centroid_norms", "router_centre")
LISTS = ("list_starts", *CENTROIDS)
PROBING = ("probe_thresholds", "probe_ranked")
_OF_LISTS = {"nlist": 0, "probe_ks": [], "probe_weight": 0.0}  # fields, and what they are without lists

_END_OF_IDS = 2**63
_VALUES = {
    "mode": ["mse"],
    "codebook": ["scalar", "trellis"],
    "rotation": ["hadamard", "calibrated"],
    "metric": METRICS,
}


class Header(NamedTuple):
    """The fields of an index file; the "File format" page has the meaning of each."""

    version: int
    d: int
    nbits: Width
    bands: tuple[Band, ...]
    mode: str
    codebook: CodebookName
    rotation: str
    seed: int
    metric: str
    ntotal: int
    first_id: int
    next_id: int
    block_rows: int
    fingerprint: str
    crc32: dict[str, list[str]]
    nlist: int = 0
    probe_ks: Sequence[int] = ()
    probe_weight: float = 0.0

    @property
    def row_names(self) -> list[str]:
        """The tensors that have a row for each vector."""
        names = ["codes", "scale"]
        names += ["squared_norm"] if self.metric == "l2" else []
        return names + (["ids"] if "ids" in self.crc32 else [])

    @property
    def learned_names(self) -> list[str]:
        """The tensors of the calibration, if there is one."""
        if self.rotation != "calibrated":
            return []
        missing = set() if self.in_bytes else {"steps"}
        if self.version < FIRST_WITH_ERROR_BYTES:
            missing.add("near")
        return [name for name in LEARNED if name not in missing]

    @property
    def in_bytes(self) -> bool:
        """Whether the matrix of the calibration is one of bytes."""
        return "steps" in self.crc32 if self.version >= FIRST_WITH_LISTS else self.version >= FIRST_WITH_BYTES

    @property
    def list_names(self) -> list[str]:
        """The tensors of the partition, if there is one."""
        if not self.nlist:
            return []
        return [name for name in (*LISTS, *PROBING) if name != "centroid_norms" or self.metric == "l2"]

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, in the order of the file."""
        n, d = self.ntotal, self.d
        shapes: dict[str, tuple[str, tuple[int, ...]]] = dict.fromkeys(self.row_names, ("F32", (n,)))
        shapes["codes"] = ("U8", (n, code_bytes(self.bands)))
        if "ids" in shapes:
            shapes["ids"] = ("I64", (n,))
        learned = ((d,), (d, d), (len(self.bands),), (2,), (d,))
        shapes |= {name: ("F32", shape) for name, shape in zip(self.learned_names, learned, strict=False)}
        if self.in_bytes:
            shapes["matrix"] = ("I8", (d, d))
        shapes |= dict.fromkeys(self.list_names, ("F32", (self.nlist,)))
        if self.nlist:
            shapes["list_starts"] = ("I64", (self.nlist + 1,))
            shapes["centroid_codes"] = ("U8", (self.nlist, d))
            shapes["router_centre"] = ("F32", (d,))
            shapes["probe_thresholds"] = ("F32", (len(self.probe_ks), len(TARGETS)))
            shapes["probe_ranked"] = ("I64", (len(self.probe_ks), len(TARGETS)))
        return _safetensors.place_by_type(shapes)

    def block_count(self, name: str) -> int:
        """Return the checksums of a tensor: one for each block, of which an index without vectors has an empty one."""
        return -(-max(1, self.ntotal) // self.block_rows) if name in self.row_names else 1

    def blocks(self, name: str) -> list[slice]:
        """Return the rows of each block of a tensor."""
        if name not in self.row_names:
            return [slice(None)]
        starts = range(0, self.block_count(name) * self.block_rows, self.block_rows)
        return [slice(start, min(start + self.block_rows, self.ntotal)) for start in starts]

    @property
    def row_bytes(self) -> int:
        """The bytes of a row without its id."""
        tensors = self.tensors()
        return sum(tensors[name].row_bytes for name in self.row_names if name != "ids")

    @property
    def data_bytes(self) -> int:
        """The bytes of all tensors."""
        return _safetensors.total_bytes(self.tensors())

    @property
    def file_bytes(self) -> int:
        """The bytes of the file."""
        return len(self.head()) + self.data_bytes

    def fields(self) -> dict[str, Any]:
        """Return the fields as they are stored, for JSON, with their checksum."""
        fields = self._asdict()
        if self.version < FIRST_WITH_LISTS:
            fields = {name: value for name, value in fields.items() if name not in _OF_LISTS}
        return _safetensors.with_checksum(fields)

    def head(self) -> bytes:
        """Return the bytes that a file of this header begins with, up to its first tensor."""
        return _safetensors.make_head(self.tensors(), {KEY: _safetensors.canonical(self.fields())})


def make_header(
    codec: TurboQuant,
    metric: str,
    n: int,
    first_id: int | None,
    next_id: int | None,
    partition: Partition | None = None,
) -> Header:
    """Return the header of a file of `n` rows; all checksums are 0.

    `first_id` None: there is a tensor of ids. `next_id` None: the id after the last row's. `partition`: that of the
    rows.

    Raises
    ------
    InputError
        Ids would pass 2^63.
    """
    first = 0 if first_id is None else first_id
    after = first + n if next_id is None else next_id
    if after > _END_OF_IDS:
        raise InputError(f"ids end at 2^63 - 1, the next one would be {after}")
    in_bytes = codec.calibration is not None and codec.calibration.in_bytes
    probing = None if partition is None else partition.probing
    header = Header(
        version=FIRST_WITH_LISTS if probing is not None else FIRST_WITH_BYTES - (not in_bytes),
        d=codec.d,
        nbits=codec.nbits,
        bands=codec.bands,
        mode=codec.mode,
        codebook=codec.codebook,
        rotation=codec.rotation,
        seed=codec.seed,
        metric=metric,
        ntotal=n,
        first_id=first,
        next_id=after,
        block_rows=CHECKSUM_ROWS,
        fingerprint=codec.fingerprint,
        crc32={name: [] for name, there in (("ids", first_id is None), ("steps", in_bytes)) if there},
        nlist=0 if partition is None else partition.nlist,
        probe_ks=[] if probing is None else probing.ks.tolist(),
        probe_weight=0.0 if probing is None else probing.weight,
    )
    return header._replace(crc32={name: ["0" * 8] * header.block_count(name) for name in header.tensors()})


def parse_fields(path: Path, fields: object) -> Header:
    """Return the header of decoded JSON, every field checked.

    Raises
    ------
    FormatError
        A field is missing, has a wrong type or can't be; or the version is newer than `VERSION`.
    """
    with _safetensors.blame(path):
        checked = _safetensors.check_fields(path, fields, VERSION)
        if checked["version"] < FIRST_WITH_LISTS:
            checked = checked | _OF_LISTS
        return _header(checked if checked["version"] >= FIRST_CANONICAL else _modern(checked))


def _modern(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields of version 1 to 5 with those that were added since."""
    n = integer(fields, "ntotal", 0)
    crc32 = _safetensors.in_lists(fields["crc32"])
    return fields | {"first_id": 0, "next_id": n, "block_rows": max(1, n), "crc32": crc32}


def _header(fields: dict[str, Any]) -> Header:
    """Return the header of fields; ValueError, TypeError or KeyError for those that no writer makes."""
    d, n = integer(fields, "d", 1, MAX_D), integer(fields, "ntotal", 0)
    for name, values in _VALUES.items():
        if string(fields, name) not in values:
            raise ValueError(f"{name} is {reprlib.repr(fields[name])}, none of {', '.join(values)}")
    nbits, expected = parse(fields["nbits"], d)
    bands = _bands(fields["bands"], d)
    if fields["rotation"] == "hadamard" and bands != expected:
        raise ValueError(f"bands are {bands}, but nbits {nbits} makes {expected}")
    _check_lists(fields)
    if fields["version"] == FIRST_WITH_BYTES and fields["rotation"] != "calibrated":
        raise ValueError(f"version is {fields['version']}, but rotation {fields['rotation']}")
    first = integer(fields, "first_id", 0, _END_OF_IDS)
    integer(fields, "next_id", first + (0 if "ids" in fields["crc32"] else n), _END_OF_IDS)
    integer(fields, "seed", 0, 2**64 - 1)
    integer(fields, "block_rows", 1)
    string(fields, "fingerprint")
    header = Header(**{name: fields[name] for name in Header._fields} | {"nbits": nbits, "bands": bands})
    _safetensors.check_checksums(header.crc32, {name: header.block_count(name) for name in header.tensors()})
    return header


def _check_lists(fields: dict[str, Any]) -> None:
    """Check the fields of a partition; ValueError, TypeError or KeyError for those that no writer makes."""
    integer(fields, "nlist", int(fields["version"] >= FIRST_WITH_LISTS), 2**31 - 1)
    ks, weight = fields["probe_ks"], fields["probe_weight"]
    numbers = isinstance(ks, list) and all(type(k) is int and k >= 1 for k in ks)
    if not numbers or ks != sorted(set(ks)) or bool(ks) != bool(fields["nlist"]):
        raise ValueError(f"probe_ks is {reprlib.repr(ks)}")
    if type(weight) is not float or not 0 <= weight < 1:
        raise ValueError(f"probe_weight is {reprlib.repr(weight)}")


def _bands(value: object, d: int) -> tuple[Band, ...]:
    """Return bands, which follow each other from coordinate 0, within `d` coordinates; ValueError if they don't."""
    bands = value if isinstance(value, list) else []
    start, checked = 0, []
    for band in bands[: MAX_BANDS + 1]:
        if not isinstance(band, list) or len(band) != 3 or any(type(number) is not int for number in band):
            break
        one = Band(*band)
        if one.start != start or not start < one.stop <= d or not 1 <= one.nbits <= MAX_NBITS:
            break
        start = one.stop
        checked.append(one)
    if not 1 <= len(checked) <= MAX_BANDS or len(checked) != len(bands):
        raise ValueError(f"bands are {reprlib.repr(value)}")
    return tuple(checked)

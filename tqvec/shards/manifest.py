"""Manifest: the settings of a sharded index, and the files that it has.

A manifest never changes. What is appended is in a new one with the next number, and readers take the highest.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Iterable
from typing import Any, NamedTuple, get_args

from tqvec import _validate
from tqvec._safetensors import blame, canonical, check_fields, integer, string, with_checksum
from tqvec._types import CodebookName, MetricName
from tqvec.codec.bands import MAX_D, Width
from tqvec.codec.bands import parse as parse_width
from tqvec.errors import FormatError, InputError
from tqvec.index.index import Index
from tqvec.shards.folder import Folder, StoredFile

VERSION = 1  # of the format, the newest that is read
_FOLDER = "manifests"
_NAME = re.compile(rf"{_FOLDER}/([0-9]{{8}})-([0-9a-f]{{16}})\.json")
_FILE = re.compile(r"(\w[\w.-]*/)*\w[\w.-]*", re.ASCII)  # it can't lead out of the folder
_SHA256 = re.compile("[0-9a-f]{64}")
_LARGEST = 2**63 - 1
_LAST_NUMBER = 99_999_999  # names have eight digits


class Shard(NamedTuple):
    """A shard: an index file of consecutive rows, and what is known of these beside their vectors.

    Attributes
    ----------
    first : int
        Id of the first row. Ids of rows are their numbers in the order of the source.
    rows : int
    vectors : StoredFile
        Index file.
    records : StoredFile, optional
        Parquet with a row for each vector.
    """

    first: int
    rows: int
    vectors: StoredFile
    records: StoredFile | None = None

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """Its files."""
        return (self.vectors,) if self.records is None else (self.vectors, self.records)


class Manifest(NamedTuple):
    """The files of a sharded index at one moment.

    Attributes
    ----------
    number : int
        1 for the first; each that is appended has the next one.
    d, nbits, metric, codebook, seed
        As of `Index`.
    trained : bool
    nlist : int
        Number of lists, 0 without any.
    fingerprint : str
        Of the codec.
    codec : StoredFile
        An index file without vectors: the codec, and the lists if there are any.
    columns : tuple of str
        Of the records.
    shards : tuple of Shard
        In the order of their rows.
    sources : tuple of str
        What stands for each source that was built or appended, and for all settings.
    """

    number: int
    d: int
    nbits: Width
    metric: MetricName
    codebook: CodebookName
    seed: int
    trained: bool
    nlist: int
    fingerprint: str
    codec: StoredFile
    columns: tuple[str, ...]
    shards: tuple[Shard, ...]
    sources: tuple[str, ...] = ()

    @property
    def ntotal(self) -> int:
        """Number of vectors."""
        return sum(shard.rows for shard in self.shards)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.nbytes for file in self.files)

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All files but the manifest itself."""
        return self.codec, *(file for shard in self.shards for file in shard.files)

    @property
    def name(self) -> str:
        """Name of the manifest's own file."""
        return _name_of(self.number, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the content of the manifest's file."""
        return _to_bytes(_to_fields(self))

    def extended(self, shards: Iterable[Shard], source: str) -> Manifest:
        """Return the next manifest, with more shards of a source."""
        all_shards, sources = (*self.shards, *shards), (*self.sources, source)
        return self._replace(number=self.number + 1, shards=all_shards, sources=sources)


def first_manifest(
    index: Index, codec: StoredFile, columns: Iterable[str], shards: Iterable[Shard], *sources: str
) -> Manifest:
    """Return the manifest of a new sharded index, whose codec and lists are those of an index."""
    return Manifest(
        number=1,
        d=index.d,
        nbits=index.nbits,
        metric=index.metric,
        codebook=index.codec.codebook,
        seed=index.codec.seed,
        trained=index.codec.calibration is not None,
        nlist=index.nlist or 0,
        fingerprint=index.codec.fingerprint,
        codec=codec,
        columns=tuple(columns),
        shards=tuple(shards),
        sources=sources,
    )


def write_manifest(folder: Folder, manifest: Manifest) -> None:
    """Write a manifest: from now on readers see its shards.

    Raises
    ------
    FormatError
        One of its files is not as it was noted; no manifest is written.
    InputError
        Another process has written one of this number.
    """
    sizes = folder.sizes()
    for file in manifest.files:
        if sizes.get(file.name) != file.nbytes:
            folder.check_size(file)
    if manifest.number in manifest_names(folder) and manifest.name not in sizes:
        raise InputError(f"{folder}: another process has appended meanwhile; append to what is there now")
    content = manifest.to_bytes()
    if sizes.get(manifest.name) != len(content):
        folder.write(manifest.name, content)


def manifest_names(folder: Folder) -> dict[int, str]:
    """Return the names of all manifests of a folder by their numbers.

    Raises
    ------
    FormatError
        Two have one number.
    """
    names: dict[int, str] = {}
    for name in sorted(folder.sizes(_FOLDER)):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        number = int(match[1])
        if number in names:
            raise FormatError(
                f"{folder}: {names[number]} and {name} were written by two processes at once; delete one of them, "
                "and append its vectors again"
            )
        names[number] = name
    return names


def read_manifest(folder: Folder, number: int | None = None) -> Manifest:
    """Return a manifest; by default the newest.

    Raises
    ------
    FileNotFoundError
        There is none.
    FormatError
        It is damaged or of a newer version.
    """
    names = manifest_names(folder)
    if not names or (number is not None and number not in names):
        what = "a sharded index" if number is None else f"manifest {number}"
        raise FileNotFoundError(f"{folder}: {what} is not there")
    return open_manifest(folder, names[max(names) if number is None else number])


def open_manifest(folder: Folder, name: str) -> Manifest:
    """Return the manifest of a file.

    Raises
    ------
    FileNotFoundError
        It is not there.
    FormatError
        It is damaged or of a newer version.
    """
    content = folder.read(name)
    manifest = parse_manifest(f"{folder}/{name}", content)
    if name != _name_of(manifest.number, content):
        raise FormatError(f"{folder}/{name}: damaged: has not the name of its content")
    return manifest


def parse_manifest(where: str, content: bytes) -> Manifest:
    """Return the manifest of a file's content, every field checked."""
    with blame(where):
        fields = _fields_of(where, content)
        shards = tuple(_shard(each) for each in _list(fields, "shards", dict))
        first = 0
        for shard in shards:
            if shard.first != first:
                raise ValueError(f"a shard begins at row {shard.first}, not at {first}")
            first += shard.rows
        if first > _LARGEST:
            raise ValueError(f"the shards have {first} rows")
        d = integer(fields, "d", 1, MAX_D)
        return Manifest(
            number=integer(fields, "number", 1, _LAST_NUMBER),
            d=d,
            nbits=parse_width(fields["nbits"], d)[0],
            metric=_validate.choice(string(fields, "metric"), "metric", get_args(MetricName)),
            codebook=_validate.choice(string(fields, "codebook"), "codebook", get_args(CodebookName)),
            seed=integer(fields, "seed", 0, 2**64 - 1),
            trained=_validate.instance(fields["trained"], "trained", bool),
            nlist=integer(fields, "nlist", 0, 2**31 - 1),
            fingerprint=string(fields, "fingerprint"),
            codec=_stored(fields["codec"]),
            columns=_columns(fields, shards),
            shards=shards,
            sources=tuple(_list(fields, "sources", str)),
        )


def _shard_fields(shard: Shard) -> dict[str, Any]:
    """Return the fields of a shard, for JSON."""
    files = {"vectors": shard.vectors._asdict(), "records": shard.records and shard.records._asdict()}
    return {"first": shard.first, "rows": shard.rows, **files}


def _to_fields(manifest: Manifest) -> dict[str, Any]:
    files = {"codec": manifest.codec._asdict(), "shards": [_shard_fields(shard) for shard in manifest.shards]}
    lists = {"columns": list(manifest.columns), "sources": list(manifest.sources)}
    return {**manifest._asdict(), **lists, **files}


def shard_bytes(shard: Shard) -> bytes:
    """Return the content of a file that `parse_shard` reads."""
    return _to_bytes(_shard_fields(shard))


def parse_shard(where: str, content: bytes) -> Shard:
    """Return the shard of a file's content."""
    with blame(where):
        return _shard(_fields_of(where, content))


def file_bytes(stored: StoredFile) -> bytes:
    """Return the content of a file that `parse_file` reads."""
    return _to_bytes(stored._asdict())


def parse_file(where: str, content: bytes) -> StoredFile:
    """Return what a file's content tells of another file."""
    with blame(where):
        return _stored(_fields_of(where, content))


def _to_bytes(fields: dict[str, Any]) -> bytes:
    return canonical(with_checksum({"version": VERSION, **fields})).encode()


def _fields_of(where: str, content: bytes) -> dict[str, Any]:
    return check_fields(where, json.loads(content), VERSION)


def _shard(fields: dict[str, Any]) -> Shard:
    records = fields["records"]
    return Shard(
        first=integer(fields, "first", 0),
        rows=integer(fields, "rows", 1),
        vectors=_stored(fields["vectors"]),
        records=None if records is None else _stored(records),
    )


def _stored(fields: dict[str, Any]) -> StoredFile:
    for name, pattern in (("name", _FILE), ("sha256", _SHA256)):
        if not pattern.fullmatch(string(fields, name)):
            raise ValueError(f"{name} is {reprlib.repr(fields[name])}")
    return StoredFile(fields["name"], integer(fields, "nbytes", 0), fields["sha256"])


def _columns(fields: dict[str, Any], shards: tuple[Shard, ...]) -> tuple[str, ...]:
    columns = tuple(_list(fields, "columns", str))
    if len(set(columns)) < len(columns):
        raise ValueError(f"columns are {reprlib.repr(columns)}")
    for shard in shards:
        if (shard.records is None) != (not columns):
            raise ValueError(f"the shard at row {shard.first} has {'no ' if columns else ''}records")
    return columns


def _list(fields: dict[str, Any], name: str, kind: type) -> list[Any]:
    """Return a field that must be a list of values of a type; ValueError or KeyError if it isn't."""
    value = fields[name]
    if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
        raise ValueError(f"{name} is {reprlib.repr(value)}")
    return value


def _name_of(number: int, content: bytes) -> str:
    return f"{_FOLDER}/{number:08d}-{hashlib.sha256(content).hexdigest()[:16]}.json"

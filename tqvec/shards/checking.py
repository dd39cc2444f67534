"""Checking: whether the files of a sharded index are what its manifest says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tqvec import _validate
from tqvec._present import Presented, Sheet, import_optional
from tqvec.errors import FormatError, TqvecError
from tqvec.index.file import io
from tqvec.index.file.header import CENTROIDS
from tqvec.index.file.io import Loaded
from tqvec.shards.folder import Folder, StoredFile
from tqvec.shards.manifest import Manifest, Shard

_SETTINGS = ("d", "nbits", "metric", "codebook", "seed", "fingerprint", "nlist")


class _VerificationFields(NamedTuple):
    number: int
    files: int
    nbytes: int
    faults: tuple[str, ...]


class Verification(Presented, _VerificationFields):
    """The result of `verify`.

    Attributes
    ----------
    number : int
        Of the manifest.
    files, nbytes : int
        Files of the manifest, and their bytes.
    faults : tuple of str
        A sentence for each file that is wrong, with its name.
    """

    __slots__ = ()

    @property
    def sound(self) -> bool:
        """Whether there are no faults."""
        return not self.faults

    _derived = ("sound",)

    def _sheet(self) -> Sheet:
        rows = [("manifest", self.number), ("files", self.files), ("bytes", self.nbytes), ("faults", len(self.faults))]
        return Sheet(("", "verification"), rows, notes=self.faults)


def verify(folder: Folder, manifest: Manifest, progress: Callable[[int], None] | None = None) -> Verification:
    """Read all files of a sharded index, and compare them with its manifest.

    Of all files, sizes and digests; of index files, checksums, settings, ids and centroids; of records, the number of
    rows and the columns. A file is copied to this machine's disk while it is read.

    Parameters
    ----------
    folder : Folder
    manifest : Manifest
    progress : callable, optional
        Called with the number of files that are done.
    """
    _validate.function(progress, "progress")
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tqvec-") as workspace:
        path = Path(workspace, "file")
        for done, (stored, check) in enumerate(_Checks(path, manifest), 1):
            with _noting(faults, f"{folder}/{stored.name}", path):
                folder.fetch(stored, path)
                check()
            if progress is not None:
                progress(done)
    return Verification(manifest.number, len(manifest.files), manifest.nbytes, tuple(faults))


@contextmanager
def _noting(faults: list[str], name: str, path: Path) -> Iterator[None]:
    """Note an error, with the name of a file in place of that of its copy."""
    try:
        yield
    except (TqvecError, OSError) as error:
        text = str(error).replace(str(path), name)
        faults.append(text if name in text else f"{name}: {text}")


class _Checks:
    """The files of a manifest, each with a function that checks its copy at `path`; the codec is the first."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path, self._manifest = path, manifest
        self._centroids: list[list[str]] | None = None  # checksums, once the codec's file has been read

    def __iter__(self) -> Iterator[tuple[StoredFile, Callable[[], None]]]:
        yield self._manifest.codec, self._check_codec
        for shard in self._manifest.shards:
            yield shard.vectors, partial(self._check_vectors, shard)
            if shard.records is not None:
                yield shard.records, partial(self._check_records, shard)

    def _check_codec(self) -> None:
        header, *_ = self._load()
        if header.ntotal:
            raise FormatError(f"has {header.ntotal} vectors, the file of a codec has none")
        if (header.rotation == "calibrated") != self._manifest.trained:
            raise FormatError(f"has rotation {header.rotation}, the manifest says trained={self._manifest.trained}")
        self._centroids = _checksums(header.crc32)

    def _check_vectors(self, shard: Shard) -> None:
        header, rows, _, _ = self._load()
        if header.ntotal != shard.rows:
            raise FormatError(f"has {header.ntotal} vectors, the manifest says {shard.rows}")
        expected = np.arange(shard.first, shard.first + shard.rows)
        first = header.first_id
        ids = np.sort(rows["ids"]) if "ids" in rows else np.arange(first, first + header.ntotal)
        if not np.array_equal(ids, expected):
            raise FormatError(f"has other ids than {shard.first} to {shard.first + shard.rows - 1}")
        if self._centroids not in (None, _checksums(header.crc32)):
            raise FormatError("has other centroids than the file of the codec")

    def _check_records(self, shard: Shard) -> None:
        arrow = import_optional("pyarrow", "a sharded index", "ray")
        parquet = import_optional("pyarrow.parquet", "a sharded index", "ray")
        try:
            with parquet.ParquetFile(self._path) as file:
                rows, columns = file.metadata.num_rows, tuple(file.schema_arrow.names)
        except arrow.ArrowInvalid as error:
            raise FormatError(f"is no file of Parquet ({error})") from None
        if rows != shard.rows:
            raise FormatError(f"has {rows} records, the manifest says {shard.rows}")
        if columns != self._manifest.columns:
            raise FormatError(f"has the columns {', '.join(columns)}, not {', '.join(self._manifest.columns)}")

    def _load(self) -> Loaded:
        loaded = io.load(self._path, mmap=True, verify=True)
        io.codec_of(self._path, loaded.header, loaded.calibration)
        for name in _SETTINGS:
            own, said = getattr(loaded.header, name), getattr(self._manifest, name)
            if own != said:
                raise FormatError(f"has {name} {own}, the manifest says {said}")
        return loaded


def _checksums(crc32: dict[str, list[str]]) -> list[list[str]]:
    """Return the checksums of centroids."""
    return [crc32[name] for name in CENTROIDS if name in crc32]

"""Info: settings, counts and bytes of a sharded index."""

from __future__ import annotations

from typing import NamedTuple

from tqvec._present import Presented, Sheet
from tqvec._types import CodebookName, MetricName
from tqvec.codec.bands import Width
from tqvec.shards.folder import Folder
from tqvec.shards.manifest import manifest_names, read_manifest


class _InfoFields(NamedTuple):
    number: int
    versions: tuple[int, ...]
    vectors: int
    shards: int
    nlist: int
    vector_bytes: int
    record_bytes: int
    columns: tuple[str, ...]
    d: int
    nbits: Width
    metric: MetricName
    codebook: CodebookName
    seed: int
    trained: bool
    fingerprint: str


class ShardsInfo(Presented, _InfoFields):
    """Settings, counts and bytes of a sharded index.

    Attributes
    ----------
    number : int
        Of the newest manifest, which all else is of.
    versions : tuple of int
        Numbers of all manifests that are there.
    vectors, shards : int
    nlist : int
        Number of lists, 0 without any.
    vector_bytes, record_bytes : int
        Bytes of index files, and of the records beside them.
    columns : tuple of str
        Of the records.
    d, nbits, metric, codebook, seed, trained, fingerprint
        As of `Manifest`.
    """

    __slots__ = ()

    @property
    def bytes_per_vector(self) -> float:
        """Bytes of index files per vector."""
        return self.vector_bytes / max(1, self.vectors)

    _derived = ("bytes_per_vector",)

    def _sheet(self) -> Sheet:
        counts = ("number", "vectors", "shards", "nlist", "vector_bytes", "record_bytes", "bytes_per_vector")
        rows: list[tuple[object, ...]] = [(name.replace("_", " "), getattr(self, name)) for name in counts]
        trained = ", trained" if self.trained else ""
        notes = [f"d={self.d}, {self.metric}, nbits={self.nbits}, {self.codebook}{trained}, seed {self.seed}"]
        notes += [f"columns of the records: {', '.join(self.columns)}"] if self.columns else []
        notes += [f"manifests: {', '.join(map(str, self.versions))}"]
        return Sheet(("", "sharded index"), rows, notes=tuple(notes))


def describe(folder: Folder) -> ShardsInfo:
    """Return settings, counts and bytes of the newest manifest of a folder.

    Raises
    ------
    FileNotFoundError
        There is none.
    FormatError
        It is damaged or of a newer version.
    """
    manifest = read_manifest(folder)
    records = [shard.records for shard in manifest.shards if shard.records is not None]
    record_bytes = sum(file.nbytes for file in records)
    return ShardsInfo(
        number=manifest.number,
        versions=tuple(manifest_names(folder)),
        vectors=manifest.ntotal,
        shards=len(manifest.shards),
        nlist=manifest.nlist,
        vector_bytes=manifest.nbytes - record_bytes,
        record_bytes=record_bytes,
        columns=manifest.columns,
        d=manifest.d,
        nbits=manifest.nbits,
        metric=manifest.metric,
        codebook=manifest.codebook,
        seed=manifest.seed,
        trained=manifest.trained,
        fingerprint=manifest.fingerprint,
    )

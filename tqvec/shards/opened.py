"""Open shards: the vectors of a shard, mapped from a local file, and its records."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tqvec._locks import ForkLock
from tqvec._present import import_optional
from tqvec._types import Flags, Floats, Ids, Words
from tqvec.errors import FormatError, InputError
from tqvec.index.blocks import intersect, pack_mask
from tqvec.index.index import Index
from tqvec.index.partitioned import lists_at
from tqvec.index.probes import Probes
from tqvec.index.selectors import Moment, Selector, allowed_rows
from tqvec.index.snapshot import Snapshot
from tqvec.shards.folder import Folder, StoredFile, digest_of
from tqvec.shards.hits import Hits
from tqvec.shards.manifest import Manifest, Shard

_CHOICES = 8  # that an open shard keeps


class Choice(NamedTuple):
    """The rows that a search may return.

    Attributes
    ----------
    token : str
        Equal tokens mean equal choices, so that each is evaluated once.
    filter : Selector, optional
        By id.
    where : pyarrow.compute.Expression, optional
        By the columns of the records. Rows for which it is null are left out.
    """

    token: str
    filter: Selector | None = None
    where: Any = None


@contextmanager
def local_file(folder: Folder, stored: StoredFile, cache: Path | None) -> Iterator[Path]:
    """Yield the path of a local file with the content of a stored one, whose digest was verified.

    Without `cache` it is the file itself, if its folder is local, and otherwise a copy that is deleted at the end. What
    was mapped stays readable.

    Raises
    ------
    FormatError
        The stored file is damaged or not there.
    """
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        path = cache / stored.name.rpartition("/")[2]  # which has the digest in it
        if not _is_copy(path, stored):
            folder.fetch(stored, path)
        yield path
    elif folder.is_local:
        path = Path(folder.at(stored.name))
        folder.check_size(stored)
        if digest_of(path) != stored.sha256:
            raise FormatError(f"{path}: damaged: its bytes are not those that were written")
        yield path
    else:
        with tempfile.TemporaryDirectory(
            prefix="tqvec-", ignore_cleanup_errors=True
        ) as own:  # Windows keeps mapped files
            path = Path(own) / stored.name.rpartition("/")[2]  # which messages name
            folder.fetch(stored, path)
            yield path


def _is_copy(path: Path, stored: StoredFile) -> bool:
    return path.is_file() and path.stat().st_size == stored.nbytes and digest_of(path) == stored.sha256


def load_codec(folder: Folder, manifest: Manifest, cache: Path | None = None) -> Index:
    """Return the index without vectors that has the codec of all shards, and their lists.

    Raises
    ------
    FormatError
        The file is damaged, not there, or has another codec than the manifest says.
    """
    with local_file(folder, manifest.codec, cache) as path:
        index = Index.load(path)
    _check(f"{folder}/{manifest.codec.name}", index, manifest, 0)
    return index


class OpenShard:
    """A shard that can be searched.

    Parameters
    ----------
    folder : Folder
    shard : Shard
    manifest : Manifest
        Which has the shard.
    cache : Path, optional
        A folder for local copies, which are kept; see `local_file`.
    threads : int

    Attributes
    ----------
    first, rows : int
        Id of the first row, and number of rows.
    name : str
        Of the index file.

    Raises
    ------
    FormatError
        A file is damaged, not there, or not the one of this manifest.
    """

    def __init__(self, folder: Folder, shard: Shard, manifest: Manifest, cache: Path | None, threads: int) -> None:
        self.first, self.rows, self.name = shard.first, shard.rows, shard.vectors.name
        where = f"{folder}/{self.name}"
        with local_file(folder, shard.vectors, cache) as path:
            index = Index.load(path, mmap=True)
        _check(where, index, manifest, shard.rows)
        self._all = index._snapshot(threads=threads)  # it keeps no centroids, which only who routes queries needs
        ends = [block.ids_of(np.array([0, block.n - 1])) for block in self._all.blocks if isinstance(block.ids, int)]
        ends += [block.ids[: block.n] for block in self._all.blocks if not isinstance(block.ids, int)]
        if min(map(np.min, ends)) != shard.first or max(map(np.max, ends)) != shard.first + shard.rows - 1:
            raise FormatError(f"{where}: its ids are not {shard.first} to {shard.first + shard.rows - 1}")
        self._is_partitioned = manifest.nlist > 0
        self._records: Any = None
        if shard.records is not None:
            with local_file(folder, shard.records, cache) as path:
                self._records = import_optional("pyarrow", "records", "ray").memory_map(str(path)).read_buffer()
            self._check_records(f"{folder}/{shard.records.name}", manifest.columns)
        self._lock = ForkLock()
        self._chosen: OrderedDict[str, Snapshot] = OrderedDict()

    def count(self, choice: Choice | None) -> int:
        """Return the number of rows that may be returned."""
        return self._snapshot(choice).ntotal

    def scan(self, choice: Choice | None, shifted: Floats, k: int) -> Hits | None:
        """Return the best `k` rows for each query, or as many as may be returned; None if none may."""
        snapshot = self._snapshot(choice)
        k = min(k, snapshot.ntotal)
        return self._hits(snapshot, *snapshot.scan(shifted, k)) if k else None

    def scan_lists(self, choice: Choice | None, shifted: Floats, k: int, probes: Probes) -> Hits | None:
        """Return the same of the lists that each query probes."""
        snapshot = self._snapshot(choice)
        k = min(k, snapshot.ntotal)
        return self._hits(snapshot, *snapshot.scan_lists(shifted, k, probes)) if k else None

    def take(self, rows: Ids, columns: Sequence[str]) -> Any:
        """Return columns of the records of some rows, (n,) int64 from 0, as a pyarrow.Table in their order."""
        pa = import_optional("pyarrow", "records", "ray")
        file = import_optional("pyarrow.parquet", "records", "ray").ParquetFile(self._reader())
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        ends = np.cumsum(groups)
        group_of = np.searchsorted(ends, rows, side="right")
        wanted = np.unique(group_of)
        before = np.zeros(len(groups), np.int64)  # rows that are read before those of a group
        before[wanted] = np.cumsum([0, *np.array(groups)[wanted][:-1]])
        table = file.read_row_groups(wanted.tolist(), columns=list(columns))
        return table.take(pa.array(rows - (ends - groups)[group_of] + before[group_of]))

    def _snapshot(self, choice: Choice | None) -> Snapshot:
        """The rows that may be returned. The last choices are kept."""
        if choice is None:
            return self._all
        with self._lock:
            kept = self._chosen.pop(choice.token, None)
            if kept is None:
                kept = replace(self._all, allowed=self._allowed(choice))
            self._chosen[choice.token] = kept
            if len(self._chosen) > _CHOICES:
                self._chosen.popitem(last=False)
            return kept

    def _allowed(self, choice: Choice) -> list[Words]:
        allowed = allowed_rows(Moment(self._all.blocks, is_whole=False), choice.filter)
        if choice.where is None:
            return allowed
        flags = self._matches(choice.where)
        masks = (pack_mask(flags[block.ids_of(np.arange(block.n)) - self.first]) for block in self._all.blocks)
        return [intersect(own, mask) for own, mask in zip(allowed, masks, strict=True)]

    def _matches(self, where: Any) -> Flags:
        """Evaluate an expression for each row."""
        pa = import_optional("pyarrow", "records", "ray")
        fragment = (
            import_optional("pyarrow.dataset", "records", "ray").ParquetFileFormat().make_fragment(self._reader())
        )
        try:
            found = fragment.to_table(columns={"keep": where}).column("keep")
        except (pa.ArrowException, KeyError) as error:
            raise InputError(f"where can't be evaluated on the records: {error}") from None
        if not pa.types.is_boolean(found.type):
            raise InputError(f"where must be a condition, got an expression of type {found.type}")
        flags: Flags = found.fill_null(False).to_numpy()
        return flags

    def _reader(self) -> Any:
        if self._records is None:
            raise InputError(f"{self.name} has no records")
        return import_optional("pyarrow", "records", "ray").BufferReader(self._records)

    def _hits(self, snapshot: Snapshot, scores: Floats, rows: Ids) -> Hits:
        rows = np.where(rows < snapshot.n, rows, -1)  # kernels have other numbers for scores beyond float32
        return Hits(
            scores=scores,
            rows=np.where(rows < 0, -1, rows + self.first),
            lists=lists_at(snapshot.blocks, rows) if self._is_partitioned else np.zeros(rows.shape, np.int32),
            ids=snapshot.ids_of(rows),
            scalars=snapshot.scalars(rows),
        )

    def _check_records(self, where: str, columns: Sequence[str]) -> None:
        pa = import_optional("pyarrow", "records", "ray")
        try:
            file = import_optional("pyarrow.parquet", "records", "ray").ParquetFile(self._reader())
        except pa.ArrowException as error:
            raise FormatError(f"{where}: is no Parquet file: {error}") from error
        missing = sorted({*columns} - {*file.schema_arrow.names})
        if file.metadata.num_rows != self.rows or missing:
            found = f"lacks column {missing[0]!r}" if missing else f"has {file.metadata.num_rows:,} rows"
            raise FormatError(f"{where}: {found}, other than the manifest says")


def _check(where: str, index: Index, manifest: Manifest, rows: int) -> None:
    """Raise FormatError for an index file of another index than the manifest's, or of other rows."""
    found = {
        "fingerprint": index.codec.fingerprint,
        "metric": index.metric,
        "nlist": index.nlist or 0,
        "rows": index.ntotal,
    }
    wanted = {
        "fingerprint": manifest.fingerprint,
        "metric": manifest.metric,
        "nlist": manifest.nlist,
        "rows": rows,
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise FormatError(f"{where}: has {name} {found[name]}, but the manifest says {value}")

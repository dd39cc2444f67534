"""Building: shards made by tasks of Ray, and the manifest that shows them when all are there."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tqvec import _validate
from tqvec._present import import_optional
from tqvec._random import generator
from tqvec._safetensors import canonical
from tqvec._types import CodebookName, Floats, MetricName
from tqvec._vectors import Vectors
from tqvec.codec.bands import Width
from tqvec.errors import FormatError, InputError, LossWarning
from tqvec.index.index import Index
from tqvec.integrations.ray.dataset import DatasetSource, is_dataset
from tqvec.shards.folder import Folder, StoredFile
from tqvec.shards.making import Made, Plan, make_shard
from tqvec.shards.manifest import (
    Manifest,
    file_bytes,
    first_manifest,
    manifest_names,
    parse_file,
    read_manifest,
    write_manifest,
)
from tqvec.shards.opened import local_file
from tqvec.shards.source import FileSource, Source
from tqvec.shards.writing import write_codec

ray = import_optional("ray", "tqvec.ray", "ray")

SHARD_ROWS = 1_000_000
_TRAINED_ROWS = 65_536  # of the sample that `Index.train` uses
_ROWS_A_LIST = 40  # of the sample that `Index.partition` uses
_RUNS = 64  # of consecutive rows, that make up a sample: to read single rows of Parquet, whole groups are decoded
_AHEAD = 2  # tasks that wait for each that can run

Progress = Callable[[int, int], None]


class _Settings(NamedTuple):
    """Settings of the index, and how it learns from a sample."""

    d: int
    nbits: Width
    metric: MetricName
    codebook: CodebookName
    seed: int
    train: bool
    nlist: int | None

    def empty_index(self) -> Index:
        return Index(self.d, nbits=self.nbits, metric=self.metric, codebook=self.codebook, seed=self.seed)


def build(
    source: Any,
    destination: Any,
    d: int,
    nbits: Width = 4,
    *,
    metric: MetricName = "ip",
    codebook: CodebookName = "scalar",
    seed: int = 0,
    train: bool = False,
    nlist: int | None = None,
    queries: ArrayLike | None = None,
    vectors: str = "vector",
    columns: Sequence[str] = (),
    shard_rows: int = SHARD_ROWS,
    threads: int = 1,
    filesystem: Any = None,
    source_filesystem: Any = None,
    progress: Progress | None = None,
) -> Manifest:
    """Compress vectors on all machines of a Ray cluster into a sharded index.

    A sharded index is a single one, cut up: `tqvec merge` of the shards gives, byte for byte, the file of an `Index`
    with the same codec to which all vectors were added. The id of a vector is the number of its row.

    The manifest is written last. Until then nobody sees the index. The same call after a failure makes only the shards
    that are missing.

    Parameters
    ----------
    source : path, str, sequence of these, or ray.data.Dataset
        Parquet or ``.npy`` files, folders of them, or URIs such as ``s3://bucket/folder``, which every machine can
        read; or a Ray Dataset, whose rows must come in the same order each time. Files of a folder are read in the
        order of their names.
    destination : path or str
        A folder, or its URI.
    d : int
        Dimension.
    nbits, metric, codebook, seed : optional
        As of `Index`.
    train : bool
        Fit the codec to a sample first, as `Index.train`.
    nlist : int, optional
        Partition the index into so many lists, as `Index.partition`; 0 for the default number, ``4 √n``.
    queries : (m, d), optional
        Queries like those to come, for `train` and `nlist`.
    vectors : str
        Column of the vectors.
    columns : sequence of str
        Columns that are kept beside the vectors, such as ids of your own and metadata: `ShardedIndex.take` returns
        them, and ``where=`` filters by them.
    shard_rows : int
        Vectors in a shard.
    threads : int
        CPUs of a task, each of which makes one shard.
    filesystem, source_filesystem : pyarrow.fs.FileSystem, optional
        Of `destination` and of `source`, which are then paths in it.
    progress : callable, optional
        Called with the number of vectors that are done, and of all.

    Returns
    -------
    Manifest
        Also if the same index is there already.

    Raises
    ------
    InputError
        A bad setting or vector, with its row; a destination that holds another sharded index; no such column.
    FormatError
        A file of the source is damaged.
    UnsupportedError
        Ray is not installed.
    """
    _validate.function(progress, "progress")
    settings = _Settings(d=d, nbits=nbits, metric=metric, codebook=codebook, seed=seed, train=bool(train), nlist=nlist)
    untrained = settings.empty_index()
    if nlist is not None:
        _validate.integer(nlist, "nlist", 0, 2**31 - 1)
    asked = None if queries is None else _validate.vectors(queries, untrained.d, "queries")
    rows = _open_source(source, source_filesystem)
    if rows.n == 0:
        raise InputError("source holds no vectors")
    folder = Folder(destination, filesystem)
    plan = _make_plan(folder, rows, [*settings], vectors, columns, 0, shard_rows, threads)
    if manifest_names(folder):
        manifest = read_manifest(folder)
        if manifest.sources[:1] == (plan.origin,):
            return manifest
        raise InputError(f"{folder}: there is another sharded index; name another folder, or append to it")
    codec = _fit(plan, settings, asked)
    empty = _load_codec(folder, codec)
    made = _make_all(plan, empty, progress)
    manifest = first_manifest(empty, codec, plan.schema.names, made, plan.origin)
    write_manifest(folder, manifest)
    plan.forget()
    return manifest


def append(
    source: Any,
    destination: Any,
    *,
    vectors: str = "vector",
    shard_rows: int = SHARD_ROWS,
    threads: int = 1,
    filesystem: Any = None,
    source_filesystem: Any = None,
    progress: Progress | None = None,
) -> Manifest:
    """Add vectors to a sharded index, as new shards; readers see all of them from the next manifest on, or none.

    Parameters
    ----------
    source, destination, vectors, shard_rows, threads, filesystem, source_filesystem, progress
        As of `build`. Columns are those that the index has. Their types must be the same.

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        As `build`; the source was added before; another process has appended meanwhile: append again then.
    FileNotFoundError
        There is no sharded index.
    """
    _validate.function(progress, "progress")
    folder, rows = Folder(destination, filesystem), _open_source(source, source_filesystem)
    manifest = read_manifest(folder)
    if rows.n == 0:
        raise InputError("source holds no vectors")
    facts = [manifest.fingerprint, manifest.codec.sha256]
    plan = _make_plan(folder, rows, facts, vectors, manifest.columns, manifest.ntotal, shard_rows, threads)
    if any(origin.startswith(f"{plan.source_key}-") for origin in manifest.sources):
        raise InputError("source was added before, and has not changed since: name what is new")
    made = _make_all(plan, _load_codec(folder, manifest.codec), progress)
    manifest = manifest.extended(made, plan.origin)
    write_manifest(folder, manifest)
    plan.forget()
    return manifest


def _open_source(source: Any, filesystem: Any) -> Source:
    return DatasetSource(source) if is_dataset(source) else FileSource(source, filesystem)


def _make_plan(
    folder: Folder,
    source: Source,
    facts: list[Any],
    vectors: str,
    columns: Sequence[str],
    base: int,
    shard_rows: int,
    threads: int,
) -> Plan:
    """Return the plan, whose key stands for the source, its first row and all settings."""
    shard_rows = _validate.integer(shard_rows, "shard_rows", 1, 2**31 - 1)
    threads = _validate.integer(threads, "threads", 1, 2**31 - 1)
    names = [str(name) for name in _validate.entries(columns, "columns")]
    source_key = _digest([source.describe(), vectors])
    key = _digest([source_key, [str(fact) for fact in facts], names, base, shard_rows])
    return Plan(
        folder=folder,
        source=source,
        source_key=source_key,
        key=key,
        vectors=vectors,
        schema=source.schema(vectors, names),
        base=base,
        shard_rows=shard_rows,
        threads=threads,
    )


def _digest(facts: list[Any]) -> str:
    return hashlib.sha256(canonical({"facts": facts}).encode()).hexdigest()[:16]


def _fit(plan: Plan, settings: _Settings, queries: Floats | None) -> StoredFile:
    """Return the file of the codec and the lists, which is made once: a second fit may differ in its last bits."""
    note = f"{plan.notes}/codec.json"
    if plan.folder.size(note) is not None:
        return parse_file(f"{plan.folder}/{note}", plan.folder.read(note))
    most = _TRAINED_ROWS if settings.train else 0
    if settings.nlist is not None:
        nlist = settings.nlist or int(4 * np.sqrt(plan.source.n))
        most = max(most, nlist * _ROWS_A_LIST)
        settings = settings._replace(nlist=max(1, min(nlist, plan.source.n)))
    read = ray.remote(_read_rows).options(num_cpus=1)
    kept = ray.put(plan)
    sample = [read.remote(kept, settings.d, start, stop) for start, stop in _runs(plan.source.n, most, settings.seed)]
    fit = ray.remote(_fit_index).options(num_cpus=plan.threads)
    codec: StoredFile = _get(fit.remote(kept, settings, queries, *sample))
    plan.folder.write(note, file_bytes(codec))
    return codec


def _runs(n: int, most: int, seed: int) -> list[tuple[int, int]]:
    """Return runs of rows, spread over `n`, that are about `most` rows together."""
    if most == 0:
        return []
    if n <= most:
        return [(0, n)]
    edges = np.linspace(0, n, _RUNS + 1).astype(int)
    length = -(-most // _RUNS)
    spare = np.maximum(0, np.diff(edges) - length)
    starts = edges[:-1] + (generator(seed, "shards: sample").random(_RUNS) * (spare + 1)).astype(int)
    return [(int(start), int(min(start + length, n))) for start in starts]


def _read_rows(plan: Plan, d: int, start: int, stop: int) -> Floats:
    """Return vectors as float32, without those that hold NaN or infinity: the task that compresses them names them."""
    parts = [np.empty((0, d), np.float32)]
    for vectors, _ in plan.source.tables(start, stop, plan.vectors, ()):
        rows = Vectors(vectors, d, "source").float32()
        parts.append(rows[np.isfinite(rows).all(axis=1)])
    return np.concatenate(parts)


def _fit_index(plan: Plan, settings: _Settings, queries: Floats | None, *sample: Floats) -> StoredFile:
    """Learn from a sample, and write an index without vectors."""
    index = settings.empty_index()
    rows = np.concatenate(sample) if sample else np.empty((0, settings.d), np.float32)
    if settings.train:
        index.train(rows, queries=queries, threads=plan.threads)
    if settings.nlist is not None:
        index.partition(min(settings.nlist, len(rows)), sample=rows, queries=queries, threads=plan.threads)
    return write_codec(plan.folder, index)


def _load_codec(folder: Folder, codec: StoredFile) -> Index:
    with local_file(folder, codec, None) as path:
        return Index.load(path)


def _make_all(plan: Plan, empty: Index, progress: Progress | None) -> list[Any]:
    """Make the shards that are not there yet, and return all in order."""
    done = plan.begin()
    missing = [start for start in plan.starts() if start not in done]
    losses: set[str] = set()
    rows = sum(shard.rows for shard in done.values())
    if progress is not None:
        progress(rows, plan.source.n)
    for made in _run_tasks(plan, empty, missing):
        done[made.shard.first - plan.base] = made.shard
        rows += made.shard.rows
        losses.update(made.warnings)
        if progress is not None:
            progress(rows, plan.source.n)
    for loss in sorted(losses):
        warnings.warn(loss, LossWarning, stacklevel=3)
    return [done[start] for start in plan.starts()]


def _run_tasks(plan: Plan, empty: Index, starts: Sequence[int]) -> Iterator[Made]:
    """Make shards by tasks, and yield each when it is there; tasks of a node that is lost are run anew by Ray."""
    make = ray.remote(make_shard).options(
        num_cpus=plan.threads, max_retries=-1, retry_exceptions=[OSError], scheduling_strategy="SPREAD"
    )
    kept, index, waiting = ray.put(plan), ray.put(empty), list(reversed(starts))
    running: set[Any] = set()
    try:
        while waiting or running:
            most = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)) // plan.threads)
            while waiting and len(running) < most:
                running.add(make.remote(kept, index, waiting.pop()))
            ready, _ = ray.wait(list(running))
            running.difference_update(ready)
            for one in ready:
                yield _get(one)
    finally:
        for one in running:
            ray.cancel(one, force=True)


def _get(result: Any) -> Any:
    """Return the result of a task; errors of tqvec as they were raised there."""
    try:
        return ray.get(result)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (InputError, FormatError, OSError)):
            raise error.cause from None
        raise

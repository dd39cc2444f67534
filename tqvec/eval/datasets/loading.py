"""Data sets by name, as vectors: base, queries and true neighbors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _atomic
from tqvec._types import Ids
from tqvec.errors import FormatError
from tqvec.eval.datasets.catalog import find
from tqvec.eval.datasets.downloading import Report, naming
from tqvec.eval.datasets.fetching import Fetched, fetch
from tqvec.eval.readers import read_vectors
from tqvec.eval.streams import Parts, Stream, open_vectors

_QUERIES = 1000  # that are drawn from a set without queries, as the builders of tqvec's source do
_SEED = 20260101


class Dataset(NamedTuple):
    """Vectors to search in, and to search for.

    Attributes
    ----------
    name : str
    base : Stream
        n vectors of dimension d, read part by part: ``index.add(base.parts(0, 65536))``.
    queries : (nq, d) array
    neighbors : (nq, k) array or None
        Row numbers in `base` of the k best of each query, best first, as published; None if there are none.
    metric : str
        ``ip``, ``cosine`` or ``l2``. With ``cosine`` vectors need not have unit length.
    """

    name: str
    base: Stream
    queries: NDArray[Any]
    neighbors: NDArray[Any] | None
    metric: str


def load(name: str, report: Report | None = None) -> Dataset:
    """Load a data set; its files are downloaded at the first use, and compared with their SHA-256 at each.

    Parameters
    ----------
    name : str
        One that `iter_entries` yields.
    report : callable, optional
        ``report(what, done, total)`` is called with a text and bytes of a file; `total` may be None.

    Raises
    ------
    InputError
        There is no such data set.
    FormatError
        A file is damaged, has changed, or has vectors of another dimension.
    UnsupportedError
        h5py or pyarrow is missing.
    OSError
        A file is missing and can't be downloaded.
    """
    entry = find(name)
    files = fetch(entry, report)
    path, neighbors = files[0].path, None
    if entry.column is not None:
        base, queries = _split([open_vectors(f"{file.path}:{entry.column}") for file in files], files)
    elif path.suffix == ".hdf5":
        base, queries, neighbors = open_vectors(path), read_vectors(path, "test"), read_vectors(path, "neighbors")
    else:
        base, queries = open_vectors(path), read_vectors(files[1].path)
    if not base.d == queries.shape[1] == entry.d:
        raise FormatError(f"{path}: vectors have dimension {base.d}, queries {queries.shape[1]}, instead of {entry.d}")
    return Dataset(name=name, base=base, queries=queries, neighbors=neighbors, metric=entry.metric)


def _split(streams: Sequence[Stream], files: Sequence[Fetched]) -> tuple[Stream, NDArray[Any]]:
    """Return files without queries as base and queries: drawn rows, which are kept in a file of their own."""
    everything = _join(streams, np.empty(0, np.int64))
    drawn = np.sort(np.random.default_rng(_SEED).choice(everything.n, _QUERIES, replace=False))
    version = hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()[:16]
    path = files[0].path.with_name(f"queries-{version}.npy")
    if not path.is_file():
        _save(path, everything.take(drawn).astype(np.float32))
    return _join(streams, drawn), read_vectors(path)


def _join(streams: Sequence[Stream], left_out: Ids) -> Stream:
    """Return the vectors of several files as one stream, without some rows in ascending order."""
    n = sum(stream.n for stream in streams)
    kept = np.delete(np.arange(n), left_out)

    def parts(start: int, rows: int) -> Parts:
        row, end = (int(kept[start]) if start < len(kept) else n), 0
        for stream in streams:
            first, end = end, end + stream.n
            if row >= end:
                continue
            for part in stream.parts(row - first, rows):
                inside = np.isin(np.arange(row, row + len(part)), left_out, invert=True)
                row += len(part)
                if inside.any():
                    yield part[inside]

    return Stream(path=streams[0].path.parent, name=streams[0].name, n=len(kept), d=streams[0].d, parts=parts)


def _save(path: Path, array: NDArray[Any]) -> None:
    with naming(path.parent):
        file = _atomic.create(path)
        try:
            np.save(file, array)
            _atomic.publish(file, path)
        finally:
            _atomic.discard(file)

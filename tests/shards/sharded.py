"""Small sharded indexes of tests."""

import numpy as np
import pytest
import strategies as sts

import tqvec
from tqvec.shards.folder import Folder
from tqvec.shards.manifest import Shard, first_manifest, write_manifest
from tqvec.shards.writing import put_records, put_vectors, write_codec, write_vectors

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
D = 16


def vectors(n, seed=0):
    return sts.normal(n, D, 96_000 + seed)


def index_of(n, nlist=0, metric="cosine"):
    """The single index."""
    index = tqvec.Index(D, metric=metric)
    if nlist:
        index.partition(nlist, sample=vectors(40 * nlist, 1))
    index.add(vectors(n))
    return index


def write_shard(folder, index, first, stop, workspace, columns=("id", "text")):
    """Write rows of the single index as a shard, with records if there are columns."""
    ids = np.arange(first, stop)
    if index.nlist:
        part = index.__copy__()
        part.remove_ids(np.setdiff1d(index.ids, ids))
        part.save(workspace / "part.tqv", overwrite=True)
        stored = put_vectors(folder, workspace / "part.tqv", first)
    else:
        blocks = index._core.store.blocks
        rows = {name: array[first:stop] for name, array in blocks[0].rows.items()}
        stored = write_vectors(folder, index.codec, index.metric, first, stop - first, [rows])
    records = None
    if columns:
        table = pa.table({name: [f"{name} {i}" for i in ids] for name in columns})
        pq.write_table(table, workspace / "part.parquet")
        records = put_records(folder, workspace / "part.parquet", first)
    return Shard(first, stop - first, stored, records)


def write_index(place, workspace, n=50, shard_rows=20, nlist=0, columns=("id", "text"), metric="cosine"):
    """Write a sharded index, and return its folder, its manifest, and the single index."""
    folder = place if isinstance(place, Folder) else Folder(place)
    index = index_of(n, nlist, metric)
    shards = [
        write_shard(folder, index, first, min(first + shard_rows, n), workspace, columns)
        for first in range(0, n, shard_rows)
    ]
    manifest = first_manifest(index, write_codec(folder, index), columns, shards)
    write_manifest(folder, manifest)
    return folder, manifest, index

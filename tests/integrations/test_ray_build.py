"""Sharded indexes built by a Ray cluster, on a disk and in an object store, while its workers and nodes are killed."""

import os
import random
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray")
pytest.importorskip("moto.server")

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from moto import server
from pyarrow.fs import S3FileSystem
from ray.cluster_utils import Cluster

import tqvec
from tqvec.errors import InputError, LossWarning
from tqvec.index.file.merge import merge
from tqvec.integrations.ray import ShardedIndex, append, build
from tqvec.shards.folder import Folder
from tqvec.shards.manifest import read_manifest

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:ray"),  # of its own deprecated parts
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
D, N = 32, 6_000
KILLS = int(os.environ.get("TQVEC_KILLS", "5"))
X = np.random.default_rng(4).standard_normal((N, D)).astype(np.float32) * np.linspace(3, 0.2, D, dtype=np.float32)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes of two CPUs each, whose workers import this package."""
    one = Cluster()
    for _ in range(2):
        one.add_node(num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False)
    paths = os.pathsep.join([str(Path(tqvec.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    ray.init(one.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield one
    ray.shutdown()
    one.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    for number, start in enumerate(range(0, N, 1_700)):
        part = X[start : start + 1_700]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), D)
        years = [1990 + row % 30 for row in range(start, start + len(part))]
        records = {"vector": vectors, "id": [f"r{start + i}" for i in range(len(part))], "year": years}
        pq.write_table(pa.table(records), folder / f"{number}.parquet", row_group_size=500)
    return folder


@pytest.fixture(scope="module")
def store():
    """A file system on a server of the S3 protocol, with a bucket."""
    one = server.ThreadedMotoServer(port=0)
    one.start()
    host, port = one.get_host_and_port()
    keys = {"access_key": "key", "secret_key": "secret", "region": "us-east-1"}
    boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    ).create_bucket(Bucket="bucket")
    yield S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", **keys)
    one.stop()


def single(folder, tmp_path):
    """The file of the single index with the codec of a sharded one."""
    manifest = read_manifest(folder)
    folder.fetch(manifest.codec, tmp_path / "codec.tqv")
    index = tqvec.Index.load(tmp_path / "codec.tqv")
    index.add(X)
    index.save(tmp_path / "single.tqv", overwrite=True)
    return (tmp_path / "single.tqv").read_bytes()


def joined(folder, tmp_path):
    """The file of the index that its shards make, one after the other."""
    manifest, paths = read_manifest(folder), []
    for number, shard in enumerate(manifest.shards):
        paths.append(tmp_path / f"{number}.tqv")
        folder.fetch(shard.vectors, paths[-1])
    if not manifest.nlist:
        merge(paths, tmp_path / "joined.tqv")
        return (tmp_path / "joined.tqv").read_bytes()
    index = tqvec.Index.load(paths[0])
    for path in paths[1:]:
        index.merge_from(tqvec.Index.load(path))
    index.save(tmp_path / "joined.tqv", overwrite=True)
    return (tmp_path / "joined.tqv").read_bytes()


@pytest.mark.parametrize(
    "settings",
    [{"nbits": 4}, {"nbits": 2, "train": True, "metric": "cosine"}, {"nlist": 17}, {"nlist": 0}],
    ids=["4 bits", "trained", "17 lists", "default lists"],
)
def test_shards_are_the_single_index_cut_up(cluster, source, tmp_path, settings):
    done = []
    manifest = build(
        source,
        tmp_path / "made",
        D,
        columns=["id", "year"],
        shard_rows=1_111,
        progress=lambda rows, total: done.append((rows, total)),
        **settings,
    )
    folder = Folder(tmp_path / "made")
    assert manifest == read_manifest(folder)
    assert [shard.rows for shard in manifest.shards] == [1_111] * 5 + [445]
    assert (done[0], done[-1], done == sorted(done)) == ((0, N), (N, N), True)
    assert joined(folder, tmp_path) == single(folder, tmp_path)
    assert manifest.trained == ("train" in settings)
    assert manifest.nlist == {17: 17, 0: int(4 * N**0.5), None: 0}[settings.get("nlist")]
    records = [row for shard in manifest.shards for row in pq.read_table(folder.at(shard.records.name)).to_pylist()]
    assert records == [{"id": f"r{row}", "year": 1990 + row % 30} for row in range(N)]
    assert folder.sizes("building") == {}


def test_from_an_object_store_to_an_object_store(cluster, store, source, tmp_path):
    for path in source.iterdir():
        with store.open_output_stream(f"bucket/source/{path.name}") as stream:
            stream.write(path.read_bytes())
    made = build("bucket/source", "bucket/made", D, shard_rows=1_500, filesystem=store, source_filesystem=store)
    folder = Folder("bucket/made", store)
    assert joined(folder, tmp_path) == single(folder, tmp_path)
    assert set(folder.sizes()) == {made.name, *(file.name for file in made.files)}
    one = tqvec.Index.load(tmp_path / "single.tqv")
    with ShardedIndex("bucket/made", filesystem=store, actors=2) as sharded:
        for ours, theirs in zip(sharded.search(X[:20], k=7), one.search(X[:20], k=7), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    on_disk = build(source, tmp_path / "made", D, shard_rows=1_500)
    assert on_disk.files == made.files


def test_appended_shards_join_by_a_new_manifest(cluster, source, tmp_path):
    first = build([source / "0.parquet", source / "1.parquet"], tmp_path / "made", D, columns=["year"], shard_rows=900)
    second = append([source / "2.parquet", source / "3.parquet"], tmp_path / "made", shard_rows=900)
    folder = Folder(tmp_path / "made")
    assert (first.number, second.number, second.ntotal) == (1, 2, N)
    assert (read_manifest(folder), read_manifest(folder, 1)) == (second, first)
    assert second.shards[: len(first.shards)] == first.shards
    assert joined(folder, tmp_path) == single(folder, tmp_path)
    with pytest.raises(InputError, match="was added before"):
        append([source / "2.parquet", source / "3.parquet"], tmp_path / "made", shard_rows=800)
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(InputError, match="no column 'year'"):
        append(tmp_path / "x.npy", tmp_path / "made")
    assert read_manifest(folder) == second


def test_the_same_build_again_makes_nothing(cluster, source, tmp_path):
    manifest = build(source, tmp_path / "made", D, shard_rows=2_000)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*.*")}
    assert build(source, tmp_path / "made", D, shard_rows=2_000) == manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*.*")} == times
    with pytest.raises(InputError, match="another sharded index"):
        build(source, tmp_path / "made", D, nbits=3, shard_rows=2_000)


def test_a_ray_dataset(cluster, source, tmp_path):
    dataset = ray.data.from_arrow([pq.read_table(path) for path in sorted(source.iterdir())])
    made = build(dataset, tmp_path / "made", D, columns=["id"], shard_rows=1_111)
    assert joined(Folder(tmp_path / "made"), tmp_path) == single(Folder(tmp_path / "made"), tmp_path)
    assert build(dataset, tmp_path / "made", D, columns=["id"], shard_rows=1_111) == made


def test_errors_of_tasks_are_those_of_tqvec(cluster, tmp_path):
    bad = X.copy()
    bad[4_321, 5] = np.inf
    np.save(tmp_path / "bad.npy", bad)
    with pytest.raises(InputError, match="rows counted from 4000: x row 321 holds NaN or Inf"):
        build(tmp_path / "bad.npy", tmp_path / "made", D, shard_rows=1_000, train=True)
    assert Folder(tmp_path / "made").sizes("manifests") == {}
    np.save(tmp_path / "bad.npy", X)
    assert build(tmp_path / "bad.npy", tmp_path / "made", D, shard_rows=1_000, train=True).ntotal == N
    with pytest.raises(InputError, match=r"must have shape \(n, 33\)"):
        build(tmp_path / "bad.npy", tmp_path / "other", D + 1)


def test_warnings_of_tasks_are_told(cluster, tmp_path):
    np.save(tmp_path / "far.npy", X + 1_000)
    with pytest.warns(LossWarning, match="origin"):
        build(tmp_path / "far.npy", tmp_path / "made", D, metric="l2", shard_rows=3_000)


def workers():
    """Processes of this machine in which a task makes a shard, or that wait for one."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(b"ray::make_shard"):
                yield int(path.parent.name)


def test_killed_workers_and_a_killed_node(cluster, source, tmp_path):
    rng, stop, kills = random.Random(5), threading.Event(), []

    def kill():
        while not stop.is_set():
            time.sleep(rng.uniform(0.05, 0.4))
            found = list(workers())
            if found and len(kills) < KILLS:
                one = rng.choice(found)
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
                    kills.append(one)

    node = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    killer = threading.Thread(target=kill)
    killer.start()

    def remove(rows, _):
        if rows > N // 3 and removed == []:
            removed.append(cluster.remove_node(node, allow_graceful=False))

    removed = []
    try:
        made = build(source, tmp_path / "made", D, columns=["id"], shard_rows=300, progress=remove)
    finally:
        stop.set()
        killer.join()
    assert len(kills) >= 3
    assert removed == [True] or removed == [None]
    assert joined(Folder(tmp_path / "made"), tmp_path) == single(Folder(tmp_path / "made"), tmp_path)
    assert build(source, tmp_path / "again", D, columns=["id"], shard_rows=300).files == made.files

"""Sharded indexes that are searched on a Ray cluster of several nodes: answers, files of queries, what is refused."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import shards_of
import strategies as sts
from shard_searches import QUERIES, RECORDS, D, N, assert_same

import tqvec
from tqvec import _safetensors
from tqvec.errors import FormatError, InputError, UnavailableError
from tqvec.shards.folder import Folder

pytest.importorskip("ray")

from tqvec.integrations.ray import ShardedIndex
from tqvec.integrations.ray.fleet import ShardServer

pytest_plugins = ("ray_cluster",)
pytestmark = pytest.mark.slow

RAY_DATA = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # it copies its own settings


def test_results_are_those_of_one_index(cluster, stored, single):
    with ShardedIndex(stored, actors=2) as sharded:
        for options in (
            {},
            {"recall": 1.0},
            {"nprobe": 2},
            {"return_error": True},
            {"confidence": 0.9, "return_error": True},
            {"filter": [3, 100, 164, 399]},
            {"filter": range(50, 300)},
            {"filter": ~tqvec.selectors.Ids(np.arange(0, N, 2)), "recall": 1.0},
        ):
            assert_same(sharded, single, QUERIES, 10, **options)
        assert_same(sharded, single, QUERIES, N + 5)
        assert_same(sharded, single, np.tile(QUERIES, (200, 1)), 10)  # queries and ids that are stored once for all
        assert_same(sharded, single, QUERIES, 10, filter=np.arange(5, 20_000))
        assert_same(sharded, single, QUERIES, float(single.search(QUERIES, 90)[0][0, -1]), method="range_search")
        ids = sharded.search(QUERIES, 4, where=pc.field("year") == 2003)[1]
        np.testing.assert_array_equal(ids, single.search(QUERIES, 4, filter=range(13, N, 30))[1])
        assert sharded.take(ids[0]).to_pylist() == RECORDS.take(ids[0]).to_pylist()
        with pytest.raises(InputError, match="where can't be evaluated"):
            sharded.search(QUERIES, 4, where=pc.field("nothing") == 2003)
        with pytest.raises(InputError, match="takes no masks"):
            sharded.search(QUERIES, 4, filter=np.ones(N, bool))
        *_, missing = sharded.search(QUERIES, 4, partial=True)
        assert missing == []
        assert repr(sharded) == (
            f"ShardedIndex({str(stored)!r}, d=24, nbits=2, metric='l2', ntotal=400, 5 shards, 2 actors)"
        )


@pytest.mark.parametrize("harm", ["damage", "delete"])
def test_files_that_can_not_be_read_are_named_at_opening(harm, cluster, stored):
    name = shards_of.read_version(Folder(stored)).manifest.shards[2].vectors.name
    content = (stored / name).read_bytes()
    (stored / name).unlink() if harm == "delete" else (stored / name).write_bytes(content[:-1] + b"?")
    with pytest.raises(FormatError, match=name):
        ShardedIndex(stored, actors=1)


def test_a_manifest_of_a_newer_tqvec_is_refused(cluster, stored):
    (path,) = (stored / "manifests").iterdir()
    fields = {name: value for name, value in json.loads(path.read_text()).items() if name != "checksum"}
    newer = _safetensors.canonical(_safetensors.with_checksum({**fields, "version": 99}))
    path.with_name(path.name.replace("00000001", "00000002")).write_text(newer)
    with pytest.raises(FormatError, match="version 99"):
        ShardedIndex(stored)
    with ShardedIndex(path, actors=1) as pinned:
        assert pinned.ntotal == N


def test_more_actors_than_cpus_are_told(cluster, stored, monkeypatch):
    monkeypatch.setattr("tqvec.integrations.ray.fleet._START", 2)
    with pytest.raises(UnavailableError, match=r"1 of 1 actors did not start in 2 s.*CPUs"):
        ShardedIndex(stored, actors=1, threads=64, timeout=2)


def test_an_actor_that_always_ends_is_told(cluster, stored, monkeypatch):
    class Server(ShardServer):
        def open(self, request, choice=None):
            os._exit(1)

    monkeypatch.setattr("tqvec.integrations.ray.fleet._MOST_LOSSES", 1)
    monkeypatch.setattr(ShardedIndex, "_server", Server)
    with pytest.raises(UnavailableError, match="has ended 2 times while it opened its shards"):
        ShardedIndex(stored, actors=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replicas": 0}, "replicas"),
        ({"actors": 0}, "actors"),
        ({"timeout": 0}, "timeout must be above 0"),
        ({"patience": -1}, "patience must be above 0"),
        ({"threads": 0}, "threads"),
        ({"filesystem": "s3"}, "filesystem"),
    ],
)
def test_bad_settings_are_told(options, message, cluster, stored):
    with pytest.raises(InputError, match=message):
        ShardedIndex(stored, **options)


def test_a_folder_without_an_index(cluster, tmp_path):
    with pytest.raises(FileNotFoundError, match="a sharded index is not there"):
        ShardedIndex(tmp_path)


def test_refresh_to_damaged_shards_stays_with_those_of_before(cluster, stored, single):
    more = tqvec.Index.load(next(iter(single._seen)))
    more.add(sts.normal(9, D, 7), np.arange(N, N + 9))
    with ShardedIndex(stored, actors=1) as sharded:
        years = pa.table({"name": ["n"] * 9, "year": range(9)})
        after = shards_of.cut(more, stored, [9], years, before=sharded.manifest)
        (stored / after.shards[-1].vectors.name).unlink()
        with pytest.raises(FormatError, match=after.shards[-1].vectors.name):
            sharded.refresh()
        assert sharded.ntotal == N
        assert_same(sharded, single, QUERIES, 10)


@RAY_DATA
def test_files_of_queries_are_searched_in_order(cluster, stored, single, tmp_path, monkeypatch):
    queries = sts.normal(70, D, 3)
    (tmp_path / "queries").mkdir()
    for part, rows in enumerate(np.array_split(np.arange(70), 3)):
        table = pa.table({"vector": list(queries[rows]), "number": rows})
        pq.write_table(table, tmp_path / "queries" / f"{part}.parquet")
    np.save(tmp_path / "queries.npy", queries)
    with ShardedIndex(stored, actors=1) as sharded:
        monkeypatch.chdir(tmp_path)  # where tasks are not
        sharded.search_file("queries", "out", 5, batch=16, progress=False, return_error=True)
        found = pa.concat_tables([pq.read_table(path) for path in sorted((tmp_path / "out").iterdir())])
        assert found.column("number").to_pylist() == list(range(70))
        assert found.column_names == ["vector", "number", "ids", "scores", "error"]
        for name, wanted in zip(("scores", "ids", "error"), single.search(queries, 5, return_error=True), strict=True):
            np.testing.assert_array_equal(np.array(found.column(name).to_pylist(), wanted.dtype), wanted)
        with pytest.raises(InputError, match="output must be a folder that is empty"):
            sharded.search_file(tmp_path / "queries", tmp_path / "out")
        sharded.search_file(tmp_path / "queries.npy", tmp_path / "npy", 5, progress=False, filter=[1, 2, 3])
        found = pq.read_table(tmp_path / "npy")
        assert found.column_names == ["ids", "scores"]
        assert found.column("ids").to_pylist() == single.search(queries, 3, filter=[1, 2, 3])[1].tolist()


@RAY_DATA
def test_bad_files_of_queries_are_told_and_leave_nothing(cluster, stored, tmp_path):
    queries = sts.normal(20, D, 3)
    queries[7, 3] = np.nan
    pq.write_table(pa.table({"vector": list(queries), "ids": range(20)}), tmp_path / "ids.parquet")
    pq.write_table(pa.table({"vector": list(queries)}), tmp_path / "nan.parquet")
    with ShardedIndex(stored, actors=1) as sharded:
        for name, options, message in (
            ("ids", {}, "queries have a column 'ids'"),
            ("ids", {"vectors": "other"}, "vectors must be one of vector, ids, got 'other'"),
            ("nan", {"partial": True}, "search_file takes no 'partial'"),
            ("nan", {"k": 0}, "k must be"),
            ("nan", {}, "queries row 7 holds NaN"),
        ):
            with pytest.raises(InputError, match=message):
                sharded.search_file(tmp_path / f"{name}.parquet", tmp_path / "out", progress=False, **options)
            assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

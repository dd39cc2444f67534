"""Sharded indexes that are searched on a Ray cluster of several nodes: right answers, whatever is lost meanwhile."""

import json
import os
import signal
import threading
import time
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import shards_of
import strategies as sts

import tqvec
from tqvec import _safetensors
from tqvec.errors import FormatError, InputError, UnavailableError
from tqvec.shards.folder import Folder
from tqvec.shards.holder import Answer, Failure

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

from tqvec.integrations.ray import ShardedIndex  # noqa: E402
from tqvec.integrations.ray.fleet import ShardServer  # noqa: E402

pytestmark = pytest.mark.slow

RAY_DATA = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # it copies its own settings
N, D, SIZES = 400, 24, [100, 1, 63, 200, 36]
QUERIES = sts.normal(5, D, 2)
RECORDS = pa.table({"name": [f"n{i}" for i in range(N)], "year": [1990 + i % 30 for i in range(N)]})
MEMORY = 80 << 20


@pytest.fixture(scope="module")
def cluster():
    node = {"num_cpus": 2, "object_store_memory": MEMORY}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """An index in a file, whose vectors partly come again."""
    x = sts.normal(N, D, 1)
    x[200:260] = x[10:70]
    index = tqvec.Index(D, nbits=2, metric="l2")
    index.add(x)
    index.partition(12)
    path = tmp_path_factory.mktemp("single") / "index.tqv"
    index.save(path)
    return tqvec.Index.load(path)


@pytest.fixture
def stored(single, tmp_path):
    shards_of.cut(single, tmp_path / "stored", SIZES, RECORDS)
    return tmp_path / "stored"


def watched(flag):
    """A class of indexes whose actors tell their process; one is slow or broken if a file says so."""

    class Server(ShardServer):
        def pid(self):
            return os.getpid()

        def scan(self, *arguments):
            text = flag.read_text() if flag.exists() else ""
            if text == f"slow {os.getpid()}":
                time.sleep(30)
            if text == f"broken {os.getpid()}":
                return Answer(None, {"a shard": Failure("disk on fire", False)})
            return super().scan(*arguments)

    class Watched(ShardedIndex):
        _server = Server

        def pids(self):
            return [[ray.get(member.actor.pid.remote()) for member in part] for part in self._fleet.members]

    return Watched


@pytest.fixture
def watch(tmp_path):
    return watched(tmp_path / "flag")


def assert_same(sharded, index, *arguments, method="search", **options):
    wanted, got = (getattr(each, method)(*arguments, **options) for each in (index, sharded))
    assert len(got) == len(wanted)
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Load:
    """Searches that go on in another thread, each compared with those of one index, or of one of several."""

    def __init__(self, sharded, *indexes, recall=1.0):
        self._wanted = [index.search(QUERIES, 10, recall=recall)[1].tolist() for index in indexes]
        self._sharded, self._recall, self._over = sharded, recall, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.found, self.longest, self._error = [], 0.0, None

    def __enter__(self):
        self._thread.start()
        return self

    def _run(self):
        try:
            while not self._over.is_set():
                start = time.monotonic()
                ids = self._sharded.search(QUERIES, 10, recall=self._recall)[1].tolist()
                self.longest = max(self.longest, time.monotonic() - start)
                self.found.append(self._wanted.index(ids))
        except Exception as error:
            self._error = error

    def wait(self, more):
        """Wait until so many more searches are done."""
        until, end = len(self.found) + more, time.monotonic() + 60
        while len(self.found) < until and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        assert self._error is None, self._error
        assert len(self.found) >= until

    def __exit__(self, kind, error, trace):
        self._over.set()
        self._thread.join()
        if kind is None:
            assert self._error is None, self._error


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


def test_killed_actors_are_replaced_while_searches_go_on(cluster, stored, single, watch):
    with watch(stored, actors=2, timeout=60) as sharded, Load(sharded, single) as load:
        load.wait(3)
        before = sharded.pids()
        os.kill(before[0][0], signal.SIGKILL)
        load.wait(10)
        ray.kill(sharded._fleet.members[1][0].actor)  # Ray itself does not start it again
        load.wait(10)
        after = sharded.pids()
        assert all(old != new for old, new in zip(before, after, strict=True))


def test_with_replicas_nobody_waits_for_a_lost_or_slow_one(cluster, stored, single, watch, tmp_path):
    with watch(stored, actors=1, replicas=2, patience=0.3, timeout=60) as sharded:
        (pids,) = sharded.pids()
        with Load(sharded, single) as load:
            load.wait(3)
            os.kill(pids[0], signal.SIGKILL)
            load.wait(10)
            assert load.longest < 20
        (tmp_path / "flag").write_text(f"slow {pids[1]}")
        deadline = time.monotonic() + 60
        while not all(member.is_ready() for member in sharded._fleet.members[0]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(3):
            start = time.monotonic()
            assert_same(sharded, single, QUERIES, 10, recall=1.0)
            assert time.monotonic() - start < 20  # the slow one takes 30


def test_a_replica_answers_for_one_that_can_not(cluster, stored, single, watch, tmp_path):
    with watch(stored, actors=1, replicas=2) as sharded:
        (pids,) = sharded.pids()
        for pid in pids:
            (tmp_path / "flag").write_text(f"broken {pid}")
            assert_same(sharded, single, QUERIES, 10, recall=1.0)
    with watch(stored, actors=1) as sharded:
        (tmp_path / "flag").write_text(f"broken {sharded.pids()[0][0]}")
        with pytest.raises(UnavailableError, match="a shard: disk on fire"):
            sharded.search(QUERIES, 10, recall=1.0)


def test_many_searches_at_once_replace_a_lost_actor_once(cluster, stored, single, watch):
    with watch(stored, actors=1, timeout=60) as sharded, ExitStack() as stack:
        (member,) = sharded._fleet.members[0]
        started, start = [], member._start
        member._start = lambda: started.append(1) or start()
        loads = [stack.enter_context(Load(sharded, single)) for _ in range(6)]
        for load in loads:
            load.wait(2)
        ray.kill(member.actor)
        for load in loads:
            load.wait(5)
        assert len(started) == 1


def test_without_a_replica_a_slow_shard_is_an_error_that_names_it(cluster, stored, single, watch, tmp_path):
    with watch(stored, actors=2, timeout=60) as sharded:
        assert_same(sharded, single, QUERIES, 10, recall=1.0)  # a first search may have to compile
        sharded._fleet._timeout = 5
        (tmp_path / "flag").write_text(f"slow {sharded.pids()[0][0]}")
        names = [shard.vectors.name for shard in sharded.manifest.shards[0::2]]
        with pytest.raises(UnavailableError) as told:
            sharded.search(QUERIES, 10, recall=1.0)
        assert str(told.value).startswith("3 of 5 shards can't be searched: ")
        assert all(name in str(told.value) for name in names)
        assert "no answer in 5 s" in str(told.value)
        scores, ids, missing = sharded.search(QUERIES, 10, recall=1.0, partial=True)
        assert missing == sorted(names)
        rest = [*range(100, 101), *range(164, 364)]
        for ours, theirs in zip((scores, ids), single.search(QUERIES, 10, filter=rest, recall=1.0), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_lost_node_is_replaced_while_searches_go_on(cluster, stored, single, watch):
    lost = cluster.add_node(num_cpus=2, object_store_memory=MEMORY, resources={"here": 2})
    with watch(stored, actors=2, replicas=2, timeout=60) as sharded, Load(sharded, single) as load:
        load.wait(3)
        cluster.remove_node(lost)
        load.wait(20)


def test_a_lost_shard_is_told_when_its_actor_is_lost(cluster, stored, single, watch):
    with watch(stored, actors=1, timeout=60) as sharded:
        shard = sharded.manifest.shards[3]
        (stored / shard.vectors.name).unlink()
        assert_same(sharded, single, QUERIES, 10, recall=1.0)  # it is mapped
        os.kill(sharded.pids()[0][0], signal.SIGKILL)
        with pytest.raises(FormatError, match=rf"1 of 5 shards .*{shard.vectors.name}.*is missing"):
            sharded.search(QUERIES, 10)
        _, ids, missing = sharded.search(QUERIES, 10, partial=True)
        assert missing == [shard.vectors.name]
        assert not np.isin(ids, range(shard.first, shard.first + shard.rows)).any()


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


def test_refresh_goes_over_to_appended_shards_under_load(cluster, stored, single, watch, tmp_path):
    more = tqvec.Index.load(next(iter(single._seen)))
    more.add(sts.normal(60, D, 7), np.arange(N, N + 60))
    more.save(tmp_path / "more.tqv")
    more = tqvec.Index.load(tmp_path / "more.tqv")
    (first,) = (stored / "manifests").iterdir()
    with watch(stored, actors=2, timeout=60) as sharded, watch(first, actors=1) as pinned:
        assert not sharded.refresh()
        with Load(sharded, single, more) as load:
            load.wait(3)
            years = pa.table({"name": [f"n{i}" for i in range(60)], "year": range(60)})
            shards_of.cut(more, stored, [50, 10], years, before=sharded.manifest)
            load.wait(3)
            assert set(load.found) == {0}
            assert sharded.refresh()
            load.wait(10)
            assert load.found == sorted(load.found), "never back to the manifest of before"
            assert load.found[-1] == 1
        assert sharded.ntotal == N + 60
        assert not sharded.refresh()
        assert not pinned.refresh()
        assert_same(pinned, single, QUERIES, 10)
        os.kill(sharded.pids()[0][0], signal.SIGKILL)
        assert_same(sharded, more, QUERIES, 10)
        assert sharded.take([N + 59, 3], ["name"]).to_pylist() == [{"name": "n59"}, {"name": "n3"}]


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

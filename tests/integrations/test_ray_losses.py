"""Searches on a Ray cluster of several nodes are right, whatever is lost or goes over to new shards meanwhile."""

import os
import signal
import time
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pytest
import shards_of
import strategies as sts
from shard_searches import OBJECT_STORE, QUERIES, D, Load, N, assert_same

import tqvec
from tqvec.errors import FormatError, UnavailableError

ray = pytest.importorskip("ray")

pytest_plugins = ("ray_cluster",)
pytestmark = pytest.mark.slow


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
    lost = cluster.add_node(num_cpus=2, object_store_memory=OBJECT_STORE, resources={"here": 2})
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

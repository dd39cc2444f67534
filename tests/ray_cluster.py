"""A Ray cluster for tests, and a small index that it searches: a plugin of the modules that name it."""

import os
import time

import pytest
import ray
import shards_of
import strategies as sts
from ray import cluster_utils
from shard_searches import OBJECT_STORE, RECORDS, SIZES, D, N

import tqvec
from tqvec.integrations.ray import ShardedIndex
from tqvec.integrations.ray.fleet import ShardServer
from tqvec.shards.holder import Answer, Failure


@pytest.fixture(scope="module")
def cluster():
    node = {"num_cpus": 2, "object_store_memory": OBJECT_STORE}
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

"""Builds of small sharded indexes by one process, which tests also run in processes of their own, to kill them."""

import tqvec
from tqvec.shards.folder import Folder
from tqvec.shards.making import Plan, make_shard
from tqvec.shards.manifest import first_manifest, write_manifest
from tqvec.shards.source import FileSource
from tqvec.shards.writing import write_codec

D = 24


def plan_for(source, folder, columns=("id",), shard_rows=400, base=0):
    rows = FileSource(source)
    schema = rows.schema("vector", columns)
    return Plan(Folder(folder), rows, "source", "key", "vector", schema, base, shard_rows, threads=1)


def make_all(plan, empty):
    done = plan.begin()
    return [done[start] if start in done else make_shard(plan, empty, start).shard for start in plan.starts()]


def build(source, folder, shard_rows=150):
    """Build a sharded index, or what a killed process has left to do of it."""
    plan, empty = plan_for(source, folder, shard_rows=shard_rows), tqvec.Index(D)
    shards = make_all(plan, empty)
    codec = write_codec(plan.folder, empty)
    write_manifest(plan.folder, first_manifest(empty, codec, ["id"], shards, plan.origin))

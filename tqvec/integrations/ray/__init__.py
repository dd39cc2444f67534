"""Ray: sharded indexes that are built and searched by many machines. Needs ray."""

from tqvec.integrations.ray.building import append, build
from tqvec.integrations.ray.sharded_index import ShardedIndex
from tqvec.shards.manifest import Manifest

__all__ = ["Manifest", "ShardedIndex", "append", "build"]

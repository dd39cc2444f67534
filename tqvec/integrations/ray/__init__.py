"""Ray: sharded indexes that are built and searched by many machines."""

from tqvec.integrations.ray.building import build
from tqvec.integrations.ray.sharded_index import ShardedIndex

__all__ = ["ShardedIndex", "build"]

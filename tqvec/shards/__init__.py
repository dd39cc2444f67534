"""Shards: an index cut into files in a folder, which may be that of an object store; see the "Sharded index" page.

Nothing here knows the engine that makes or searches shards on many machines.
"""

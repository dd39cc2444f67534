"""Kill processes that write a collection as a sharded index, at random moments, and look at what is left.

usage: sharding_kills.py COLLECTION WHOLE DESTINATION KILLS

WHOLE is the sharded index of a call that nobody disturbed. Each file that is left must be one of its files, and the
manifest is there only with all of them. The next process goes on from there.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import tqvec
from tqvec.shards.folder import Folder
from tqvec.shards.manifest import manifest_names, read_manifest


def contents(folder):
    """Files by name; none that have not got their names yet."""
    return {name: Folder(folder).read(name) for name in Folder(folder).sizes()}


def work(collection, destination):
    with tqvec.Collection(collection) as chunks:
        chunks.shard(destination, shard_rows=5)


def kill_once(collection, destination, seconds):
    child = os.fork()
    if child == 0:
        try:
            work(collection, destination)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main():
    collection, whole, destination, kills = map(Path, sys.argv[1:])
    expected, killed, partial = contents(whole), 0, 0
    rng = random.Random(5)
    work(collection, destination)  # and compile everything
    shutil.rmtree(destination)
    begin = time.monotonic()
    work(collection, destination)
    longest = time.monotonic() - begin
    shutil.rmtree(destination)
    while killed < int(str(kills)):
        killed += kill_once(collection, destination, rng.uniform(0, longest))
        left = contents(destination)
        assert left.items() <= expected.items(), set(left) - set(expected)
        partial += 0 < len(left) < len(expected)
        if manifest_names(Folder(destination)):
            assert left == expected
            assert read_manifest(Folder(destination)).ntotal == read_manifest(Folder(whole)).ntotal
            shutil.rmtree(destination)
    if not manifest_names(Folder(destination)):
        work(collection, destination)
    assert contents(destination) == expected
    print(killed, "kills", partial, "partial")


if __name__ == "__main__":
    os.environ["TMPDIR"] = tempfile.tempdir = str(Path(sys.argv[3]).parent)  # what killed processes leave there
    main()

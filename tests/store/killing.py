"""Kill writers of a collection at random moments, and compare what is left with what they had committed.

usage: killing.py FOLDER KILLS SEED

A worker, a fork, notes each change before it begins and after it has returned. After a kill the collection must be the
model after the last change that returned, or after the one that was under way. The next worker goes on from there.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import tqvec
from tqvec.store import change

D = 16
OPERATIONS = ["upsert", "upsert", "upsert", "delete", "compact", "train", "snapshot", "partition"]


def vector(number, version):
    return np.random.default_rng([number, version]).standard_normal(D).astype(np.float32)


def plan(rng, model):
    """A change as plain data: what it is, and which records it sets or removes."""
    kind = rng.choice(OPERATIONS)
    if kind == "upsert":
        numbers = rng.sample(range(400), rng.randint(1, 60))
        return {"kind": kind, "set": {str(i): rng.randrange(10**6) for i in numbers}, "gone": []}
    if kind == "delete":
        return {"kind": kind, "set": {}, "gone": rng.sample(sorted(model), min(len(model), rng.randint(0, 40)))}
    return {"kind": kind, "set": {}, "gone": []}


def apply(model, step):
    return {**{key: value for key, value in model.items() if key not in step["gone"]}, **step["set"]}


def perform(collection, step, folder):
    kind = step["kind"]
    if kind == "upsert":
        items = list(step["set"].items())
        collection.upsert(
            ids=[key for key, _ in items],
            vectors=np.array([vector(int(key), version) for key, version in items]),
            documents=[f"word{version % 7}" for _, version in items],
            metadatas=[{"version": version} for _, version in items],
        )
    elif kind == "delete":
        collection.delete(step["gone"])
    elif kind == "snapshot":
        collection.snapshot(folder / f"snapshot{time.monotonic_ns()}")
    elif kind == "compact" or len(collection) < 20:
        collection.compact()
    elif kind == "train":
        collection.train()
    else:
        collection.partition(4)


def work(folder, seed, model):
    """Change the collection until the process is killed; every line of the note is in the system's hands."""
    rng = random.Random(seed)
    note = os.open(folder / "note.jsonl", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with tqvec.Collection(folder / "c") as collection:
        while True:
            step = plan(rng, model)
            os.write(note, json.dumps(step).encode() + b"\n")
            perform(collection, step, folder)
            model = apply(model, step)
            os.write(note, b"done\n")


def contents(collection):
    """Records by id, after everything about them agreed."""
    records = collection.get(include=("documents", "metadatas", "vectors"))
    found = {}
    for key, text, metadata, x in zip(records.ids, records.documents, records.metadatas, records.vectors, strict=True):
        version = metadata["version"]
        assert text == f"word{version % 7}", (key, text)
        np.testing.assert_array_equal(x, vector(int(key), version))
        found[key] = version
    return found


def after(model, lines):
    """The models that may be there: all that returned, and with the change that was under way or without it."""
    steps = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    done = lines.count("done")
    for step in steps[:done]:
        model = apply(model, step)
    return [model, *(apply(model, step) for step in steps[done : done + 1])]


def kill_once(folder, seed, model):
    (folder / "note.jsonl").unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            work(folder, seed, model)
        finally:
            os._exit(1)
    time.sleep(random.Random(seed + 1).uniform(0.02, 0.6))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer ended by itself"
    note = folder / "note.jsonl"
    candidates = after(model, note.read_text().splitlines() if note.exists() else [])
    with tqvec.Collection(folder / "c") as collection:
        found = contents(collection)
        assert found in candidates, "another state than was committed"
        assert collection.check() == [], collection.check()
        if found:
            some = next(iter(found))
            assert some in collection.search(vector(int(some), found[some]), k=3, recall=1.0)[0].ids
    for path in folder.glob("snapshot*"):
        if path.suffix != ".tmp":
            with tqvec.Collection(path) as copy:
                assert copy.check() == []
                contents(copy)
        shutil.rmtree(path)
    return found


def main():
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    warnings.simplefilter("error")
    change._TAIL = 64
    tqvec.Collection(folder / "c", d=D, keep="float32").close()
    model = {}
    for i in range(kills):
        model = kill_once(folder, 1000 * seed + i, model)
    with tqvec.Collection(folder / "c") as collection:
        collection.compact()
        files = [path.name for path in (folder / "c" / "segments").iterdir()]
        assert len(files) <= 3, files
        print(kills, "kills", collection.info())


if __name__ == "__main__":
    main()

"""Several processes at once, and writers that are killed."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT, run_script
from store.records import D, vectors

import tqvec

HERE = Path(__file__).parent
KILLS = os.environ.get("TQVEC_KILLS", "15")
SECONDS = os.environ.get("TQVEC_SECONDS", "4")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_leaves_the_last_commit(tmp_path):
    done = run_script(HERE / "killing.py", str(tmp_path), KILLS, "7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KILLS} kills" in done.stdout


@pytest.mark.slow
def test_readers_see_commits_and_nothing_else(tmp_path):
    """Each commit replaces all records of a group by those of the next version, so that no mixture is a commit."""
    tqvec.Collection(tmp_path / "c", d=D, keep="float16").close()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    readers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(HERE / "reading.py"), str(tmp_path / "c"), SECONDS],
            env={**environment, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    version = 0
    with tqvec.Collection(tmp_path / "c") as collection:
        while any(reader.poll() is None for reader in readers):
            version += 1
            collection.upsert(
                ids=[f"r{i}" for i in range(40)],
                vectors=vectors(40, version),
                metadatas=[{"version": version}] * 40,
            )
            if version % 5 == 0:
                collection.compact()
    for reader in readers:
        out, err = reader.communicate()
        assert reader.returncode == 0, err
        answers, versions = map(int, out.split())
        assert answers > 3
        assert 1 <= versions <= version


@pytest.mark.slow
def test_writers_wait_for_each_other(tmp_path):
    tqvec.Collection(tmp_path / "c", d=D).close()
    code = (
        "import sys, numpy as np, tqvec\n"
        "with tqvec.Collection(sys.argv[1], timeout=60) as c:\n"
        "    for i in range(20): c.upsert(ids=[f'{sys.argv[2]}-{i}'], vectors=np.ones((1, 16)))\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "c"), str(i)], env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        for i in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    with tqvec.Collection(tmp_path / "c") as collection:
        assert len(collection) == 60
        assert collection.check() == []
        assert np.isfinite(collection.search(np.ones(D), k=60)[0].scores).all()


def test_threads_search_while_one_writes(tmp_path):
    with tqvec.Collection(tmp_path / "c", d=D, keep="float32") as collection:
        collection.upsert(ids=[f"r{i}" for i in range(30)], vectors=vectors(30, 0), metadatas=[{"v": 0}] * 30)
        stop, answers = threading.Event(), []

        def search():
            while not stop.is_set():
                hits = collection.search(np.ones(D), k=30, where={"v": {"$gte": 0}}, rerank=True)[0]
                answers.append((len(hits.ids), len({metadata["v"] for metadata in hits.metadatas})))

        with ThreadPoolExecutor(4) as pool:
            tasks = [pool.submit(search) for _ in range(4)]
            for v in range(1, 15):
                collection.upsert(ids=[f"r{i}" for i in range(30)], vectors=vectors(30, v), metadatas=[{"v": v}] * 30)
                if v % 5 == 0:
                    collection.compact()
            stop.set()
            for task in tasks:
                task.result()
        assert set(answers) == {(30, 1)}


FORKING = """
import os, sys
import numpy as np, tqvec
collection = tqvec.Collection(sys.argv[1])
assert len(collection.search(np.ones(16), k=3)[0].ids) == 3
child = os.fork()
if child == 0:
    assert collection.upsert(ids=["child"], vectors=np.ones((1, 16))) == 1
    assert collection.search(np.ones(16), k=1)[0].ids == ["child"]
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert "child" in collection
collection.close()
print("ok")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_goes_on(tmp_path):
    with tqvec.Collection(tmp_path / "c", d=D) as collection:
        collection.upsert(ids=["a", "b", "c"], vectors=vectors(3, 0))
    done = run_script("-c", FORKING, str(tmp_path / "c"))
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr

"""Several processes at once, and writers that are killed."""

import os
import subprocess
import sys
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

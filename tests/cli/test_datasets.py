"""``tqvec datasets``: the list, and a download from a server on loopback."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from command import run
from file_server import serving

from tqvec.cli import datasets as verbs
from tqvec.errors import InputError
from tqvec.eval.datasets import Entry, File

BODY = b"\x89HDF\r\n\x1a\n" + bytes(100)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TQVEC_DATASETS", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def entry(monkeypatch):
    with serving() as server:
        server.content |= {"/a.hdf5": BODY, "/b.hdf5": BODY}
        files = tuple(File(name, f"{server.url}/{name}", None) for name in ("a.hdf5", "b.hdf5"))
        entry = Entry(name="x", n=1, d=2, metric="l2", nbytes=None, licence=None, page="http://p", files=files)
        monkeypatch.setattr(verbs, "find", lambda _: entry)
        monkeypatch.setattr(verbs, "iter_entries", lambda: iter([entry]))
        yield entry


def test_list(folder):
    rows = {line.split("│")[1].strip(): line for line in run("datasets", "list").stdout.splitlines() if "│" in line}
    assert "1,183,514" in rows["glove-100-angular"]
    assert "463 MB" in rows["glove-100-angular"]
    assert "3.6 GB" in rows["gist-960-euclidean"]
    assert "not stated" in rows["gist-960-euclidean"]
    assert rows["wordnet-sample"].split("│")[-2].strip() == "yes"
    assert rows["glove-50"].split("│")[-2].strip() == "no"
    document = json.loads(run("datasets", "list", "--json").stdout)
    facts = {each["name"]: each for each in document["datasets"]}
    assert document["command"] == "datasets list"
    assert facts["sift-128-euclidean"] == {
        "name": "sift-128-euclidean", "n": 1_000_000, "d": 128, "metric": "l2", "nbytes": 501_000_000,
        "licence": None, "page": "https://github.com/erikbern/ann-benchmarks",
        "folder": str(folder / "sift-128-euclidean"), "here": False,
    }  # fmt: skip


def test_list_says_what_is_here_in_part(entry):
    entry.folder.mkdir(parents=True)
    for name, presence in (("a.hdf5", "in part"), ("b.hdf5", "yes")):
        (entry.folder / name).write_bytes(BODY)
        assert f" {presence} " in run("datasets", "list").stdout


def test_get(entry):
    result = run("datasets", "get", "x")
    assert result.stdout == f"{entry.folder}\n"
    assert f"x: to {entry.folder}; licence: not stated, see http://p" in result.stderr
    assert "SHA-256 not published: noted at the first download" in result.stderr
    document = json.loads(run("datasets", "get", "x", "--json").stdout)
    assert document["here"]
    assert [Path(file["path"]).name for file in document["files"]] == ["a.hdf5", "b.hdf5"]
    assert [(file["nbytes"], file["published"]) for file in document["files"]] == [(108, False)] * 2


def test_what_get_prints_is_what_build_takes(tmp_path, entry, monkeypatch):
    h5py = pytest.importorskip("h5py")
    (alone,) = entry.files[:1]
    monkeypatch.setattr(verbs, "find", lambda _: entry._replace(files=(alone,)))
    entry.folder.mkdir(parents=True)
    with h5py.File(entry.folder / "a.hdf5", "w") as file:
        file["train"] = np.eye(64, dtype=np.float32)
    path = run("datasets", "get", "x").stdout.strip()
    assert "64 vectors" in run(*shlex.split(f"build {path} -o {tmp_path / 'x.tqv'}")).output


def test_unknown_names():
    with pytest.raises(InputError, match="got 'nothing'"):
        run("datasets", "get", "nothing")

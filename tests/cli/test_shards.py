"""``tqvec shards`` and ``tqvec collection shard``, verb by verb."""

import json
import os
from pathlib import Path

import pytest
from command import run
from shards.sharded import D, index_of, vectors, write_index

import tqvec
from tqvec.cli import app
from tqvec.cli.shards import _parse_age
from tqvec.errors import FormatError, InputError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_index("s", tmp_path)[0]


def json_of(*arguments):
    return json.loads(run("shards", *arguments, "--json").stdout)


def test_info():
    facts = json_of("info", "s")
    assert (facts["command"], facts["vectors"], facts["shards"], facts["versions"]) == ("shards info", 50, 3, [1])
    assert facts == json_of("info", Path("s").absolute().as_uri()) | {"folder": "s"}
    output = run("shards", "info", "s").output
    assert "bytes per vector" in output
    assert "manifests: 1" in output
    with pytest.raises(FileNotFoundError, match="nothing: a sharded index is not there"):
        run("shards", "info", "nothing")
    with pytest.raises(InputError, match="pyarrow can't open this URI"):
        run("shards", "info", "nowhere://x")


def test_verify(folder):
    facts = json_of("verify", "s")
    assert (facts["sound"], facts["faults"], facts["files"]) == (True, [], 7)
    assert "s: sound, manifest 1: 7 files" in run("shards", "verify", "s").output
    for name in sorted(folder.sizes("shards"))[:2]:
        folder.delete(name)
    with pytest.raises(FormatError, match=r"000000000000-.* is missing.*; .*000000000020-.* is missing"):
        run("shards", "verify", "s")


def test_faults_as_json_and_as_an_exit_status(folder, monkeypatch, capsys):
    missing = min(folder.sizes("shards"))
    folder.delete(missing)
    monkeypatch.setattr("sys.argv", ["tqvec", "shards", "verify", "s", "--json"])
    with pytest.raises(SystemExit) as stop:
        app.main()
    output = capsys.readouterr()
    facts = json.loads(output.out)
    assert (stop.value.code, facts["sound"], len(facts["faults"])) == (1, False, 1)
    assert f"{missing}: is missing" in facts["faults"][0]
    assert "error:" in output.err


def test_collect(folder):
    orphan = folder.write(f"shards/{'0' * 12}-{'0' * 16}.tqv", b"x").name
    os.utime(folder.at(orphan), (0, os.stat(folder.at(orphan)).st_mtime - 8 * 86_400))
    assert "s: 0 files deleted" in run("shards", "collect", "s", "--older-than", "9d").output
    facts = json_of("collect", "s", "--dry-run")
    assert (facts["deleted"], facts["dry_run"]) == ([orphan], True)
    assert f"{orphan}\ns: 1 files would be deleted" in run("shards", "collect", "s", "--dry-run").output
    assert folder.size(orphan) == 1
    assert json_of("collect", "s")["deleted"] == [orphan]
    assert folder.size(orphan) is None


def test_ages():
    assert [_parse_age(text) for text in ("0s", "90m", "12h", "7d", "2w")] == [0, 5400, 43_200, 604_800, 1_209_600]
    for text in ("7", "d", "-7d", "7.5d", "7 d", "7d\n", "٧d"):
        with pytest.raises(InputError, match="--older-than must be a whole number and one of s, m, h, d, w"):
            _parse_age(text)


def test_merge(tmp_path):
    index_of(50).save("single.tqv")
    facts = json_of("merge", "s", "-o", "merged.tqv")
    assert (facts["ntotal"], facts["d"], facts["file_bytes"]) == (50, D, Path("merged.tqv").stat().st_size)
    assert Path("merged.tqv").read_bytes() == Path("single.tqv").read_bytes()
    Path("notes").write_text("x")
    with pytest.raises(InputError, match="notes: there is a file that is not an index of tqvec"):
        run("shards", "merge", "s", "-o", "notes")
    assert "notes: 50 vectors of d=16" in run("shards", "merge", "s", "-o", "notes", "--force").output


def test_merge_with_lists(tmp_path):
    _, _, index = write_index("lists", tmp_path, nlist=3)
    index.save("single.tqv")
    assert json_of("merge", "lists", "-o", "merged.tqv")["ntotal"] == 50
    assert Path("merged.tqv").read_bytes() == Path("single.tqv").read_bytes()


def test_a_damaged_shard_is_not_merged(folder):
    name = max(folder.sizes("shards"))
    folder.write(name, folder.read(name)[:-1])
    with pytest.raises(FormatError, match=f"{name}: damaged"):
        run("shards", "merge", "s", "-o", "merged.tqv")
    assert not Path("merged.tqv").exists()


def test_a_collection():
    with tqvec.Collection("c", d=D, indexed=["year"]) as collection:
        ids = [f"r{i}" for i in range(30)]
        collection.upsert(ids=ids, vectors=vectors(30), metadatas=[{"year": i} for i in range(30)])
    arguments = ("collection", "shard", "c", "t", "--shard-rows", "7", "--where", '{"year": {"$lt": 20}}')
    facts = json.loads(run(*arguments, "--json").stdout)
    assert facts == {"schema": 1, "command": "collection shard", "folder": "c", "destination": "t", "records": 20}
    assert json_of("info", "t")["columns"] == ["id", "document", "metadata", "year"]
    assert json_of("verify", "t")["sound"]
    assert "u: 30 records" in run("collection", "shard", "c", "u").output
    with pytest.raises(InputError, match="has a sharded index already"):
        run("collection", "shard", "c", "u")
    with pytest.raises(InputError, match="c2: there is no collection"):
        run("collection", "shard", "c2", "u")

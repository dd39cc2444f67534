"""``tqvec collection``, verb by verb."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import run

import tqvec
from tqvec.errors import FormatError, InputError

D = 16


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(92_000)
    x = rng.standard_normal((30, D)).astype(np.float32)
    rows = [
        {"id": f"r{i}", "vector": row.tolist(), "document": f"text number {i}", "year": 2000 + i % 3}
        for i, row in enumerate(x)
    ]
    Path("r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save("q.npy", x[4])
    assert run("collection", "create", "c", "-d", str(D), "--keep", "float32", "--index", "year").exit_code == 0
    assert "30 records of r.jsonl; c has 30" in run("collection", "add", "c", "r.jsonl").output
    return x


def json_of(*arguments):
    return json.loads(run("collection", *arguments, "--json").stdout)


def test_searches():
    assert json_of("search", "c", "--queries", "q.npy", "-k", "2")["results"][0][0]["id"] == "r4"
    output = run("collection", "search", "c", "--text", "number 7", "-k", "1").output
    assert "text number 7" in output
    where = '{"year": 2001}'
    both = json_of("search", "c", "--queries", "q.npy", "--text", "7", "--where", where, "--rerank")["results"][0]
    assert {record["metadata"]["year"] for record in both} == {2001}
    with pytest.raises(InputError, match="hand over queries"):
        run("collection", "search", "c")


def test_records_come_and_go():
    records = json_of("get", "c", "r3", "r1")["records"]
    assert [record["id"] for record in records] == ["r3", "r1"]
    assert records[0]["metadata"] == {"year": 2000}
    assert len(json_of("get", "c")["records"]) == 30
    assert len(run("collection", "get", "c").output.splitlines()) == 21
    assert json.loads(run("collection", "get", "c", "r1", "--vectors").stdout)["vector"][0] != 0
    assert json_of("delete", "c", "r3")["records"] == 29
    assert "deleted: 10 records; 19 are left" in run("collection", "delete", "c", "--where", '{"year": 2001}').output
    with pytest.raises(InputError, match="either ids or where"):
        run("collection", "delete", "c")
    with pytest.raises(InputError, match="--where is no JSON"):
        run("collection", "get", "c", "--where", "{year: 3}")


def test_maintenance():
    assert json_of("info", "c")["records"] == 30
    assert "bytes per record" in run("collection", "info", "c").output
    assert json_of("compact", "c")["segments"] == 1
    checked = json_of("check", "c")
    assert (checked["sound"], checked["problems"]) == (True, [])
    assert "c: sound" in run("collection", "check", "c").output
    assert json_of("snapshot", "c", "s")["records"] == 30
    with pytest.raises(InputError, match="a snapshot needs a new name"):
        run("collection", "snapshot", "c", "s")
    assert "30 records" in run("collection", "export", "c", "-o", "all.jsonl").output
    with pytest.raises(InputError, match="all.jsonl: there is a file that is not empty"):
        run("collection", "export", "c", "-o", "all.jsonl")
    assert json_of("export", "c", "-o", "all.jsonl", "--where", '{"year": 2000}', "--force")["records"] == 10
    path = next(Path("c/segments").glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="has checksum"):
        run("collection", "check", "c")


def test_collections_that_are_not_there():
    for verb in (["info"], ["add", "c2", "r.jsonl"], ["get"], ["compact"], ["check"], ["search", "c2", "--text", "a"]):
        with pytest.raises(InputError, match="c2: there is no collection; make one"):
            run("collection", verb[0], *(verb[1:] or ["c2"]))
    assert not Path("c2").exists()
    with pytest.raises(InputError, match="c: exists"):
        run("collection", "create", "c", "-d", "3")
    with pytest.raises(InputError, match="keep must be"):
        run("collection", "create", "c3", "-d", "3", "--keep", "float64")
    assert run("collection", "create", "c3", "-d", "8", "--nbits", "2.5", "--codebook", "scalar").exit_code == 0
    with tqvec.Collection("c3") as collection:
        assert collection.settings.nbits == 2.5

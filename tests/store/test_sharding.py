"""Collections as sharded indexes: the same codes in the same order, the records beside them, or nothing at all."""

import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import run_script
from store.records import D, fill, vectors

import tqvec
from tqvec.errors import FormatError, InputError, UnsupportedError
from tqvec.index import saved
from tqvec.index.file.merge import merge
from tqvec.shards.folder import Folder
from tqvec.shards.manifest import read_manifest
from tqvec.store import change, sharding

compute = pytest.importorskip("pyarrow.compute")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def collection(tmp_path, monkeypatch):
    """Three segments, a tail, deleted and replaced records, and Parquet files of several parts."""
    monkeypatch.setattr(change, "_TAIL", 20)
    monkeypatch.setattr(sharding, "_PART", 7)
    monkeypatch.setattr(saved, "_PART", 4)
    with tqvec.Collection(tmp_path / "c", d=D, keep="float32", indexed=["year"]) as collection:
        for part in range(7):
            fill(collection, 10, seed=part, first=10 * part)
        collection.delete(["r3", "r44"])
        fill(collection, 4, seed=30, first=20)
        assert collection.info()[:3] == (68, 6, 3)
        yield collection


def merged(folder, tmp_path):
    """The shards as one index file, in bytes."""
    paths = [folder / shard.vectors.name for shard in read_manifest(Folder(folder)).shards]
    merge(paths, tmp_path / "merged.tqv")
    return (tmp_path / "merged.tqv").read_bytes()


def renumbered(collection, tmp_path):
    """The codes of a compacted collection as an index with ids from 0, in bytes."""
    path = max((collection.path / "segments").glob("*.tqv"), key=lambda path: path.stat().st_size)  # not the codec
    index, fresh = tqvec.Index.load(path), tqvec.Index.load(path)
    fresh.reset()
    for rows, _ in index._core.store.iter_chunks(index._core.store.blocks):
        fresh._core.store.append(rows, None, False)
    fresh.save(tmp_path / "whole.tqv", overwrite=True)
    return (tmp_path / "whole.tqv").read_bytes()


def records_of(folder):
    files = [shard.records.name for shard in read_manifest(Folder(folder)).shards]
    return list(itertools.chain(*(parquet.read_table(folder / name).to_pylist() for name in files)))


@pytest.mark.parametrize("shard_rows", [1, 9, 34, 68, 1000])
def test_merged_shards_are_the_single_index(collection, tmp_path, shard_rows):
    done = []
    assert collection.shard(tmp_path / "s", shard_rows=shard_rows, progress=done.append) == 68
    assert done == sorted(done)
    assert done[-1] == 68
    manifest = read_manifest(Folder(tmp_path / "s"))
    assert [shard.rows for shard in manifest.shards[:-1]] == [shard_rows] * ((68 - 1) // shard_rows)
    assert (manifest.ntotal, manifest.number, manifest.nlist) == (68, 1, 0)
    assert manifest.columns == ("id", "document", "metadata", "year")
    assert manifest.fingerprint == tqvec.Index.load(tmp_path / "s" / manifest.codec.name).codec.fingerprint
    collection.compact()
    assert merged(tmp_path / "s", tmp_path) == renumbered(collection, tmp_path)


def test_records_stand_in_the_order_of_the_vectors(collection, tmp_path):
    collection.shard(tmp_path / "s", shard_rows=30)
    scanned = [record for part in collection.scan() for record in part.to_records()]
    records = records_of(tmp_path / "s")
    assert [(r["id"], r["document"], json.loads(r["metadata"]), r["year"]) for r in records] == [
        (r["id"], r["document"], r["metadata"], r["metadata"]["year"]) for r in scanned
    ]
    single = tqvec.Index.load(tmp_path / "merged.tqv") if merged(tmp_path / "s", tmp_path) else None
    q = vectors(3, 99)
    scores, ids = single.search(q, k=10)
    for hits, own, rows in zip(collection.search(q, k=10), scores, ids, strict=True):
        np.testing.assert_array_equal(hits.scores, own)
        assert hits.ids == [records[row]["id"] for row in rows]


@pytest.mark.parametrize("settings", [{"metric": "l2"}, {"metric": "ip", "nbits": 2.5}, {"codebook": "trellis"}])
def test_settings_are_kept(tmp_path, settings):
    with tqvec.Collection(tmp_path / "c", d=D, seed=5, **settings) as collection:
        fill(collection, 40)
        collection.shard(tmp_path / "s", shard_rows=11)
        collection.compact()
        assert merged(tmp_path / "s", tmp_path) == renumbered(collection, tmp_path)
        manifest = read_manifest(Folder(tmp_path / "s"))
        for name in ("metric", "nbits", "codebook", "seed"):
            assert getattr(manifest, name) == getattr(collection.settings, name)


def test_a_trained_codec_is_kept(tmp_path):
    rng = np.random.default_rng(7)
    x = (rng.standard_normal((3000, 4)) @ rng.standard_normal((4, D)) + 2).astype(np.float32)
    with tqvec.Collection(tmp_path / "c", d=D, keep="float32") as collection:
        collection.upsert(ids=[f"r{i}" for i in range(3000)], vectors=x)
        assert collection.train().accepted
        collection.shard(tmp_path / "s", shard_rows=1000)
        assert read_manifest(Folder(tmp_path / "s")).trained
        assert merged(tmp_path / "s", tmp_path) == renumbered(collection, tmp_path)


@pytest.mark.parametrize("where", [None, {"year": {"$lt": 2004}}])
def test_partitioned_segments_give_rows_in_order(collection, tmp_path, where):
    collection.shard(tmp_path / "before", shard_rows=30, where=where)
    collection.partition(5)
    collection.shard(tmp_path / "after", shard_rows=30, where=where)
    names = [sorted(path.name for path in (tmp_path / name).rglob("*.*")) for name in ("before", "after")]
    assert names[0] == names[1]  # they have the digests of the contents
    assert read_manifest(Folder(tmp_path / "after")).nlist == 0


def test_a_condition_selects_records(collection, tmp_path):
    where = {"year": {"$gte": 2004}}
    assert collection.shard(tmp_path / "s", shard_rows=13, where=where) == collection.count(where)
    assert [r["id"] for r in records_of(tmp_path / "s")] == [i for part in collection.scan(where) for i in part.ids]
    table = parquet.read_table(tmp_path / "s" / "records", filters=compute.field("year") >= 2008)
    assert set(table["year"].to_pylist()) == {2008, 2009}


def test_columns_of_one_type(tmp_path):
    fields = ["whole", "real", "text", "yes", "mixed", "numbers", "some", "list", "none", "id", "metadata", "ü.x"]
    records = [
        {"whole": 2**63 - 1, "real": 0.5, "text": "🎈", "yes": True, "mixed": 1, "numbers": 1, "list": [1], "id": 3},
        {"whole": -(2**63), "real": -1e300, "text": "", "yes": False, "mixed": "a", "numbers": 1.5, "some": 4},
        {"whole": 0, "real": 1.0, "text": "a\0b", "yes": True, "mixed": True, "metadata": 1, "ü.x": 7},
    ]
    names = ["ä", "日本", "🎈\n"]
    with tqvec.Collection(tmp_path / "c", d=D, indexed=fields) as collection:
        collection.upsert(ids=names, vectors=vectors(3, 0), documents=[None, "", "ß"], metadatas=records)
        collection.shard(tmp_path / "s")
    columns = read_manifest(Folder(tmp_path / "s")).columns
    assert columns == ("id", "document", "metadata", "whole", "real", "text", "yes", "some", "ü.x")
    stored = records_of(tmp_path / "s")
    assert [r["id"] for r in stored] == names
    assert [r["document"] for r in stored] == [None, "", "ß"]
    assert [json.loads(r["metadata"]) for r in stored] == records
    for name in columns[3:]:
        values = [r[name] for r in stored]
        assert values == [record.get(name) for record in records]
        assert {type(value) for value in values if value is not None} == {type(records[2].get(name, 4))}


def test_nothing_to_write(collection, tmp_path):
    with pytest.raises(InputError, match="there are no records to shard"):
        collection.shard(tmp_path / "s", where={"year": 1})
    assert not list((tmp_path / "s").rglob("*.json"))
    with (
        tqvec.Collection(tmp_path / "e", d=D) as empty,
        pytest.raises(InputError, match="there are no records to shard"),
    ):
        empty.shard(tmp_path / "s")
    collection.shard(tmp_path / "s")
    with pytest.raises(InputError, match="has a sharded index already; name another folder"):
        collection.shard(tmp_path / "s")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_rows": 0}, "shard_rows must be an integer from 1"),
        ({"where": {"year": {"$x": 1}}}, "unknown operator"),
        ({"progress": 3}, "progress must be"),
        ({"filesystem": "s3"}, "filesystem must be of pyarrow.fs"),
        ({"destination": 3}, "must be a str or a path"),
        ({"destination": "nowhere://b/x"}, "pyarrow can't open this URI"),
    ],
)
def test_bad_arguments(collection, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        collection.shard(**{"destination": tmp_path / "s", **options})
    assert not (tmp_path / "s").exists()


def test_without_pyarrow_the_error_has_the_command(collection, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.fs", None)
    with pytest.raises(UnsupportedError, match=r"needs pyarrow: pip install 'tqvec\[ray\]'"):
        collection.shard(tmp_path / "s")


def test_changes_meanwhile_are_not_seen(collection, tmp_path):
    """The writer deletes, adds, and replaces the files of all segments after the first shard."""
    collection.shard(tmp_path / "still", shard_rows=10)
    changed = []

    def change_all(done):
        if not changed:
            changed.append(done)
            with tqvec.Collection(collection.path) as other:
                other.delete([f"r{i}" for i in range(30, 60)])
                fill(other, 10, seed=77, first=60)
                other.compact()

    collection.shard(tmp_path / "moving", shard_rows=10, progress=change_all)
    assert changed
    assert len(collection) == 39
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.*")} for name in ("still", "moving")]
    assert files[0] == files[1]


def test_a_full_destination_shows_nothing(collection, tmp_path, monkeypatch):
    put, calls = Folder.put, []

    def fill_up(self, path, name, sha256):
        calls.append(name)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return put(self, path, name, sha256)

    monkeypatch.setattr(Folder, "put", fill_up)
    with pytest.raises(OSError, match="No space left"):
        collection.shard(tmp_path / "s", shard_rows=20)
    with pytest.raises(FileNotFoundError, match="a sharded index is not there"):
        read_manifest(Folder(tmp_path / "s"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.*")}
    assert len(before) == 3
    assert collection.shard(tmp_path / "s", shard_rows=20) == 68
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_record_without_a_vector_is_an_error(collection, tmp_path):
    with collection._catalog.writing("damage") as connection:
        connection.execute("INSERT INTO records (row, id, metadata) VALUES (999, 'x', '{}')")
    with pytest.raises(FormatError, match=r"a record has no vector \(id 999 .*see check"):
        collection.shard(tmp_path / "s")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_leaves_nothing_half_visible(collection, tmp_path):
    collection.shard(tmp_path / "whole", shard_rows=5)
    folders = [os.fspath(path) for path in (collection.path, tmp_path / "whole", tmp_path / "s")]
    kills = os.environ.get("TQVEC_KILLS", "15")
    done = run_script(Path(__file__).parent / "sharding_kills.py", *folders, kills)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{kills} kills")
    assert int(done.stdout.split()[2]) > 0, "no kill came between the first file and the last"

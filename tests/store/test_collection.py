"""What a user of a collection relies on, call by call."""

import asyncio
import gc
import json
import os
import tempfile
import time
import warnings
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
from processes import run_script
from store.records import WORDS, D, fill, flat, vectors

import tqvec
from tqvec.errors import InputError, LossWarning
from tqvec.store import change


@pytest.fixture
def chunks(tmp_path):
    with tqvec.Collection(tmp_path / "chunks", d=D, keep="float32", indexed=["year"]) as collection:
        fill(collection, 60)
        yield collection


def embed(texts):
    """Counts of letters: a model that needs no download."""
    return np.array([[text.count(chr(ord("a") + i)) + 0.5 for i in range(D)] for text in texts], np.float32)


def test_a_search_is_that_of_the_index(chunks):
    q = vectors(3, 1)
    scores, rows = flat(vectors(60, 0)).search(q, k=7)
    for hits, expected, wanted in zip(chunks.search(q, k=7), scores, rows, strict=True):
        np.testing.assert_array_equal(hits.scores, expected)
        assert hits.ids == [f"r{row}" for row in wanted]
        assert hits.documents == [f"{WORDS[row % 6]} {WORDS[row // 6 % 6]}" for row in wanted]
        assert hits.metadatas[0] == {"year": 2000 + wanted[0] % 10, "tags": WORDS[: wanted[0] % 3]}


def test_segments_and_tail_are_searched_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(change, "_TAIL", 25)
    with tqvec.Collection(tmp_path / "c", d=D) as collection:
        for part in range(7):
            fill(collection, 10, seed=part, first=10 * part)
        assert collection.info().segments == 2
        x = np.concatenate([vectors(10, part) for part in range(7)])
        scores, rows = flat(x).search(vectors(4, 50), k=20)
        result = collection.search(vectors(4, 50), k=20)
        np.testing.assert_array_equal([hits.scores for hits in result], scores)
        assert [hits.ids for hits in result] == [[f"r{row}" for row in some] for some in rows]


def test_compaction_gives_the_bytes_of_a_fresh_build(tmp_path, monkeypatch):
    monkeypatch.setattr(change, "_TAIL", 8)
    ids, x = [f"r{i}" for i in range(50)], vectors(50, 0)
    for name, step in (("parts", 7), ("whole", 50)):
        with tqvec.Collection(tmp_path / name, d=D, keep="float16") as collection:
            for first in range(0, 50, step):
                part = slice(first, first + step)
                collection.upsert(ids=ids[part], vectors=x[part])
            collection.delete(ids[20:30])
            collection.compact()
            assert collection.info()[:3] == (40, 0, 1)
    files = [sorted((tmp_path / name / "segments").iterdir()) for name in ("parts", "whole")]
    assert len(files[0]) == len(files[1]) == 2
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_deleted_records_give_their_space_back(chunks, monkeypatch):
    before = chunks.info()
    chunks.compact()
    chunks.delete([f"r{i}" for i in range(50)])
    chunks.compact()
    after = chunks.info()
    assert (after.records, after.deleted) == (10, 0)
    assert after.original_bytes < 10 * D * 4 + 600
    assert after.catalog_bytes < before.catalog_bytes
    chunks.delete(where={})
    chunks.compact()
    assert chunks.info()[:3] == (0, 0, 0)
    assert chunks.search(vectors(1, 1))[0].ids == []
    assert list((chunks.path / "segments").iterdir()) == []


def test_exact_scores(chunks):
    x, q = vectors(60, 0), vectors(2, 1)
    exact = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    for hits, scores in zip(chunks.search(q, k=5, rerank=True), exact, strict=True):
        np.testing.assert_allclose(hits.scores, np.sort(scores)[::-1][:5], rtol=1e-5)
    chunks.compact()
    for hits, scores in zip(chunks.search(q, k=5, rerank=True), exact, strict=True):
        np.testing.assert_allclose(hits.scores, np.sort(scores)[::-1][:5], rtol=1e-5)


def test_words_and_vectors_together(chunks):
    words = chunks.search(text="alpha zeta", k=3)[0]
    assert set(words.ids[0] and words.documents[0].split()) == {"alpha", "zeta"}
    both = chunks.search(vectors(60, 0)[7], text="alpha zeta", k=60)[0]
    vector_ids = chunks.search(vectors(60, 0)[7], k=60)[0].ids
    ranks = {name: 1 / (60 + rank) for rank, name in enumerate(vector_ids, 1)}
    for rank, name in enumerate(chunks.search(text="alpha zeta", k=60)[0].ids, 1):
        ranks[name] += 1 / (60 + rank)
    np.testing.assert_allclose(both.scores, sorted(ranks.values(), reverse=True), rtol=1e-6)
    assert chunks.search(text="nothing of that", k=3)[0].ids == []
    assert chunks.search(text='"; --', k=3)[0].ids == []
    assert chunks.search(text="alpha", k=100, where={"year": 2000})[0].ids == chunks.get(
        where={"$and": [{"year": 2000}]}
    ).ids[:0] + [name for name in chunks.search(text="alpha", k=100)[0].ids if int(name[1:]) % 10 == 0]


def test_groups_and_diversity(chunks):
    q = vectors(1, 3)
    hits = chunks.search(q, k=20, group_by="year")[0]
    assert sorted(metadata["year"] for metadata in hits.metadatas) == list(range(2000, 2010))
    everything = chunks.search(q, k=60)[0]
    firsts = {}
    for name, metadata in zip(everything.ids, everything.metadatas, strict=True):
        firsts.setdefault(metadata["year"], name)
    assert hits.ids == list(firsts.values())
    assert chunks.search(q, k=5, diversity=0.0)[0].ids == chunks.search(q, k=5, rerank=True)[0].ids
    spread = chunks.search(q, k=5, diversity=0.9)[0]
    assert len(set(spread.ids)) == 5
    assert spread.ids[0] == chunks.search(q, k=1, rerank=True)[0].ids[0]
    assert spread.ids != chunks.search(q, k=5)[0].ids
    few = chunks.search(q, k=5, diversity=0.9, candidates=5)[0]
    assert set(few.ids) == set(chunks.search(q, k=5)[0].ids)


def test_texts_become_vectors(tmp_path):
    with tqvec.Collection(tmp_path / "c", d=D, embed=embed) as collection:
        collection.upsert(ids=["a", "b"], documents=["aaaa", "bbbb"])
        assert collection.search("aaa", k=1)[0].ids == ["a"]
        assert [hits.ids for hits in collection.search(["aab", "bb"], k=1)] == [["a"], ["b"]]
        collection.update("a", documents=["cccc"])
        assert collection.search("ccc", k=1)[0].ids == ["a"]
        with pytest.raises(InputError, match="ids row 1 have no vector and no document"):
            collection.upsert(ids=["c", "d"], documents=["x", None])
    without = tqvec.Collection(tmp_path / "c")
    with pytest.raises(InputError, match="open the collection with embed="):
        without.search("aaa")
    without.close()
    with pytest.raises(InputError, match="has embedding='embed', not 'fill'"):
        tqvec.Collection(tmp_path / "c", embed=fill)


def test_updates(chunks):
    chunks.update(["r1", "r2"], metadatas=[{"year": None, "new": [1, 2]}, {"year": 1}], documents=["one", None])
    records = chunks.get(["r2", "r1"])
    assert records.ids == ["r2", "r1"]
    assert records.documents == [None, "one"]
    assert records.metadatas == [{"year": 1, "tags": WORDS[:2]}, {"tags": WORDS[:1], "new": [1, 2]}]
    assert chunks.search(text="one")[0].ids == ["r1"]
    with pytest.raises(InputError, match="ids row 1: there is no record 'nobody'"):
        chunks.update(["r1", "nobody"], documents=["x", "y"])
    assert chunks.get("r1").documents == ["one"]


def test_scans_are_of_one_moment(chunks):
    pages = chunks.scan({"year": {"$lt": 2005}}, batch=7)
    first = next(pages)
    assert len(first.ids) == 7
    chunks.delete(where={})
    rest = [name for page in pages for name in page.ids]
    assert len(rest) == 23
    assert len(chunks) == 0


def test_a_reader_that_does_not_refresh_stays(chunks):
    with tqvec.Collection(chunks.path, refresh=False) as reader:
        chunks.delete(where={"year": 2003})
        start = time.monotonic()
        chunks.compact()
        assert time.monotonic() - start < 9  # it does not wait for the reader, as it does for a writer, 10 s
        assert (len(chunks), len(reader)) == (54, 60)
        assert reader.get("r3").ids == ["r3"]
        assert reader.search(vectors(60, 0)[3], k=1)[0].documents == [f"{WORDS[3]} {WORDS[0]}"]
        reader.refresh()
        assert len(reader) == 54
        with pytest.raises(InputError, match="refresh=False is for reading"):
            reader.delete("r1")


def test_records_of_any_kind(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    x = vectors(3, 0)
    rows = [{"id": f"r{i}", "vector": x[i], "document": f"text {i}", "year": 2000 + i} for i in range(3)]
    rows[1]["year"] = None
    plain = [{**row, "vector": row["vector"].tolist()} for row in rows]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain))
    table = arrow.Table.from_pylist(plain)
    parquet.write_table(table, tmp_path / "r.parquet")
    kinds = {
        "dicts": rows,
        "generator": (row for row in rows),
        "table": table,
        "lines": tmp_path / "r.jsonl",
        "parquet": str(tmp_path / "r.parquet"),
    }
    if find_spec("pandas"):
        kinds["frame"] = import_module("pandas").DataFrame(rows)
    for name, records in kinds.items():
        with tqvec.Collection(tmp_path / name, d=D, keep="float32") as collection:
            assert collection.upsert(records) == 3
            got = collection.get(include=("documents", "metadatas", "vectors"))
            assert got.ids == ["r0", "r1", "r2"]
            assert got.documents == ["text 0", "text 1", "text 2"]
            assert got.metadatas == [{"year": 2000}, {}, {"year": 2002}], name
            np.testing.assert_array_equal(got.vectors, x)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_export_and_import(chunks, tmp_path, ending):
    path, counts = tmp_path / f"all.{ending}", []
    assert chunks.export(path, progress=counts.append) == 60
    assert counts == [60]
    with pytest.raises(InputError, match="not empty; name another, or replace it with overwrite=True"):
        chunks.export(path)
    with tqvec.Collection(tmp_path / "copy", d=D, keep="float32") as copy:
        assert copy.import_file(path) == 60
        columns = ("documents", "metadatas", "vectors")
        for page, other in zip(chunks.scan(include=columns), copy.scan(include=columns), strict=True):
            assert page[:1] + page[2:4] == other[:1] + other[2:4]
            np.testing.assert_array_equal(page.vectors, other.vectors)
    assert chunks.export(tmp_path / f"some.{ending}", where={"year": 2001}) == 6


def test_an_import_is_taken_up_again(tmp_path, monkeypatch):
    monkeypatch.setattr("tqvec.store.records._BATCH", 10)
    path, x = tmp_path / "r.jsonl", vectors(35, 0)
    path.write_text("".join(json.dumps({"id": f"r{i}", "vector": x[i].tolist()}) + "\n" for i in range(35)))
    seen = []

    def stop(done):
        seen.append(done)
        if done == 20:
            raise KeyboardInterrupt

    with tqvec.Collection(tmp_path / "c", d=D) as collection:
        with pytest.raises(KeyboardInterrupt):
            collection.import_file(path, progress=stop)
        assert len(collection) == 20
        generation = collection.info().generation
        assert collection.import_file(path) == 35
        assert len(collection) == 35
        assert collection.info().generation == generation + 3
        assert collection.check() == []


def test_exports_of_codes_warn(tmp_path):
    with tqvec.Collection(tmp_path / "c", d=D) as collection:
        fill(collection, 5)
        with pytest.warns(LossWarning, match="decoded codes"):
            collection.export(tmp_path / "r.jsonl")


def test_training(tmp_path, monkeypatch):
    monkeypatch.setattr(change, "_TAIL", 300)
    x = vectors(1500, 5) * np.geomspace(1, 0.01, D, dtype=np.float32)
    ids = [f"r{i}" for i in range(1500)]
    with tqvec.Collection(tmp_path / "c", d=D, keep="float32", nbits=3) as collection:
        collection.upsert(ids=ids[:1000], vectors=x[:1000])
        collection.upsert(ids=ids[1000:1100], vectors=x[1000:1100])
        assert collection.train().accepted
        assert (collection.info().trained, collection.info().segments) == (True, 1)
        collection.upsert(ids=ids[1100:], vectors=x[1100:])
        collection.delete(ids[:10])
        assert collection.check() == []
        expected = collection.search(x[20:23], k=10)
    with tqvec.Collection(tmp_path / "c") as again:
        for hits, other in zip(again.search(x[20:23], k=10), expected, strict=True):
            assert hits.ids == other.ids
            np.testing.assert_array_equal(hits.scores, other.scores)
        assert again.search(x[20], k=1)[0].ids == ["r20"]


@pytest.mark.parametrize("keep", ["float16", "int8"])
def test_originals_in_fewer_bits(tmp_path, keep):
    x = vectors(30, 0)
    with tqvec.Collection(tmp_path / "c", d=D, keep=keep) as collection:
        fill(collection, 30)
        collection.compact()
        got = collection.get(include=["vectors"]).vectors
        limit = {"float16": 1e-3, "int8": 1 / 127}[keep] * np.abs(x).max(axis=1, keepdims=True)
        assert (np.abs(got - x) <= limit).all()
        assert (got != x).any()
        assert collection.check() == []
        if keep == "float16":
            with pytest.raises(InputError, match="vectors row 1 has values up to 1e\\+06, beyond keep='float16'"):
                collection.upsert(ids=["a", "b"], vectors=[[1.0] * D, [1e6] * D])
            assert "a" not in collection


def test_asyncio(chunks):
    async def run():
        await chunks.aupsert(ids=["x"], vectors=np.ones((1, D)))
        results = await asyncio.gather(*(chunks.asearch(vectors(1, i), k=3) for i in range(5)), chunks.acount())
        await chunks.aupdate("x", documents=["new"])
        assert (await chunks.aget("x")).documents == ["new"]
        assert await chunks.adelete("x") == 1
        return results

    *found, count = asyncio.run(run())
    assert count == 61
    assert [len(result[0].ids) for result in found] == [3] * 5


def test_results_show_themselves(chunks):
    result = chunks.search(vectors(1, 1), k=2)
    assert repr(result) == "SearchResult(1 queries, 2 hits)"
    assert str(result[0]).splitlines()[0].split() == ["id", "score", "document", "metadata"]
    assert "<table>" in result._repr_html_()
    assert repr(chunks) == f"Collection({str(chunks.path)!r}, d=16, 60 records)"
    assert "bytes per record" in str(chunks.info())
    rows = result[0].to_rows()
    assert list(rows[0]) == ["year", "tags", "id", "score", "document"]
    assert result[0].to_arrow().num_rows == 2
    assert result[:1][0] is result[0]
    pytest.importorskip("pandas", reason="optional")
    assert result.to_pandas()["query"].tolist() == [0, 0]
    assert list(result[0].to_pandas()["id"]) == result[0].ids


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.upsert(), "hand over either records, or ids"),
        (lambda c: c.upsert([], ids=[]), "hand over either records, or ids"),
        (lambda c: c.upsert([{"id": "a"}], vectors=[[1.0] * D]), "belong to ids, not to records"),
        (lambda c: c.upsert(ids=["a", 3], vectors=vectors(2, 0)), "ids row 1 must be a str, got 3; make text"),
        (lambda c: c.upsert(ids=["a", "a"], vectors=vectors(2, 0)), "ids row 1 is 'a', as row 0"),
        (lambda c: c.upsert(ids=["a", ""], vectors=vectors(2, 0)), "ids row 1 must have 1 to 1,024 characters"),
        (lambda c: c.upsert(ids=["a", "\ud800"], vectors=vectors(2, 0)), "ids row 1 is no valid Unicode"),
        (lambda c: c.upsert(ids=["a"], vectors=vectors(2, 0)), "vectors must have a row for each of the 1 ids, got 2"),
        (lambda c: c.upsert(ids=["a"], vectors=[[np.nan] * D]), "vectors row 0 holds NaN or Inf"),
        (lambda c: c.upsert(ids=["a"], vectors=[[1.0, 2.0]]), "vectors must have shape"),
        (lambda c: c.upsert(ids=["a"]), "have no vector and no document"),
        (lambda c: c.upsert(ids=["a"], vectors=vectors(1, 0), documents=[3]), "documents row 0 must be a str or None"),
        (lambda c: c.upsert(ids=["a"], vectors=vectors(1, 0), metadatas=[{"x": {1}}]), "field 'x' must be a str, int"),
        (lambda c: c.upsert(ids=["a"], vectors=vectors(1, 0), metadatas=[{"x": np.inf}]), "field 'x' must be finite"),
        (lambda c: c.upsert(ids=["a"], vectors=vectors(1, 0), metadatas=[{"$x": 1}]), "no field can have the name"),
        (lambda c: c.upsert(ids=["a"], vectors=vectors(1, 0), metadatas=[]), "metadatas must have an entry for each"),
        (lambda c: c.upsert([{"vector": [1.0] * D}]), "records row 0 has no 'id', only 'vector'"),
        (lambda c: c.upsert([3]), "records row 0 must be a dict"),
        (lambda c: c.upsert(3), "records must be a list of dicts"),
        (lambda c: c.upsert("nothing.csv"), "records are read from files with the ending"),
        (lambda c: c.search(), "hand over queries, text, or both"),
        (lambda c: c.search(np.ones(3)), "queries must have shape"),
        (lambda c: c.search(np.ones(D), 0), "k must be an integer"),
        (lambda c: c.search(np.ones(D), include=["texts"]), "include must have names of documents"),
        (lambda c: c.search(np.ones(D), text=["a", "b"]), "text must have an entry for each of the 1 queries"),
        (lambda c: c.search(np.ones(D), diversity=2), "diversity must be from 0 to 1"),
        (lambda c: c.search(np.ones(D), 5, diversity=0.9, candidates=4), "candidates must be an integer"),
        (lambda c: c.search(np.ones(D), where=[]), "where must be a dict of conditions"),
        (lambda c: c.count(where=0), "where must be a dict of conditions"),
        (lambda c: c.search(np.ones(D), group_by="$x"), "no field can have the name"),
        (lambda c: c.delete(), "hand over either ids or where"),
        (lambda c: c.partition(1000), "nlist must be from 1 to 60"),
        (lambda c: c.snapshot(c.path), "exists; a snapshot needs a new name"),
        (lambda c: c.export("x.csv"), "path must end in"),
        (lambda c: c.import_file("nothing.jsonl"), "no such file"),
        (lambda c: c.import_file("nothing.jsonl", progress=3), "progress must be a function"),
    ],
)
def test_bad_calls_change_nothing(chunks, call, message):
    generation = chunks.info().generation
    with pytest.raises((InputError, FileNotFoundError), match=message):
        call(chunks)
    assert chunks.info().generation in (generation, generation + 1)  # a flush may have come before
    assert len(chunks) == 60
    assert chunks.check() == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metric": "l2"}, "has metric='cosine', not 'l2'"),
        ({"d": 17}, "has d=16, not 17"),
        ({"keep": "int8"}, "has keep='float32', not 'int8'"),
        ({"indexed": ["tags"]}, r"has indexed=\('year',\), not \('tags',\)"),
        ({"nbits": 3}, "has nbits=4, not 3"),
    ],
)
def test_settings_stay(chunks, given, message):
    with pytest.raises(InputError, match=message):
        tqvec.Collection(chunks.path, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "d, the dimension of the vectors, must be given"),
        ({"d": 0}, "d must be an integer from 1"),
        ({"d": D, "keep": "float64"}, "keep must be"),
        ({"d": D, "nbits": [(16, 4)]}, "nbits of a collection must be a number"),
        ({"d": D, "metric": "dot"}, "metric must be"),
        ({"d": D, "indexed": "year"}, "indexed must be a list of fields"),
        ({"d": D, "indexed": ["$x"]}, "no field can have the name"),
        ({"d": D, "embed": 3}, "embed must be a function"),
        ({"d": D, "timeout": "long"}, "timeout must be"),
    ],
)
def test_bad_settings_leave_nothing(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        tqvec.Collection(tmp_path / "c", **given)
    assert not (tmp_path / "c").exists()


def test_settings_are_numbers_of_any_kind(tmp_path):
    with tqvec.Collection(tmp_path / "c", d=np.int64(D), seed=np.array(3)) as collection:
        assert collection.settings.seed == 3
    tqvec.Collection(tmp_path / "c", d=np.array(D), seed=np.int32(3)).close()
    for given in ({"keep": np.ones(5)}, {"metric": np.ones(5)}, {"d": np.ones(2)}):
        with pytest.raises(InputError, match=f"the collection has {next(iter(given))}="):
            tqvec.Collection(tmp_path / "c", **given)


def test_a_closed_collection_says_so(tmp_path):
    collection = tqvec.Collection(tmp_path / "c", d=D)
    collection.close()
    collection.close()
    for call in (lambda: len(collection), lambda: collection.upsert(ids=["a"], vectors=np.ones((1, D)))):
        with pytest.raises(ValueError, match="the collection is closed"):
            call()


def test_a_collection_that_is_not_closed_warns_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collection = tqvec.Collection(tmp_path / "c", d=D)
        fill(collection, 3)
        del collection
        gc.collect()


def test_a_collection_without_a_path_leaves_no_folder(tmp_path, monkeypatch):
    """Neither when it is closed, nor when it is collected, nor when the process ends, nor when a setting is wrong."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with tqvec.Collection(None, d=D) as closed:
        fill(closed, 3)
        assert len(closed) == 3
        assert closed.path.parent == tmp_path
    collected = tqvec.Collection(None, d=D)
    fill(collected, 3)
    del collected
    gc.collect()
    with pytest.raises(InputError, match="d, the dimension"):
        tqvec.Collection(None)
    program = f"import tempfile, tqvec; tempfile.tempdir = {str(tmp_path)!r}; c = tqvec.Collection(None, d=8)"
    assert run_script("-c", program).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_leaves_the_folder_of_its_parent():
    with tqvec.Collection(None, d=D) as collection:
        fill(collection, 3)
        child = os.fork()
        if child == 0:
            collection.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert len(collection.get("r1").ids) == 1
        assert collection.path.exists()

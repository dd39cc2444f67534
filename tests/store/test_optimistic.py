"""Searches of the known state without a transaction: a commit between rows and records spoils no answer."""

import numpy as np
import pytest
from store.records import D, fill, vectors

import tqvec
from tqvec.errors import InputError
from tqvec.store import change
from tqvec.store.search import Search

N = 40
QUERIES = vectors(3, 1)


@pytest.fixture
def runs(monkeypatch):
    """What is done after each run over the vectors, before their records are read: one entry for each run."""
    run, after = Search.run, []

    def watched(self, *args):
        rankings = run(self, *args)
        after.pop(0)()
        return rankings

    monkeypatch.setattr(Search, "run", watched)
    return after


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A collection of segments and a tail that has seen its last commit, and another one of the same folder."""
    monkeypatch.setattr(change, "_TAIL", 12)
    with tqvec.Collection(tmp_path / "c", d=D, keep="float32") as reader, tqvec.Collection(tmp_path / "c") as writer:
        for first in range(0, N, 10):
            fill(reader, 10, seed=first, first=first)
        for _ in range(2):
            reader.search(QUERIES)
            reader.search(QUERIES, where={"year": {"$gte": 2004}})
        yield reader, writer


def nothing():
    pass


def replace(writer):
    fill(writer, N, seed=99)


def delete_some(writer):
    writer.delete([f"r{i}" for i in range(0, N, 2)])


def delete_all(writer):
    writer.delete(where={})


def change_documents(writer):
    writer.update([f"r{i}" for i in range(N)], documents=["other"] * N, metadatas=[{"year": 2005}] * N)


def compact(writer):
    delete_some(writer)
    writer.compact()


def train(writer):
    fill(writer, 400, seed=98)
    writer.train()


@pytest.mark.parametrize("include", [("ids",), ("documents", "metadatas")])
@pytest.mark.parametrize("where", [None, {"year": {"$gte": 2004}}])
@pytest.mark.parametrize("queries", [QUERIES, QUERIES[0]])
@pytest.mark.parametrize("commit", [replace, delete_some, delete_all, change_documents, compact, train])
def test_an_answer_is_of_one_commit(pair, runs, commit, queries, where, include):
    """Another one commits when the rows are found and their records are not yet read."""
    reader, writer = pair
    runs += [lambda: commit(writer), nothing]
    result = reader.search(queries, k=15, where=where, include=include)
    assert runs == []
    with tqvec.Collection(reader.path) as fresh:
        runs.append(nothing)
        expected = fresh.search(queries, k=15, where=where, include=include)
    for hits, wanted in zip(result, expected, strict=True):
        assert (hits.ids, hits.documents, hits.metadatas) == (wanted.ids, wanted.documents, wanted.metadatas)
        np.testing.assert_array_equal(hits.scores, wanted.scores)


def test_a_search_without_a_commit_is_one_statement(pair, runs):
    reader, _ = pair
    statements = []
    with reader._catalog.connected() as connection:
        connection.set_trace_callback(statements.append)
    runs += [nothing] * 2
    reader.search(QUERIES)
    reader.search(QUERIES, where={"year": {"$gte": 2004}})
    assert len(statements) == 2, statements


def test_vectors_are_searched_in_vain_once_while_others_write(pair, runs):
    reader, writer = pair
    runs += [nothing] * 11
    for i in range(10):
        fill(writer, 1, seed=200 + i, first=1000 + i)
        assert reader.search(vectors(1, 200 + i), k=1)[0].ids == [f"r{1000 + i}"]
    assert runs == []


def test_own_commits_are_no_surprise(pair, runs):
    reader, _ = pair
    runs += [nothing] * 10
    for i in range(10):
        fill(reader, 1, seed=200 + i, first=1000 + i)
        assert reader.search(vectors(1, 200 + i), k=1)[0].ids == [f"r{1000 + i}"]
    assert runs == []


def test_an_error_of_the_last_commit_alone_counts(tmp_path):
    """Scores of the longest vectors are beyond float32."""
    query = np.full(D, 1e30)
    with tqvec.Collection(tmp_path / "c", d=D, metric="ip") as reader, tqvec.Collection(tmp_path / "c") as writer:
        reader.upsert(ids=["a", "b"], vectors=np.full((2, D), 1e30))
        for _ in range(3):
            with pytest.raises(InputError, match="scores are beyond float32"):
                reader.search(query)
        assert reader.search(np.ones(D), k=1)[0].ids == ["a"]
        writer.upsert(ids=["a", "b"], vectors=[[1.0] * D, [2.0] * D])
        assert reader.search(query, k=1)[0].ids == ["b"]


def test_a_collection_that_does_not_refresh_keeps_its_commit(pair, runs):
    _, writer = pair
    runs += [nothing, lambda: replace(writer), nothing]
    with tqvec.Collection(writer.path, refresh=False) as reader:
        before = reader.search(QUERIES)
        assert [hits.ids for hits in reader.search(QUERIES)] == [hits.ids for hits in before]
        reader.refresh()
        assert [hits.ids for hits in reader.search(QUERIES)] != [hits.ids for hits in before]

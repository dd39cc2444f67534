"""A collection against a dictionary of records: any order of changes, reopenings, and other processes' eyes."""

import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store.records import WORDS, D, flat, vectors

import tqvec
from tqvec.store import change, maintained

NAMES = st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True)
YEARS = st.integers(2000, 2004)


class CollectionMachine(RuleBasedStateMachine):
    """The model: id to (vector, document, metadata), in the order in which vectors were stored."""

    @initialize(metric=st.sampled_from(["cosine", "l2", "ip"]), keep=st.sampled_from([None, "float32", "float16"]))
    def start(self, metric, keep):
        self.folder, self.seed, self.model = tempfile.mkdtemp(), 0, {}
        self.asked = {"metric": metric, "keep": keep, "indexed": ["year"]}
        self.path, self.trained, self.partitioned = f"{self.folder}/c", False, False
        self.collection = tqvec.Collection(self.path, d=D, **self.asked)
        self.reader = tqvec.Collection(self.path)

    def teardown(self):
        if hasattr(self, "folder"):
            self.collection.close()
            self.reader.close()
            shutil.rmtree(self.folder)

    @rule(numbers=NAMES, year=YEARS, word=st.sampled_from(WORDS))
    def upsert(self, numbers, year, word):
        self.seed += 1
        x = vectors(len(numbers), self.seed)
        ids = [f"r{i}" for i in numbers]
        documents = [f"{word} {WORDS[i % 6]}" for i in numbers]
        metadatas = [{"year": year, "tags": WORDS[: i % 3]} for i in numbers]
        self.collection.upsert(ids=ids, vectors=x, documents=documents, metadatas=metadatas)
        for record in zip(ids, x, documents, metadatas, strict=True):
            self.model.pop(record[0], None)
            self.model[record[0]] = record[1:]

    @rule(numbers=NAMES, year=YEARS)
    def update_metadata(self, numbers, year):
        ids = [name for name in (f"r{i}" for i in numbers) if name in self.model]
        self.collection.update(ids, metadatas=[{"year": year, "tags": None}] * len(ids))
        for name in ids:
            x, document, _ = self.model[name]
            self.model[name] = x, document, {"year": year}

    @rule(numbers=NAMES)
    def update_vectors(self, numbers):
        ids = [name for name in (f"r{i}" for i in numbers) if name in self.model]
        self.seed += 1
        x = vectors(len(ids), self.seed)
        self.collection.update(ids, vectors=x)
        for name, vector in zip(ids, x, strict=True):
            _, *rest = self.model.pop(name)
            self.model[name] = vector, *rest

    @rule(numbers=NAMES)
    def delete(self, numbers):
        ids = [f"r{i}" for i in numbers]
        assert self.collection.delete(ids) == sum(self.model.pop(name, None) is not None for name in ids)

    @rule(year=YEARS)
    def delete_where(self, year):
        gone = [name for name, (_, _, metadata) in self.model.items() if metadata["year"] == year]
        assert self.collection.delete(where={"year": year}) == len(gone)
        for name in gone:
            del self.model[name]

    @rule()
    def compact(self):
        self.collection.compact()
        assert self.collection.info().segments <= 1

    @rule()
    def reopen(self):
        self.collection.close()
        self.collection = tqvec.Collection(self.path)

    @precondition(lambda self: self.model)
    @rule()
    def partition(self):
        self.collection.partition(min(3, len(self.model)))

    @rule()
    def snapshot(self):
        target = f"{self.folder}/s{self.seed}"
        self.collection.snapshot(target)
        with tqvec.Collection(target) as copy:
            assert sorted(copy.get().ids) == sorted(self.model)
            assert copy.check() == []
        shutil.rmtree(target)

    @invariant()
    def is_the_model(self):
        if not hasattr(self, "model"):
            return
        for collection in (self.collection, self.reader):
            assert len(collection) == len(self.model)
            records = collection.get()
            assert records.ids == list(self.model) or sorted(records.ids) == sorted(self.model)
            for name, document, metadata in zip(records.ids, records.documents, records.metadatas, strict=True):
                assert (document, metadata) == self.model[name][1:]

    @rule(k=st.integers(1, 50), year=YEARS, filtered=st.booleans())
    def search(self, k, year, filtered):
        where = {"year": {"$lte": year}} if filtered else None
        live = {name: r for name, r in self.model.items() if not filtered or r[2]["year"] <= year}
        query = vectors(2, 77_777 + self.seed)
        result = self.reader.search(query, k=k, where=where, recall=1.0)
        index = flat([r[0] for r in live.values()], self.asked["metric"])
        scores, rows = index.search(query, k=min(k, max(1, len(live))))
        names = [*live, None]
        for q, hits in enumerate(result):
            expected = scores[q][rows[q] >= 0]
            np.testing.assert_array_equal(hits.scores, expected)
            assert len(set(hits.ids)) == len(hits.ids)
            if len(set(expected.tolist())) == len(expected):
                assert hits.ids == [names[row] for row in rows[q] if row >= 0]

    @rule(word=st.sampled_from(WORDS))
    def words(self, word):
        hits = self.reader.search(text=word, k=100)[0]
        assert sorted(hits.ids) == sorted(name for name, (_, text, _) in self.model.items() if word in text)

    @rule()
    def check(self):
        assert self.collection.check() == []


@pytest.mark.slow
@pytest.mark.parametrize("tail", [1, 8])
def test_a_collection_is_a_dictionary(monkeypatch, tail):
    """A tail of one vector makes a segment of each call."""
    monkeypatch.setattr(change, "_TAIL", tail)
    monkeypatch.setattr(maintained, "_MOST_ALIKE", 3)
    CollectionMachine.TestCase.settings = settings(
        max_examples=25, stateful_step_count=25, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    case = CollectionMachine.TestCase()
    case.runTest()

"""Collections of every version stay readable, and what they give stays the same."""

import shutil

import numpy as np
import pytest
from golden.make_collections import FOLDER, N, golden_vectors

import tqvec
from tqvec.store import catalog

LEFT = [i for i in range(N) if i not in (2, 20)]
FOLDERS = sorted(path.name for path in FOLDER.iterdir())


def test_there_is_one_of_each_version():
    assert [f"v{version}" for version in range(1, catalog.VERSION + 1)] == FOLDERS


@pytest.mark.parametrize("version", FOLDERS)
def test_a_golden_collection(version, tmp_path):
    shutil.copytree(FOLDER / version, tmp_path / "c")
    x = golden_vectors()
    index = tqvec.Index(8, metric="cosine", seed=3)
    index.add(x[LEFT])
    with tqvec.Collection(tmp_path / "c") as collection:
        assert collection.check() == []
        records = collection.get(include=("documents", "metadatas", "vectors"))
        assert records.ids == [f"r{i}" for i in LEFT]
        assert records.documents == [f"text number {i}" if i % 4 else None for i in LEFT]
        expected = [{"year": 2000 + i, "tags": ["a", "é"][: i % 3]} for i in LEFT]
        expected[2] = {"tags": [], "changed": True}
        assert records.metadatas == expected
        np.testing.assert_array_equal(records.vectors, x[LEFT].astype(np.float16).astype(np.float32))
        scores, rows = index.search(x[:3], k=5)
        for hits, best, own in zip(collection.search(x[:3], k=5), scores, rows, strict=True):
            np.testing.assert_array_equal(hits.scores, best)
            assert hits.ids == [f"r{LEFT[row]}" for row in own]
        assert collection.search(text="number 7", k=1)[0].ids == ["r7"]
        assert collection.count({"year": {"$gte": 2010}}) == 13
        collection.upsert(ids=["new"], vectors=x[:1])
        collection.compact()
        assert collection.check() == []

"""TqvecVicinity: what vicinity's own backends do, on codes."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vicinity")

from vicinity import Metric, Vicinity

from tqvec.errors import FormatError, InputError, UnsupportedError
from tqvec.integrations.vicinity import TqvecBackend, TqvecVicinity

RNG = np.random.default_rng(4)
X = RNG.standard_normal((500, 32))
QUERIES = RNG.standard_normal((20, 32))
ITEMS = [f"item {i}" if i % 2 else {"name": "ünïcode 汉字", "id": i} for i in range(500)]
METRICS = ["cosine", "euclidean", "l2sq"]


def make(**kwargs):
    return TqvecVicinity.from_vectors_and_items(X, ITEMS, **{"nbits": 8} | kwargs)


def exact(metric, queries, x):
    """Distances (nq, n), as vicinity defines them."""
    if metric == "cosine":
        y, z = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30) for rows in (queries, x))
        return 1 - y @ z.T
    squares = np.square(queries[:, None] - x).sum(axis=2)
    return np.sqrt(squares) if metric == "euclidean" else squares


def check_results(words, queries, x, metric="cosine", k=5):
    """The items of the nearest vectors, with their distances, nearest first."""
    distances = exact(metric, queries, x)
    for row, result in zip(distances, words.query(queries, k), strict=True):
        assert len(result) == min(k, len(x))
        numbers = [words.items.index(item) for item, _ in result]
        found = [distance for _, distance in result]
        assert found == sorted(found)
        assert len(set(numbers) & set(np.argsort(row)[:k])) >= k - 1
        np.testing.assert_allclose(found, row[numbers], rtol=0.02, atol=0.01)


@pytest.mark.parametrize("metric", METRICS)
def test_queries(metric):
    words = make(metric=metric)
    assert (len(words), words.dim, words.metric) == (500, 32, Metric.from_string(metric))
    check_results(words, QUERIES, X, metric)
    assert words.query(QUERIES[0], k=2) == words.query(QUERIES[:1], k=2)
    assert len(words.query(QUERIES[0], k=501)[0]) == 500


@pytest.mark.parametrize("metric", METRICS)
def test_thresholds(metric):
    words, distances = make(metric=metric), exact(metric, QUERIES, X)
    limit = float(np.sort(distances, axis=1)[:, 9:11].mean())
    for row, result in zip(distances, words.query_threshold(QUERIES, limit), strict=True):
        numbers = {words.items.index(item) for item, _ in result}
        assert all(distance <= limit for _, distance in result)
        assert len(numbers ^ set(np.flatnonzero(row <= limit))) <= 2
    assert len(words.query_threshold(QUERIES[0], 1e9, max_k=7)[0]) == 7
    assert words.query_threshold(QUERIES[0], 1e-9) == [[]]


@pytest.mark.parametrize("store_vectors", [False, True])
def test_items_come_and_go(store_vectors, tmp_path):
    """Numbers of vectors shift with each deletion, and stay those of the items; also after loading."""
    words, x = make(store_vectors=store_vectors), X
    words.delete([ITEMS[3], ITEMS[499], ITEMS[0]])
    x = np.delete(x, [0, 3, 499], axis=0)
    check_results(words, x[:20], x)
    words.insert(["new", "newer"], QUERIES[:2])
    x = np.concatenate([x, QUERIES[:2]])
    words.save(tmp_path / "words")
    words = TqvecVicinity.load(tmp_path / "words")
    words.delete(["new"])
    words.insert(["newest"], QUERIES[2:3])
    x = np.concatenate([np.delete(x, 497, axis=0), QUERIES[2:3]])
    check_results(words, QUERIES, x)
    check_results(words, x[:20], x)
    assert words.query(QUERIES[2], k=1)[0][0][0] == "newest"
    with pytest.raises(ValueError, match="were not in the vector space"):
        words.delete(["new"])
    if store_vectors:
        np.testing.assert_allclose(words.get_vector_by_index([0, 498]), x[[0, 498]])
    words.delete(list(words.items))
    assert words.query(QUERIES[0]) == [[]]
    words.insert(["one"], QUERIES[:1])
    assert [item for item, _ in words.query(QUERIES[0])[0]] == ["one"]


def test_a_partition_stays(tmp_path):
    words = make(nbits=4)
    words.backend.index.partition(8)
    words.delete([ITEMS[5]])
    words.save(tmp_path / "words")
    loaded = TqvecVicinity.load(tmp_path / "words")
    assert loaded.backend.index.nlist == 8
    x = np.delete(X, 5, axis=0)
    for row, result in enumerate(loaded.query(x, k=1)):
        assert loaded.items.index(result[0][0]) == row


@pytest.mark.parametrize("metric", METRICS)
def test_saving_and_loading(metric, tmp_path):
    words = make(metric=metric, nbits=3, codebook="trellis", seed=7)
    words.metadata["made by"] = "me"
    words.save(tmp_path / "words")
    loaded = TqvecVicinity.load(str(tmp_path / "words"))
    assert (loaded.items, loaded.metadata, loaded.metric) == (ITEMS, {"made by": "me"}, Metric.from_string(metric))
    assert loaded.query(QUERIES) == words.query(QUERIES)
    assert loaded.vector_store is None
    with pytest.raises(FileExistsError):
        words.save(tmp_path / "words")
    words.delete([ITEMS[0]])
    words.save(tmp_path / "words", overwrite=True)
    assert TqvecVicinity.load(tmp_path / "words").query(QUERIES) == words.query(QUERIES)


def test_zero_vectors_have_cosine_distance_1():
    words = TqvecVicinity.from_vectors_and_items(np.array([[0.0, 0], [-1, 0.1], [-1, 0.2]]), list("abc"))
    assert dict(words.query(np.array([1.0, 0]), k=3)[0])["a"] == 1
    assert [distance for _, distance in words.query(np.zeros(2), k=3)[0]] == [1, 1, 1]


def test_evaluate():
    _, recall = make().evaluate(X, QUERIES, k=5)
    assert recall > 0.9


def test_the_backend_in_a_plain_vicinity(tmp_path):
    words = Vicinity(ITEMS, TqvecBackend.from_vectors(X.astype(np.float32), metric=Metric.EUCLIDEAN))
    expected = make(nbits=4, metric="euclidean").query(QUERIES)
    assert words.query(QUERIES) == expected
    words.save(tmp_path / "words")
    assert TqvecVicinity.load(tmp_path / "words").query(QUERIES) == expected
    with pytest.raises(ValueError, match="'tqvec' is not a valid Backend"):
        Vicinity.load(tmp_path / "words")


def test_a_bad_insertion_changes_nothing():
    words = make()
    before = words.query(QUERIES)
    bad = QUERIES[:3].copy()
    bad[1, 5] = np.nan
    with pytest.raises(InputError, match="x row 1"):
        words.insert(["a", "b", "c"], bad)
    with pytest.raises(ValueError, match="not the same length"):
        words.insert(["a"], QUERIES[:2])
    with pytest.raises(ValueError, match="same dimension"):
        words.insert(["a"], QUERIES[:1, 1:])
    assert len(words.items) == len(words.backend) == 500
    assert words.query(QUERIES) == before


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"metric": "inner_product"}, InputError, "metric must be one of cosine, euclidean, l2sq, got 'inner_product'"),
        ({"metric": "nearest"}, ValueError, "Unsupported metric"),
        ({"nbits": 0}, InputError, "nbits"),
        ({"codebook": "lattice"}, InputError, "codebook"),
        ({"nlist": 5}, TypeError, "nlist"),
    ],
)
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        make(**kwargs)


def test_bad_vectors():
    with pytest.raises(InputError, match=r"vectors must have shape \(n, d\), got \(32,\)"):
        TqvecBackend.from_vectors(X[0])
    with pytest.raises(ValueError, match="not the same length"):
        TqvecVicinity.from_vectors_and_items(X, ITEMS[1:])
    with pytest.raises(InputError, match="k must be an integer from 1"):
        make().query(QUERIES, k=0)


def test_folders_that_do_not_fit(tmp_path):
    Vicinity.from_vectors_and_items(X, ITEMS).save(tmp_path / "basic")
    with pytest.raises(InputError, match=r"of the backend 'basic': load it with vicinity\.Vicinity"):
        TqvecVicinity.load(tmp_path / "basic")
    make().save(tmp_path / "words")
    (tmp_path / "words" / "arguments.json").write_text(json.dumps({"metric": "euclidean"}))
    with pytest.raises(FormatError, match=r"arguments\.json has metric euclidean, but index\.tqv cosine"):
        TqvecVicinity.load(tmp_path / "words")


def test_the_hub_is_refused():
    with pytest.raises(UnsupportedError, match="upload the folder that save writes"):
        make().push_to_hub("me/words")


def test_example(capsys):
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "vicinity_search.py"))
    printed = capsys.readouterr().out
    assert "a finely chopped salad" in printed
    assert "0.000  a definition of mine" in printed

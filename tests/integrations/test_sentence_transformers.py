"""Semantic search beside that of sentence-transformers, which must not be needed for it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tqvec
from tqvec.errors import InputError
from tqvec.eval.sample import load_sample
from tqvec.exact import normalize
from tqvec.integrations.sentence_transformers import semantic_search

SAMPLE = load_sample()
BASE, QUERIES = SAMPLE.base.astype(np.float32), SAMPLE.queries[:100].astype(np.float32)
FUNCTIONS = {"cosine": "cos_sim", "dot": "dot_score"}
METRICS = {"cosine": "cosine", "dot": "ip"}
X = np.random.default_rng(1).standard_normal((300, 48)).astype(np.float32)
Q = X[:5] + 0.1


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("sentence_transformers.util")


def ids_of(results):
    return [[match["corpus_id"] for match in matches] for matches in results]


def scores_of(results):
    return [[match["score"] for match in matches] for matches in results]


def recall(results, true):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(ids_of(results), ids_of(true), strict=True)])


def brute_force(queries, corpus, name, k):
    a, b = (queries, corpus) if name == "dot" else (normalize(queries), normalize(corpus))
    scores = a.astype(np.float64) @ b.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


@pytest.mark.slow  # PyTorch takes long to import
@pytest.mark.parametrize("name", ["cosine", "dot"])
def test_results_are_those_of_the_library(library, name):
    """Lengths of the vectors differ, so that cosines and inner products do."""
    base = BASE * np.linspace(0.5, 2, len(BASE), dtype=np.float32)[:, None]
    function = getattr(library, FUNCTIONS[name])
    true = library.semantic_search(QUERIES, base, score_function=function)
    for given in (name, function):
        found = semantic_search(QUERIES, base, score_function=given)
        assert recall(found, true) > 0.998
        assert [list(match) for match in found[0]] == [list(match) for match in true[0]]
        assert {type(value) for match in found[0] for value in match.values()} == {int, float}
        equal = [i for i, (a, b) in enumerate(zip(ids_of(found), ids_of(true), strict=True)) if a == b]
        assert len(equal) > 90
        for i in equal:
            np.testing.assert_allclose(scores_of(found)[i], scores_of(true)[i], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_library_is_the_default_too(library):
    torch = pytest.importorskip("torch")
    queries, corpus = torch.tensor(Q), torch.tensor(X)
    true = library.semantic_search(queries, corpus, 2, 100, 3)
    found = semantic_search(queries, corpus, 2, 100, 3)
    assert ids_of(found) == ids_of(true)
    np.testing.assert_allclose(scores_of(found), scores_of(true), atol=1e-6)
    assert library.semantic_search(queries[0], list(corpus), top_k=1)[0][0]["corpus_id"] == 0
    assert ids_of(semantic_search(queries[0], list(corpus), top_k=1)) == [[0]]
    assert ids_of(semantic_search(queries.bfloat16(), corpus.bfloat16(), top_k=1)) == [[0], [1], [2], [3], [4]]
    with pytest.raises(InputError, match="corpus_embeddings can't be read as an array"):
        semantic_search(queries, corpus.to_sparse())


@pytest.mark.slow
def test_functions_of_the_library_that_are_not_here(library):
    for function in (library.euclidean_sim, library.manhattan_sim, library.pairwise_cos_sim):
        with pytest.raises(InputError, match="score_function must be 'cosine' or 'dot', or cos_sim or dot_score"):
            semantic_search(Q, X, score_function=function)


@pytest.mark.parametrize("function", ["cos_sim", "euclidean", "ip", None, 1, ["dot"], np.dot, lambda a, b: a @ b.T])
def test_other_functions_are_refused(function):
    with pytest.raises(InputError, match="score_function must be 'cosine' or 'dot', or cos_sim or dot_score"):
        semantic_search(Q, X, score_function=function)


def test_a_function_of_that_name_from_elsewhere_is_refused():
    def dot_score(a, b):
        return -(a @ b.T)

    with pytest.raises(InputError, match="score_function must be"):
        semantic_search(Q, X, score_function=dot_score)


@pytest.mark.parametrize("name", ["cosine", "dot"])
@pytest.mark.parametrize("nbits", [1, 2.5, 4, 8])
def test_scores_of_embeddings_are_exact(name, nbits):
    found = semantic_search(Q, X, top_k=7, score_function=name, nbits=nbits)
    rows, scores = brute_force(Q, X, name, 7)
    assert ids_of(found) == rows.tolist()
    np.testing.assert_allclose(scores_of(found), scores, rtol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "dot"])
def test_index(name):
    index = tqvec.Index(48, nbits=8, metric=METRICS[name])
    index.add(X, ids=np.arange(300) * 7 - 1000)
    rows, scores = brute_force(Q, X, name, 5)
    found = semantic_search(Q, index, top_k=5, score_function=name)
    assert ids_of(found) == (rows * 7 - 1000).tolist()
    np.testing.assert_allclose(scores_of(found), scores, rtol=0.02)
    assert not np.allclose(scores_of(found), scores, rtol=1e-6)  # these are of codes
    exact = semantic_search(Q, index, top_k=5, score_function=name, rerank=X)
    assert ids_of(exact) == ids_of(found)
    np.testing.assert_allclose(scores_of(exact), scores, rtol=1e-5)


def test_recall_of_an_index_grows_with_its_bits():
    rows, _ = brute_force(QUERIES, BASE, "cosine", 10)
    true = [[{"corpus_id": number} for number in row] for row in rows.tolist()]
    measured = []
    for nbits in (1, 2, 4, 8):
        index = tqvec.Index(384, nbits=nbits, metric="cosine")
        index.add(BASE)
        measured.append(recall(semantic_search(QUERIES, index), true))
    assert measured == sorted(measured)
    assert measured[-1] > 0.99
    assert measured[0] < 0.9


def test_the_metric_of_an_index_counts():
    for metric, name in (("cosine", "dot"), ("ip", "cosine"), ("l2", "cosine"), ("l2", "dot")):
        with pytest.raises(
            InputError, match=f"score_function needs an index with metric='{METRICS[name]}'.*'{metric}'"
        ):
            semantic_search(Q, tqvec.Index(48, metric=metric), score_function=name)


def test_shapes():
    assert ids_of(semantic_search(X[3], X, top_k=1)) == [[3]]
    assert ids_of(semantic_search(X[3].tolist(), X.tolist(), top_k=1)) == [[3]]
    assert semantic_search(Q[:0], X) == []
    assert semantic_search(Q, X[:0]) == [[]] * 5
    assert semantic_search(Q, tqvec.Index(48, metric="cosine")) == [[]] * 5
    assert [sorted(row) for row in ids_of(semantic_search(Q, X[:3], top_k=10))] == [[0, 1, 2]] * 5
    assert ids_of(semantic_search(Q, X, top_k=10**6))[0] == brute_force(Q, X, "cosine", 300)[0][0].tolist()


@pytest.mark.slow
def test_zero_vectors_are_like_those_of_the_library(library):
    corpus = np.concatenate([X[:4], np.zeros((1, 48), np.float32)])
    true, found = library.semantic_search(Q, corpus), semantic_search(Q, corpus)
    assert ids_of(found) == ids_of(true)
    np.testing.assert_allclose(scores_of(found), scores_of(true), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query_embeddings": Q[:, :40]}, r"query_embeddings must have shape \(n, 48\) or \(48,\), got \(5, 40\)"),
        ({"query_embeddings": np.where(np.eye(5, 48), np.nan, Q)}, "query_embeddings row 0 holds NaN"),
        ({"query_embeddings": "a question"}, "query_embeddings must hold floating-point numbers"),
        ({"corpus_embeddings": np.where(np.eye(300, 48, -17), np.inf, X)}, "corpus_embeddings row 17 holds NaN or Inf"),
        ({"corpus_embeddings": []}, r"corpus_embeddings must have shape \(n, d\) or \(d,\), got \(0,\)"),
        ({"corpus_embeddings": X[None]}, r"corpus_embeddings must have shape \(n, d\) or \(d,\), got \(1, 300, 48\)"),
        ({"corpus_embeddings": ["a text"]}, "corpus_embeddings must hold floating-point numbers"),
        ({"top_k": 0}, "top_k must be an integer from 1"),
        ({"rerank": X}, "rerank belongs to an index"),
        ({"nbits": 9}, "nbits"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(InputError, match=message):
        semantic_search(**{"query_embeddings": Q, "corpus_embeddings": X, **arguments})


def test_embeddings_of_other_rows_are_refused():
    index = tqvec.Index(48, metric="cosine")
    index.add(X)
    with pytest.raises(InputError, match="rerank does not belong to these codes"):
        semantic_search(Q, index, rerank=X[::-1].copy())
    with pytest.raises(InputError, match="rerank must have the 300 vectors"):
        semantic_search(Q, index, rerank=X[:7])


@pytest.mark.slow
def test_neither_the_library_nor_torch_is_needed():
    program = """
import sys
from pathlib import Path
sys.modules["sentence_transformers"] = sys.modules["torch"] = None
import numpy as np
from tqvec.integrations.sentence_transformers import semantic_search
print(semantic_search(np.eye(3, 16), np.eye(5, 16), top_k=1))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str([[{"corpus_id": i, "score": 1.0}] for i in range(3)])


@pytest.mark.slow
def test_example():
    path = Path(__file__).parents[2] / "examples" / "semantic_search.py"
    result = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    assert "10,000 embeddings in 1,960,000 bytes, 15,360,000 as float32" in result.stdout
    assert "0.838  the basic unit of money in Bolivia; equal to 100 centavos" in result.stdout

"""TqvecNeighbors: all of scikit-learn's checks for estimators, and the graphs of its KNeighborsTransformer."""

import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.cluster import DBSCAN  # noqa: E402
from sklearn.datasets import load_digits, load_iris, make_blobs, make_moons  # noqa: E402
from sklearn.manifold import TSNE, trustworthiness  # noqa: E402
from sklearn.metrics import pairwise_distances  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import tqvec.integrations.sklearn as integration  # noqa: E402
from tqvec.errors import InputError  # noqa: E402

TqvecNeighbors = integration.TqvecNeighbors
METRICS = ["euclidean", "sqeuclidean", "cosine"]
RNG = np.random.default_rng(3)
X = RNG.standard_normal((300, 24))
QUERIES = RNG.standard_normal((40, 24))


CHECKS = parametrize_with_checks(
    [
        TqvecNeighbors(),
        TqvecNeighbors(metric="cosine", mode="connectivity"),
        TqvecNeighbors(metric="sqeuclidean", nbits=2, n_jobs=2),
        TqvecNeighbors(rerank=False),
        TqvecNeighbors(rerank=False, metric="cosine"),
    ]
).mark


@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)  # pytest 9.1 warns of generators
def test_checks_of_sklearn(estimator, check):
    check(estimator)


def brute(metric, **parameters):
    """The transformer that this one takes the place of, with distances computed in full."""
    return KNeighborsTransformer(metric=metric, algorithm="brute", **parameters)


def check_graph(graph, expected):
    """The same entries, in the same order, whatever their values."""
    assert type(graph) is type(expected)
    assert graph.shape == expected.shape
    np.testing.assert_array_equal(graph.indptr, expected.indptr)
    np.testing.assert_array_equal(graph.indices, expected.indices)
    np.testing.assert_allclose(graph.data, expected.data, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("mode", ["distance", "connectivity"])
@pytest.mark.parametrize("metric", METRICS)
def test_graphs_are_those_of_the_transformer_of_sklearn(metric, mode, dtype):
    x, queries = X.astype(dtype), QUERIES.astype(dtype)
    ours, theirs = (make(metric=metric, mode=mode, n_neighbors=7) for make in (TqvecNeighbors, brute))
    check_graph(ours.fit_transform(x), theirs.fit_transform(x.astype(np.float64)))  # which is exact then
    check_graph(ours.transform(queries), theirs.transform(queries.astype(np.float64)))
    for rows, k in ((queries.astype(np.float64), 3), (None, 3), (None, None)):
        check_graph(ours.kneighbors_graph(rows, k, mode), theirs.kneighbors_graph(rows, k, mode))
        for one, other in zip(ours.kneighbors(rows, k), theirs.kneighbors(rows, k), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-6)
        np.testing.assert_array_equal(ours.kneighbors(rows, k, return_distance=False), theirs.kneighbors(rows, k)[1])
    assert ours.get_feature_names_out().tolist() == [f"tqvecneighbors{i}" for i in range(300)]
    assert ours.n_features_in_ == 24


def test_a_distance_graph_has_the_samples_themselves_as_stored_zeros():
    graph = TqvecNeighbors(n_neighbors=4).fit_transform(X)
    assert graph.nnz == 300 * 5
    assert graph.format == "csr"
    np.testing.assert_array_equal(graph.indices[::5], np.arange(300))
    np.testing.assert_array_equal(graph.data[::5], 0)
    assert (np.diff(graph.data.reshape(300, 5), axis=1) >= 0).all()


def test_sparse_arrays_where_sklearn_has_them():
    if "sparse_interface" in sklearn.get_config():
        with sklearn.config_context(sparse_interface="sparray"):
            ours, theirs = (make(n_neighbors=3).fit_transform(X) for make in (TqvecNeighbors, KNeighborsTransformer))
            assert type(ours) is type(theirs)
    assert type(TqvecNeighbors().fit_transform(X)) is type(KNeighborsTransformer().fit_transform(X))


@pytest.mark.parametrize(("scale", "shift"), [(1, 1e6), (1e-25, 0), (1e25, 0), (1e-3, 40)])
@pytest.mark.parametrize("rerank", [True, False])
def test_the_origin_and_the_unit_do_not_matter(scale, shift, rerank):
    model = TqvecNeighbors(n_neighbors=5, rerank=rerank)
    plain, ids = model.fit(X).kneighbors()
    moved, moved_ids = model.fit(X * scale + shift).kneighbors()
    assert (ids == moved_ids).mean() > 0.99
    np.testing.assert_allclose(moved / scale, plain, rtol=1e-6 if rerank else 1e-2)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("x", [load_iris().data, load_digits().data, make_moons(500, noise=0.1, random_state=0)[0]])
def test_lists_of_ties_and_of_few_dimensions_are_complete_too(metric, x):
    distances, _ = TqvecNeighbors(metric=metric).fit(x).kneighbors(x)
    expected = np.sort(pairwise_distances(x, x, metric=metric), axis=1)[:, :5]
    assert np.isclose(distances, expected, rtol=1e-6, atol=1e-9 * expected.max()).all(axis=1).mean() > 0.999


@pytest.mark.parametrize("rerank", [True, False])
def test_duplicates(rerank):
    """With more duplicates than neighbors, any of them may be there, but no sample is its own neighbor."""
    x = np.repeat(X[:20], 10, axis=0)
    model = TqvecNeighbors(n_neighbors=4, rerank=rerank).fit(x)
    distances, ids = model.kneighbors()
    np.testing.assert_allclose(distances, 0, atol=0 if rerank else 1e-1)
    assert (ids // 10 == np.arange(200)[:, None] // 10).all()
    assert (ids != np.arange(200)[:, None]).all()
    assert all(len(set(row)) == 4 for row in ids.tolist())


def test_cosine_distances_of_a_zero_vector_are_1():
    x = np.concatenate([np.zeros((1, 24)), X])
    distances, _ = TqvecNeighbors(metric="cosine", n_neighbors=301).fit(x).kneighbors(x)
    np.testing.assert_array_equal(distances[0], 1)
    assert (distances[1:] == 1).any(axis=1).all()


@pytest.mark.parametrize("metric", METRICS)
def test_codes_alone(metric):
    exact = TqvecNeighbors(metric=metric, n_neighbors=5).fit(X)
    coded = TqvecNeighbors(metric=metric, n_neighbors=5, nbits=8, rerank=False).fit(X)
    assert len(pickle.dumps(coded)) < X.nbytes < len(pickle.dumps(exact))
    for rows in (QUERIES, X, None):
        (near, ids), (estimates, coded_ids) = exact.kneighbors(rows), coded.kneighbors(rows)
        assert (ids == coded_ids).mean() > 0.9
        rough = {"euclidean": 0.1, "sqeuclidean": 0.01, "cosine": 0.002}[
            metric
        ]  # of 0, above all: the root is steep there
        np.testing.assert_allclose(estimates, near, rtol=0.02, atol=rough)
        assert (near[:, 1:] != estimates[:, 1:]).any()


@pytest.mark.parametrize("rerank", [True, False])
def test_results_do_not_depend_on_the_batch(rerank, monkeypatch):
    model = TqvecNeighbors(rerank=rerank).fit(X)
    whole = [model.kneighbors(rows) for rows in (QUERIES, None)]
    monkeypatch.setattr(integration, "_PART", 1)
    monkeypatch.setattr(integration, "_FEWEST", 7)
    for (distances, ids), rows in zip(whole, (QUERIES, None), strict=True):
        parts = model.kneighbors(rows)
        np.testing.assert_array_equal(parts[0], distances)
        np.testing.assert_array_equal(parts[1], ids)


def test_threads_are_jobs(monkeypatch):
    threads = []

    class Spy(integration.Index):
        def add(self, *args, **kwargs):
            threads.append(kwargs["threads"])
            super().add(*args, **kwargs)

        def search(self, *args, **kwargs):
            threads.append(kwargs["threads"])
            return super().search(*args, **kwargs)

    monkeypatch.setattr(integration, "Index", Spy)
    for rerank in (True, False):
        for n_jobs in (None, 2):
            TqvecNeighbors(n_jobs=n_jobs, rerank=rerank).fit(X).kneighbors(QUERIES)
    assert threads == [1, 1, 2, 2] * 2
    with pytest.raises(ValueError, match="n_jobs"):
        TqvecNeighbors(n_jobs=0).fit(X)


def test_copies():
    model = TqvecNeighbors(n_neighbors=3, metric="cosine", nbits=2, codebook="trellis").fit(X)
    assert model.index_.codec.codebook == "trellis"
    assert model.index_.nbits == 2
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.kneighbors(QUERIES)[0], model.kneighbors(QUERIES)[0])
    fresh = clone(model)
    assert fresh.get_params() == model.get_params()
    assert not hasattr(fresh, "index_")
    assert fresh.set_params(n_neighbors=6).fit(X).transform(QUERIES).nnz == 40 * 7


def test_a_classifier_on_the_graph():
    x, y = load_digits(return_X_y=True)
    predictions = [
        make_pipeline(graph, KNeighborsClassifier(5, metric="precomputed")).fit(x[:1200], y[:1200]).predict(x[1200:])
        for graph in (TqvecNeighbors(n_neighbors=5), KNeighborsTransformer(n_neighbors=5))
    ]
    assert (predictions[0] == predictions[1]).mean() > 0.99


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_dbscan_on_the_graph(metric):
    x, _ = make_blobs(300, 30, centers=6, random_state=0)
    eps = {"euclidean": 9.0, "cosine": 0.05}[metric]
    graph = TqvecNeighbors(n_neighbors=60, metric=metric).fit_transform(x)
    labels = DBSCAN(eps=eps, metric="precomputed").fit_predict(graph)
    np.testing.assert_array_equal(labels, DBSCAN(eps=eps, metric=metric).fit_predict(x))
    assert len(set(labels)) > 3


@pytest.mark.slow
def test_tsne_on_the_graph():
    x, _ = make_blobs(100, 30, centers=4, random_state=0)
    tsne = TSNE(metric="precomputed", init="random", perplexity=10, max_iter=250, random_state=0)
    graphs = [make(n_neighbors=31).fit_transform(x) for make in (TqvecNeighbors, KNeighborsTransformer)]
    maps = [tsne.fit_transform(graph) for graph in graphs]
    assert trustworthiness(x, maps[0]) > trustworthiness(x, maps[1]) - 0.02
    assert trustworthiness(x, maps[0]) > 0.85


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:n_jobs value 1 overridden:UserWarning")
@pytest.mark.filterwarnings("ignore:precomputed_knn\\[2\\]:UserWarning")
@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
def test_umap_takes_the_neighbors():
    umap = pytest.importorskip("umap")
    x, _ = make_blobs(300, 30, centers=4, random_state=0)
    distances, ids = TqvecNeighbors().fit(x).kneighbors(x, n_neighbors=15)
    mapped = umap.UMAP(n_neighbors=15, precomputed_knn=(ids, distances), random_state=0).fit_transform(x)
    assert trustworthiness(x, mapped) > 0.9


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mode": "distances"}, "mode must be one of 'distance', 'connectivity', got 'distances'"),
        ({"metric": "manhattan"}, "metric must be one of 'euclidean', 'sqeuclidean', 'cosine', got 'manhattan'"),
        ({"n_neighbors": 0}, "n_neighbors must be an integer from 1"),
        ({"n_neighbors": 2.0}, "n_neighbors must be an integer, got 2.0"),
        ({"rerank": 100}, "rerank must be a bool, got int"),
        ({"nbits": 9}, "nbits"),
        ({"codebook": "lattice"}, "codebook"),
    ],
)
def test_bad_parameters_are_told_of_by_fit(parameters, message):
    with pytest.raises(InputError, match=message):
        TqvecNeighbors(**parameters).fit(X)


def test_bad_queries_are_told_of():
    model = TqvecNeighbors(n_neighbors=300)
    with pytest.raises(ValueError, match="Expected n_neighbors <= n_samples_fit, but n_neighbors = 301, n_samples_fit"):
        model.fit(X).transform(QUERIES)
    with pytest.raises(ValueError, match="Expected n_neighbors < n_samples_fit, but n_neighbors = 300, n_samples_fit"):
        model.kneighbors()
    with pytest.raises(InputError, match="n_neighbors must be an integer from 1 to"):
        model.kneighbors(QUERIES, 0)
    with pytest.raises(InputError, match="mode must be one of"):
        model.kneighbors_graph(QUERIES, 3, "distances")
    with pytest.raises(ValueError, match="X has 23 features, but TqvecNeighbors is expecting 24"):
        model.kneighbors(QUERIES[:, 1:], 3)
    with pytest.raises(InputError, match="queries row 1"):
        model.kneighbors(np.stack([QUERIES[0], QUERIES[1] * 1e60]), 3)


@pytest.mark.slow
def test_example(capsys):
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "sklearn_neighbors.py"))
    printed = capsys.readouterr().out
    assert "digits: accuracy 0.9" in printed
    assert "letter of the Roman alphabet" in printed

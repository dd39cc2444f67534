"""Routing: the list of a vector, which depends on the vector and the codes alone, and the lists of a query."""

from __future__ import annotations

import numpy as np
import pytest

from tqvec.errors import InputError
from tqvec.index.partition.router import Router

METRICS = ["ip", "cosine", "l2"]


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def make_router(metric: str, nlist: int, d: int = 24) -> Router:
    centroids = normal(nlist, d, seed=1) + np.float32(0.5)
    if metric != "l2":
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    return Router.of(centroids, metric)


def exact_scores(router: Router, x: np.ndarray) -> np.ndarray:
    """Return scores of all pairs in float64, larger is nearer, less the best of each row."""
    x, centroids = x.astype(np.float64), router.centroids.astype(np.float64)
    if router.metric == "l2":
        scores = -np.square(x[:, None] - centroids[None]).sum(axis=2)
    else:
        scores = x / np.linalg.norm(x, axis=1, keepdims=True) @ centroids.T
    return scores - scores.max(axis=1, keepdims=True)


@pytest.mark.parametrize("metric", METRICS)
def test_centroids_are_nearly_those_that_were_given(metric):
    centroids = normal(300, 32)
    router = Router.of(centroids, metric)
    assert (router.nlist, router.d) == (300, 32)
    error = np.square(router.centroids - centroids).sum() / np.square(centroids - centroids.mean(axis=0)).sum()
    assert error < 2e-4
    assert router.nbytes == 300 * (32 + (8 if metric == "l2" else 4)) + 4 * 32


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nlist", [1, 2, 100, 512])
def test_few_lists_are_compared_exactly(metric, nlist):
    router, x = make_router(metric, nlist), normal(2000, 24)
    scores = exact_scores(router, x)
    chosen = scores[np.arange(len(x)), router.nearest(x)]
    # Vectors are rounded to 1/4,096 of their length, and centroids of that of the longest one.
    size = np.linalg.norm(x, axis=1) * np.linalg.norm(router.centroids, axis=1).max() if metric == "l2" else 1
    assert ((scores.max(axis=1) - chosen) / size).max() < 0.003
    assert (router.nearest(x) == scores.argmax(axis=1)).mean() > 0.98


@pytest.mark.parametrize("metric", METRICS)
def test_many_lists_are_compared_well_on_clustered_vectors(metric):
    router = make_router(metric, 1000)
    x = router.centroids[np.random.default_rng(3).integers(1000, size=3000)] + 0.1 * normal(3000, 24)
    scores = exact_scores(router, x)
    assert (router.nearest(x) == scores.argmax(axis=1)).mean() > 0.95


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nlist", [64, 900])
def test_the_list_depends_on_the_vector_alone(metric, nlist):
    router, x = make_router(metric, nlist), normal(10_000, 24)
    lists = router.nearest(x, threads=2)
    assert lists.dtype == np.int32
    np.testing.assert_array_equal(lists[::-1], router.nearest(np.ascontiguousarray(x[::-1]), threads=1))
    for start, stop in ((0, 1), (7, 8), (100, 131), (9_000, 10_000)):
        np.testing.assert_array_equal(lists[start:stop], router.nearest(x[start:stop]))


@pytest.mark.parametrize("metric", METRICS)
def test_stored_arrays_make_the_same_router(metric):
    router, x = make_router(metric, 700), normal(500, 24)
    again = Router({name: array.copy() for name, array in router.rows.items()}, router.centre.copy(), metric)
    assert again.fingerprint == router.fingerprint
    np.testing.assert_array_equal(again.nearest(x), router.nearest(x))


def test_fingerprints_tell_routers_apart():
    centroids = normal(20, 8)
    routers = [Router.of(centroids, metric) for metric in METRICS]
    routers += [Router.of(centroids + 1, "ip"), Router.of(centroids[::-1], "ip"), Router.of(centroids[:19], "ip")]
    routers.append(Router.of(centroids, "ip", centre=np.zeros(8, np.float32)))
    assert len({router.fingerprint for router in routers}) == len(routers)


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_only_directions_count_for_inner_products(metric):
    router, x = make_router(metric, 600), normal(300, 24)
    lists = router.nearest(x)
    for factor in (1e-30, 1024.0, 1e30):
        np.testing.assert_array_equal(lists, router.nearest(x * np.float32(factor)))


@pytest.mark.parametrize("metric", ["ip", "cosine"])
@pytest.mark.parametrize("nlist", [5, 600])
def test_zero_vectors_go_to_the_first_list(metric, nlist):
    assert make_router(metric, nlist).nearest(np.zeros((3, 24), np.float32)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("copies", [2, 200])
def test_equally_near_lists_are_taken_by_number(metric, copies):
    distinct = make_router(metric, 5).centroids
    router = Router.of(np.tile(distinct, (copies, 1)), metric)
    assert router.nearest(normal(200, 24)).max() < 5


@pytest.mark.parametrize("metric", METRICS)
def test_equal_centroids(metric):
    router = Router.of(np.ones((4, 3), np.float32), metric)
    assert router.nearest(normal(10, 3)).tolist() == [0] * 10


@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1.0, 1e12, 1e18])
def test_distances_of_any_size(factor):
    centroids, x = normal(50, 6), normal(200, 6, seed=5)
    expected = Router.of(centroids, "l2").nearest(x)
    scaled = Router.of(centroids * np.float32(factor), "l2").nearest(x * np.float32(factor))
    assert (scaled == expected).mean() > 0.97


def test_vectors_much_longer_or_shorter_than_centroids():
    router = Router.of(normal(50, 6), "l2")
    x = np.concatenate([normal(20, 6) * np.float32(1e12), normal(20, 6) * np.float32(1e-12), np.zeros((1, 6))])
    x = x.astype(np.float32)
    wide = x.astype(np.float64) - router.centre
    relative = router.centroids.astype(np.float64) - router.centre
    scores = wide @ relative.T - np.square(relative).sum(axis=1) / 2
    chosen = scores[np.arange(len(x)), router.nearest(x)]
    size = np.linalg.norm(wide, axis=1) * np.linalg.norm(relative, axis=1).max()
    assert ((scores.max(axis=1) - chosen) / np.maximum(size, 1)).max() < 1e-3


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nq", [1, 3, 50])
@pytest.mark.parametrize("m", [5, 20])
def test_ranks_are_those_of_exact_scores(metric, nq, m):
    router, queries = make_router(metric, 800), normal(nq, 24, seed=9)
    scores, lists = router.rank(queries, m)
    assert (scores.shape, lists.shape) == ((nq, m), (nq, m))
    assert (scores.dtype, lists.dtype) == (np.float32, np.int32)
    exact = exact_scores(router, queries)
    gaps = scores - scores[:, :1]
    np.testing.assert_allclose(gaps, np.take_along_axis(exact, lists, axis=1), atol=2e-3 * np.abs(exact).max())
    best = np.argsort(-exact, axis=1)[:, :m]
    assert np.mean([np.isin(mine, theirs).mean() for mine, theirs in zip(lists, best, strict=True)]) > 0.97
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nq", [1, 9])
def test_all_lists_can_be_ranked(metric, nq):
    router = make_router(metric, 30)
    for lists in router.rank(normal(nq, 24), 30)[1]:
        assert sorted(lists.tolist()) == list(range(30))


@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_ranks_as_its_queries_alone(metric):
    router, queries = make_router(metric, 900), normal(300, 24) * np.float32(3)
    scores, lists = router.rank(queries, 5)
    two = router.rank(queries[:2], 5)
    assert np.array_equal(two[1], lists[:2])
    for q in (0, 128, 299):
        alone, own = router.rank(queries[q : q + 1], 5)
        np.testing.assert_allclose(np.sort(scores[q]), np.sort(alone[0]), rtol=2e-3, atol=2e-3)
        assert own[0, 0] == lists[q, 0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("nq", "threads"), [(1, 1), (3, 4), (50, 1), (300, 4)])
@pytest.mark.parametrize("most", [1, 7, 64, 65, 800])
def test_probes_are_the_lists_within_the_limits(metric, nq, threads, most):
    router, queries = make_router(metric, 800), normal(nq, 24, seed=9)
    scores, lists = router.rank(queries, most)
    gaps = scores[:, :1] - scores
    falling = np.linspace(np.quantile(gaps, 0.9), np.quantile(gaps, 0.3), most).astype(np.float32)
    for limits in (np.full(most, np.inf, np.float32), falling, np.zeros(most, np.float32)):
        probes = router.probes(queries, limits, threads)
        assert probes.lists.size == probes.first[-1]
        for q in range(nq):
            within = gaps[q] <= limits
            assert within[: within.sum()].all()
            assert probes.of(q).tolist() == lists[q][within].tolist()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nq", [1, 9])
def test_zero_queries_and_equal_centroids_have_ranks(metric, nq):
    for router in (make_router(metric, 30), Router.of(np.ones((30, 24), np.float32), metric)):
        scores, lists = router.rank(np.zeros((nq, 24), np.float32), 30)
        assert np.isfinite(scores).all()
        assert sorted(lists[0].tolist()) == list(range(30))
        probes = router.probes(np.zeros((nq, 24), np.float32), np.full(30, np.inf, np.float32))
        assert sorted(probes.of(0).tolist()) == list(range(30))
        at_the_centre = router.probes(np.tile(router.centre, (nq, 1)), np.full(30, np.inf, np.float32))
        assert sorted(at_the_centre.of(nq - 1).tolist()) == list(range(30))


@pytest.mark.parametrize("nq", [0, 2_500])
def test_any_number_of_queries_has_probes(nq):
    router, queries = make_router("cosine", 40), normal(nq, 24, seed=9)
    probes = router.probes(queries, np.full(3, np.inf, np.float32), 2)
    assert probes.first.tolist() == list(range(0, 3 * nq + 1, 3))
    assert all(probes.of(q).tolist() == router.rank(queries[q : q + 1], 3)[1][0].tolist() for q in range(0, nq, 311))


def test_attributes_cannot_be_changed():
    router = make_router("ip", 4)
    with pytest.raises(AttributeError, match=r"Router\.centre can't be changed"):
        router.centre = np.zeros(24, np.float32)
    with pytest.raises(ValueError, match="read-only"):
        router.rows["codes"][0] = 1


def test_wrong_shapes_are_refused():
    router = make_router("ip", 4)
    with pytest.raises(InputError, match=r"vectors must have shape \(n, 24\)"):
        router.nearest(np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match=r"queries must have shape \(n, 24\)"):
        router.rank(np.zeros((2, 3), np.float32), 1)
    with pytest.raises(InputError, match="at least one list"):
        Router.of(np.zeros((0, 3), np.float32), "ip")


def test_progress_counts_vectors():
    calls = []
    make_router("ip", 4).nearest(normal(20_000, 24), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (20_000, 20_000)
    assert len(calls) > 1

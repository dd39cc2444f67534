"""Centroids: what k-means promises, on ordinary and on awkward samples."""

from __future__ import annotations

import numpy as np
import pytest

from tqvec.errors import InputError
from tqvec.index.partition.clustering import cluster
from tqvec.index.partition.router import Router


def mixture(n: int, d: int, groups: int, seed: int = 0) -> np.ndarray:
    """Return vectors around centres far from each other."""
    rng = np.random.default_rng(seed)
    centres = 10 * rng.standard_normal((groups, d))
    return (centres[rng.integers(groups, size=n)] + rng.standard_normal((n, d))).astype(np.float32)


def loss(x: np.ndarray, centroids: np.ndarray) -> float:
    """Return the mean squared distance to the nearest centroid."""
    distances = np.square(x).sum(1)[:, None] - 2 * x @ centroids.T + np.square(centroids).sum(1)
    return float(distances.min(axis=1).mean())


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("nlist", [1, 3, 40, 100, 600])
def test_centroids_have_the_promised_shape_and_length(spherical, nlist):
    centroids = cluster(mixture(3000, 17, 40), nlist, spherical=spherical)
    assert centroids.shape == (nlist, 17)
    assert centroids.dtype == np.float32
    if spherical:
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("nlist", [20, 200])
def test_loss_is_near_that_of_plain_lloyd_iterations(nlist):
    x = mixture(4000, 12, 150)
    rng = np.random.default_rng(1)
    plain = x[rng.permutation(len(x))[:nlist]]
    for _ in range(10):
        labels = (np.square(plain).sum(1) - 2 * x @ plain.T).argmin(axis=1)
        plain = np.array([x[labels == c].mean(axis=0) if (labels == c).any() else plain[c] for c in range(nlist)])
    assert loss(x, cluster(x, nlist, spherical=False)) < 1.1 * loss(x, plain)


def test_an_offset_of_all_vectors_does_not_matter():
    x = mixture(2000, 8, 20)
    near, far = cluster(x, 20, spherical=False), cluster(x + 1000, 20, spherical=False)
    assert loss(x, far - 1000) < 1.05 * loss(x, near)


@pytest.mark.parametrize("spherical", [True, False])
def test_it_depends_on_the_sample_alone(spherical):
    x = mixture(3000, 16, 30)
    first = cluster(x, 100, spherical=spherical, threads=1)
    np.random.standard_normal(100)  # noqa: NPY002 - draws of a user
    np.testing.assert_array_equal(first, cluster(x, 100, spherical=spherical, threads=2))


def test_no_list_is_empty_if_there_are_enough_distinct_vectors():
    x = np.concatenate([np.zeros((5000, 4), np.float32), mixture(300, 4, 300)])  # most are equal
    centroids = cluster(x, 100, spherical=False)
    assert len(np.unique(Router.of(centroids, "l2").nearest(x))) > 90


@pytest.mark.parametrize("spherical", [True, False])
def test_fewer_distinct_vectors_than_lists(spherical):
    distinct = mixture(7, 5, 7)
    x = np.repeat(distinct, 30, axis=0)
    centroids = cluster(x, 100, spherical=spherical)
    assert centroids.shape == (100, 5)
    assert np.isfinite(centroids).all()
    wanted = distinct / np.linalg.norm(distinct, axis=1, keepdims=True) if spherical else distinct
    gaps = np.linalg.norm(wanted[:, None] - centroids[None], axis=2).min(axis=1)
    np.testing.assert_allclose(gaps, 0, atol=0.02)


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_vectors(spherical, value):
    centroids = cluster(np.full((50, 6), value, np.float32), 9, spherical=spherical)
    assert centroids.shape == (9, 6)
    if spherical:
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    else:
        np.testing.assert_allclose(centroids, value, rtol=1e-3)


@pytest.mark.parametrize("spherical", [True, False])
def test_one_dimension(spherical):
    x = np.random.default_rng(0).standard_normal((400, 1)).astype(np.float32)
    centroids = cluster(x, 10, spherical=spherical)
    if spherical:
        assert set(np.unique(centroids)) == {-1.0, 1.0}
    else:
        assert loss(x, centroids) < 0.05


def test_zero_vectors_have_no_direction():
    x = mixture(500, 6, 10)
    with_zeros = np.concatenate([np.zeros((200, 6), np.float32), x])
    np.testing.assert_array_equal(cluster(x, 10, spherical=True), cluster(with_zeros, 10, spherical=True))


def test_opposite_vectors_have_no_mean_direction():
    x = np.array([[1, 0], [-1, 0]] * 10, np.float32)
    np.testing.assert_allclose(np.linalg.norm(cluster(x, 1, spherical=True), axis=1), 1)


@pytest.mark.parametrize("nlist", [0, -1, 51])
def test_more_lists_than_vectors_are_refused(nlist):
    with pytest.raises(InputError, match="nlist must be an integer from 1 to 50"):
        cluster(np.ones((50, 3), np.float32), nlist, spherical=False)


def test_progress_ends_with_all_steps():
    calls = []
    cluster(mixture(300, 4, 5), 5, spherical=False, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1] > 0

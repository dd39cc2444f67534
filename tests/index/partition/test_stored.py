"""A partitioned file, read by the "File format" page alone: the list of each row, and the lists that a query probes."""

import json
from itertools import pairwise

import numpy as np
import pytest
from craft_files import forge, take_apart
from safetensors import safe_open
from safetensors.numpy import load_file

import tqvec
from tqvec.codec.codes import Codes
from tqvec.errors import FormatError

D = 24
TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def clusters(n, seed):
    rng = np.random.default_rng(seed)
    centres = 3 + np.random.default_rng(10_191).standard_normal((40, D))
    return (centres[rng.integers(0, 40, n)] + 0.5 * rng.standard_normal((n, D))).astype(np.float32)


def to_integers(rows, length):
    factor = (4095 - np.sqrt(D) / 2) / length
    return np.rint(rows.astype(np.float64) * factor[:, None]), factor


@pytest.fixture(params=["ip", "cosine", "l2"])
def stored(request, tmp_path):
    """The index, the fields and tensors of its file, and what its centroids stand for."""
    index = tqvec.Index(D, metric=request.param)
    index.add(clusters(3000, 1))
    index.partition(30)
    index.add(clusters(500, 2))
    index.add(np.zeros((1, D), np.float32))
    index.save(tmp_path / "x.tqv")
    with safe_open(tmp_path / "x.tqv", framework="numpy") as file:
        fields = json.loads(file.metadata()["tqvec"])
    tensors = load_file(tmp_path / "x.tqv")
    codes = Codes(tensors["centroid_codes"], tensors["centroid_scales"])
    codec = tqvec.TurboQuant(D, 8)
    return index, fields, tensors, codec.decode_unbiased(codes)


def test_lists_of_rows(stored):
    index, fields, tensors, t = stored
    assert (fields["version"], fields["nlist"], fields["first_id"]) == (8, 30, 0)
    x = index.codec.decode(Codes(tensors["codes"], tensors["scale"]))
    euclidean = index.metric == "l2"
    x = x - tensors["router_centre"] if euclidean else x
    reach = np.sqrt(np.square(t, dtype=np.float64).sum(axis=1)).max()
    targets, factors = to_integers(t, np.full(len(t), reach))
    length = np.sqrt(np.square(x, dtype=np.float64).sum(axis=1))
    length = np.maximum(length, 1e-6 * reach) if euclidean else np.where(length > 0, length, 1)
    points, f = to_integers(x, length)
    scores = (points @ targets.T).astype(np.float32)
    if euclidean:
        norms = np.square(t, dtype=np.float64).sum(axis=1)
        np.testing.assert_allclose(tensors["centroid_norms"], norms, rtol=1e-6)
        scores -= f.astype(np.float32)[:, None] * (norms * factors / 2).astype(np.float32)
    expected = scores.argmax(axis=1)
    starts = tensors["list_starts"]
    assert np.array_equal(np.repeat(np.arange(30), np.diff(starts)), expected)
    ids = tensors["ids"]
    assert all((np.diff(ids[start:stop]) > 0).all() for start, stop in pairwise(starts))


def test_lists_that_queries_probe(stored):
    index, fields, tensors, t = stored
    queries = clusters(20, 3)
    if index.metric == "l2":
        scores = -(((queries - tensors["router_centre"])[:, None] - t[None]).astype(np.float64) ** 2)
        scores = scores.sum(axis=2)
    else:
        scores = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ t.T
    best = -np.sort(-scores, axis=1)
    gaps, ranks = best[:, :1] - best, np.arange(30)
    w = fields["probe_weight"]
    at = fields["probe_ks"].index(10), TARGETS.index(0.9)
    threshold = tensors["probe_thresholds"][at]
    expected = (np.maximum(gaps, 2.0**-126) ** (1 - w) * (1.0 + ranks) ** w <= np.exp(threshold)).sum(axis=1)
    probes = index._snapshot(probe=(None, 0.9)).routing.probes(queries, 10, 1)
    counts = np.diff(probes.first)
    assert (np.abs(counts - expected) <= 1).all()  # gaps are rounded otherwise
    assert (counts == expected).mean() >= 0.8
    assert counts.max() <= tensors["probe_ranked"][at]


def changed(array, at, value):
    array = array.copy()
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("changes", "arrays", "message"),
    [
        ({"nlist": 0}, {}, "nlist is 0"),
        ({"nlist": 9}, {}, "crc32|shape|tensor|bytes"),
        ({"probe_ks": []}, {}, r"probe_ks is \[\]"),
        ({"probe_ks": [10, 1, 100]}, {}, "probe_ks is"),
        ({"probe_ks": "10"}, {}, "probe_ks is"),
        ({"probe_weight": 1.0}, {}, "probe_weight is 1.0"),
        ({"probe_weight": 0}, {}, "probe_weight is 0"),
        ({"probe_weight": None}, {}, "probe_weight"),
        ({}, {"list_starts": (0, 1)}, "list_starts doesn't divide 300 rows"),
        ({}, {"list_starts": (-1, 299)}, "list_starts doesn't divide"),
        ({}, {"list_starts": (4, 0)}, "list_starts doesn't divide"),
        ({}, {"probe_ranked": ((0, 0), 0)}, "probe_ranked"),
        ({}, {"probe_ranked": ((0, 0), 11)}, "probe_ranked"),
        ({}, {"centroid_scales": (0, np.nan)}, "centroid"),
        ({}, {"probe_thresholds": ((0, 0), np.inf)}, "probe_thresholds"),
        ({}, {"router_centre": None}, "router_centre|tensors"),
    ],
)
@pytest.mark.parametrize("mmap", [False, True])
def test_what_no_writer_makes(changes, arrays, message, mmap, tmp_path):
    index = tqvec.Index(D)
    index.add(clusters(300, 1))
    index.partition(10)
    index.save(tmp_path / "x.tqv")
    tensors = take_apart(tmp_path / "x.tqv")[1]
    forged = {name: None if change is None else changed(tensors[name], *change) for name, change in arrays.items()}
    forge(tmp_path / "x.tqv", changes, forged)
    with pytest.raises(FormatError, match=message):
        tqvec.Index.load(tmp_path / "x.tqv", mmap=mmap)

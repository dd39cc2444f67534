"""Index with the trellis codebook: full scans, files, and what the sample of real embeddings gains."""

import json
import math
from functools import partial

import numpy as np
import pytest
import strategies as sts
from index_cases import build_index
from safetensors import safe_open

import tqvec
from tqvec.codec.bands import integer_levels
from tqvec.errors import InputError
from tqvec.eval.recall import exact_search, recall
from tqvec.eval.sample import load_sample
from tqvec.reference import quantize, rotation, scoring
from tqvec.reference import trellis as reference

SEED = 6


build = partial(build_index, codebook="trellis", seed=SEED)


@pytest.mark.parametrize(
    ("d", "nbits"), [(16, 1), (33, 5), (64, 4), (97, 2), (200, 3), (1000, 1), (64, 2.5), (100, 3.5)]
)
def test_scores_stay_within_the_error_bound_of_integers(d, nbits):
    """Every score of `Index.search` against float64, with the bound of kernels/scan/README.md."""
    x, queries = sts.normal(70, d, seed=d), sts.normal(5, d, seed=d + 1)
    index = build(x, nbits)
    scores, ids = index.search(queries, k=70)
    assert np.all(np.sort(ids, axis=1) == np.arange(70))
    bands = sts.bands(index.codec)
    encoded = quantize.encode_trellis(x, bands, SEED)
    levels = [reference.levels(encoded.codes[:, a:b], reference.frozen(d, width)) for a, b, width in bands]
    scale = quantize.scale_unbiased(encoded)
    rotated = rotation.hadamard(queries, SEED)
    dense = np.take_along_axis(scoring.scores(rotated, np.concatenate(levels, axis=1), scale), ids, axis=1)
    length = np.linalg.norm(queries.astype(np.float64), axis=1)[:, None]
    per_query, per_level = 32767 / length, 1 / integer_levels(d, index.codec.quantizer).unit
    reach = np.sqrt(encoded.energy)
    bound = math.sqrt(d) / 2 * (reach / per_query + length / per_level) + d / (4 * per_query * per_level)
    bound = bound + 2e-6 * length * reach  # float32: the rotation, the last two products
    assert np.all(np.abs(scores - dense) <= np.take_along_axis(bound * scale, ids, axis=1))
    assert np.all(np.lexsort((ids, -scores), axis=1) == np.arange(70))


def test_overflow_bound_holds_for_the_worst_codes():
    for d, nbits in ((16, 1), (64, 5), (1536, 4), (16384, 1), (1536, 2.5)):
        codec = tqvec.TurboQuant(d, nbits=nbits, codebook="trellis")
        words = integer_levels(d, codec.quantizer).levels.astype(np.uint16).view(np.int16).astype(np.int64)
        assert np.abs(words).max() * math.sqrt(d) * (32767 + math.sqrt(d) / 2) < 2**31


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize(("d", "nbits"), [(31, 2), (64, 4), (64, 2.5)])
def test_metrics_and_files(d, nbits, metric, tmp_path):
    x, queries = sts.normal(3000, d, seed=d), sts.normal(20, d, seed=d + 1)
    index = build(x, nbits, metric)
    scores, ids = index.search(queries, k=3000)
    dense = index.codec.inner_product(queries, index.codec.encode(x)).astype(np.float64)
    lengths, squares = np.linalg.norm(x, axis=1), np.linalg.norm(queries, axis=1)[:, None] ** 2
    expected = {
        "ip": dense,
        "cosine": dense / lengths / np.sqrt(squares),
        "l2": np.maximum(squares + lengths.astype(np.float64) ** 2 - 2 * dense, 0),
    }[metric]
    tolerance = {"ip": 1, "cosine": 1 / np.sqrt(squares).min() / lengths.min(), "l2": 2}[metric]
    tolerance *= 1e-3 * np.sqrt(squares).max() * lengths.max()
    np.testing.assert_allclose(scores, np.take_along_axis(expected, ids, axis=1), atol=tolerance)
    for count, threads in ((1, 1), (20, 2)):  # few results, of which there are stages for scalar codes
        some = index.search(queries[:count], k=5, threads=threads)
        assert np.array_equal(some[0], scores[:count, :5])
        assert np.array_equal(some[1], ids[:count, :5])
    index.save(tmp_path / "a.tqv")
    again = tqvec.Index.load(tmp_path / "a.tqv")
    assert (again.codec.codebook, again.codec.bands) == ("trellis", index.codec.bands)
    assert np.array_equal(again.search(queries, k=5)[0], scores[:, :5])
    again.save(tmp_path / "b.tqv")
    assert (tmp_path / "a.tqv").read_bytes() == (tmp_path / "b.tqv").read_bytes()
    with safe_open(tmp_path / "a.tqv", framework="numpy") as file:
        header = json.loads(file.metadata()["tqvec"])
    assert header["codebook"] == "trellis"


def test_adding_in_pieces_is_adding_at_once():
    x = sts.normal(200, 48)
    whole, pieces = build(x, 3), tqvec.Index(48, nbits=3, codebook="trellis", seed=SEED)
    for start, stop in ((0, 1), (1, 18), (18, 18), (18, 200)):
        pieces.add(x[start:stop])
    for one, two in zip(whole.search(x[:9], 10), pieces.search(x[:9], 10), strict=True):
        assert np.array_equal(one, two)
    assert "codebook='trellis'" in repr(whole)
    assert whole.codec.fingerprint == pieces.codec.fingerprint


def test_bad_arguments():
    for options in ({"nbits": 6}, {"d": 15}, {"nbits": [(60, 2), (4, 3)]}):
        with pytest.raises(InputError, match="^codebook='trellis'"):
            tqvec.Index(**{"d": 64, "codebook": "trellis"} | options)


# Measured, mean of three seeds: scalar 0.744, 0.862, 0.925, 0.959; trellis 0.782, 0.892, 0.942, 0.965.
@pytest.mark.parametrize(("nbits", "gain"), [(1, 0.02), (2, 0.02), (3, 0.008), (4, 0)])
def test_recall_on_real_embeddings(nbits, gain):
    sample = load_sample()
    _, truth = exact_search(sample.base.astype(np.float32), sample.queries.astype(np.float32), 10, "cosine")
    found = {}
    for kind in ("scalar", "trellis"):
        index = tqvec.Index(384, nbits=nbits, metric="cosine", codebook=kind)
        index.add(sample.base)
        found[kind] = recall(index.search(sample.queries, k=10)[1], truth, 10, 10)
    assert found["trellis"] > found["scalar"] + gain

"""Trained indexes: the gain of training, that it never costs recall, scores of all metrics, files."""

import warnings

import numpy as np
import pytest
import strategies as sts
from safetensors import safe_open

import tqvec
from tqvec.errors import InputError, LossWarning
from tqvec.eval.recall import exact_search, recall
from tqvec.eval.sample import load_sample
from tqvec.index import contents, training
from tqvec.kernels.dispatch import implementation

SEED = 8


def anisotropic(n, d, seed=0):
    """Rows around a common point whose variances fall as 1/j."""
    basis = np.linalg.qr(sts.rng(98).standard_normal((d, d)))[0]
    x = sts.normal(n, d, seed) / np.sqrt(np.arange(1, d + 1))
    return (x @ basis + 0.2).astype(np.float32)


def build(d, nbits=2, metric="ip", codebook="scalar"):
    return tqvec.Index(d, nbits=nbits, metric=metric, codebook=codebook, seed=SEED)


def build_trained(x, nbits=2, metric="ip", codebook="scalar"):
    """An index of `x`, trained on that and more like it."""
    index = build(x.shape[1], nbits, metric, codebook)
    assert index.train(np.concatenate([x, anisotropic(3000, x.shape[1], seed=6)])).accepted
    index.add(x)
    return index


def coded(index):
    """Bytes of codes and scales."""
    return index.nbytes.codes + index.nbytes.scales


def recall_after_adding(index, x, queries, truth):
    index.add(x)
    return recall(index.search(queries, k=10)[1], truth, 10, 10)


# Measured with 8,000 rows to train on, mean of three seeds: see docs/explanation/calibration.md.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("nbits", "codebook", "gain"),
    [(1, "scalar", 0.04), (2, "scalar", 0.03), (2, "trellis", 0.02), (4, "scalar", 0.005)],
)
def test_recall_on_real_embeddings(nbits, codebook, gain):
    sample = load_sample()
    truth = exact_search(sample.base.astype(np.float32), sample.queries.astype(np.float32), 10, "cosine")[1]
    plain, index = build(384, nbits, "cosine", codebook), build(384, nbits, "cosine", codebook)
    report = index.train(sample.base[:4000])
    before, after = (
        recall_after_adding(plain, sample.base, sample.queries, truth),
        recall_after_adding(index, sample.base, sample.queries, truth),
    )
    assert after > before + gain
    assert index.code_size == plain.code_size
    assert report.accepted
    assert report.recall[1] == pytest.approx(after, abs=0.04)
    assert report.recall[0] == pytest.approx(before, abs=0.04)
    assert sum(report.shares) <= 1.0001


def one_hot(n, d):
    x = np.zeros((n, d), np.float32)
    x[np.arange(n), sts.rng(1).integers(0, d, n)] = sts.rng(2).uniform(0.5, 2, n)
    return x


def sparse(n, d):
    return sts.normal(n, d) * (sts.rng(1).random((n, d)) < 0.03)


def constant(n, d):
    x = sts.normal(n, d)
    x[:, 3], x[:, 7] = 5, 0
    return x


def few(n, d):
    return np.concatenate([anisotropic(d // 2, d), sts.normal(n - d // 2, d, seed=3)])


def duplicates(n, d):
    return np.repeat(sts.normal(300, d), n // 300 + 1, axis=0)[:n]


def outliers(n, d):
    x = anisotropic(n, d)
    x[:: n // 20] *= 1e4
    return x


def clustered(n, d):
    x = sts.normal(n, d) * np.float32(0.3)
    return x + np.repeat(sts.normal(20, d, seed=9), n // 20 + 1, axis=0)[:n]


def half(n, d):
    return anisotropic(n, d).astype(np.float16)


def isotropic(n, d):
    return sts.normal(n, d)


def zeros(n, d):
    return np.zeros((n, d), np.float32)


KINDS = (isotropic, one_hot, sparse, constant, few, duplicates, outliers, clustered, half, zeros)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_training_never_costs_recall(kind, metric):
    """Whatever the data, also when the sample is the first part of sorted rows."""
    x = kind(2000, 96)
    queries = x[sts.rng(3).integers(0, 2000, 1500)].astype(np.float32)
    queries += sts.normal(1500, 96, seed=4) * np.float32(0.05)
    truth = exact_search(x.astype(np.float32), queries, 10, metric)[1]
    before = recall_after_adding(build(96, metric=metric), x, queries, truth)
    index = build(96, metric=metric)
    report = index.train(x)
    after = recall_after_adding(index, x, queries, truth)
    assert after >= before - 0.003
    assert (index.codec.calibration is not None) == report.accepted
    if kind in (isotropic, zeros):
        assert not report.accepted
    if kind in (half, clustered):
        assert report.accepted
        assert after > before + 0.01


def test_fewer_samples_than_dimensions():
    x = anisotropic(3000, 256)
    queries = anisotropic(100, 256, seed=5)
    truth = exact_search(x, queries, 10)[1]
    before, index = recall_after_adding(build(256), x, queries, truth), build(256)
    assert index.train(x[:220]).accepted
    assert recall_after_adding(index, x, queries, truth) > before


def test_reports():
    x = anisotropic(800, 64)
    index = build(64)
    few = index.train(x[:50])
    assert not few.accepted
    assert "needs at least 200 distinct rows (50 distinct rows)" in str(few)
    report = index.train(np.concatenate([x, x]), queries=anisotropic(300, 64, seed=2))
    assert report.accepted
    assert report.rows == 800
    lines = str(report).splitlines()
    assert lines[0] == "trained: yes, it helps at equal bytes (800 distinct rows)"
    assert lines[-1].startswith("held out: recall 10@10 ")
    assert len(lines) == len(report.bands) + 3
    assert "trained" in repr(index)
    again = index.train(x)
    assert not again.accepted
    assert "would not help" in str(again)


@pytest.mark.slow
@pytest.mark.parametrize("codebook", ["scalar", "trellis"])
@pytest.mark.parametrize("nbits", [1, 4, 2.5])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_scores_are_those_of_the_decoded_vectors(metric, nbits, codebook):
    d = 72
    x, queries = anisotropic(700, d), anisotropic(9, d, seed=1)
    index = build_trained(x, nbits, metric, codebook)
    scores, ids = index.search(queries, k=700)
    assert np.all(np.sort(ids, axis=1) == np.arange(700))
    rows = x.copy()
    if metric == "cosine":
        implementation("unit_rows", "portable")(x, 0, 700, rows)
    codes = index.codec.encode(rows)
    product = index.codec.inner_product(queries, codes).astype(np.float64)
    length = np.linalg.norm(queries, axis=1)[:, None]
    if metric == "l2":
        residuals = index.codec.inner_product(queries - index.codec.centre, codes)
        residuals = residuals - index.codec.transform.centre_products(queries - index.codec.centre)[:, None]
        squares = (np.square(rows - index.codec.centre, dtype=np.float64).sum(axis=1) for rows in (queries, x))
        expected = next(squares)[:, None] + next(squares) - 2 * residuals
    else:
        expected = product / length if metric == "cosine" else product
    expected = np.take_along_axis(np.maximum(expected, 0) if metric == "l2" else expected, ids, axis=1)
    np.testing.assert_allclose(scores, expected, atol=2e-3 * (1 if metric == "cosine" else length.max()))
    assert np.all(np.diff(scores, axis=1) * (-1 if metric != "l2" else 1) >= 0)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_scores_are_near_the_exact_ones(metric):
    x, queries = anisotropic(500, 64), anisotropic(20, 64, seed=1)
    scores, ids = build_trained(x, 8, metric).search(queries, k=500)
    exact, order = exact_search(x, queries, 500, metric)
    dense = np.empty_like(exact)
    np.put_along_axis(dense, order, exact, axis=1)
    assert np.abs(scores - np.take_along_axis(dense, ids, axis=1)).max() < 0.02 * np.abs(exact).max()


def test_results_do_not_depend_on_batch_or_threads():
    x, queries = anisotropic(3000, 64), anisotropic(40, 64, seed=1)
    for metric in ("ip", "cosine", "l2"):
        index = build_trained(x, 2, metric)
        whole = index.search(queries, k=5, threads=1)
        parts = [index.search(queries[i : i + 7], k=5, threads=2) for i in range(0, 40, 7)]
        for j in range(2):
            assert np.array_equal(whole[j], np.concatenate([part[j] for part in parts]))


def test_few_vectors_and_none():
    x = anisotropic(400, 64)
    for metric, worst in (("ip", -np.inf), ("l2", np.inf)):
        index = build(64, metric=metric)
        index.train(x)
        scores, ids = index.search(x[:2], k=3)
        assert np.all(ids == -1)
        assert np.all(scores == worst)
        index.add(x[:2])
        scores, ids = index.search(x[0], k=3)
        assert ids[0, 2] == -1
        assert scores[0, 2] == worst


def test_training_after_adding_with_the_vectors():
    x = anisotropic(1000, 64)
    index, other = build(64), build(64)
    index.add(x)
    before = index.search(x[:9])
    with pytest.raises(InputError, match="vectors must be the 1000 that were added, got 999 rows"):
        index.train(x, vectors=x[:999])
    assert np.array_equal(index.search(x[:9])[0], before[0])
    report = index.train(x, vectors=x)
    assert report.accepted
    assert report.loss is None
    other.train(x)
    other.add(x)
    for one, two in zip(index.search(x[:9]), other.search(x[:9]), strict=True):
        assert np.array_equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("codebook", ["scalar", "trellis"])
@pytest.mark.parametrize("nbits", [1, 3])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_training_after_adding_from_the_codes(metric, nbits, codebook, monkeypatch):
    """The loss is the one announced, scores stay unbiased, and blocks don't matter."""
    monkeypatch.setattr(tqvec.Index, "_block_rows", 1200)  # recoded 300 at a time
    x, queries = anisotropic(2000, 64), anisotropic(300, 64, seed=5)
    exact, order = exact_search(x, queries, 2000, metric)
    index, other = build(64, nbits, metric, codebook), build(64, nbits, metric, codebook)
    index.add(x)
    first, size = recall(index.search(queries)[1], order, 10, 10), coded(index)
    sample = anisotropic(4000, 64, seed=7)
    with pytest.warns(
        LossWarning, match=r"^2,000 vectors are compressed anew .* hand them over as `vectors`"
    ) as warned:
        report = index.train(sample)
    assert warned[0].filename == __file__
    assert report.accepted
    assert str(report.loss) in str(warned[0].message)
    assert f"stored vectors, from their codes: {report.loss}" in str(report)
    assert (index.ntotal, coded(index)) == (2000, 2000 * index.code_size)
    assert coded(index) <= size
    before, after, best = report.loss.error
    assert best < before < after < before + 3 * best
    assert report.loss.recall[1] < report.loss.recall[0] < report.loss.recall[2]
    assert (report.loss.recall[0], report.loss.recall[2]) == report.recall
    again, ids = index.search(queries, k=2000)
    assert recall(ids, order, 10, 10) - first == pytest.approx(report.loss.recall[1] - report.loss.recall[0], abs=0.06)
    other.add(x[:0])
    assert other.train(sample).accepted
    other.add(x)
    assert other.codec.fingerprint == index.codec.fingerprint
    errors = []
    for scores, rows in ((again, ids), other.search(queries, k=2000)):
        dense, true = np.empty((300, 2000)), np.empty((300, 2000))
        np.put_along_axis(dense, rows, scores, axis=1)
        np.put_along_axis(true, order, exact, axis=1)
        errors.append(dense - true)
    assert abs(errors[0].mean()) < 0.3 * before * exact.mean()
    assert errors[0].std() > errors[1].std()


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_a_trained_index_can_be_trained_again_from_its_codes(metric):
    """Once more is known of the data: the old centre counts too."""
    x, sample = anisotropic(2000, 64), anisotropic(4000, 64, seed=7)
    mixed = np.concatenate([anisotropic(2000, 64, seed=3)[:, ::-1], anisotropic(1000, 64, seed=4)])
    index = build(64, 4, metric)
    assert index.train(mixed).accepted
    index.add(x)
    with pytest.warns(LossWarning, match="compressed anew"):
        assert index.train(sample).accepted
    exact, order = exact_search(x, x[:50], 2000, metric)
    scores, ids = index.search(x[:50], k=2000)
    dense, true = np.empty((50, 2000)), np.empty((50, 2000))
    np.put_along_axis(dense, ids, scores, axis=1)
    np.put_along_axis(true, order, exact, axis=1)
    assert abs((dense - true).mean()) < 0.005 * true.std()
    assert (dense - true).std() < 0.1 * true.std()


def test_training_changes_nothing_if_it_does_not_help_or_fails(monkeypatch):
    noise, x = sts.normal(1000, 64), anisotropic(1000, 64)
    index = build(64)
    index.add(noise)
    before = index.search(noise[:9])
    for vectors in (noise, None):
        assert not index.train(noise, vectors=vectors).accepted
        assert np.array_equal(index.search(noise[:9])[0], before[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LossWarning):
            index.train(x)
    longest = build(64)
    longest.add(np.eye(64, dtype=np.float32) * np.float32(2.4e38))
    with pytest.warns(LossWarning), pytest.raises(InputError, match="a stored one is too long to be made anew"):
        longest.train(x)
    recode = training.recode
    monkeypatch.setattr(
        contents, "recode", lambda rows, *more: recode(rows, *more) if len(rows["scale"]) < 300 else 1 / 0
    )
    with pytest.warns(LossWarning), pytest.raises(ZeroDivisionError):
        index.train(x)
    monkeypatch.undo()
    for one in (index, longest):
        assert one.codec.calibration is None
    assert np.array_equal(index.search(noise[:9])[0], before[0])


def test_bad_arguments_change_nothing():
    x = anisotropic(400, 64)
    index = build(64)
    bad = x.copy()
    bad[7, 3] = np.nan
    for arguments, message in (
        ({"sample": bad}, "sample row 7 holds NaN"),
        ({"sample": x[:, :9]}, "sample must have shape"),
        ({"sample": x, "queries": bad}, "queries row 7"),
        ({"sample": x, "vectors": bad}, "vectors row 7"),
        ({"sample": x, "vectors": x}, "vectors must be the 0"),
        ({"sample": x, "threads": 0}, "threads must be"),
        ({"sample": x, "queries": x[:0]}, "queries must have at least one row"),
        ({"sample": np.where(x == x[5, 2], np.float32(1e30), x)}, "sample row 5 is too long"),
        ({"sample": x, "queries": x[3:6] * np.float32(1e30)}, "queries row 0 is too long"),
    ):
        with pytest.raises(InputError, match=message):
            index.train(**arguments)
        assert index.codec.calibration is None
    with pytest.raises(InputError, match="d must be at most 8192 to train"):
        build(8193).train(np.zeros((2, 8193), np.float32))
    assert build(64, metric="cosine").train(x * np.float32(1e30), queries=x * np.float32(1e-30)).accepted
    index.train(x)
    with pytest.raises(InputError, match="x row 7 holds NaN"):
        index.add(bad)
    with pytest.raises(InputError, match="x row 1 holds a value too large"):
        index.add(np.array([[1.0] * 64, [1e300] * 64]))
    assert index.ntotal == 0


@pytest.mark.parametrize("codebook", ["scalar", "trellis"])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_files(metric, codebook, tmp_path):
    x = anisotropic(500, 64)
    index = build_trained(x, 2, metric, codebook)
    index.save(tmp_path / "a.tqv")
    again = tqvec.Index.load(tmp_path / "a.tqv")
    assert again.codec.fingerprint == index.codec.fingerprint
    assert (again.nbits, again.codec.bands) == (2, index.codec.bands)
    for one, two in zip(again.search(x[:9]), index.search(x[:9]), strict=True):
        assert np.array_equal(one, two)
    again.save(tmp_path / "b.tqv")
    assert (tmp_path / "a.tqv").read_bytes() == (tmp_path / "b.tqv").read_bytes()
    with safe_open(tmp_path / "a.tqv", framework="numpy") as file:
        assert set(file.keys()) >= {"centre", "matrix", "spreads", "near"}


def test_an_empty_trained_index_is_a_calibration_to_share(tmp_path):
    x = anisotropic(500, 64)
    index = build(64)
    index.train(x)
    index.save(tmp_path / "a.tqv")
    one, two = tqvec.Index.load(tmp_path / "a.tqv"), tqvec.Index.load(tmp_path / "a.tqv")
    one.add(x[:300])
    two.add(x[300:])
    assert one.codec.fingerprint == two.codec.fingerprint
    index.add(x)
    assert np.array_equal(two.search(x[400], k=1)[0], index.search(x[400], k=1)[0])
    other = build(64)
    other.train(x[:450])
    assert other.codec.fingerprint != index.codec.fingerprint

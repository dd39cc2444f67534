"""The report on captured tensors: its figures against the functions that measure them, and the published ones."""

import captured_kv
import numpy as np
import pytest

from tqvec.errors import InputError
from tqvec.kvcache import KVCache, Policy, Rope
from tqvec.kvcache.quality import CapturedLayer, measure_fidelity, measure_report, read_layers, read_rope
from tqvec.kvcache.quality import report as module
from tqvec.kvcache.quality.published import Figure

ROPE = Rope(captured_kv.THETA)


@pytest.fixture(scope="module")
def report():
    layers = [CapturedLayer(q[:, -16:], k, v) for q, k, v in captured_kv.load()]
    return measure_report(layers, policies=["turbo3", "prod3", "k4v3", "turbo4"], rope=ROPE, tokens=[300])


def test_the_folder_is_read_with_its_rope():
    layers = read_layers(captured_kv.FOLDER)
    for layer, (q, k, v) in zip(layers, captured_kv.load(), strict=True):
        assert layer.q.dtype == np.float32
        for own, other in zip(layer, (q, k, v), strict=True):
            np.testing.assert_array_equal(own, other)
    assert read_rope(captured_kv.FOLDER) == ROPE
    assert read_rope(captured_kv.FOLDER.parent) is None


def test_attention_is_that_of_a_cache_that_codes_everything(report):
    assert report.shape == (3, 2, 512, 64)
    assert [(row.policy, row.bits) for row in report.attention] == [
        ("turbo3", 3.25),
        ("prod3", 3.375),
        ("k4v3", 3.75),
        ("turbo4", 4.25),
    ]
    cache = KVCache(3, 2, 64, Policy(3, 3, recent=0, sinks=0, chunk=1), ROPE)
    rows = []
    for number, (q, k, v) in enumerate(captured_kv.load()):
        cache.append(number, k, v)
        rows.append(measure_fidelity(q[:, -16:], (k, v), (cache.keys(number), cache.values(number))))
    found = report.attention[0].fidelity
    assert found.top1 == pytest.approx(np.mean([row.top1 for row in rows]))
    assert found.worst_head_error == pytest.approx(max(row.worst_head_error for row in rows))


def test_the_published_method_fails_on_true_queries_alone(report):
    """With keys as queries it has the published cosine; the mean that keys share makes it."""
    measured = {row.policy: row.fidelity for row in report.attention}
    assert measured["prod3"].output_error > 4 * measured["turbo3"].output_error
    cosines = [row for row in report.comparisons if row.what == "score cosine, 3 bits, Qwen2.5-3B"]
    assert [row.published.text for row in cosines] == ["0.9959"]
    assert cosines[0].reproduced == pytest.approx(0.9959, abs=0.005)
    assert measured["prod3"].score_cosine < 0.9 < cosines[0].reproduced < cosines[0].tqvec


def test_distortion_is_the_exact_one_and_within_the_bounds(report):
    assert len(report.distortions) == 12
    for row in report.distortions:
        assert row.lower < row.measured < row.upper
        assert row.tqvec < row.measured
        assert row.measured == pytest.approx(row.expected, rel=0.15)  # few directions, of eight rotations


def test_sizes_are_the_published_ones(report):
    rows = {row.what: row for row in report.comparisons if row.section == "memory"}
    differ = {what for what, row in rows.items() if not row.published.is_matched_by(row.reproduced)}
    assert len(rows) == 25
    assert differ == {  # cut, not of these formats, of another head_dim
        "split2.5, head_dim 128",
        "vllm-k3v4_nc, head_dim 128",
        "vllm-3bit_nc, head_dim 128",
        "qwen3.5-27b at 128k tokens, prod3",
    }
    assert all(row.published.source for row in report.comparisons)
    assert Figure("1.20", "").is_matched_by(1.1953)
    assert not Figure("1.2", "").is_matched_by(1.14)


def test_retrieval_has_a_curve_per_kind_of_keys(report):
    (found,) = report.retrieval
    assert [curve.name for curve in found.curves] == ["float32", "turbo3", "k4v3"]
    assert found.curves[0].success[-1] == 1
    assert found.rhos[-1] == 1


def test_a_published_number_of_needles_is_compared(monkeypatch):
    monkeypatch.setitem(module.NEEDLES, 1000, Figure("100", "somewhere"))
    (row,) = module._compare_retrieval([999, 1000])
    assert (row.published.text, row.reproduced, row.tqvec) == ("100", None, 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policies": ["exact"]}, "policy must be one of 'turbo4'"),
        ({"policies": ["turbo9"]}, "policy must be one of"),
        ({"tokens": [0]}, "n must be an integer from 1"),
        ({"rope": 3}, "rope of layer 0 must be a Rope or None"),
        ({"layers": []}, "layers must not be empty"),
    ],
)
def test_bad_input_is_named(change, message):
    layers = [CapturedLayer(q[:2, -1:], k[:, :80], v[:, :80]) for q, k, v in captured_kv.load()[:1]]
    options = {"layers": layers, "policies": [], "tokens": [], "rope": ROPE} | change
    with pytest.raises(InputError, match=message):
        measure_report(options.pop("layers"), **options)


def test_too_few_tokens_are_refused():
    q, k, v = captured_kv.load()[0]
    with pytest.raises(InputError, match="layers must have 64 tokens or more to be coded, got 63"):
        measure_report([CapturedLayer(q[:, -1:], k[:, :63], v[:, :63])], policies=["turbo3"], rope=ROPE)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "queries_f16.npy: can't be read as an array"),
        ({"queries": (1, 2, 4, 8), "keys": (2, 2, 9, 8), "values": (2, 2, 9, 8)}, "must be .layers, heads, tokens, d."),
        ({"queries": (1, 3, 4, 8), "keys": (1, 2, 9, 8), "values": (1, 2, 9, 8)}, "layer 0: q, k and v must be"),
        ({"queries": (2, 4, 8), "keys": (2, 9, 8), "values": (2, 9, 8)}, "must be .layers, heads, tokens, d."),
    ],
)
def test_bad_folders_are_named(tmp_path, files, message):
    for name, shape in files.items():
        np.save(tmp_path / f"{name}_f16.npy", np.ones(shape, np.float16))
    with pytest.raises(InputError, match=message):
        read_layers(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "can't be read as JSON"), ('{"rope_theta": "x"}', "rope_theta must be a number")]
)
def test_bad_manifests_are_named(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_rope(tmp_path)

"""Rotary embeddings: angles by the formulas of their papers, layouts, and what configurations say."""

import copy
import json
import math
import pickle

import numpy as np
import pytest

from tqvec.errors import InputError
from tqvec.kvcache import Rope
from tqvec.kvcache.planning.architectures import ARCHITECTURES
from tqvec.kvcache.planning.ropes import ROTARY

THETA, DIM, ORIGINAL = 10_000.0, 16, 512
PLAIN = [THETA ** (-2 * i / DIM) for i in range(DIM // 2)]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + i for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": ORIGINAL,
}
STEP = {"beta_fast": 1, "beta_slow": 1, "truncate": False}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}


def llama3(frequency):
    wavelength = 2 * math.pi / frequency
    if wavelength < ORIGINAL / 4:
        return frequency
    if wavelength > ORIGINAL:
        return frequency / 8
    smooth = (ORIGINAL / wavelength - 1) / 3
    return (1 - smooth) * frequency / 8 + smooth * frequency


def yarn(i, low, high):
    ramp = min(max((i - low) / (high - low), 0), 1)
    return PLAIN[i] * (1 - ramp) + PLAIN[i] / 4 * ramp


def turned_pair(turns):
    """The (fractional) pair that turns so often within the original length."""
    return DIM / 2 * math.log(ORIGINAL / (2 * math.pi * turns)) / math.log(THETA)


ENDS = turned_pair(32), turned_pair(1)
ROUND = math.floor(ENDS[0]), math.ceil(ENDS[1])
STRETCHED = THETA * (4 * 2048 / ORIGINAL - 3) ** (DIM / (DIM - 2))


@pytest.mark.parametrize(
    ("scaling", "length", "expected"),
    [
        (None, None, PLAIN),
        ({"rope_type": "default"}, None, PLAIN),
        ({"rope_type": "linear", "factor": 4.0}, 10**6, [f / 4 for f in PLAIN]),
        ({"rope_type": "proportional", "partial_rotary_factor": 0.25}, None, PLAIN[:2]),
        ({"rope_type": "proportional", "partial_rotary_factor": 0.4, "factor": 2}, None, [f / 2 for f in PLAIN[:3]]),
        (LLAMA3, None, [llama3(f) for f in PLAIN]),
        (YARN, None, [yarn(i, *ROUND) for i in range(8)]),
        (YARN | {"truncate": False}, None, [yarn(i, *ENDS) for i in range(8)]),
        (
            YARN | {"beta_fast": 1, "beta_slow": 1, "truncate": False},
            9,
            [yarn(i, ENDS[1], ENDS[1] + 1e-9) for i in range(8)],
        ),
        (DYNAMIC, None, PLAIN),
        (DYNAMIC, ORIGINAL, PLAIN),
        (DYNAMIC, 2048, [STRETCHED ** (-2 * i / DIM) for i in range(8)]),
        (LONG, None, [f / (1 + i) for i, f in enumerate(PLAIN)]),
        (LONG, ORIGINAL + 1, [f / (2 + i) for i, f in enumerate(PLAIN)]),
    ],
)
def test_frequencies(scaling, length, expected):
    rope = Rope(THETA, scaling=scaling)
    np.testing.assert_allclose(rope.frequencies(DIM, length), expected, rtol=1e-12)
    assert rope.pairs(DIM).shape == (len(expected), 2)
    np.testing.assert_array_equal(Rope(THETA, scaling=scaling, reverse=True).frequencies(DIM), -rope.frequencies(DIM))


def test_a_part_of_a_head_has_frequencies_of_its_own():
    np.testing.assert_array_equal(Rope(THETA, dim=DIM).frequencies(64), Rope(THETA).frequencies(DIM))
    np.testing.assert_allclose(Rope(THETA, dim=5).frequencies(64), [1, THETA ** (-2 / 5), THETA ** (-4 / 5)])


@pytest.mark.parametrize(
    ("rope", "pairs"),
    [
        (Rope(), [[0, 4], [1, 5], [2, 6], [3, 7]]),
        (Rope(interleaved=True), [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (Rope(dim=4), [[0, 2], [1, 3]]),
        (Rope(dim=3), [[0, 2], [1, 3]]),
        (Rope(dim=4, start=4), [[4, 6], [5, 7]]),
        (Rope(start=4, interleaved=True), [[4, 5], [6, 7]]),
        (Rope(scaling={"rope_type": "proportional", "partial_rotary_factor": 0.5}), [[0, 4], [1, 5]]),
    ],
)
def test_pairs(rope, pairs):
    assert rope.pairs(8).dtype == np.int64
    assert rope.pairs(8).tolist() == pairs


@pytest.mark.parametrize(
    "rope", [Rope(), Rope(interleaved=True), Rope(500.0, dim=6), Rope(dim=6, start=2, reverse=True)]
)
def test_rotate_is_a_product_of_complex_numbers(rope):
    rng = np.random.default_rng(10_201)
    x, positions = rng.standard_normal((3, 5, 8)), np.array([0, 1, 7, -3, 100_000])
    first, second = rope.pairs(8).T
    turned = rope.rotate(x, positions)
    expected = (x[..., first] + 1j * x[..., second]) * np.exp(1j * np.outer(positions, rope.frequencies(8)))
    np.testing.assert_allclose(turned[..., first] + 1j * turned[..., second], expected, atol=1e-9)
    rest = np.setdiff1d(np.arange(8), rope.pairs(8))
    np.testing.assert_array_equal(turned[..., rest], x[..., rest])
    np.testing.assert_allclose(rope.rotate(turned, -positions), x, atol=1e-9)


def test_rotate_leaves_its_input_and_keeps_float64():
    x = np.ones((2, 8), np.float32)
    assert Rope().rotate(x, [1, 2]).dtype == np.float32
    assert Rope().rotate(x.astype(np.float16), [1, 2]).dtype == np.float32
    assert Rope().rotate(x.astype(np.float64), [1, 2]).dtype == np.float64
    np.testing.assert_array_equal(x, 1)
    assert Rope().rotate(np.zeros((3, 0, 8)), []).shape == (3, 0, 8)


def test_rotate_takes_a_length():
    rope = Rope(scaling=DYNAMIC)
    x = np.ones((1, DIM))
    assert not np.allclose(rope.rotate(x, [9], length=5000), rope.rotate(x, [9]))


def test_only_two_types_depend_on_the_length():
    lengths = [Rope(scaling=scaling).original_length for scaling in (None, LLAMA3, YARN, LONG, DYNAMIC)]
    assert lengths == [None, None, None, ORIGINAL, ORIGINAL]


ROPES = [
    Rope(),
    Rope(500_000, 64, {"rope_type": "linear", "factor": 8}),
    Rope(scaling=LONG, start=2, interleaved=True, reverse=True),
    Rope(scaling=YARN),
]


@pytest.mark.parametrize("rope", ROPES)
def test_the_same_by_json_and_copies(rope):
    for other in (
        Rope.from_json(rope.to_json()),
        copy.deepcopy(rope),
        pickle.loads(pickle.dumps(rope)),
        eval(repr(rope)),
    ):
        assert other == rope
        assert hash(other) == hash(rope)
        assert other.to_json() == rope.to_json()
    assert sum(rope == other for other in ROPES) == 1


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({"theta": 10_000}, {"theta": 1e4}),
        ({"scaling": {"rope_type": "default"}}, {}),
        ({"scaling": {"type": "linear", "factor": 4}}, {"scaling": {"factor": 4.0, "rope_type": "linear"}}),
        ({"scaling": YARN | {"beta_fast": 32, "mscale": 1.0, "attention_factor": None}}, {"scaling": YARN}),
        ({"scaling": LONG | {"factor": 32.0, "short_factor": tuple(LONG["short_factor"])}}, {"scaling": LONG}),
    ],
)
def test_equal_whatever_the_form(one, same):
    assert Rope(**one) == Rope(**same)
    assert hash(Rope(**one)) == hash(Rope(**same))
    assert Rope(**one).to_json() == Rope(**same).to_json()


def test_scaling_is_a_mapping_that_stays_as_it_is():
    given = copy.deepcopy(LONG)
    rope = Rope(scaling=given)
    given["short_factor"][0] = 99.0
    assert rope.scaling["short_factor"][0] == 1.0
    assert dict(rope.scaling).keys() == LONG.keys()
    with pytest.raises(TypeError):
        rope.scaling["factor"] = 2.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"theta": 1.0}, "theta must be above 1"),
        ({"theta": math.inf}, "theta must be above 1 and finite"),
        ({"theta": "10000"}, "theta must be a number"),
        ({"dim": 0}, "dim must be an integer from 1"),
        ({"start": -1}, "start must be an integer from 0"),
        ({"interleaved": 1}, "interleaved must be True or False"),
        ({"reverse": None}, "reverse must be True or False"),
        ({"scaling": "linear"}, "scaling must be a mapping such as"),
        ({"scaling": {"factor": 2.0}}, r"scaling\['rope_type'\] must be one of 'default', 'linear'.* got None"),
        ({"scaling": {"rope_type": "axial"}}, "got 'axial'"),
        ({"scaling": {"rope_type": "linear"}}, r"scaling\['factor'\] is missing, which rope_type 'linear' needs"),
        ({"scaling": {"rope_type": "linear", "factor": 0}}, "must be from 1e-06"),
        ({"scaling": {"rope_type": "linear", "factor": 2.0, "beta": 1}}, "'beta' is not known for rope_type 'linear'"),
        ({"scaling": YARN | {"rope_theta": 1e6}}, "'rope_theta' is not known for rope_type 'yarn'; give it as theta"),
        ({"scaling": YARN | {"partial_rotary_factor": 0.5}}, "give dim"),
        ({"scaling": YARN | {"truncate": 1}}, r"scaling\['truncate'\] must be a bool"),
        ({"scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "low_freq_factor must be below high_freq_factor"),
        ({"scaling": LLAMA3 | {"original_max_position_embeddings": 0.5}}, "must be an integer"),
        ({"scaling": LONG | {"long_factor": [1.0, "2"]}}, r"scaling\['long_factor'\]\[1\] must be a number"),
        ({"scaling": LONG | {"long_factor": 3.0}}, r"scaling\['long_factor'\] must be a list"),
        ({"scaling": {"rope_type": "proportional", "partial_rotary_factor": 1.5}}, "must be at most 1"),
    ],
)
def test_wrong_parameters(values, message):
    with pytest.raises(InputError, match=message):
        Rope(**values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Rope().pairs(7), "head_dim must be at least 8 for Rope.* got 7"),
        (lambda: Rope(dim=64).frequencies(32), "head_dim must be at least 64"),
        (lambda: Rope(dim=7).pairs(7), "head_dim must be at least 8"),
        (lambda: Rope(start=8).pairs(8), "head_dim must be at least 10"),
        (
            lambda: Rope(scaling=LONG).frequencies(32),
            r"\['short_factor'\] must have 16 factors, one per pair, got 8",
        ),
        (lambda: Rope(scaling=DYNAMIC).frequencies(2, 600), "needs at least 4 coordinates, got 2"),
        (lambda: Rope().frequencies(8, 0), "length must be an integer from 1"),
        (lambda: Rope().rotate(np.ones(8), [1]), r"x must have shape \(\.\.\., n, head_dim\)"),
        (lambda: Rope().rotate(np.ones((2, 8)), [1]), "positions must be 2 integers, got int64 of shape"),
        (lambda: Rope().rotate(np.ones((2, 8)), [1.0, 2.0]), "positions must be 2 integers, got float64"),
        (lambda: Rope().rotate(np.ones((1, 8)), [2**60]), "positions must be from"),
        (lambda: Rope.from_json("{"), "rope is no JSON"),
        (lambda: Rope.from_json('{"base": 1}'), "rope must have the parameters of Rope"),
        (lambda: Rope.from_json("[]"), "rope must have the parameters of Rope"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(InputError, match=message):
        call()


SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
}
WINDOWS = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2}


@pytest.mark.parametrize(
    ("kind", "change", "ropes"),
    [
        ("llama", {"rope_theta": 5e5, "rope_scaling": None}, [Rope(5e5)] * 4),
        ("llama", {}, [Rope()] * 4),
        ("llama", {"rope_theta": 5e5, "rope_scaling": LLAMA3}, [Rope(5e5, scaling=LLAMA3)] * 4),
        ("llama", {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, [Rope(5e5)] * 4),
        ("qwen2", {"rope_theta": 1e6, "rope_scaling": YARN}, [Rope(1e6, scaling=YARN)] * 4),
        ("qwen3", {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": ORIGINAL},
         [Rope(scaling=DYNAMIC)] * 4),
        ("gpt_neox", {"rotary_pct": 0.5, "rotary_emb_base": 300}, [Rope(300, dim=8)] * 4),
        ("gptj", {"n_layer": 4, "n_embd": 64, "n_head": 4, "rotary_dim": 8}, [Rope(dim=8, interleaved=True)] * 4),
        ("nanochat", {}, [Rope(reverse=True)] * 4),
        ("gpt2", {"n_layer": 4}, [None] * 4),
        ("falcon", {"alibi": True}, [None] * 4),
        ("cohere2", WINDOWS | {"rope_theta": 5e4}, [Rope(5e4, interleaved=True), None] * 2),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 0]}, [Rope(2e6)] * 3 + [None]),
        ("gemma3_text", WINDOWS | {"rope_theta": 5e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
         [Rope(), Rope(5e6, scaling={"rope_type": "linear", "factor": 8.0})] * 2),
        ("gemma4_text", WINDOWS,
         [Rope(), Rope(1e6, scaling={"rope_type": "proportional", "partial_rotary_factor": 0.25})] * 2),
        ("qwen3_5_text", {"head_dim": 16}, [None] * 3 + [Rope(dim=4)]),
        ("gemma3n_text", WINDOWS | {"num_kv_shared_layers": 1}, [Rope(), Rope(1e6), Rope(), None]),
        ("granite_swa", {"layer_rope_theta": [100.0, 0, 200.0, 0]}, [Rope(100.0), None, Rope(200.0), None]),
    ],
)  # fmt: skip
def test_configurations(kind, change, ropes, tmp_path):
    config = SMALL | change | {"model_type": kind}
    assert list(Rope.from_config(config)) == ropes
    assert list(Rope.from_config({"model_type": "outer", "text_config": config})) == ropes
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert list(Rope.from_config(path)) == list(Rope.from_config(str(tmp_path))) == ropes

    class Config:
        def to_dict(self):
            return config

    assert list(Rope.from_config(Config())) == ropes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "bloom"},
            "config: the rotary embedding of model_type 'bloom' is not known; give a Rope by hand",
        ),
        (SMALL, "model_type '' is not known; give a Rope by hand"),
        (SMALL | {"model_type": "deci"}, "model_type 'deci' is not known; give a Rope by hand"),
        (SMALL | {"model_type": "llama", "rope_theta": None}, "config: rope_theta must be a number, got None"),
        (SMALL | {"model_type": "llama", "rope_scaling": {"type": "unheard"}}, "got 'unheard'"),
        (SMALL | {"model_type": "llama", "rope_scaling": {"type": 3}}, "rope_type must be a str"),
        (SMALL | {"model_type": "llama", "rope_scaling": [3]}, "rope_scaling must be a dict"),
        (SMALL | {"model_type": "llama", "partial_rotary_factor": 0.5}, "partial_rotary_factor is not known for this"),
        (SMALL | {"model_type": "llama", "rope_parameters": {"full_attention": {}}}, "must be the same for all layers"),
        (SMALL | {"model_type": "gemma4_text", "rope_parameters": {"rope_theta": 1e4}}, "must hold an object for"),
        (SMALL | {"model_type": "granite_swa", "layer_rope_theta": [1e4]}, "layer_rope_theta must list 4 layers"),
        (SMALL | {"model_type": "hunyuan_v1_dense", "rope_scaling": {"type": "dynamic", "alpha": -1}}, "alpha must be"),
        ([1], "config must be a str or a path, got list"),
        ("nowhere", "config must be a configuration, or the path of a config.json; got 'nowhere'"),
    ],
)
def test_wrong_configurations(config, message):
    with pytest.raises(InputError, match=message):
        Rope.from_config(config)


def test_every_architecture_has_a_rotary_embedding_or_is_refused():
    assert ROTARY.keys() <= ARCHITECTURES.keys()
    assert ARCHITECTURES.keys() - ROTARY.keys() == {"deci", "minimax_text_01"}, "code that is not in transformers"

"""Policies: presets, widths of layers and heads, JSON."""

import json

import pytest

from tqvec.errors import InputError
from tqvec.kvcache import PRESETS, Bands, KVCache, Policy, bits_per_value


def test_presets_cost_what_their_docs_say():
    """With 32 layers of 8 heads; protected layers are 4 of them."""
    expected = {"exact": 16, "turbo4": 4.125, "turbo3": 3.125, "turbo2": 2.125, "k4v3": 3.625, "k4v2": 3.125}
    expected |= {"quality": 4.125, "balanced": 3.125, "small": 2.625, "tiny": 2.125}
    expected |= {"layer_adaptive": (28 * 3.125 + 4 * 8.125) / 32, "temporal_decay": 4.125}
    assert {name: bits_per_value(policy, 32, 8, 128) for name, policy in PRESETS.items()} == expected


@pytest.mark.parametrize("name", PRESETS)
def test_presets_work(name):
    assert KVCache(6, 2, 64, name).policy == Policy.from_name(name) == PRESETS[name]


def test_widths_of_layers_and_heads():
    policy = Policy([2, (3, 4), 2.5, Bands(((4, 3), (4, 2)))], 5, protected=1, protected_nbits=8)
    found = policy.layers(4, 2)
    assert [layer.keys for layer in found] == [(8, 8), (3, 4), (2.5, 2.5), (8, 8)]
    assert [layer.values for layer in found] == [(8, 8), (5, 5), (5, 5), (8, 8)]
    assert found[1].recoded_keys == ()
    layers = Policy(4, 4, recode_after=5, recoded_key_nbits=(2, 3, 2, 3), recoded_value_nbits=1, protected=1).layers(
        4, 2
    )
    assert [layer.recoded_keys for layer in layers] == [(), (3, 3), (2, 2), ()]
    assert [layer.recoded_values for layer in layers] == [(), (1, 1), (1, 1), ()]
    assert Policy(2, 2, protected=10).layers(3, 1)[1].keys == (4,)


@pytest.mark.parametrize(
    "policy",
    [
        *PRESETS.values(),
        Policy([3, (2, Bands([[32, 3], [96, 2]]))], Bands(((64, 4), (64, 2))), "trellis", None, 0, 1, 0, True),
        Policy(
            4,
            4,
            recode_after=100,
            recoded_key_nbits=2.5,
            recoded_value_nbits=[1, (2, 3)],
            max_tokens=500,
            seed=2**64 - 1,
        ),
    ],
)
def test_json_round_trip(policy):
    again = Policy.from_json(policy.to_json())
    assert again == policy
    assert hash(again) == hash(policy)
    assert again.to_json() == policy.to_json()
    assert again.layers(2, 2) == policy.layers(2, 2)


@pytest.mark.parametrize("text", ["", "3", "[]", '{"nbits": 3}', '{"key_nbits": {"bands": 3}}', "[" * 100_000, None])
def test_other_texts(text):
    with pytest.raises(InputError, match="policy"):
        Policy.from_json(text)


def test_json_may_be_short():
    """Parameters that are not there have their defaults."""
    assert Policy.from_json(json.dumps({"key_nbits": 4})) == Policy(4)


def test_json_has_the_words_of_cache_files():
    """Files of earlier versions have them: a parameter that gets a better name keeps its word there."""
    policy = Policy(4, 3, recent=99, recode_after=100, recoded_key_nbits=2, recoded_value_nbits=1)
    text = policy.to_json()
    assert text == (
        '{"chunk": 64, "codebook": "scalar", "dtype": "float16", "hot": 99, "key_nbits": 4, "max_tokens": null, '
        '"mean_tokens": 64, "old_after": 100, "old_key_nbits": 2, "old_value_nbits": 1, "protected": 0, '
        '"protected_nbits": 4, "seed": 0, "sinks": 4, "value_means": false, "value_nbits": 3}'
    )
    assert Policy.from_json(text) == policy

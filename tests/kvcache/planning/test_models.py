"""The catalogue, and config.json files of many makes."""

import json
from collections import Counter

import pytest

from tqvec.errors import InputError
from tqvec.kvcache.planning import LayerKind, list_models
from tqvec.kvcache.planning.models import find_model, parse_config

# KV layers, KV heads, head_dim, context, fp16 bytes a token of all of them
KNOWN = {
    "llama-3.1-8b": (32, 8, 128, 131072, 131072),
    "llama-3.1-70b": (80, 8, 128, 131072, 327680),
    "llama-3.2-1b": (16, 8, 64, 131072, 32768),
    "llama-3.2-3b": (28, 8, 128, 131072, 114688),
    "qwen2.5-3b": (36, 2, 128, 32768, 36864),
    "qwen2.5-7b": (28, 4, 128, 32768, 57344),
    "qwen2.5-14b": (48, 8, 128, 32768, 196608),
    "qwen3-8b": (36, 8, 128, 40960, 147456),
    "qwen3-32b": (64, 8, 128, 40960, 262144),
    "qwen3.5-27b": (16, 4, 256, 262144, 65536),
    "mistral-7b-v0.3": (32, 8, 128, 32768, 131072),
    "phi-4": (40, 10, 128, 16384, 204800),
    "gemma-2-9b": (42, 8, 256, 8192, 344064),
    "gemma-3-12b": (48, 8, 256, 131072, 393216),
}


@pytest.mark.parametrize("name", KNOWN)
def test_catalogue(name):
    model = list_models()[name]
    layers = [kind for kind in model.layers if kind.kv_heads]
    fp16 = sum(4 * kind.kv_heads * kind.head_dim for kind in layers)
    shapes = {(kind.kv_heads, kind.head_dim) for kind in layers}
    assert (len(layers), *shapes, model.context, fp16) == (KNOWN[name][0], KNOWN[name][1:3], *KNOWN[name][3:])
    assert model.source.startswith("https://huggingface.co/")


def test_nothing_in_the_catalogue_is_untested():
    assert list_models().keys() == KNOWN.keys()


def kinds(name):
    return Counter((kind.name, kind.window) for kind in list_models()[name].layers)


def test_windows_and_states():
    assert kinds("mistral-7b-v0.3") == {("full", None): 32}
    assert kinds("gemma-2-9b") == {("sliding", 4096): 21, ("full", None): 21}
    assert kinds("gemma-3-12b") == {("sliding", 1024): 40, ("full", None): 8}
    assert list_models()["gemma-3-12b"].layers[5].name == "full"
    assert kinds("qwen3.5-27b") == {("linear", None): 48, ("full", None): 16}
    # 48 heads of 128 × 128 float32, and 4 inputs of 2·16·128 + 48·128 channels in 16 bits
    assert list_models()["qwen3.5-27b"].layers[0].state == 48 * 128 * 128 * 4 + 4 * (2 * 16 * 128 + 48 * 128) * 2


PLAIN = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 100,
}
FULL = LayerKind("full", 2, 8, heads=8)
SLIDING = LayerKind("sliding", 2, 8, 16, heads=8)


LINEAR = LayerKind("linear", 0, 0)
MAMBA = {"mamba_expand": 2, "mamba_d_state": 16, "mamba_d_conv": 4}


@pytest.mark.parametrize(
    ("kind", "change", "layers"),
    [
        ("llama", {}, [FULL] * 4),
        ("llama", {"head_dim": 32}, [FULL._replace(head_dim=32)] * 4),
        ("llama", {"head_dim": None}, [FULL] * 4),
        ("llama", {"num_key_value_heads": None}, [FULL._replace(kv_heads=8)] * 4),
        (
            "llama",
            {"per_layer_config": {"1": {"num_key_value_heads": 4}}},
            [FULL, FULL._replace(kv_heads=4), FULL, FULL],
        ),
        ("mistral", {"sliding_window": 16}, [SLIDING] * 4),
        ("mistral", {}, [SLIDING._replace(window=4096)] * 4),
        ("mistral", {"sliding_window": None}, [FULL] * 4),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": False, "max_window_layers": 3}, [FULL] * 4),
        (
            "qwen2",
            {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 3},
            [FULL] * 3 + [SLIDING],
        ),
        ("gemma2", {"sliding_window": 16, "head_dim": 8}, [SLIDING, FULL] * 2),
        ("gemma3_text", {"sliding_window": 16, "head_dim": 8, "sliding_window_pattern": 2}, [SLIDING, FULL] * 2),
        (
            "gemma3_text",
            {"sliding_window": 16, "head_dim": 8, "layer_types": ["sliding_attention", *["full_attention"] * 3]},
            [SLIDING] + [FULL] * 3,
        ),
        (
            "llama4_text",
            {"head_dim": 8, "attention_chunk_size": 16, "no_rope_layers": [1, 0, 0, 0]},
            [SLIDING._replace(name="chunked")] + [FULL] * 3,
        ),
        (
            "gemma3n_text",
            {"head_dim": 8, "num_kv_shared_layers": 1, "layer_types": ["full_attention"] * 4},
            [FULL] * 3 + [LayerKind("shared", 0, 0)],
        ),
        (
            "gemma4_text",
            {"head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 1, "attention_k_eq_v": True}
            | {"sliding_window": 16, "num_kv_shared_layers": 0},
            [SLIDING] * 3 + [LayerKind("full", 1, 16, heads=8)],
        ),
        (
            "jamba",
            {"attn_layer_period": 2, "attn_layer_offset": 1, "num_key_value_heads": 2} | MAMBA,
            [LINEAR._replace(state=2 * 64 * (16 * 4 + 4 * 2)), FULL] * 2,
        ),
        (
            "nemotron_h",
            {"head_dim": 8, "hybrid_override_pattern": "*-E*"},
            [FULL, *[LayerKind("none", 0, 0)] * 2, FULL],
        ),
        ("mllama_text_model", {"cross_attention_layers": [1]}, [FULL, LayerKind("cross", 0, 0), FULL, FULL]),
        ("deci", {"num_key_value_heads_per_layer": [2, 1, 1, 2]}, [FULL, *[FULL._replace(kv_heads=1)] * 2, FULL]),
    ],
)
def test_configurations(kind, change, layers):
    config = PLAIN | change | {"model_type": kind}
    assert list(parse_config(config, "it", "here").layers) == layers
    assert list(parse_config({"model_type": "outer", "text_config": config}, "it", "here").layers) == layers


@pytest.mark.parametrize(
    ("change", "heads"),
    [
        ({"multi_query": True}, 1),
        ({"multi_query": False}, 8),
        ({"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 2}, 2),
    ],
)
def test_falcons(change, heads):
    config = PLAIN | {"model_type": "falcon", "num_key_value_heads": None} | change
    assert list(parse_config(config, "it", "here").layers) == [FULL._replace(kv_heads=heads)] * 4


@pytest.mark.parametrize(
    ("change", "layers"),
    [
        ({}, [FULL] * 4),
        ({"sliding_window": 16}, [SLIDING] * 4),
        ({"sliding_window": 16, "sliding_window_pattern": 2}, [SLIDING, FULL] * 2),
        ({"sliding_window": 16, "layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, [FULL] * 3 + [SLIDING]),
    ],
)
def test_models_by_hand(change, layers):
    assert list(parse_config(PLAIN | change, "it", "here").layers) == layers


def test_types_are_those_of_the_parts_that_read_text():
    flat = PLAIN | {"model_type": "qwen2_5_vl"}  # as files were before there was a text_config
    assert list(parse_config(flat, "it", "here").layers) == [FULL] * 4
    parts = {"model_type": "gemma3", "text_config": PLAIN | {"head_dim": 8, "sliding_window": 16}}
    assert list(parse_config(parts, "it", "here").layers) == [SLIDING] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": None}, "here: num_hidden_layers is missing"),
        ({"num_hidden_layers": -1}, "here: num_hidden_layers must be an integer from 1"),
        ({"num_attention_heads": "8"}, "here: num_attention_heads must be an integer, got '8'"),
        ({"hidden_size": None}, "here: head_dim and hidden_size are missing"),
        ({"max_position_embeddings": None}, "here: max_position_embeddings is missing"),
        ({"layer_types": ["full_attention"]}, "here: layer_types must list 4 layers"),
        ({"layer_types": ["other"] * 4}, r"here: layer_types\[0\]: 'other' is not one of full_attention"),
        ({"layer_types": ["mamba"] * 4}, "here: linear layers are not known for this type; describe the model by hand"),
        ({"layer_types": ["sliding_attention"] * 4}, "here: sliding_window is missing"),
        ({"full_attention_interval": 4}, "the field full_attention_interval is not known in a description by hand"),
        ({"kv_lora_rank": 512}, "here: the field kv_lora_rank is not known .* otherwise describe the model by hand"),
        ({"model_type": "llama", "multi_query": True}, "the field multi_query is not known for model_type 'llama'"),
        (
            {"model_type": "llama", "per_layer_config": {"0": {"kv_lora_rank": 4}}},
            "field kv_lora_rank of layer 0 is not",
        ),
        ({"model_type": "llama", "per_layer_config": [1]}, "per_layer_config must hold an object for each layer"),
        ({"model_type": "deepseek_v3"}, r"model_type 'deepseek_v3' is not known; describe the model by hand: Model\("),
        (
            {"model_type": "nemotron_h", "hybrid_override_pattern": "XY"},
            "hybrid_override_pattern must be of the letters",
        ),
        ({"model_type": "falcon", "num_key_value_heads": None, "multi_query": 1}, "multi_query must be true or false"),
        ({"model_type": "lfm2_moe"}, "here: layer_types is missing"),
    ],
)
def test_what_a_configuration_lacks_is_named(change, message):
    with pytest.raises(InputError, match=message):
        parse_config(PLAIN | change, "it", "here")


def test_harmless_fields_are_passed_over():
    extra = {"attention_dropout": 0.1, "_attn_implementation": "sdpa", "torch_dtype": "bfloat16", "multi_query": False}
    assert list(parse_config(PLAIN | {"model_type": "llama"} | extra, "it", "here").layers) == [FULL] * 4


def test_files(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PLAIN))
    for path in (folder, str(folder), folder / "config.json"):
        assert find_model(path).layers == (FULL,) * 4
        assert find_model(path).name == "my-model"
    assert find_model("Llama-3.1-8B") == list_models()["llama-3.1-8b"]
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: no JSON"):
        find_model(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="must hold an object"):
        find_model(folder)
    with pytest.raises(InputError, match=r"model must be one of llama-3\.1-8b.*; got 'gpt-5'"):
        find_model("gpt-5")

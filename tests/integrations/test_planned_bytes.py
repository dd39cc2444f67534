"""The planner's bytes are those of the cache that transformers builds, for every text model that it can build here."""

import json
import warnings
from importlib.resources import files

import pytest

from tqvec.errors import InputError
from tqvec.kvcache.planning import plan
from tqvec.kvcache.planning.architectures import ARCHITECTURES
from tqvec.kvcache.planning.models import parse_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING  # noqa: E402

TOKENS = 40  # fewer than any window
LAYERS = 10
HALF = ["linear_attention", "full_attention"] * (LAYERS // 2)
# Types whose defaults make no model, or none of so few layers.
COMPLETE = {
    "bamba": {"attn_layer_indices": [1, 7]},
    "gemma3n_text": {"num_kv_shared_layers": 4},
    "granitemoehybrid": {"layer_types": HALF},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
    "ministral": {"head_dim": 128},
    "mllama_text_model": {"cross_attention_layers": [3, 8]},
    "nemotron": {"head_dim": 128, "num_key_value_heads": 8},
    "nemotron_h": {"num_hidden_layers": 4},
    "qwen2_moe": {"use_sliding_window": False},
}
# Other sizes that a type can't have, and what it needs besides.
SIZES = {
    "bitnet": {"head_dim": 32},
    "codegen": {"rotary_dim": 16},
    "gptj": {"rotary_dim": 16},
    "helium": {"head_dim": 32},
    "olmoe": {"head_dim": 32},
    "qwen2_5_vl_text": {"hidden_size": 1024},
    "qwen2_vl_text": {"hidden_size": 1024},
}


def cached(config):
    """The bytes of keys and values, and of states, that a model of this configuration caches for so many tokens."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        if config.model_type == "mllama_text_model":
            model = transformers.MllamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()
        else:
            kind = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModel
            model = kind.from_config(config, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        prompt = torch.ones(1, TOKENS, dtype=torch.long, device="meta")
        cache = model(input_ids=prompt, use_cache=True).past_key_values
    return count(cache)


def count(cache):
    tokens = states = 0
    for layer in cache.layers:
        for side in ("keys", "values"):
            tensor = getattr(layer, side, None)
            tokens += 0 if tensor is None else tensor.numel() * 2
        for side in ("conv_states", "recurrent_states"):
            held = (getattr(layer, side, None) or {}).values()
            states += sum(each.numel() * each.element_size() for each in held if each is not None)
    for matrix in getattr(cache, "linear_cache", []):  # MiniMax has a cache of its own
        states += matrix.numel() * matrix.element_size() if len(matrix) else 0
    return tokens, states


def planned(config):
    model = parse_config(json.loads(json.dumps(config)), "it", "here")
    result = plan(model, policy="fp16", context=TOKENS)
    return int(result.nbytes), int(result.total - result.nbytes)


TYPES = sorted(set(ARCHITECTURES) & set(CONFIG_MAPPING))
KNOWN = json.loads(files("tqvec.kvcache").joinpath("data/model_types.json").read_text())


@pytest.mark.parametrize("name", TYPES)
def test_defaults(name):
    config = CONFIG_MAPPING[name](**{"num_hidden_layers": LAYERS} | COMPLETE.get(name, {}))
    want = cached(config)
    assert planned(config.to_diff_dict()) == want
    assert planned(config.to_dict()) == want


@pytest.mark.parametrize("name", TYPES)
def test_other_sizes(name):
    kind = CONFIG_MAPPING[name]
    sizes = {"num_attention_heads": 8, "hidden_size": 256, "num_key_value_heads": 2, "head_dim": 40, "num_kv_heads": 2}
    sizes |= {"num_hidden_layers": LAYERS, "sliding_window": 48, "max_window_layers": 3, "use_sliding_window": True}
    own = {kind.attribute_map.get(key, key): value for key, value in sizes.items()}
    known = {*kind.__dataclass_fields__, *KNOWN[name]["known"]}
    own = {key: value for key, value in own.items() if key in known}
    config = kind(**own | COMPLETE.get(name, {}) | SIZES.get(name, {}))
    assert planned(config.to_diff_dict()) == cached(config)


def test_others_are_refused():
    with_text = {name for name in CONFIG_MAPPING if "text_config" in CONFIG_MAPPING[name].sub_configs}
    for name in sorted(set(CONFIG_MAPPING) - set(ARCHITECTURES) - with_text):
        with pytest.raises(InputError, match=f"model_type '{name}' is not known; describe the model by hand"):
            parse_config({"model_type": name, "num_hidden_layers": 4, "max_position_embeddings": 100}, "it", "here")


def test_new_falcons_share_heads():
    """transformers repeats the keys of each group; the planner counts what has to be kept."""
    config = CONFIG_MAPPING["falcon"](
        new_decoder_architecture=True, num_kv_heads=8, num_attention_heads=32, hidden_size=2048, num_hidden_layers=2
    )
    assert [4 * planned(config.to_dict())[0]] == [cached(config)[0]]

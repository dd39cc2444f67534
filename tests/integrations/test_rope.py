"""`Rope.from_config` says how keys turn, in every text model of transformers that the planner knows.

The prompt is one token, again and again, at positions with gaps. Without the output of attention, of recurrent layers
and of learned positions, the keys of a layer depend on the position alone: they are the first one, turned.
"""

import json
import re
import warnings

import numpy as np
import pytest

from tqvec.errors import InputError
from tqvec.kvcache import Rope
from tqvec.kvcache.planning.ropes import ROTARY

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING  # noqa: E402

LAYERS = 5
POSITIONS = [0, 1, 2, 3, 5, 8, 13, 21, 100, 501, 1000, 1999]
SIZES = {
    "num_hidden_layers": LAYERS,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 32,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "vocab_size": 97,
    "max_position_embeddings": 4096,
    "sliding_window": 64,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HALF = ["full_attention", "linear_attention", "full_attention", "linear_attention", "full_attention"]
WINDOWS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "full_attention"]
# What else a type needs.
COMPLETE = {
    "bamba": {"attn_layer_indices": [0, 3]},
    "codegen": {"rotary_dim": 16},
    "cohere2_moe": {"layer_types": WINDOWS, "mlp_layer_types": ["dense", "dense", "sparse", "sparse", "sparse"]},
    "gemma3_text": {"layer_types": WINDOWS},
    "gemma3n_text": {"layer_types": WINDOWS, "num_kv_shared_layers": 1, "activation_sparsity_pattern": [0.0] * LAYERS},
    "gemma4_text": {"layer_types": WINDOWS, "num_kv_shared_layers": 1},
    "gptj": {"rotary_dim": 16},
    "granitemoehybrid": {"layer_types": HALF, "position_embedding_type": "rope"},
    "laguna": {"layer_types": WINDOWS},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "full_attention", "conv", "full_attention"]},
    "mellum": {"layer_types": WINDOWS},
    "mllama_text_model": {"cross_attention_layers": [1]},
    "olmo3": {"layer_types": WINDOWS},
    "qwen2_5_vl_text": {"hidden_size": 512},  # the sections of images add up to it
    "qwen2_moe": {"use_sliding_window": False},
    "qwen2_vl_text": {"hidden_size": 512},
}
TYPES = sorted(set(ROTARY) & set(CONFIG_MAPPING))
MIXERS = r"(attn|attention|mixer|mamba|conv)\w*\.(.*\.)?(o_proj|out_proj|dense|c_proj)\.(weight|bias)$"
LEARNED = r"(wpe|embed_positions)\.weights?$"


def configured(name, **changes):
    """A small configuration of a type, by the type's own names."""
    kind = CONFIG_MAPPING[name]
    own = {kind.attribute_map.get(key, key): value for key, value in SIZES.items()}
    own = {key: value for key, value in own.items() if key in kind.__dataclass_fields__}
    return kind(**own | COMPLETE.get(name, {}) | changes)


@torch.no_grad()
def keys_of(config, positions=POSITIONS):
    """Keys of each layer, (heads, n, head_dim); None where there are none."""
    torch.manual_seed(10_101)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if config.model_type == "mllama_text_model":
            model = transformers.MllamaForCausalLM(config).eval()
        else:
            kind = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModel
            model = kind.from_config(config, dtype=torch.float32).eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if re.search(f"{MIXERS}|{LEARNED}", name):
            tensor.zero_()
    ids = torch.full((1, len(positions)), 7)
    cache = model(input_ids=ids, position_ids=torch.tensor([positions]), use_cache=True).past_key_values
    found = [getattr(layer, "keys", None) for layer in cache.layers]
    found += [None] * (config.num_hidden_layers - len(found))
    return [None if keys is None or not keys.numel() else keys[0].double().numpy() for keys in found]


def distance(rope, keys, positions=POSITIONS, **options):
    """The largest error of turned first keys, relative to their length."""
    base = np.repeat(keys[:, :1], keys.shape[1], axis=1)
    want = base if rope is None else rope.rotate(base, positions, **options)
    return np.linalg.norm(want - keys, axis=-1).max() / np.linalg.norm(keys, axis=-1).min()


def check(config):
    ropes = Rope.from_config(config)
    keys = keys_of(config)
    assert len(ropes) == len(keys) == config.num_hidden_layers
    for rope, one in zip(ropes, keys, strict=True):
        if one is None:
            assert rope is None
        else:
            assert distance(rope, one) < 1e-3  # angles in float32
    assert any(one is not None for one in keys)
    return ropes, keys


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPES)
def test_keys_turn_as_read(name):
    config = configured(name)
    ropes, _ = check(config)
    assert Rope.from_config(config.to_diff_dict()) == ropes
    assert Rope.from_config(json.loads(config.to_json_string())) == ropes


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256, "rope_theta": 5000.0}
FACTORS = {
    "short_factor": np.linspace(1, 2, 16).tolist(),
    "long_factor": np.linspace(2, 9, 16).tolist(),
    "original_max_position_embeddings": 3000,
}
VARIANTS = [
    ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * LAYERS}),
    ("falcon", {"alibi": True}),
    ("falcon", {"new_decoder_architecture": True, "rope_theta": 500.0}),
    ("gemma3_text", {"rope_theta": 5000.0, "rope_local_base_freq": 300.0}),
    ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    ("gemma3_text", {"rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_theta": 70.0}}}),
    ("glm", {"partial_rotary_factor": 0.25}),
    ("glm4_moe", {"head_dim": 42}),  # an odd number of coordinates turns
    ("gpt_neox", {"rotary_pct": 0.5, "rotary_emb_base": 700}),
    ("gpt_oss", {"rope_parameters": {"rope_type": "default", "rope_theta": 999.0}}),
    ("granite_swa", {"layer_rope_theta": [100.0, 0, 200.0, 300.0, 0]}),
    ("granitemoehybrid", {"position_embedding_type": None}),
    ("hunyuan_v1_dense", {"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}}),
    ("laguna", {"rope_parameters": {"full_attention": YARN, "sliding_attention": {**YARN, "factor": 2.0}}}),
    ("llama", {"rope_theta": 300.0, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 512}}),
    ("llama", {"rope_parameters": {**LLAMA3, "rope_theta": 300.0}, "original_max_position_embeddings": 64}),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}),
    ("llama4_text", {"attention_chunk_size": None, "no_rope_layers": [0, 1, 1, 0, 1]}),
    ("minimax_m2", {"rotary_dim": 16}),
    ("mistral", {"sliding_window": None, "rope_theta": 1e6}),
    ("olmo3", {"rope_scaling": YARN}),
    ("olmo_hybrid", {"rope_theta": None}),
    ("olmo_hybrid", {"rope_parameters": {"rope_theta": None, "rope_type": "default"}}),
    ("phi3", {"rope_scaling": {"type": "longrope", **FACTORS}, "original_max_position_embeddings": 3000}),
    ("phi3", {"rope_scaling": {"type": "su", **FACTORS}, "original_max_position_embeddings": 3000}),
    ("phi3", {"partial_rotary_factor": 0.75}),
    ("phimoe", {"rope_scaling": {"type": "longrope", "short_mscale": 1.1, "long_mscale": 1.2, **FACTORS}}),
    ("qwen2", {"rope_scaling": YARN}),
    ("qwen2", {"rope_parameters": {**YARN, "factor": None, "beta_fast": 16, "truncate": False}}),
    ("qwen2_vl_text", {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}),
    ("smollm3", {"no_rope_layers": [0, 1, 0, 1, 1]}),
    ("stablelm", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "partial_rotary_factor": 0.5}),
]


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_variants(name, changes):
    """From the object, and from a file that has these fields."""
    config = configured(name, **json.loads(json.dumps(changes)))
    ropes, _ = check(config)
    rest = {key: value for key, value in config.to_dict().items() if "rope" not in key and key not in changes}
    assert Rope.from_config(rest | changes) == ropes


LONG = [
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 1000}),
    ("phi3", {"rope_scaling": {"type": "longrope", **FACTORS}, "original_max_position_embeddings": 1000}),
]


@pytest.mark.parametrize(("name", "changes"), LONG)
def test_frequencies_of_long_sequences(name, changes):
    config = configured(name, **changes)
    (rope,) = set(Rope.from_config(config))
    assert rope.original_length == 1000
    keys = keys_of(config)[0]
    assert distance(rope, keys, length=2000) < 1e-3 < distance(rope, keys)
    short = [position for position in POSITIONS if position < 1000]
    assert distance(rope, keys_of(config, short)[0], short) < 1e-3


def test_other_layouts_and_frequencies_would_show():
    config = configured("llama")
    rope, keys = Rope.from_config(config)[0], keys_of(config)[0]
    for wrong in (
        None,
        Rope(10_100.0),
        Rope(dim=30),
        Rope(interleaved=True),
        Rope(reverse=True),
        Rope(dim=30, start=2),
    ):
        assert distance(wrong, keys) > 1e-3 > distance(rope, keys)


@pytest.mark.parametrize("name", sorted(set(CONFIG_MAPPING) - set(ROTARY)))
def test_other_models_are_refused(name):
    text = CONFIG_MAPPING[name].sub_configs.get("text_config")
    if getattr(text, "model_type", None) in ROTARY:
        pytest.skip("its text model is known")
    with pytest.raises(InputError, match=r"model_type .* is not known; .*by hand"):
        Rope.from_config({"model_type": name, "num_hidden_layers": 4, "max_position_embeddings": 100})

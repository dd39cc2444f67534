"""Tiny random language models for tests of the integration with transformers, whatever its version."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def given(cache):
    """Keyword argument that hands a cache to a model: transformers 5.24 renamed it."""
    return {"cache" if VERSION >= (5, 24) else "past_key_values": cache}


def build(name, seed=10_001, **changes):
    """A model by the prefix of its classes, such as "Llama"."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **changes})
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def prompt(n, seed=10_002):
    """Token ids, (1, n), none of them padding."""
    return torch.from_numpy(np.random.default_rng(seed).integers(1, 97, (1, n)))


@torch.no_grad()
def fed(model, cache, ids, first):
    """Logits of all tokens, with the first ones given at once and the others one by one."""
    found = [model(ids[:, :first], **given(cache)).logits[0]]
    found += [model(ids[:, i : i + 1], **given(cache)).logits[0] for i in range(first, ids.shape[1])]
    return torch.cat(found)


def generated(model, cache, ids, n=24, **options):
    """New tokens and their logits, greedily."""
    settings = {"max_new_tokens": n, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    mask = torch.ones_like(ids)
    found = model.generate(ids, **{"attention_mask": mask, "pad_token_id": 0, **given(cache), **settings, **options})
    return found.sequences[0, -n:], torch.cat(found.logits)


# Fields of configurations by their common names; each type takes those that it has.
FIELDS = {
    **{name: value for name, value in SIZES.items() if name != "num_hidden_layers"},
    "head_dim": 16,
    "sliding_window": 16,
    "attention_chunk_size": 16,
    "use_sliding_window": True,
    "max_window_layers": 1,
    "num_kv_heads": 2,
    "is_decoder": True,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "ffn_dim": 64,
    "d_model": 64,
    "ffn_hidden_size": 64,
    "decoder_attention_heads": 4,
    "rotary_dim": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
LAYERS = 4
ALTERNATING = ["linear_attention", "full_attention"] * (LAYERS // 2)
CONVOLUTIONS = {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)}
# What a type needs besides.
MORE = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "cwm": {"bos_token_id": 1},
    "dots1": {"n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3_text": {"num_hidden_layers": 6},
    "gemma3n_text": {"num_hidden_layers": 10, "num_kv_shared_layers": 4, "vocab_size_per_layer_input": 97},
    "gemma4_text": {"vocab_size_per_layer_input": 97, "global_head_dim": 32},
    "gemma4_unified_text": {"global_head_dim": 32},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]], "window_size": 16},
    "granitemoehybrid": {"layer_types": ALTERNATING},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "lfm2": CONVOLUTIONS,
    "lfm2_moe": CONVOLUTIONS,
    "modernbert-decoder": {"bos_token_id": 1, "eos_token_id": 1, "cls_token_id": 1, "sep_token_id": 1},
    "xlnet": {"max_position_embeddings": None},
    "zaya": {"num_experts_per_tok": 1},
}


def text_types():
    """Model types with a causal language model of text alone."""
    mapping, parts = transformers.MODEL_FOR_CAUSAL_LM_MAPPING, {"text_config", "decoder"}
    kinds = transformers.CONFIG_MAPPING.items()
    return sorted(name for name, kind in kinds if kind in mapping and not parts & kind.sub_configs.keys())


def tiny_config(model_type):
    """A small configuration of a type, or its default one if it has no such fields."""
    kind = transformers.CONFIG_MAPPING[model_type]
    names, more = getattr(kind, "attribute_map", {}), MORE.get(model_type, {})
    known = {*kind().to_dict(), "is_decoder", "bos_token_id", "eos_token_id", "pad_token_id", *more}
    fields = FIELDS | {"num_hidden_layers": LAYERS, "decoder_layers": LAYERS} | more
    own = {names.get(name, name): value for name, value in fields.items() if value is not None or name not in more}
    try:
        return kind(**{name: value for name, value in own.items() if name in known})
    except Exception:  # each type has errors of its own
        return kind()

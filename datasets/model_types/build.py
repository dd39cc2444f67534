"""Write the facts on configuration classes that the planner needs, from the installed transformers.

A config.json leaves out what equals the defaults of its class, and has names of its own. Run this after the planner has
learnt a type, or when transformers has a new version::

    pip install 'tqvec[llm]'
    python datasets/model_types/build.py
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from transformers import CONFIG_MAPPING, PreTrainedConfig

from tqvec.kvcache.planning.architectures import ARCHITECTURES, HARMLESS, STRUCTURAL

# What the planner's rules read.
READ = {
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size",
    "max_position_embeddings", "sliding_window", "use_sliding_window", "max_window_layers", "sliding_window_pattern",
    "layer_types", "attention_chunk_size", "no_rope_layers", "no_rope_layer_interval", "num_kv_shared_layers",
    "global_head_dim", "num_global_key_value_heads", "full_attention_interval", "global_attn_every_n_layers",
    "attn_layer_period", "attn_layer_offset", "attn_layer_indices", "hybrid_override_pattern",
    "full_attn_idxs", "multi_query", "new_decoder_architecture", "num_kv_heads", "linear_num_key_heads",
    "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim", "mamba_d_conv",
    "mamba_expand", "mamba_d_state", "mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_ssm",
    "mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size", "conv_kernel", "conv_L_cache", "attn_type_list",
    "cross_attention_layers", "num_key_value_heads_per_layer", "attention_k_eq_v", "rotary_dim",
    "original_max_position_embeddings", "prefix_dense_sliding_window_pattern",
}  # fmt: skip
OUTPUT = Path(__file__).parents[2] / "tqvec/kvcache/data/model_types.json"
PLAIN = ["num_attention_heads", "num_key_value_heads", "head_dim"]
LIGHTNING = ["layernorm_full_attention_alpha", "layernorm_full_attention_beta", "layernorm_linear_attention_alpha"]
LIGHTNING += ["layernorm_linear_attention_beta"]
# Names of its own that a class reads in code.
OWN_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
# Defaults that are in the code of a class, not among its fields.
HIDDEN = {"gemma4_text": {"global_head_dim": 512}}
# Types whose code comes with the model: their fields as in the config.json files of their makers.
REMOTE = {
    "deci": {"known": [*PLAIN, "num_key_value_heads_per_layer"]},
    "minimax_text_01": {"known": [*PLAIN, "attn_type_list", *LIGHTNING]},
}


def describe(name: str) -> dict[str, object]:
    """Return the defaults, the own names and the structural fields of a type."""
    if name in REMOTE:
        return {"defaults": {}, "names": {}, **REMOTE[name]}
    kind = CONFIG_MAPPING[name]
    own = {field: other for field, other in kind.attribute_map.items() if field in READ} | OWN_NAMES.get(name, {})
    fields = sorted(kind.__dataclass_fields__)
    defaults = {}
    for field in sorted(READ):
        value = getattr(kind, own.get(field, field), None) if own.get(field, field) in fields else None
        if isinstance(value, (bool, int, float, str)):
            defaults[field] = value
    source = inspect.getsource(kind.__post_init__)  # it reads fields of older files, too
    names = sorted({*fields, *kind().to_dict()})
    known = [field for field in names if STRUCTURAL.search(field) and not HARMLESS.search(field)]
    known += [field for field in sorted(READ) if f'"{field}"' in source and field not in known]
    if "head_dim" not in known and 'self.head_dim = getattr(config, "head_dim"' in _modeling(kind):
        known.append("head_dim")  # no field of the class, but in files, and read
    defaults |= HIDDEN.get(name, {}) | rotary_defaults(kind)
    return {"defaults": defaults, "names": own, "known": known}


def rotary_defaults(kind: type[PreTrainedConfig]) -> dict[str, object]:
    """Return the defaults of a rotary embedding: numbers of the plain type, or the parameters of another."""
    config = kind()
    if not hasattr(config, "rope_parameters"):
        return {"rope_theta": kind.default_theta} if hasattr(config, "rotary_dim") else {}
    parameters = config.rope_parameters
    if parameters.get("rope_type") == "default":
        return {field: parameters[field] for field in ("rope_theta", "partial_rotary_factor") if field in parameters}
    theta = {"rope_theta": kind.default_theta} if "rope_type" in parameters else {}
    return {**theta, "default_rope_parameters": parameters}


def main() -> None:
    """Write the file."""
    facts = {name: describe(name) for name in sorted(ARCHITECTURES)}
    texts = {name: text for name in CONFIG_MAPPING if (text := _text_type(name)) in ARCHITECTURES}
    lines = [f" {json.dumps(name)}: {json.dumps(fact)}" for name, fact in facts.items()]
    body = ",\n".join([*lines, f' "text types": {json.dumps(texts, sort_keys=True)}'])
    OUTPUT.write_text(f"{{\n{body}\n}}\n", encoding="utf-8")
    print(f"{OUTPUT}: {len(facts)} types, {len(texts)} with a text_config")


def _modeling(kind: type) -> str:
    """Return the source of the models of a configuration."""
    return Path(inspect.getfile(kind).replace("configuration_", "modeling_")).read_text(encoding="utf-8")


def _text_type(name: str) -> str | None:
    """Return the type of the part of a model that reads text, if its configuration has one as text_config."""
    part = CONFIG_MAPPING[name].sub_configs.get("text_config")
    return getattr(part, "model_type", None) or None


if __name__ == "__main__":
    main()

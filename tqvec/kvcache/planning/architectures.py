"""Types of models: how the config.json of each says what its layers keep. A type that is not here is refused.

The defaults and names in ``data/model_types.json`` are from classes of transformers; here are the rules of its code.
Tests compare the bytes with the cache that transformers builds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tqvec import _validate
from tqvec.errors import InputError

MAX_NUMBER = 2**31
_FLOAT32, _HALF = 4, 2  # bytes of the states' numbers in transformers, for weights in 16 bits

# Fields whose names look like these change what a layer keeps: one that a type does not have is refused.
STRUCTURAL = re.compile(
    "kv_|_kv|key_value|head|attn|attention|window|chunk|lora_rank|layer_types|block_type|pattern|interval|mamba|ssm|conv"
    "|state|cross|latent|indexer|multi_query|decoder_arch|full_|global_|linear_|expand|groups|no_rope|per_layer"
)
# … but for these, which are in the files of many makers.
HARMLESS = re.compile(
    "^_|dropout|_bias|attn_impl|softcap|multiplier|attention_mask|hidden_states|lm_head|_pdrop|prefix|chunk_size_feed_forward"
)


class Fields:
    """The values of a configuration that are not null, and their source for error messages."""

    def __init__(self, values: Mapping[str, Any], source: str):
        self.values, self.source = values, source

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a number of at least 1, or of at least 0 where that is its default."""
        if name not in self.values:
            if default is None:
                raise InputError(f"{self.source}: {name} is missing")
            return default
        return _validate.integer(self.values[name], f"{self.source}: {name}", 0 if default == 0 else 1, MAX_NUMBER)

    def flag(self, name: str) -> bool:
        """Return a truth value; False if it is missing."""
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise InputError(f"{self.source}: {name} must be true or false, got {value!r}")
        return value

    def entries(self, name: str, n: int | None = None) -> list[Any]:
        """Return a list; one of `n` entries, if that is given."""
        value = self.values.get(name)
        if not isinstance(value, list) or (n is not None and len(value) != n):
            raise InputError(f"{self.source}: {name} must list {'its layers' if n is None else f'{n} layers'}")
        return value


Kinds = Callable[[Fields, int], list[str]]  # of a number of layers
Heads = Callable[[Fields, int], int]  # KV heads, from the number of query heads
State = Callable[[Fields], int]


class Architecture(NamedTuple):
    """The rules of a type.

    Attributes
    ----------
    kinds : callable
        The kind of each layer, for configurations without layer_types.
    heads : callable
        The number of KV heads, from that of query heads.
    state : callable or None
        Bytes that a layer with a state keeps.
    """

    kinds: Kinds
    heads: Heads = lambda fields, heads: fields.integer("num_key_value_heads", heads)
    state: State | None = None


def _full(fields: Fields, n: int) -> list[str]:
    return ["full"] * n


def _windows(fields: Fields, n: int) -> list[str]:
    """Every layer has the window, if there is one."""
    used = "sliding_window" in fields.values and fields.values.get("use_sliding_window") is not False
    return ["sliding" if used else "full"] * n


def _late_windows(fields: Fields, n: int) -> list[str]:
    used = fields.flag("use_sliding_window") and "sliding_window" in fields.values
    first = fields.integer("max_window_layers", 0) if used else n
    return ["full" if i < first else "sliding" for i in range(n)]


def _every(name: str, default: int, first: int, other: str = "sliding") -> Kinds:
    """One full layer in so many: layer `first`, and so on; in ``first = -1`` the last of each group."""

    def kinds(fields: Fields, n: int) -> list[str]:
        if other == "sliding" and "sliding_window" not in fields.values:
            return ["full"] * n
        every = fields.integer(name, default)
        return ["full" if (i - first) % every == 0 else other for i in range(n)]

    return kinds


def _ends_full(kinds: Kinds) -> Kinds:
    """As `kinds`, but the last layer is full in any case."""
    return lambda fields, n: [*kinds(fields, n)[:-1], "full"]


def _some_full(fields: Fields, n: int) -> list[str]:
    kinds = _every("", 4, -1, "linear")(fields, n)
    return kinds if "full" in kinds else [*kinds[:-1], "full"]


def _without_rope(other: str, used: Callable[[Fields], bool]) -> Kinds:
    """Layers with rotary embedding, or those without, have a window."""

    def kinds(fields: Fields, n: int) -> list[str]:
        if fields.values.get("no_rope_layers"):
            rope = [bool(flag) for flag in fields.entries("no_rope_layers", n)]
        else:
            every = fields.integer("no_rope_layer_interval", 4)
            rope = [(i + 1) % every != 0 for i in range(n)]
        return [other if used(fields) and flag == (other == "chunked") else "full" for flag in rope]

    return kinds


def _listed(name: str, others: str, inside: str = "full") -> Kinds:
    """The layers of this list are full; without a list none is."""

    def kinds(fields: Fields, n: int) -> list[str]:
        numbers = fields.entries(name) if name in fields.values else []
        return [inside if i in numbers else others for i in range(n)]

    return kinds


def _all_if_unlisted(fields: Fields, n: int) -> list[str]:
    return _listed("full_attn_idxs", "conv")(fields, n) if "full_attn_idxs" in fields.values else ["full"] * n


def _offset(fields: Fields, n: int) -> list[str]:
    period, offset = fields.integer("attn_layer_period"), fields.integer("attn_layer_offset", 0)
    return ["full" if i % period == offset else "linear" for i in range(n)]


def _letters(fields: Fields, n: int) -> list[str]:
    """M: a state, *: attention, - and E: neither."""
    pattern = fields.values.get("hybrid_override_pattern")
    letters = {"M": "linear", "*": "full", "-": "none", "E": "none"}
    if not isinstance(pattern, str) or not set(pattern) <= letters.keys():
        raise InputError(f"{fields.source}: hybrid_override_pattern must be of the letters {''.join(letters)}")
    return [letters[letter] for letter in pattern]


def _ones(fields: Fields, n: int) -> list[str]:
    return ["full" if flag == 1 else "linear" for flag in fields.entries("attn_type_list", n)]


def _must_list(fields: Fields, n: int) -> list[str]:
    raise InputError(f"{fields.source}: layer_types is missing")


def _same_heads(fields: Fields, heads: int) -> int:
    return heads


def _one_head(fields: Fields, heads: int) -> int:
    return 1 if fields.flag("multi_query") else heads


def _falcon_heads(fields: Fields, heads: int) -> int:
    """Multi-query if it says so, unless it has the new architecture, whose groups share a head."""
    if fields.flag("multi_query") and not fields.flag("new_decoder_architecture"):
        return 1
    return fields.integer("num_kv_heads", heads)


def _delta_net(fields: Fields) -> int:
    """A float32 matrix per value head, and the last inputs of a convolution."""
    heads = fields.integer("num_attention_heads")
    key_heads = fields.integer("linear_num_key_heads", heads)
    value_heads = fields.integer("linear_num_value_heads", heads)
    keys = fields.integer("linear_key_head_dim", int(0.75 * fields.integer("hidden_size") / key_heads))
    values = fields.integer("linear_value_head_dim", 2 * keys)
    channels = 2 * key_heads * keys + value_heads * values
    return value_heads * keys * values * _FLOAT32 + channels * fields.integer("linear_conv_kernel_dim", 4) * _HALF


def _mamba(fields: Fields) -> int:
    """Mamba: a float32 vector per channel, and the last inputs of a convolution."""
    channels = fields.integer("mamba_expand") * fields.integer("hidden_size")
    return channels * (fields.integer("mamba_d_state") * _FLOAT32 + fields.integer("mamba_d_conv") * _HALF)


def _mamba2(fields: Fields) -> int:
    """Mamba 2: a float32 matrix per head, and the last inputs of a convolution."""
    heads, size = fields.integer("mamba_n_heads"), fields.integer("mamba_d_state")
    inner = fields.integer("mamba_d_ssm", int(fields.integer("mamba_expand", 2) * fields.integer("hidden_size")))
    dim = inner // heads if fields.values.get("mamba_d_head") == "auto" else fields.integer("mamba_d_head")
    channels = inner + 2 * fields.integer("mamba_n_groups", 1) * size
    return heads * dim * size * _FLOAT32 + channels * fields.integer("mamba_d_conv", 4) * _HALF


def _nemotron_state(fields: Fields) -> int:
    """Mamba 2, with names of its own."""
    heads, dim, size = (fields.integer(name) for name in ("mamba_num_heads", "mamba_head_dim", "ssm_state_size"))
    channels = heads * dim + 2 * fields.integer("n_groups") * size
    return heads * dim * size * _FLOAT32 + channels * fields.integer("conv_kernel") * _HALF


def _convolution(fields: Fields) -> int:
    """The last inputs of a short convolution."""
    return fields.integer("hidden_size") * fields.integer("conv_L_cache") * _HALF


def _lightning(fields: Fields) -> int:
    """A matrix per head."""
    heads = fields.integer("num_attention_heads")
    dim = fields.integer("head_dim", fields.integer("hidden_size", heads) // heads)
    return heads * dim * dim * _HALF


_PLAIN = Architecture(_full)
_WINDOWS = Architecture(_windows)
_LATE = Architecture(_late_windows)
_NO_GROUPS = Architecture(_full, _same_heads)
_PAIRS = Architecture(_every("", 2, -1))

ARCHITECTURES: dict[str, Architecture] = {
    **dict.fromkeys(
        [
            "apertus",
            "arcee",
            "aria_text",
            "bitnet",
            "cohere",
            "ernie4_5",
            "ernie4_5_moe",
            "flex_olmo",
            "gemma",
            "glm",
            "glm4",
            "glm4_moe",
            "granite",
            "granitemoe",
            "granitemoeshared",
            "helium",
            "hunyuan_v1_dense",
            "hunyuan_v1_moe",
            "hy_v3",
            "hyperclovax",
            "jais2",
            "laguna",
            "llama",
            "mellum",
            "ministral3",
            "minimax_m2",
            "nanochat",
            "nemotron",
            "olmo",
            "olmo2",
            "olmoe",
            "phi",
            "qwen3_vl_moe_text",
            "qwen3_vl_text",
            "seed_oss",
            "solar_open",
            "stablelm",
            "deci",
        ],
        _PLAIN,
    ),
    **dict.fromkeys(["codegen", "gpt2", "gpt_neox", "gptj", "opt", "persimmon", "xglm"], _NO_GROUPS),
    **dict.fromkeys(["ministral", "mistral", "mixtral", "phi3", "phimoe", "starcoder2", "qwen3_moe"], _WINDOWS),
    **dict.fromkeys(["qwen2", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3"], _LATE),
    **dict.fromkeys(["gemma2", "gpt_oss", "vaultgemma"], _PAIRS),
    "afmoe": Architecture(_every("global_attn_every_n_layers", 4, -1)),
    "bamba": Architecture(_listed("attn_layer_indices", "linear"), state=_mamba2),
    "cohere2": Architecture(_every("sliding_window_pattern", 4, -1)),
    "cohere2_moe": Architecture(_must_list),
    "cwm": Architecture(_every("", 4, 0)),
    "exaone4": Architecture(_every("sliding_window_pattern", 4, -1)),
    "exaone_moe": Architecture(_every("sliding_window_pattern", 4, -1)),
    "falcon": Architecture(_full, _falcon_heads),
    "falcon_h1": Architecture(lambda fields, n: ["hybrid"] * n, state=_mamba2),
    "gemma3_text": Architecture(_every("sliding_window_pattern", 6, -1)),
    "gemma3n_text": Architecture(_every("", 5, -1)),
    "gemma4_text": Architecture(_ends_full(_every("", 6, -1))),
    "gpt_bigcode": Architecture(_full, _one_head),
    "granite_swa": Architecture(_every("", 4, 0)),
    "granitemoe_swa": Architecture(_every("", 4, 0)),
    "granitemoehybrid": Architecture(lambda fields, n: ["linear"] * n, state=_mamba2),
    "jamba": Architecture(_offset, state=_mamba),
    "lfm2": Architecture(_all_if_unlisted, state=_convolution),
    "lfm2_moe": Architecture(_must_list, state=_convolution),
    "llama4_text": Architecture(_without_rope("chunked", lambda fields: "attention_chunk_size" in fields.values)),
    "minimax": Architecture(_every("", 2, 1, "linear"), state=_lightning),
    "minimax_text_01": Architecture(_ones, state=_lightning),
    "mllama_text_model": Architecture(_listed("cross_attention_layers", "full", inside="cross")),
    "nemotron_h": Architecture(_letters, state=_nemotron_state),
    "olmo3": Architecture(_every("", 4, -1)),
    "olmo_hybrid": Architecture(_some_full, state=_delta_net),
    "qwen2_moe": Architecture(
        lambda fields, n: _must_list(fields, n) if fields.flag("use_sliding_window") else ["full"] * n
    ),
    **dict.fromkeys(
        ["qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"],
        Architecture(_every("full_attention_interval", 4, -1, "linear"), state=_delta_net),
    ),
    "smollm3": Architecture(
        _without_rope("sliding", lambda fields: fields.flag("use_sliding_window") and "sliding_window" in fields.values)
    ),
}

# A description without model_type: its own rule, and its fields.
BY_HAND = Architecture(
    lambda fields, n: (
        _every("sliding_window_pattern", 1, -1) if "sliding_window_pattern" in fields.values else _windows
    )(fields, n)
)
BY_HAND_FIELDS = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "sliding_window_pattern",
    "layer_types",
    "attention_chunk_size",
)

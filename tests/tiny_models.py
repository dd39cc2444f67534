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

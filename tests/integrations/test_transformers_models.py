"""Every type of text model in transformers: the tokens of its own cache, or a refusal when the cache is made."""

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
from tiny_models import VERSION, given, prompt, text_types, tiny_config, torch, transformers

from tqvec.errors import InputError
from tqvec.kvcache import Policy
from tqvec.kvcache.planning import plan
from tqvec.kvcache.planning.models import parse_config

integration = pytest.importorskip("tqvec.integrations.transformers")
TurboQuantCache, TurboQuantLayer = integration.TurboQuantCache, integration.TurboQuantLayer

EXACT = Policy(recent=None, sinks=0, dtype="bfloat16")
# Nothing is coded of the 15 tokens that a layer with a window of 16 tokens attends to.
WINDOW = Policy(8, 8, recent=15, chunk=1, sinks=0, mean_tokens=0, dtype="bfloat16")
PAGE = Path(__file__).parents[2] / "docs" / "transformers.md"
UNTRIED = {"cohere_compass_text", "dbrx", "dory", "git", "phi4_multimodal"}
LARGEST = 2 * 10**7  # numbers of a model
REFUSED = {
    "kv_lora_rank": "latent attention (MLA)",
    "v_head_dim": "keys and values of different size",
    "is_encoder_decoder": "an encoder",
    "IndexedLayer": "an index of keys beside the keys",
    "LinearAttentionAnd": "attention and a state in one layer",
    "no layer with keys": "states, but no keys and values",
    "does not use": "a cache of its own, or none",
}


def build_tiny(config):
    """A random model in bfloat16, or None if it can't be small, or transformers can't make it."""
    try:
        with torch.device("meta"):
            skeleton = transformers.AutoModelForCausalLM.from_config(config)
        if sum(parameter.numel() for parameter in skeleton.parameters()) > LARGEST:
            return None
    except NotImplementedError:  # some can't be without memory
        pass
    except Exception:  # each has errors of its own
        return None
    torch.manual_seed(10_001)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().to(torch.bfloat16)
    if hasattr(model, "set_default_language"):
        model.set_default_language("en_XX")
    return model


def generated(model, cache, padding):
    """Tokens and logits of two sequences, or of one if there is no padding."""
    ids = torch.cat([prompt(24), prompt(24, seed=5)]) if padding else prompt(24)
    mask = torch.ones_like(ids)
    mask[-1, :padding] = 0
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    options |= {"output_logits": True, "return_dict_in_generate": True, "attention_mask": mask}
    found = model.generate(ids, **given(cache), **options)
    return found.sequences, torch.stack(found.logits)


def find_refusal(config):
    """Why a cache is refused, or None."""
    try:
        TurboQuantCache(config, EXACT)
    except InputError as error:
        return str(error)
    return None


def classify(model_type):
    """What the page says of a type, from its layers."""
    config = tiny_config(model_type)
    refusal = find_refusal(config)
    if refusal is not None:
        return next((text for part, text in REFUSED.items() if part in refusal), "layers of other kinds")
    if model_type in UNTRIED:
        return "accepted, but not compared: transformers makes no small model that runs"
    names = {type(layer).__name__ for layer in TurboQuantCache(config, EXACT).layers}
    if "LinearAttentionLayer" in names:
        return "keys and values, and states"
    return "windows" if names - {"TurboQuantLayer"} else "full attention"


def skip(model_type, reason):
    """Skip a type that the page says was not tried; the page is about the newest version."""
    assert model_type in UNTRIED or VERSION < (5, 24)
    pytest.skip(reason)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", text_types())
def test_same_tokens_or_a_refusal(model_type):
    config = tiny_config(model_type)
    refusal = find_refusal(config)
    if refusal is not None:
        assert re.search(rf"is not for model type '{model_type}', .*DynamicCache", refusal, re.DOTALL)
        return
    model = build_tiny(config)
    if model is None:
        skip(model_type, "can't be made small")
    for padding in (5, 0):
        try:
            default = transformers.DynamicCache(config=config)
            expected = generated(model, default, padding)
            break
        except (RuntimeError, ValueError):
            if padding == 0:
                skip(model_type, "transformers' own cache fails too")
    cache = TurboQuantCache(config, EXACT)
    found = generated(model, cache, padding)
    assert cache.get_seq_length() == default.get_seq_length() >= 24 + 11
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0, equal_nan=True)
    compressed = TurboQuantCache(config, WINDOW)
    windows = [layer for layer in compressed.layers if getattr(layer, "is_sliding", False)]
    if windows:
        tokens, logits = generated(model, compressed, padding)
        assert all(isinstance(layer, TurboQuantLayer) for layer in windows)
        exact = len(windows) == sum(isinstance(layer, TurboQuantLayer) for layer in compressed.layers)
        assert torch.equal(tokens, expected[0]) or not exact
        assert (logits[1] - expected[1][1]).norm() <= (0 if exact else 0.2) * expected[1][1].norm()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(VERSION < (5, 24), reason="the planner follows the newest version")
@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "gpt_oss", "lfm2", "llama", "mistral", "qwen3_next"])
def test_bytes_are_those_of_the_plan(model_type):
    policy = Policy(4, 4, recent=8, chunk=4, mean_tokens=4, sinks=2, protected=1, protected_nbits=6)
    model = build_tiny(tiny_config(model_type))
    cache = TurboQuantCache(model.config, policy)
    with torch.no_grad():
        model(prompt(40), **given(cache))
    shape = parse_config(json.loads(model.config.to_json_string(use_diff=False)), "tiny", "here")
    assert plan(shape, policy=policy, context=40).nbytes == sum(kv.nbytes for kv in cache.sequences[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(VERSION < (5, 24), reason="the planner follows the newest version")
def test_windows_that_are_not_coded_are_planned_in_16_bits():
    """As transformers' own layers hold them, but for the oldest token: a step attends to it no more."""
    model = build_tiny(tiny_config("gemma2"))
    cache = TurboQuantCache(model.config, "turbo4")
    with torch.no_grad():
        model(prompt(40), **given(cache))
    shape = parse_config(json.loads(model.config.to_json_string(use_diff=False)), "tiny", "here")
    (part,) = (part for part in plan(shape, policy="turbo4", context=40).parts if part.kind.window)
    window = part.tokens
    assert window < 40
    others = [layer for layer in cache.layers if not isinstance(layer, TurboQuantLayer)]
    assert len(others) == part.layers
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in others)
    assert held == part.nbytes * (window - 1) // window


def table():
    """The lists of the page, as Markdown."""
    types = defaultdict(list)
    for model_type in text_types():
        types[classify(model_type)].append(f"`{model_type}`")
    accepted = ["full attention", "windows", "keys and values, and states", *(kind for kind in types if "not" in kind)]
    rows = [f"| {kind} | {', '.join(types.pop(kind))} |" for kind in accepted]
    refused = [f"| {kind} | {', '.join(names)} |" for kind, names in sorted(types.items())]
    return "\n".join(
        ["| layers | model types |", "|---|---|", *rows, "", "| refused for | model types |", "|---|---|", *refused]
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(VERSION < (5, 24), reason="the page is about the newest version")
def test_the_page_lists_the_types():
    """``PYTHONPATH=tests python tests/integrations/test_transformers_models.py`` prints the lists."""
    assert table() in PAGE.read_text(encoding="utf-8")


if __name__ == "__main__":
    print(table())

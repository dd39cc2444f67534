"""TurboQuantCache in a tiny random model: what transformers' own cache does if all is hot, and close if not."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from tiny_models import build, fed, given, torch, transformers

from tqvec.errors import InputError
from tqvec.kvcache import Policy

integration = pytest.importorskip("tqvec.integrations.transformers")
TurboQuantCache = integration.TurboQuantCache

PROMPT = 150
CODED = Policy(6, 6, recent=16, sinks=2, chunk=8, mean_tokens=8)


@pytest.fixture(scope="module")
def model():
    return build("Llama", hidden_size=96, num_attention_heads=6)


@pytest.fixture(params=["sdpa", "eager", "tqvec"])
def attention(model, request):
    model.set_attn_implementation(request.param)
    yield request.param
    model.set_attn_implementation("sdpa")


def prompt(n=PROMPT):
    return tiny_models.prompt(n)


def generated(model, cache):
    return tiny_models.generated(model, cache, prompt())


def test_a_hot_cache_generates_what_the_default_cache_does(model, attention):
    expected = generated(model, transformers.DynamicCache(config=model.config))
    cache = TurboQuantCache(model.config, Policy(recent=None))
    tokens, logits = generated(model, cache)
    assert tokens.tolist() == expected[0].tolist()
    assert (logits - expected[1]).abs().max() < 2e-2 * expected[1].abs().max()  # keys and values in float16
    assert cache.get_seq_length() == PROMPT + 23
    assert cache.kv.token_counts(0).coded == 0


def test_a_coded_cache_is_close(model, attention):
    ids = prompt(180)
    with torch.no_grad():
        expected = model(ids).logits[0]
    errors = []
    for nbits in (2, 4, 8):
        cache = TurboQuantCache(model.config, Policy(nbits, nbits, recent=16, sinks=2, chunk=8, mean_tokens=8))
        errors.append(float((fed(model, cache, ids, 120) - expected).norm() / expected.norm()))
        assert cache.kv.token_counts(2).coded > 120
    assert errors[0] > 2 * errors[1] > 8 * errors[2]
    assert errors[2] < 0.05


def test_tokens_of_one_call_see_each_other_exactly(model, attention):
    ids = prompt()
    cache = TurboQuantCache(model.config, Policy(1, 1, recent=0, sinks=0, chunk=1, mean_tokens=0))
    with torch.no_grad():
        torch.testing.assert_close(model(ids, **given(cache)).logits, model(ids).logits)
    assert cache.kv.token_counts(0).coded == PROMPT


def test_codes_and_decoded_values_give_the_same(model):
    found = {}
    for name in ("sdpa", "tqvec"):
        model.set_attn_implementation(name)
        found[name] = fed(model, TurboQuantCache(model.config, CODED), prompt(), 120)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        exact = model(prompt()).logits[0]
    assert (found["sdpa"] - found["tqvec"]).norm() < (found["sdpa"] - exact).norm() / 4


def test_chunks_of_a_prompt_after_others(model, attention):
    ids = prompt()
    cache = TurboQuantCache(model.config, Policy(recent=None))
    with torch.no_grad():
        parts = [model(part, **given(cache)).logits for part in ids.split(60, dim=1)]
        expected = model(ids).logits
    assert (torch.cat(parts, dim=1) - expected).abs().max() < 1e-2 * expected.abs().max()


def test_crop_and_reset(model):
    ids = prompt()
    cache = TurboQuantCache(model.config, CODED)
    with torch.no_grad():
        first = model(ids, **given(cache)).logits[0, -1]
        kept = cache.kv.keys(1)[:, : PROMPT - 20].copy()
        cache.crop(-20)
        np.testing.assert_array_equal(cache.kv.keys(1), kept)
        assert cache.get_seq_length() == PROMPT - 20
        model(ids[:, -20:], **given(cache))
        assert cache.get_seq_length() == PROMPT
        cache.crop(100)
        assert cache.get_seq_length() == 100
        cache.crop(0)
        assert cache.get_seq_length() == 100
        cache.reset()
        assert cache.get_seq_length() == 0
        again = model(ids, **given(cache)).logits[0, -1]
    torch.testing.assert_close(again, first)


def test_dropped_tokens_count_as_positions(model, attention):
    policy = Policy(6, 6, recent=16, sinks=2, chunk=8, mean_tokens=8, max_tokens=64)
    cache = TurboQuantCache(model.config, policy)
    generated(model, cache)
    assert cache.get_seq_length() == PROMPT + 23
    assert sum(cache.kv.token_counts(0)[:-1]) == 64
    assert cache.layers[0].get_mask_sizes(1) == (64, PROMPT + 23 - 63)  # one is dropped for the new one


def test_half_precision_models(attention):
    torch.manual_seed(10_003)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=97, eos_token_id=None, **shape)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    model.set_attn_implementation(attention)
    tokens, logits = generated(model, TurboQuantCache(model.config, CODED))
    assert logits.isfinite().all()
    assert len(tokens) == 24


def test_other_attention_can_not_take_what_is_for_codes(model):
    cache = TurboQuantCache(model.config, CODED)
    model.set_attn_implementation("tqvec")
    with torch.no_grad():
        model(prompt(), **given(cache))
        keys, values = cache.layers[0].update(torch.ones(1, 2, 1, 16), torch.ones(1, 2, 1, 16))
    model.set_attn_implementation("sdpa")
    assert keys.shape == values.shape == (1, 2, PROMPT + 1, 16)
    with pytest.raises(InputError, match="'llama' computes repeat on keys"):
        keys.repeat(1, 3, 1, 1)
    with pytest.raises(InputError, match="set_attn_implementation"):
        torch.nn.functional.scaled_dot_product_attention(torch.ones(1, 2, 1, 16), keys, values)


def run_example(text, name, namespace):
    """Run a docstring's example, or a program, by the name that this transformers has for the argument."""
    if tiny_models.VERSION < (5, 24):
        text = re.sub(r"(?<=[ (])cache=", "past_key_values=", text)
    if ">>>" not in text:
        exec(compile(text, name, "exec"), namespace)
        return
    result = doctest.DocTestRunner().run(doctest.DocTestParser().get_doctest(text, namespace, name, None, 0))
    assert (result.failed, result.attempted > 0) == (0, True)


def test_examples(tmp_path, monkeypatch):
    """Of the docstring, and of the page in docs/, where they are marked ``py`` for tests without transformers."""
    monkeypatch.chdir(tmp_path)
    run_example(TurboQuantCache.__doc__, "TurboQuantCache", {})
    page = (Path(__file__).parents[2] / "docs" / "transformers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert blocks
    namespace = {}
    for block in blocks:
        run_example(block, "transformers.md", namespace)

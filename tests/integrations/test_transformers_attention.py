"""Attention "tqvec" gives what a model's own attention gives, or refuses: on codes, on prompts, with any cache."""

import pytest
from tiny_models import VERSION, build, fed, generated, given, prompt, tiny_config, torch, transformers

from tqvec.errors import InputError
from tqvec.kvcache import Policy

integration = pytest.importorskip("tqvec.integrations.transformers")
attention_module = pytest.importorskip("tqvec.integrations.transformers.attention")
softmax_module = pytest.importorskip("tqvec.integrations.transformers.softmax")
TurboQuantCache = integration.TurboQuantCache

EXACT = Policy(recent=None)
WINDOW = Policy(8, 8, recent=12, chunk=4, sinks=0, mean_tokens=0)  # codes one of the 16 tokens of a window, or some
FULL = {"layer_types": ["full_attention"] * 3}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
# models and what they do with attention
PLAIN = {
    "Llama": {},
    "Mistral": {"sliding_window": None},
    "Qwen2": {},  # biases
    "Qwen3": {"head_dim": 32},  # norms of queries and keys
    "Gemma": {"head_dim": 16},
    "Phi3": {},  # one product for query, keys and values
    "Granite": {"attention_multiplier": 0.5},  # a scale of its own
    "Olmo2": {},
    "StableLm": {},
    "Mixtral": {"sliding_window": None, **EXPERTS},
}
CHANGED = {  # attention on codes can't follow these: the model has to say what it does
    "DiffLlama": {},
    "Doge": {},
    "JetMoe": {**EXPERTS, "kv_channels": 16},
}
BEYOND_SDPA = {  # a cap on scores, sinks
    "Gemma2": {"head_dim": 16, "attn_logit_softcapping": 2.0},
    "GptOss": {"head_dim": 16, **EXPERTS},
}


def halved(cache_class, *args, **options):
    """A cache whose keys and values float16 holds exactly, whether it keeps them in float16 or not."""

    class Halved(cache_class):
        def update(self, keys, values, *args, **kwargs):
            return super().update(keys.half().float(), values.half().float(), *args, **kwargs)

    return Halved(*args, **options)


@torch.no_grad()
def build_with_sinks(name, **changes):
    model = build(name, **changes)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("sinks"):
            parameter.normal_(2, 0.5)
    return model


@torch.no_grad()
def own_logits(model, ids):
    model.set_attn_implementation("eager")
    return model(ids).logits[0]


def assert_close(found, expected, tolerance):
    assert (found - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("name", PLAIN)
def test_models_with_a_plain_softmax(name):
    model, ids = build(name, **PLAIN[name]), prompt(48)
    expected = own_logits(model, ids)
    model.set_attn_implementation("tqvec")
    with torch.no_grad():
        assert_close(model(ids).logits[0], expected, 1e-4)
    assert_close(fed(model, TurboQuantCache(model.config, EXACT), ids, 40), expected, 1e-2)


@pytest.mark.parametrize("name", CHANGED)
def test_models_that_change_keys_or_values_after_the_cache(name):
    model, ids = build(name, **CHANGED[name]), prompt(48)
    expected = own_logits(model, ids)
    assert_close(fed(model, TurboQuantCache(model.config, EXACT), ids, 40), expected, 1e-2)
    model.set_attn_implementation("tqvec")
    if model.config._attn_implementation != "tqvec":  # in older versions some don't take it, and go on as they are
        assert_close(fed(model, TurboQuantCache(model.config, EXACT), ids, 40), expected, 1e-2)
        return
    with pytest.raises(InputError, match=f"model type '{model.config.model_type}'.*set_attn_implementation"):
        fed(model, TurboQuantCache(model.config, EXACT), ids, 40)


@pytest.mark.parametrize("layers", [FULL, {"sliding_window": 16}], ids=["full", "windows"])
@pytest.mark.parametrize("name", BEYOND_SDPA)
def test_caps_and_sinks(name, layers):
    """Prompts, with any cache, and steps are those of the model's own attention."""
    model, ids = build_with_sinks(name, **BEYOND_SDPA[name], **layers), prompt(48)
    own = own_logits(model, ids)
    expected = fed(model, halved(transformers.DynamicCache, config=model.config), ids, 20)
    model.set_attn_implementation("tqvec")
    with torch.no_grad():
        assert_close(model(ids).logits[0], own, 1e-4)
    assert_close(fed(model, halved(transformers.DynamicCache, config=model.config), ids, 20), expected, 1e-4)
    assert_close(fed(model, halved(TurboQuantCache, model.config, EXACT), ids, 20), expected, 1e-4)
    coded = TurboQuantCache(model.config, WINDOW)
    assert_close(fed(model, coded, ids, 20), own, 0.1)  # some go to other experts
    assert len(coded.sequences[0]) == (1 if layers is FULL else 2)


@pytest.mark.parametrize("name", BEYOND_SDPA)
def test_caps_and_sinks_in_batches(name):
    model, ids = build_with_sinks(name, **BEYOND_SDPA[name], sliding_window=16), prompt(80).reshape(2, 40)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    cache = halved(transformers.DynamicCache, config=model.config)
    model.set_attn_implementation("eager")
    expected = generated(model, cache, ids, attention_mask=mask)[1]
    model.set_attn_implementation("tqvec")
    cache = halved(TurboQuantCache, model.config, EXACT)
    assert_close(generated(model, cache, ids, attention_mask=mask)[1], expected, 1e-4)


def test_chunks():
    """A mask of chunks shows the newest tokens of the window: those of the chunk."""
    model = transformers.AutoModelForCausalLM.from_config(tiny_config("llama4_text")).eval()
    ids = prompt(60)
    expected = fed(model, TurboQuantCache(model.config, WINDOW), ids, 20)
    model.set_attn_implementation("tqvec")
    assert_close(fed(model, TurboQuantCache(model.config, WINDOW), ids, 20), expected, 1e-2)


def test_attention_by_its_formula(monkeypatch):
    """Blocks change nothing, and without cap and sinks it is sdpa; a query that sees nothing gets numbers."""
    random = torch.Generator().manual_seed(10_004)
    q, k, v = (torch.randn(2, heads, n, 16, generator=random) for heads, n in ((4, 9), (2, 21), (2, 21)))
    mask = torch.rand(2, 1, 9, 21, generator=random) < 0.7
    mask[..., -1] = True
    sdpa = torch.nn.functional.scaled_dot_product_attention
    expected = sdpa(q, k, v, attn_mask=mask, scale=0.5, enable_gqa=True).transpose(1, 2)
    additive = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    for scores in (2**24, 2 * 4 * 21 * 4, 1):
        monkeypatch.setattr(softmax_module, "_SCORES", scores)
        for one in (mask, additive):
            torch.testing.assert_close(softmax_module.softmax_attention(q, k, v, one, scale=0.5), expected)
        found = softmax_module.softmax_attention(q, k, v, causal=True)
        newest = torch.ones(9, 21, dtype=torch.bool).tril(12)
        torch.testing.assert_close(found, sdpa(q, k, v, attn_mask=newest, enable_gqa=True).transpose(1, 2))
    mask[1, 0, 3] = False
    assert softmax_module.softmax_attention(q.bfloat16(), k, v, mask, sinks=torch.zeros(4)).isfinite().all()


@pytest.mark.parametrize("policy", [EXACT, WINDOW], ids=["transformers' own layers", "in a KVCache"])
def test_windows(policy):
    model, ids = build("Mistral", sliding_window=16), prompt(48)
    expected = own_logits(model, ids)
    model.set_attn_implementation("tqvec")
    with torch.no_grad():
        assert_close(model(ids).logits[0], expected, 1e-4)
    assert_close(fed(model, transformers.DynamicCache(config=model.config), ids, 40), expected, 1e-4)
    cache = TurboQuantCache(model.config, policy)
    assert_close(fed(model, cache, ids, 20), expected, 2e-2)
    assert bool(cache.sequences) == (policy is WINDOW)


class Hidden:
    """Changes of a model's own attention that no option shows."""

    @staticmethod
    def sinks(scores):
        return torch.cat([scores, torch.zeros_like(scores[..., :1])], -1).softmax(-1)[..., :-1]

    @staticmethod
    def cap(scores):
        return (torch.tanh(scores / 50) * 50).softmax(-1)

    @staticmethod
    def bias_by_distance(scores):
        return (scores + 0.1 * torch.arange(scores.shape[-1])).softmax(-1)

    @staticmethod
    def sigmoid(scores):
        return scores.sigmoid()

    @staticmethod
    def temperature(scores):
        return (scores * 1.1).softmax(-1)


@pytest.mark.parametrize(
    "change", [Hidden.sinks, Hidden.cap, Hidden.bias_by_distance, Hidden.sigmoid, Hidden.temperature]
)
def test_changes_that_no_option_shows_are_noticed(change, monkeypatch):
    def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        groups = module.num_key_value_groups
        scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * scaling
        weights = change(scores if attention_mask is None else scores + attention_mask)
        return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), weights

    model = build("Llama")
    monkeypatch.setattr(
        transformers.models.llama.modeling_llama, "eager_attention_forward", eager_attention_forward, raising=True
    )
    model.set_attn_implementation("tqvec")
    for ids in (prompt(20), prompt(1)):
        with pytest.raises(InputError, match="gives another result than the model's own attention.*'llama'"):
            model(ids, **given(TurboQuantCache(model.config)))


def test_attention_that_can_not_be_compared_is_refused(monkeypatch):
    model = build("Llama")
    model.set_attn_implementation("tqvec")
    modeling = transformers.models.llama.modeling_llama
    monkeypatch.setattr(modeling, "eager_attention_forward", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(InputError, match=r"can't be compared.*ZeroDivisionError.*set_attn_implementation"):
        model(prompt(20))
    monkeypatch.delattr(modeling, "eager_attention_forward")
    module = model.model.layers[0].self_attn
    attention_module._compared.clear()
    with pytest.raises(InputError, match="it does not declare"):
        integration.attend_on_codes(module, *(torch.ones(1, 2, 3, 16),) * 3, None)


@pytest.mark.parametrize("steps", ["prompt", "step"])
def test_options_that_are_missing_are_named(steps):
    model = build("Llama")
    model.set_attn_implementation("tqvec")
    cache, module = TurboQuantCache(model.config), model.model.layers[0].self_attn
    n = 1 if steps == "step" else 6
    keys, values = cache.layers[0].update(torch.ones(1, 2, n, 16), torch.ones(1, 2, n, 16))
    with pytest.raises(InputError, match=r"does not have position_bias \(LlamaAttention"):
        integration.attend_on_codes(
            module, torch.ones(1, 4, n, 16), keys, values, None, 0.25, position_bias=torch.zeros(1, 4, 1, 1)
        )


@pytest.mark.parametrize("option", [{"softcap": 3.0}, {"s_aux": torch.zeros(4)}], ids=["softcap", "s_aux"])
def test_options_that_the_model_itself_lacks_are_refused(option):
    module = build("Llama").model.layers[0].self_attn
    tensors = (torch.ones(1, heads, 3, 16) for heads in (4, 2, 2))
    with pytest.raises(InputError, match="gives another result than the model's own attention"):
        integration.attend_on_codes(module, *tensors, None, 0.25, **option)


def test_options_that_only_codes_lack():
    model = build("Llama")
    model.set_attn_implementation("tqvec")
    cache, module = TurboQuantCache(model.config), model.model.layers[0].self_attn
    keys, values = cache.layers[0].update(torch.ones(1, 2, 1, 16), torch.ones(1, 2, 1, 16))
    query = torch.ones(1, 4, 1, 16)
    attend = integration.attend_on_codes
    with pytest.raises(InputError, match=r"dropout only where sdpa .*; model.eval\(\)"):
        attend(module, query, keys, values, None, 0.25, dropout=0.1)
    for mask in (torch.full((1, 1, 1, 1), -1.0), torch.tensor([[[[False]]]])):
        with pytest.raises(InputError, match="no mask on codes but that of padding"):
            attend(module, query, keys, values, mask, 0.25)
    for wrong in ((values, keys), (keys, keys), (torch.ones(1, 2, 1, 16), values), (keys, torch.ones(1, 2, 1, 16))):
        with pytest.raises(InputError, match="other keys or values than the cache returned"):
            attend(module, query, *wrong, None, 0.25)
    for mask in (None, torch.zeros(1, 1, 1, 1), torch.tensor([[[[True, False]]]])):  # the last is too wide
        out, _ = attend(module, query, keys, values, mask, 0.25, sliding_window=None, dropout=0.0, is_causal=True)
        assert torch.equal(out, torch.ones(1, 1, 4, 16))


def test_attention_weights_are_refused():
    model = build("Llama")
    model.set_attn_implementation("tqvec")
    with pytest.raises(InputError, match="does not have output_attentions"):
        model(prompt(20), output_attentions=True)


def test_models_that_compute_attention_themselves_are_refused():
    config = transformers.BloomConfig(vocab_size=97, hidden_size=64, n_layer=2, n_head=4)
    expected = transformers.BloomForCausalLM(config).eval()
    other = transformers.BloomForCausalLM._from_config(config, attn_implementation="tqvec").eval()
    other.load_state_dict(expected.state_dict())
    if VERSION < (5, 10):  # asks nobody for a mask
        assert_close(other(prompt(20)).logits, expected(prompt(20)).logits, 1e-4)
        return
    with pytest.raises(InputError, match="'bloom' computes attention itself"):
        other(prompt(20))


MLA = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("DeepseekV3", MLA, "kv_lora_rank"),
        ("MiMoV2Flash", {"head_dim": 16, "v_head_dim": 8}, "v_head_dim"),
        ("Bart", {}, "is_encoder_decoder"),
        ("Mllama", {}, "cross_attention_layers"),
        ("FalconH1", {}, ""),
        ("Mamba", {}, ""),
    ],
)
def test_models_that_cache_something_else_are_refused(name, options, reason):
    if not hasattr(transformers, f"{name}Config"):
        pytest.skip(f"this transformers has no {name}")
    config = getattr(transformers, f"{name}Config")(**options)
    with pytest.raises(InputError, match=f"model type '.*{reason}"):
        TurboQuantCache(config)

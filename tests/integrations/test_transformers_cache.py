"""TurboQuantCache as an object: copies, crop, reset, failures midway, and every method that transformers declares."""

import copy
import inspect
import pickle

import numpy as np
import pytest
from tiny_models import VERSION, build, fed, generated, given, prompt, torch, transformers

from tqvec.errors import InputError, TqvecError
from tqvec.kvcache import KVCache, Policy

integration = pytest.importorskip("tqvec.integrations.transformers")
TurboQuantCache = integration.TurboQuantCache

CODED = Policy(4, 4, recent=16, sinks=2, chunk=8, mean_tokens=8)
EVICTING = Policy(4, 4, recent=16, sinks=2, chunk=8, mean_tokens=8, max_tokens=64)


@pytest.fixture(scope="module")
def model():
    return build("Llama")


@torch.no_grad()
def filled(model, n=80, policy=CODED):
    cache = TurboQuantCache(model.config, policy)
    model(prompt(n), **given(cache))
    return cache


# copies


class NamedCache(TurboQuantCache):
    """What a user may derive."""


@pytest.mark.parametrize(
    "make",
    [
        copy.copy,
        copy.deepcopy,
        NamedCache.fork,
        lambda cache: copy.deepcopy([cache, {"again": cache}])[0],
        lambda cache: pickle.loads(pickle.dumps(cache)),
    ],
    ids=["copy", "deepcopy", "fork", "deepcopy in a list", "pickle"],
)
@pytest.mark.parametrize("policy", [CODED, EVICTING], ids=["coded", "evicting"])
def test_a_copy_continues_as_the_original_would(model, make, policy):
    original = NamedCache(model.config, policy)
    original.name, original.tags = "prefix", ["a"]
    with torch.no_grad():
        model(prompt(80), **given(original))
        branch = make(original)
        model(prompt(5, seed=1), **given(branch))
        assert (original.get_seq_length(), branch.get_seq_length()) == (80, 85)
        again = make(original)
        after, expected = (model(prompt(9, seed=2), **given(cache)).logits for cache in (again, original))
    assert torch.equal(after, expected)
    assert type(branch) is NamedCache
    assert (branch.name, branch.tags) == ("prefix", ["a"])
    assert branch.kv is not original.kv
    assert branch.layers[0] is not original.layers[0]


def test_only_a_deep_copy_copies_attributes_and_none_copies_the_config(model):
    cache = TurboQuantCache(model.config)
    cache.tags = ["a"]
    assert copy.copy(cache).tags is cache.tags
    deep = copy.deepcopy(cache)
    assert deep.tags is not cache.tags
    model.set_attn_implementation("tqvec")  # copies follow the model
    try:
        with torch.no_grad():
            assert model(prompt(30), **given(deep)).logits.isfinite().all()
            assert model(prompt(1), **given(deep)).logits.isfinite().all()
    finally:
        model.set_attn_implementation("sdpa")


def test_tokens_of_another_cache_are_taken(model):
    prefix = filled(model)
    taken = TurboQuantCache(model.config, kv=prefix.kv.fork())
    other = TurboQuantCache(model.config, "turbo3")
    other.kv = prefix.kv.fork()
    assert taken.get_seq_length() == other.get_seq_length() == 80
    assert taken.kv.policy == other.kv.policy == CODED
    with torch.no_grad():
        logits = [model(prompt(5, seed=1), **given(cache)).logits for cache in (taken, other, prefix)]
    assert torch.equal(logits[0], logits[2])
    assert torch.equal(logits[1], logits[2])


def test_a_saved_cache_is_resumed(model, tmp_path):
    cache = filled(model)
    cache.save(tmp_path / "prefix.safetensors")
    resumed = TurboQuantCache.load(tmp_path / "prefix.safetensors", model.config)
    with torch.no_grad():
        found, expected = (model(prompt(5, seed=1), **given(c)).logits for c in (resumed, cache))
    assert torch.equal(found, expected)


def test_tokens_of_other_models_are_refused(model):
    with pytest.raises(InputError, match="kv must have the model's 3 layers, got 2"):
        TurboQuantCache(model.config, kv=KVCache(2, 2, 16))
    for kv, heads in ((KVCache(3, 4, 16), (4, 1, 16)), (KVCache(3, 2, 8), (2, 1, 8))):
        kv.append(0, np.ones(heads, np.float32), np.ones(heads, np.float32))
        other = TurboQuantCache(model.config, kv=kv)
        with pytest.raises(InputError, match=r"as those before, but model type 'llama'.*another model's"):
            other.layers[0].update(torch.ones(1, 2, 3, 16), torch.ones(1, 2, 3, 16))
    cache = filled(model)
    with pytest.raises(InputError, match="kv must be a KVCache, got dict"):
        cache.kv = {}
    with pytest.raises(InputError, match="policy must be left out"):
        TurboQuantCache(model.config, "turbo4", kv=cache.kv)
    with pytest.raises(InputError, match="there are 0 before the first tokens"):
        TurboQuantCache(model.config).kv  # noqa: B018


@pytest.mark.parametrize("config", [None, {}, "llama", 3])
def test_what_is_no_config_is_refused(config):
    with pytest.raises(InputError, match=r"config must be model\.config"):
        TurboQuantCache(config)


# crop and reset


@pytest.mark.parametrize("policy", [CODED, EVICTING, "turbo4"], ids=["coded", "evicting", "turbo4"])
@pytest.mark.parametrize("attention", ["sdpa", "tqvec"])
def test_after_reset_a_cache_is_as_new(model, policy, attention):
    model.set_attn_implementation(attention)
    try:
        cache = TurboQuantCache(model.config, policy)
        tokens, logits = generated(model, cache, prompt(100), n=8)
        counts = cache.kv.token_counts(2)
        cache.reset()
        assert cache.get_seq_length() == 0
        assert cache.get_mask_sizes(*sizes_of(3)) == (3, 0)
        assert sum(cache.kv.token_counts(0)) == 0
        again, logits_again = generated(model, cache, prompt(100), n=8)
    finally:
        model.set_attn_implementation("sdpa")
    assert again.tolist() == tokens.tolist()
    assert torch.equal(logits_again, logits)
    assert cache.kv.token_counts(2) == counts


def sizes_of(n):
    """Arguments of get_mask_sizes for layer 0."""
    return (torch.arange(n) if VERSION < (5, 3) else n), 0


def test_crop_counts_positions(model):
    for policy in (CODED, EVICTING):
        cache = filled(model, 150, policy)
        cache.crop(-3)
        assert cache.get_seq_length() == 147
        cache.crop(140)
        assert cache.get_seq_length() == 140
        for n in (0, 140, 1000):
            cache.crop(n)
            assert cache.get_seq_length() == 140
        evicted = 0 if policy is CODED else 150 - 64
        assert cache.kv.token_counts(1).evicted == evicted
        assert cache.kv.n_tokens == 140 - evicted
    cache = filled(model, 30)
    cache.crop(-30)
    assert cache.get_seq_length() == 0


@pytest.mark.parametrize(
    ("n", "kept"),
    [(-63, "first 87 of 150 tokens, but only 88"), (87, "first 87"), (1, "first 1"), (-150, "first 0")],
)
def test_crop_beyond_what_is_held_is_refused(model, n, kept):
    cache = filled(model, 150, EVICTING)
    with pytest.raises(InputError, match=f"{kept}.*86 were dropped.*reset"):
        cache.crop(n)
    assert cache.get_seq_length() == 150
    cache.crop(-62)
    assert cache.kv.token_counts(0)[:-1] == (2, 0, 0, 0)
    assert cache.get_seq_length() == 88


def test_crop_of_more_than_all_is_refused(model):
    cache = filled(model, 30)
    with pytest.raises(InputError, match=r"crop\(-151\) would keep the first -1"):
        filled(model, 150, EVICTING).crop(-151)
    with pytest.raises(InputError, match=r"crop\(-31\) would keep the first -1 of 30 tokens.*reset\(\) drops all"):
        cache.crop(-31)
    with pytest.raises(InputError, match="max_length must be an integer"):
        cache.crop(1.5)


# failures midway


@pytest.mark.parametrize("policy", [CODED, EVICTING], ids=["coded", "evicting"])
def test_a_call_that_failed_midway_is_noticed(model, policy):
    cache, twin = filled(model, 80, policy), filled(model, 80, policy)
    broken = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(prompt(1), **given(cache))
    broken.remove()
    with pytest.raises(InputError, match=r"layers have 81 and 80 tokens.*crop\(80\).*reset\(\)"), torch.no_grad():
        model(prompt(1), **given(cache))
    with pytest.raises(InputError, match="layers have 81 and 80 tokens"):
        cache.crop(-1)
    if policy is EVICTING:  # the layers that were reached have dropped one token more
        with pytest.raises(InputError, match="layers have 81 and 80 tokens"):
            cache.crop(80)
        cache.reset()
        assert cache.get_seq_length() == 0
        return
    cache.crop(80)
    with torch.no_grad():
        found, expected = (model(prompt(5, seed=1), **given(c)).logits for c in (cache, twin))
    assert torch.equal(found, expected)


def test_bad_numbers_in_a_later_layer_are_noticed(model):
    cache = filled(model)
    hook = model.model.layers[2].self_attn.k_proj.register_forward_hook(lambda *args: args[-1] * float("nan"))
    with pytest.raises(InputError, match="k of layer 2"), torch.no_grad():
        model(prompt(4), **given(cache))
    hook.remove()
    with pytest.raises(InputError, match="layers have 84 and 80 tokens"), torch.no_grad():
        model(prompt(4), **given(cache))
    cache.crop(80)
    assert cache.get_seq_length() == 80


def test_what_does_not_fit_is_refused(model):
    cache = TurboQuantCache(model.config)
    with pytest.raises(
        InputError, match=r"same shape, but model type 'llama' caches \(1, 2, 3, 16\) and \(1, 2, 3, 8\)"
    ):
        cache.update(torch.ones(1, 2, 3, 16), torch.ones(1, 2, 3, 8), 0)
    with pytest.raises(InputError, match="layer_idx must be from 0 to 2"):
        cache.update(torch.ones(1, 2, 3, 16), torch.ones(1, 2, 3, 16), 3)
    assert cache.get_seq_length() == 0
    cache.update(torch.ones(1, 2, 3, 16), torch.ones(1, 2, 3, 16), 0)
    for shape in ((1, 4, 3, 16), (1, 2, 3, 8)):
        with pytest.raises(InputError, match=r"must have shape \(1, 2, 3, 16\), as those before"):
            cache.update(torch.ones(shape), torch.ones(shape), 1)
    with pytest.raises(InputError, match="of 1 sequences, got a batch of 2.*batch_repeat_interleave"):
        cache.update(torch.ones(2, 2, 3, 16), torch.ones(2, 2, 3, 16), 1)


# transformers' interface


ARGUMENTS = {
    "key_states": lambda: torch.ones(1, 2, 3, 16),
    "value_states": lambda: torch.ones(1, 2, 3, 16),
    "layer_idx": lambda: 0,
    "beam_idx": lambda: torch.tensor([0]),
    "indices": lambda: torch.tensor([0]),
    "repeats": lambda: 1,
    "query_length": lambda: 3,
    "cache_position": lambda: torch.arange(3),
    "tokens_to_remove": lambda: -1,
    "max_length": lambda: -1,
    "batch_size": lambda: 1,
    "num_heads": lambda: 2,
    "head_dim": lambda: 16,
    "dtype": lambda: torch.float32,
    "device": lambda: torch.device("cpu"),
    "conv_states": lambda: torch.ones(1, 4, 4),
    "recurrent_states": lambda: torch.ones(1, 4, 4),
    "indexer_key_states": lambda: torch.ones(1, 3, 16),
}


def declared_by(*classes):
    """Names and public members of transformers' classes."""
    members = {name: member for cls in reversed(classes) for name, member in inspect.getmembers(cls)}
    return sorted((name, member) for name, member in members.items() if not name.startswith("_"))


CACHE_CLASSES = (transformers.cache_utils.DynamicCache, transformers.cache_utils.Cache)
LAYER_CLASSES = (transformers.cache_utils.DynamicLayer, transformers.cache_utils.CacheLayerMixin)


@pytest.mark.parametrize("tokens", [0, 20])
@pytest.mark.parametrize("of", ["cache", "layer"])
def test_every_member_of_the_interface_works_or_refuses_in_words(model, of, tokens):
    used, refused = [], {}
    for name, member in declared_by(*(CACHE_CLASSES if of == "cache" else LAYER_CLASSES)):
        cache = filled(model, tokens) if tokens else TurboQuantCache(model.config)
        target = cache if of == "cache" else cache.layers[1]
        try:
            value = getattr(target, name)
            if callable(member):
                parameters = list(inspect.signature(member).parameters.values())[1:]
                needed = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
                value(*(ARGUMENTS[p.name]() for p in needed))
            used.append(name)
        except (TqvecError, ValueError) as error:  # transformers' own errors for states of layers that have none
            refused[name] = str(error)
    assert all(len(message) > 30 for message in refused.values())
    assert {"update", "get_seq_length", "get_mask_sizes", "offload"} <= {*used}
    states = ("conv_state", "recurrent_state", "indexer", "previous_state", "linear_attention_mask")
    batches = {"reorder_cache", "batch_repeat_interleave", "batch_select_indices"}
    assert all(any(part in name for part in states) or name in {"crop", "reset", *batches} for name in refused)
    if of == "cache":
        assert {"reset", *batches} <= {*used}
        assert ("crop" in used) == (tokens > 0)  # nothing can be dropped from an empty cache


def test_what_transformers_reads_of_a_cache(model):
    cache = filled(model, 20)
    assert len(cache) == 3
    assert cache.is_sliding == [False] * 3
    assert not cache.is_compileable
    assert cache.is_initialized
    assert not TurboQuantCache(model.config).is_initialized
    assert tuple(cache.layers[0].keys.shape) == tuple(cache.layers[0].values.shape) == (1, 2, 20, 16)
    assert TurboQuantCache(model.config).layers[0].keys is None
    if VERSION >= (5, 24):
        assert cache.is_croppable
        assert not filled(model, 20, EVICTING).is_croppable
        assert cache.batch_size == 1


@pytest.mark.parametrize("attention", ["sdpa", "tqvec"])
def test_assisted_decoding_and_prompt_lookup(model, attention):
    draft = build("Llama", seed=10_004, num_hidden_layers=1)
    ids = prompt(20).repeat(1, 3)  # something to look up
    model.set_attn_implementation(attention)
    try:
        plain, _ = generated(model, TurboQuantCache(model.config, Policy(recent=None)), ids)
        for options in ({"prompt_lookup_num_tokens": 3, "eos_token_id": 999}, {"assistant_model": draft}):
            cache = TurboQuantCache(model.config, Policy(recent=None))
            assert generated(model, cache, ids, **options)[0].tolist() == plain.tolist()
            assert cache.get_seq_length() >= 60 + 22
    finally:
        model.set_attn_implementation("sdpa")


def test_an_interrupted_generation_goes_on(model):
    """A conversation in one cache gives what one call gives."""
    cache = TurboQuantCache(model.config, Policy(recent=None))
    whole = fed(model, TurboQuantCache(model.config, Policy(recent=None)), prompt(60), 50)
    with torch.no_grad():
        parts = [model(part, **given(cache)).logits[0] for part in prompt(60).split([50, 7, 3], dim=1)]
    assert (torch.cat(parts) - whole).abs().max() < 1e-2 * whole.abs().max()

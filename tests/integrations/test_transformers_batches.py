"""Batches: a KVCache per sequence, without padding; beams and repeated sequences share memory."""

import copy
import pickle

import numpy as np
import pytest
from tiny_models import SIZES, VERSION, build, fed, generated, given, prompt, torch, transformers

from tqvec.errors import InputError, LossWarning
from tqvec.kvcache import Policy, Rope

integration = pytest.importorskip("tqvec.integrations.transformers")
TurboQuantCache = integration.TurboQuantCache

EXACT = Policy(recent=None, sinks=0, dtype="bfloat16")
CODED = Policy(4, 4, recent=16, sinks=2, chunk=8, mean_tokens=8)
EVICTING = Policy(4, 4, recent=16, sinks=2, chunk=8, mean_tokens=8, max_tokens=48)
# A layer with a window of 16 keeps 15 tokens in 16 bits, which are all that the next token attends to.
WINDOW = Policy(8, 8, recent=15, chunk=1, sinks=0, mean_tokens=0, dtype="bfloat16")
PADDING = (0, 7, 30)


def half(name, **changes):
    """A model in bfloat16, whose keys and values a cache in bfloat16 keeps exactly."""
    return build(name, **changes).to(torch.bfloat16)


@pytest.fixture(scope="module")
def model():
    return half("Llama")


@pytest.fixture(params=["sdpa", "eager", "tqvec"])
def attention(model, request):
    model.set_attn_implementation(request.param)
    yield request.param
    model.set_attn_implementation("sdpa")


def padded(n=60):
    """Three prompts and their mask, padded on the left."""
    ids = torch.cat([prompt(n, seed=seed) for seed in range(len(PADDING))])
    mask = torch.ones_like(ids)
    for row, count in enumerate(PADDING):
        mask[row, :count] = 0
    return ids, mask


def both(model, policy, **options):
    """Sequences and logits with transformers' cache and with ours, which follows."""
    ids, mask = padded()
    settings = {"max_new_tokens": 24, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    settings |= {"attention_mask": mask, "pad_token_id": 0} | options
    cache = TurboQuantCache(model.config, policy)
    caches = (transformers.DynamicCache(config=model.config), cache)
    return *(model.generate(ids, **given(each), **settings) for each in caches), cache


def assert_same(expected, found):
    assert expected.sequences.tolist() == found.sequences.tolist()
    assert all(torch.equal(a, b) for a, b in zip(expected.logits, found.logits, strict=True))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
def test_a_padded_batch_gives_what_the_default_cache_gives(model, options):
    expected, found, cache = both(model, EXACT, **options)
    assert_same(expected, found)
    counts = [sum(kv.token_counts(0)) for (kv,) in cache.sequences]
    beams = options.get("num_beams", 1)
    assert counts == [60 + 23 - count for count in PADDING for _ in range(beams)]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_windows_in_a_padded_batch(options):
    expected, found, cache = both(half("Mistral", sliding_window=16), WINDOW, **options)
    assert_same(expected, found)
    assert all(kv.token_counts(2).held == 16 for (kv,) in cache.sequences)


def test_sampled_sequences(model):
    options = {"do_sample": True, "num_return_sequences": 2, "top_k": 5}
    torch.manual_seed(1)
    ids, mask = padded()
    settings = {"attention_mask": mask, "pad_token_id": 0, "max_new_tokens": 9, **options}
    expected = model.generate(ids, **settings)
    torch.manual_seed(1)
    assert torch.equal(model.generate(ids, **given(TurboQuantCache(model.config, EXACT)), **settings), expected)


def test_codes_of_a_batch_are_those_of_its_sequences(model, attention):
    """Padding is neither stored nor among the sinks nor in the mean."""
    ids, mask = padded()
    batch = TurboQuantCache(model.config, CODED)
    with torch.no_grad():
        model(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clip(0), **given(batch))
        for row, count in enumerate(PADDING):
            alone = TurboQuantCache(model.config, CODED)
            model(ids[row : row + 1, count:], **given(alone))
            (kv,) = batch.sequences[row]
            assert kv.token_counts(0) == alone.kv.token_counts(0)
            assert np.linalg.norm(kv.keys(0) - alone.kv.keys(0)) < 0.02 * np.linalg.norm(kv.keys(0))


@pytest.mark.parametrize("policy", [CODED, EVICTING], ids=["coded", "evicting"])
@torch.no_grad()
def test_a_batch_on_codes_is_close_to_decoded(model, policy):
    """With given tokens: those that a model chooses may hang by a hair."""
    ids, mask = padded(100)
    found = {}
    for name in ("sdpa", "tqvec"):
        model.set_attn_implementation(name)
        cache = TurboQuantCache(model.config, policy)
        model(ids[:, :90], attention_mask=mask[:, :90], **given(cache))
        steps = [model(ids[:, i : i + 1], attention_mask=mask[:, : i + 1], **given(cache)) for i in range(90, 100)]
        found[name] = torch.cat([step.logits for step in steps], dim=1).float()
    model.set_attn_implementation("sdpa")
    assert 0 < (found["sdpa"] - found["tqvec"]).norm() < 0.1 * found["sdpa"].norm()


def test_dropped_tokens_and_padding(model, attention):
    """A sequence with padding drops what it drops alone, sinks stay."""
    ids, mask = padded(100)
    batch = TurboQuantCache(model.config, EVICTING)
    options = {"pad_token_id": 0, "max_new_tokens": 6, "do_sample": False, "output_logits": True}
    options["return_dict_in_generate"] = True
    together = torch.stack(model.generate(ids, attention_mask=mask, **given(batch), **options).logits)
    for row, count in enumerate(PADDING):
        alone = TurboQuantCache(model.config, EVICTING)
        one = {"attention_mask": mask[row : row + 1, count:], **given(alone), **options}
        logits = torch.stack(model.generate(ids[row : row + 1, count:], **one).logits)
        assert batch.sequences[row][0].token_counts(1) == alone.kv.token_counts(1)
        assert (together[0, row] - logits[0, 0]).norm() < 0.05 * logits[0, 0].norm()
    assert batch.get_seq_length() == 105


def test_padding_behind_tokens(model):
    """Stored at its place, it is masked; where sinks would have to move over it, it is refused."""
    ids, mask = prompt(60), torch.ones((1, 60), dtype=torch.long)
    mask[0, 20:25] = 0
    logits = []
    for cache in (transformers.DynamicCache(config=model.config), TurboQuantCache(model.config, EXACT)):
        logits.append(generated(model, cache, ids, attention_mask=mask)[1])
    assert torch.equal(*logits)
    assert sum(cache.kv.token_counts(0)) == 60 - 5 + 23
    cache = TurboQuantCache(model.config, EVICTING)
    with pytest.raises(InputError, match=r"attention_mask may have padding only before.*sinks=0"):
        generated(model, cache, ids, attention_mask=mask)
    assert cache.get_seq_length() == 0


def test_other_masks_are_refused_on_codes(model):
    model.set_attn_implementation("tqvec")
    try:
        cache, mask = TurboQuantCache(model.config, CODED), torch.ones((1, 61), dtype=torch.long)
        with torch.no_grad():
            model(prompt(60), **given(cache))
        mask[0, 10] = 0  # a token that is stored
        with pytest.raises(InputError, match="no mask on codes but that of padding"), torch.no_grad():
            model(prompt(1), attention_mask=mask, **given(cache))
    finally:
        model.set_attn_implementation("sdpa")


def test_keys_turn_with_the_rotary_embedding_of_the_config(model):
    assert filled(model).sequences[2][0].rope == Rope.from_config(model.config) != (None,) * 3
    sizes = SIZES | {"head_dim": 16, "sliding_window": 16, "num_hidden_layers": 6}
    gemma = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**sizes)).eval()
    cache = filled(gemma, WINDOW)
    windows, full = Rope.from_config(gemma.config)[4:]
    assert [set(kv.rope) for kv in cache.sequences[0]] == [{windows}, {full}]
    assert windows != full
    with pytest.warns(LossWarning, match="without their rotary embedding"):
        unknown = filled(half("DiffLlama"))  # a type that Rope does not know
    assert unknown.sequences[0][0].rope == (None,) * 3


# methods for batches


def filled(model, policy=CODED):
    cache = TurboQuantCache(model.config, policy)
    ids, mask = padded()
    with torch.no_grad():
        model(ids, attention_mask=mask, **given(cache))
    return cache


CHANGES = {
    "reorder": ("reorder_cache", torch.tensor([2, 0, 0]), [2, 0, 0]),
    "indices": ("batch_select_indices", torch.tensor([1]), [1]),
    "mask": ("batch_select_indices", torch.tensor([True, False, True]), [0, 2]),
    "repeat": ("batch_repeat_interleave", 2, [0, 0, 1, 1, 2, 2]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["Llama", "Mistral"])
def test_methods_for_batches_do_what_the_default_cache_does(name, change):
    model = half(name, **({"sliding_window": 16} if name == "Mistral" else {}))
    policy = WINDOW if name == "Mistral" else EXACT
    method, argument, order = CHANGES[change]
    ids, mask = padded()
    logits = []
    for cache in (transformers.DynamicCache(config=model.config), TurboQuantCache(model.config, policy)):
        with torch.no_grad():
            model(ids, attention_mask=mask, **given(cache))
            getattr(cache, method)(argument)
            longer = torch.nn.functional.pad(mask[order], (0, 4), value=1)
            new = torch.cat([prompt(4, seed=10 + i) for i in range(len(order))])
            logits.append(model(new, attention_mask=longer, **given(cache)).logits)
    assert torch.equal(*logits)


def test_repeated_sequences_share_memory_and_go_apart(model):
    cache = filled(model)
    before = cache.sequences[1][0].keys(0)
    cache.reorder_cache(torch.tensor([1, 1, 1]))
    with torch.no_grad():
        new = torch.cat([prompt(1, seed=seed) for seed in (1, 2, 3)])
        model(new, attention_mask=torch.nn.functional.pad(padded()[1][[1, 1, 1]], (0, 1), value=1), **given(cache))
    keys = [kv.keys(0) for (kv,) in cache.sequences]
    for found in keys:
        np.testing.assert_array_equal(found[:, :-1], before)
    assert not np.array_equal(keys[0][:, -1], keys[1][:, -1])


def test_indices_are_checked(model):
    cache = filled(model)
    for call in (
        lambda: cache.reorder_cache(torch.tensor([0, 3, 1])),
        lambda: cache.batch_select_indices(torch.tensor([-1])),
        lambda: cache.batch_select_indices(torch.tensor([False] * 3)),
    ):
        with pytest.raises(InputError, match="indices must be of the 3 sequences"):
            call()
    with pytest.raises(InputError, match="repeats must be"):
        cache.batch_repeat_interleave(0)
    empty = TurboQuantCache(model.config)
    empty.reorder_cache(torch.tensor([0, 1]))
    assert empty.sequences == ()


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_copies_of_a_batch(model, make):
    cache = filled(model)
    branch, mask = make(cache), torch.nn.functional.pad(padded()[1], (0, 5), value=1)
    new = torch.cat([prompt(5, seed=seed) for seed in (1, 2, 3)])
    with torch.no_grad():
        found = model(new, attention_mask=mask, **given(branch)).logits
        assert cache.get_seq_length() == 60
        expected = model(new, attention_mask=mask, **given(cache)).logits
    assert torch.equal(found, expected)


def test_crop_and_reset_of_a_batch(model):
    cache, ids, mask = filled(model), *padded()
    cache.crop(-10)
    assert [sum(kv.token_counts(1)) for (kv,) in cache.sequences] == [50, 43, 20]
    with torch.no_grad():
        model(ids[:, :10], attention_mask=mask, **given(cache))
    cache.crop(5)  # of two sequences only padding is left
    assert [sum(kv.token_counts(1)) for (kv,) in cache.sequences] == [5, 0, 0]
    assert cache.get_seq_length() == 5
    cache.reset()
    tokens, _ = generated(model, cache, ids[:1])
    assert len(tokens) == 24
    assert len(cache.sequences) == 1


def test_what_is_for_one_sequence(model, tmp_path):
    cache = filled(model)
    with pytest.raises(InputError, match="kv is the cache of one sequence, there are 3"):
        cache.kv  # noqa: B018
    with pytest.raises(InputError, match="one sequence, there are 3"):
        cache.save(tmp_path / "batch.safetensors")
    assert cache.nbytes == sum(kv.nbytes for (kv,) in cache.sequences)
    with pytest.raises(InputError, match="of 3 sequences, got a batch of 1"), torch.no_grad():
        model(prompt(3), **given(cache))


# windows


@pytest.mark.skipif(VERSION < (5, 24), reason="older versions can't undo what a window dropped")
@pytest.mark.parametrize("policy", [WINDOW, Policy(recent=None)], ids=["in a KVCache", "transformers' own layers"])
def test_assisted_decoding_with_windows(policy):
    model = half("Mistral", sliding_window=16)
    draft = half("Mistral", sliding_window=16, num_hidden_layers=1)
    ids = prompt(20).repeat(1, 3)
    plain, _ = generated(model, TurboQuantCache(model.config, policy), ids)
    for options in ({"prompt_lookup_num_tokens": 3, "eos_token_id": 999}, {"assistant_model": draft}):
        cache = TurboQuantCache(model.config, policy)
        assert generated(model, cache, ids, **options)[0].tolist() == plain.tolist()


def test_a_window_undoes_recorded_calls():
    model, ids = half("Mistral", sliding_window=16), prompt(40)
    cache, twin = (TurboQuantCache(model.config, WINDOW) for _ in range(2))
    with torch.no_grad():
        for each in (cache, twin):
            model(ids, **given(each))
        with pytest.raises(InputError, match=r"crop\(-2\) would keep the first 38 of 40 tokens.*dropped for newer"):
            cache.crop(-2)
        for layer in cache.layers:
            layer.activate_past_recording()
        model(prompt(5, seed=1), **given(cache))
        model(prompt(5, seed=1)[:, :2], **given(twin))
        cache.crop(-3)
        assert cache.get_seq_length() == 42
        found, expected = (model(prompt(4, seed=2), **given(each)).logits for each in (cache, twin))
    assert torch.equal(found, expected)
    assert cache.kv.token_counts(0) == twin.kv.token_counts(0)


def test_prompts_longer_than_max_tokens(model, attention):
    """A step attends to `max_tokens` tokens, its own included, decoded or on codes."""
    cache, ids = TurboQuantCache(model.config, EVICTING), prompt(100)
    fed(model, cache, ids, 90)
    held = 0 if attention == "tqvec" else cache.layers[0]._layout(1).width + 1
    assert held in (0, 48)
    assert cache.kv.token_counts(0).held == 48


@pytest.mark.parametrize("name", ["Llama", "Mistral"])
def test_chunked_prefill(name):
    model = half(name, **({"sliding_window": 16} if name == "Mistral" else {}))
    ids, policy = prompt(60), WINDOW if name == "Mistral" else EXACT
    expected, found = (
        generated(model, cache, ids, prefill_chunk_size=13)
        for cache in (transformers.DynamicCache(config=model.config), TurboQuantCache(model.config, policy))
    )
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])

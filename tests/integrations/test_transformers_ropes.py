"""`TurboQuantCache` gives each layer its rotary embedding, and says where it can't."""

import warnings

import numpy as np
import pytest
from tiny_models import SIZES, build, generated, prompt, text_types, tiny_config, torch, transformers

from tqvec.errors import InputError, LossWarning
from tqvec.kvcache import KVCache, Policy, Rope

integration = pytest.importorskip("tqvec.integrations.transformers")
TurboQuantCache, TurboQuantLayer = integration.TurboQuantCache, integration.TurboQuantLayer

CODED = Policy(2, 2, recent=4, chunk=4, sinks=0, mean_tokens=4)
HEAD_DIM = 64


def kept_layers(model_type):
    """Layers of a cache in a `KVCache`, and their ropes, or a skip."""
    config = tiny_config(model_type).get_text_config(decoder=True)
    try:
        ropes = Rope.from_config(config)
        layers = TurboQuantCache(config, CODED).layers
    except InputError as error:
        pytest.skip(str(error)[:90])
    kept = [number for number, layer in enumerate(layers) if isinstance(layer, TurboQuantLayer)]
    return [(layers[number], ropes[number]) for number in kept]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, where older versions import a model's code
@pytest.mark.parametrize("model_type", text_types())
def test_each_layer_has_its_rope(model_type):
    """What all keys share is the mean, turned: 2 bits hold the little that is left, if the rope is the layer's."""
    rng = np.random.default_rng(10_005)
    key = rng.standard_normal((1, 2, 1, HEAD_DIM))
    for layer, rope in kept_layers(model_type):
        keys = key + 0.01 * rng.standard_normal((1, 2, 40, HEAD_DIM))
        keys = (keys if rope is None else rope.rotate(keys, np.arange(40))).astype(np.float32)
        layer.update(torch.from_numpy(keys), torch.zeros(keys.shape))
        held = layer.keys.numpy()
        assert layer.kvs[0].token_counts(0).coded
        assert np.linalg.norm(held - keys[:, :, -held.shape[2] :]) < 0.01 * np.linalg.norm(held)


def test_a_rope_that_is_not_known():
    config = tiny_config("doge")
    with pytest.warns(LossWarning, match=r"without their rotary embedding.*'doge' is not known") as caught:
        TurboQuantCache(config, CODED)
    assert caught[0].filename == __file__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            TurboQuantCache(config, CODED)
    assert len(caught) == 1
    TurboQuantCache(config, Policy(recent=None))  # nothing is coded


def test_a_rope_by_hand():
    config = transformers.CONFIG_MAPPING["jetmoe"](**SIZES)
    assert TurboQuantCache(config, kv=KVCache(3, 2, 16, CODED, Rope(300.0))).kv.rope == (Rope(300.0),) * 3


@pytest.mark.parametrize("model_type", ["bert", "bloom", "mpt"])
def test_models_without_a_rope(model_type):
    TurboQuantCache(tiny_config(model_type), CODED)


@torch.no_grad()
def test_warnings_of_keys_reach_the_user():
    """Keys with a large bias, which turns, in a cache without the rope."""
    model = build("Qwen2")
    model.model.layers[1].self_attn.k_proj.bias.fill_(30.0)
    policy = Policy(4, 4, recent=16, chunk=8, mean_tokens=16)
    generated(model, TurboQuantCache(model.config, policy), prompt(60))
    with pytest.warns(LossWarning, match=r"layer 1: keys of heads.*rope=Rope.from_config"):
        generated(model, TurboQuantCache(model.config, kv=KVCache(3, 2, 16, policy)), prompt(60))

"""Every type of text model in transformers that the cache takes: what attention "tqvec" gives is what its own gives."""

import re
from pathlib import Path

import pytest
from tiny_models import VERSION, fed, prompt, text_types, tiny_config, torch, transformers

from tqvec.errors import InputError
from tqvec.kvcache import Policy

integration = pytest.importorskip("tqvec.integrations.transformers")
TurboQuantCache = integration.TurboQuantCache

CODED = Policy(8, 8, recent=15, chunk=1, sinks=0, mean_tokens=0)  # windows of 16 tokens are in a KVCache too
PAGE = (Path(__file__).parents[2] / "docs" / "transformers.md").read_text(encoding="utf-8")
LARGE = {"cohere_compass_text", "dbrx", "dory", "git", "phi4_multimodal"}  # or they don't run
CHAOTIC = {"hrm_text"}  # the last bits of its own attention grow as well


def listed(beginning):
    """The types that the page lists in a sentence."""
    return set(re.findall("`([^`]+)`", re.search(rf"{beginning}(.*?)\.\s", PAGE, re.DOTALL)[1]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(VERSION < (5, 24), reason="the page is about the newest version")
@pytest.mark.parametrize("model_type", sorted(set(text_types()) - LARGE))
def test_steps(model_type):
    config = tiny_config(model_type)
    try:
        TurboQuantCache(config, CODED)
    except InputError:
        pytest.skip("the cache is refused")
    torch.manual_seed(10_006)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    if hasattr(model, "set_default_language"):
        model.set_default_language("en_XX")
    model.set_attn_implementation("eager")
    ids = prompt(40)
    try:
        expected = fed(model, TurboQuantCache(config, CODED), ids, 24)
    except RuntimeError:
        pytest.skip("its own attention fails")
    model.set_attn_implementation("tqvec")
    if model.config._attn_implementation != "tqvec":
        assert model_type in listed("Others compute attention themselves:")
    elif model_type in listed("Some change keys or values"):
        with pytest.raises(InputError, match=f"'{model_type}'"):
            fed(model, TurboQuantCache(config, CODED), ids, 24)
    else:
        steps = fed(model, TurboQuantCache(config, CODED), ids, 24)[24:]
        errors = (steps - expected[24:]).norm(dim=1) / expected[24:].norm(dim=1)
        assert errors.median() < (0.3 if model_type in CHAOTIC else 0.1)  # some tokens go to other experts

"""examples/layer_streaming.py with small random models: its tokens, and the memory that it takes."""

import importlib.util
import sys
from pathlib import Path

import pytest
from tiny_models import build, prompt, torch

from tqvec.kvcache import Policy
from tqvec.kvcache.planning import StreamedWeights

pytest.importorskip("tqvec.integrations.transformers")
if sys.platform != "linux":
    pytest.skip("the limit and the sizes are those of Linux", allow_module_level=True)
resource = pytest.importorskip("resource")

EXAMPLE = Path(__file__).parents[2] / "examples" / "layer_streaming.py"
PAGE = 4096


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("layer_streaming", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mapped_bytes(folder):
    """Bytes of files of a folder in the address space of this process."""
    lines = (line.split() for line in Path("/proc/self/maps").read_text().splitlines() if f"{folder}/" in line)
    spans = ([int(end, 16) for end in line[0].split("-")] for line in lines)
    return sum(stop - start for start, stop in spans)


@pytest.mark.parametrize(("name", "tied"), [("Llama", True), ("Llama", False), ("Mistral", False), ("Qwen2", True)])
def test_tokens_are_those_of_the_whole_model_with_one_layer_mapped(example, tmp_path, name, tied):
    # weights of the head are in a file of their own, as in models of several files
    build(name, tie_word_embeddings=tied, hidden_size=128, num_hidden_layers=4).save_pretrained(
        tmp_path, max_shard_size="200KB"
    )
    assert len(list(tmp_path.glob("model*.safetensors"))) > 2
    weights, policy, ids = StreamedWeights.read(tmp_path), Policy(4, 4, recent=16, chunk=8, mean_tokens=8), prompt(60)
    expected, _ = example.generate(example.load_whole(tmp_path), ids, 12, policy)
    streamed, mapped = example.load_streamed(tmp_path), []
    for layer in streamed.model.layers:
        layer.mlp.register_forward_hook(lambda *_: mapped.append(mapped_bytes(tmp_path)))
    tokens, cache = example.generate(streamed, ids, 12, policy)
    assert tokens == expected
    assert len(set(tokens)) > 1
    assert cache.kv.token_counts(0).coded > 40
    assert len(mapped) == 4 * 12
    tensors = len(streamed.state_dict())
    assert weights.resident <= max(mapped) <= weights.resident + 2 * PAGE * tensors
    assert {parameter.device.type for parameter in streamed.model.layers.parameters()} == {"meta"}


def test_a_model_larger_than_the_memory(example, tmp_path):
    """Twelve layers of 14 MB run in 80 MiB, and don't fit them."""
    build("Llama", hidden_size=256, intermediate_size=4096, num_hidden_layers=12).save_pretrained(tmp_path)
    weights, ids = StreamedWeights.read(tmp_path), prompt(4)
    with torch.no_grad():
        expected = example.load_whole(tmp_path)(ids, use_cache=False).logits
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = example.read_status("VmSize") + 80 * 2**20
        assert weights.streamed > 1.5 * 80 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        try:
            logits = example.load_streamed(tmp_path)(ids, use_cache=False).logits
            with pytest.raises(Exception, match="(?i)memory"):
                example.load_whole(tmp_path)(ids, use_cache=False)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert torch.allclose(logits, expected, atol=1e-4)

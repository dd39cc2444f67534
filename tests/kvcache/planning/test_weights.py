"""Weights that are streamed layer by layer, against sums by hand."""

import json
import math

import numpy as np
import pytest
from command import run
from safetensors.numpy import save_file

from tqvec.errors import InputError
from tqvec.kvcache import plan
from tqvec.kvcache.planning import StreamedWeights

GIB = 2**30


def save(path, shapes):
    save_file({name: np.zeros(shape, np.float16) for name, shape in shapes.items()}, path)


@pytest.fixture
def checkpoint(tmp_path):
    """Two layers of 2 · 30 and 2 · 50 bytes in two files, and 2 · 107 bytes that are in none."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    first = {"model.embed_tokens.weight": 100, "model.layers.0.mlp.experts.3.weight": (4, 5), "model.layers.1.a": 7}
    second = {"model.layers.0.a": 10, "model.layers.1.mlp.experts.0.weight": (43,), "model.norm.weight": 5}
    save(folder / "model-00001-of-00002.safetensors", first)
    save(folder / "model-00002-of-00002.safetensors", second | {"vision.blocks.0.weight": 2})
    save(folder / "consolidated.safetensors", {"layers.0.weight": 1000})  # the same weights in another form
    return folder


def test_a_checkpoint_is_read(checkpoint):
    found = StreamedWeights.read(checkpoint, 1000.0)
    assert found == (214 + 100, 60 + 100, 1000.0)
    assert found.seconds == 0.16
    assert StreamedWeights.parse(f"{checkpoint}:1kB/s") == found
    assert StreamedWeights.parse(str(checkpoint)) == found._replace(bandwidth=math.inf)
    one = checkpoint / "model-00001-of-00002.safetensors"
    assert StreamedWeights.read(one) == (200 + 40, 40 + 14, math.inf)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("2.5GB:14GB:3GB/s", StreamedWeights(2_500_000_000, 14_000_000_000, 3e9)),
        ("1GiB:2GiB", StreamedWeights(GIB, 2 * GIB)),
    ],
)
def test_sizes_are_read(text, weights):
    assert StreamedWeights.parse(text) == weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("14GB", "streamed weights must be sizes, or the path of a checkpoint; got '14GB'"),
        ("nowhere:3GB/s", "streamed weights must be sizes, or the path"),
        ("1GB:2GB:3GB", "streamed weights must be resident:streamed"),
        ("1GB:14G", "streamed weights must have a unit"),
        ("1:14GB", "resident weights must have a unit"),
        ("1GB:14GB:0GB/s", "bandwidth of streamed weights must be more than 0"),
        ("1GB:14GB:3/s", "bandwidth of streamed weights must have a unit"),
    ],
)
def test_faults_are_named(text, message):
    with pytest.raises(InputError, match=message):
        StreamedWeights.parse(text)


def test_files_with_a_fault_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for blob in (b"", b"no", b"\xff" * 100, b"\2" + bytes(7) + b"[]", b"\x0b" + bytes(7) + b'{"a": null}'):
        path.write_bytes(blob)
        with pytest.raises(InputError, match="no safetensors file, or damaged"):
            StreamedWeights.read(path)
    save(path, {"layers.0.weight": 10})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="no safetensors file, or damaged"):
        StreamedWeights.read(tmp_path)
    save(path, {"weight": 10})
    with pytest.raises(InputError, match="no tensor has the number of its layer"):
        StreamedWeights.read(path)
    path.unlink()
    with pytest.raises(InputError, match=r"the folder has no model\*\.safetensors"):
        StreamedWeights.read(tmp_path)


# Llama-3.1-8B in 16 bits: a layer has 4096 · (2 · 4096 + 2 · 1024 + 3 · 14336 + 2) weights, and embeddings and head
# have 128256 · 4096 each, and the last norm 4096. In all 16,060,522,496 bytes.
LAYER, REST = 436_224_000, 2_101_354_496


def test_a_plan_with_streamed_weights():
    weights = StreamedWeights(REST + LAYER, 32 * LAYER, 3e9)
    assert weights.streamed + REST == 16_060_522_496
    found = plan("llama-3.1-8b", memory="8GiB", policy="fp16", weights=weights)
    assert (found.weights, found.streamed) == (2_537_578_496, weights)
    assert found.max_tokens == (8 * GIB - 2_537_578_496) // 131_072
    assert found.streamed.seconds == pytest.approx(13_959_168_000 / 3e9)
    sentence = "weights: 2.363 GiB resident, 13 GiB streamed per token in 4.65 s, at 2.794 GiB/s"
    assert sentence in str(found).splitlines()
    assert sentence in str(plan("llama-3.1-8b", weights=weights, policy=["fp16", "turbo3"])).splitlines()
    assert str(weights._replace(bandwidth=math.inf)) == "2.363 GiB resident, 13 GiB streamed per token"
    assert plan("llama-3.1-8b", weights="4GiB").streamed is None
    with pytest.raises(InputError, match=r"memory of 2 GiB does not hold the weights of 2\.363 GiB"):
        plan("llama-3.1-8b", memory="2GiB", weights=weights)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((-1, 2), "resident weights must be an integer from 0"),
        ((1, 2.5), "streamed weights must be an integer, got 2.5"),
        ((1, 2, 0), "bandwidth of streamed weights must be more than 0 bytes per second, got 0"),
        ((1, 2, "3GB/s"), "bandwidth of streamed weights must be a number"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        plan("llama-3.1-8b", weights=StreamedWeights(*fields))


def test_the_command_plans_streamed_weights(checkpoint):
    arguments = ("kv", "plan", "--model", "llama-3.1-8b", "--memory", "1GiB")
    printed = run(*arguments, "--stream-weights", f"{checkpoint}:1kB/s").output
    assert "weights: 314 B resident, 160 B streamed per token in 160 ms, at 1,000 B/s" in printed
    document = json.loads(run(*arguments, "--stream-weights", "8MiB:2GiB", "--json").output)
    (found,) = document["plans"]
    assert found["weights"] == 2**23
    assert found["streamed"] == {"resident": 2**23, "streamed": 2**31, "bandwidth": None}
    with pytest.raises(InputError, match="leave --weights out"):
        run(*arguments, "--stream-weights", "8MiB:2GiB", "--weights", "1GiB")

"""``tqvec kv report``, run in this process on a part of the captured tensors that are kept here."""

import json

import captured_kv
import numpy as np
import pytest
from command import run

from tqvec.errors import InputError
from tqvec.kvcache import Rope
from tqvec.kvcache.quality import measure_report, read_layers

TOKENS = 100
REPORT = ("kv", "report", "--tensors", ".")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tqvec.kvcache.quality.distortion.SEEDS", 1)
    layers = captured_kv.load()[1:]
    for side, name in enumerate(("queries", "keys", "values")):
        arrays = [layer[side][:, -4:] if name == "queries" else layer[side][:, :TOKENS] for layer in layers]
        np.save(f"{name}_f16.npy", np.array(arrays, np.float16))
    (tmp_path / "manifest.json").write_text(json.dumps({"rope_theta": captured_kv.THETA}))
    return tmp_path


def test_the_report_has_all_sections():
    output = run(*REPORT, "--policy", "turbo3,prod3", "--tokens", "200,300").output
    lines = output.splitlines()
    assert lines[0] == ".: 2 layers, 2 KV heads × 64, 100 tokens; rotary embedding: Rope(theta=1000000.0)"
    titles = [
        "attention, every token coded",
        "geometric retrieval: % of needles found by cosine ρ with them",
        "distortion of vectors of length 1",
        "attention, beside published figures",
        "memory, beside published figures",
    ]
    assert [line for line in lines if line in titles] == titles
    assert len([line for line in lines if line.startswith("│ D_mse")]) == 8
    assert [line.split("│")[1].strip() for line in lines if "float32" in line] == ["200", "300"]
    (row,) = [line for line in lines if "vllm-k3v4_nc" in line]
    assert [cell.strip() for cell in row.split("│")[2:6]] == ["3.5 × [6]", "4.34 ×", "+0.8", "4.41 ×"]
    assert "[6] vLLM, vllm/model_executor/layers/quantization/turboquant/config.py" in lines


def test_the_report_is_one_document():
    result = run(
        "kv", "report", "--tensors", ".", "--policy", "turbo3", "--policy", "k4v3", "--tokens", "200", "--json"
    )
    found = json.loads(result.output)
    assert (found["command"], found["tensors"], found["shape"]) == ("kv report", ".", [2, 2, TOKENS, 64])
    policies = ["turbo3", "k4v3"]
    expected = measure_report(read_layers("."), policies=policies, rope=Rope(captured_kv.THETA), tokens=[200])
    assert [row["policy"] for row in found["attention"]] == policies
    assert found["attention"][0]["fidelity"] == expected.attention[0].fidelity.to_dict()
    assert found["retrieval"][0]["curves"][1]["shift"] == expected.retrieval[0].curves[1].shift
    assert found["distortions"][0]["published"]["text"] == "0.36"
    assert found["comparisons"][0]["reproduced"] == expected.comparisons[0].reproduced


def test_the_base_of_the_embedding_can_be_given():
    output = run(
        "kv", "report", "--tensors", ".", "--policy", "turbo4", "--tokens", "200", "--rope-theta", "5e5"
    ).output
    assert "rotary embedding: Rope(theta=500000.0)" in output
    assert "the published method" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--tensors is missing: a folder with queries_f16.npy"),
        (("--tensors", "none.safetensors"), "none.safetensors: can't be read as safetensors"),
        (("--tensors", ".", "--policy", "exact"), "policy must be one of"),
        (("--tensors", ".", "--tokens", "many"), "tokens must be a"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        run("kv", "report", *arguments)

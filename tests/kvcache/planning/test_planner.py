"""The planner against known figures, real caches, and sums by hand."""

import contextlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from tqvec.cli import app as application
from tqvec.errors import InputError, TqvecError
from tqvec.kvcache import PRESETS, KVCache, Nbytes, Policy, Rope, plan
from tqvec.kvcache.planning import FORMATS, LayerKind, Model, list_models
from tqvec.kvcache.planning.formats import Coding, Format
from tqvec.kvcache.planning.planner import SequenceBytes, group_layers
from tqvec.kvcache.planning.units import format_bytes, parse_bytes, parse_tokens

GIB = 2**30


def pair_bytes(name, head_dim):
    """Bytes of one key and one value."""
    return FORMATS[name].nbytes(1, head_dim, 1)


@pytest.mark.parametrize(
    ("name", "head_dim", "size", "times"),
    [
        ("turbo2@32", 128, 2 * 128 * 2.5 / 8, 6.4),
        ("turbo3@32", 128, 2 * 128 * 3.5 / 8, 4.57),
        ("turbo4@128", 128, 2 * 128 * 4.25 / 8, 3.76),
        ("turbo2@128", 128, 2 * 128 * 2.125 / 8, 7.53),
        ("turbo3@128", 128, 2 * 128 * 3.125 / 8, 5.12),
        ("prod3", 128, (416 + 400) / 8, 5.02),
        ("prod3", 256, (800 + 784) / 8, 5.17),
        ("prod2", 128, 560 / 8, 7.31),
        ("prod4", 128, 1072 / 8, 3.82),
        ("split2.5", 128, 2 * (320 + 48) / 8, 5.57),
        ("split3.5", 128, 2 * (448 + 48) / 8, 4.13),
        ("vllm-k8v4", 128, 196, 2.61),
        ("vllm-4bit_nc", 128, 134, 3.82),
        ("vllm-k3v4_nc", 128, 118, 4.34),
        ("vllm-3bit_nc", 128, 102, 5.02),
        ("norm3", 256, 2 * (96 + 2), 5.22),
        ("fp16", 128, 512, 1),
        ("fp8", 128, 256, 2),
    ],
)
def test_formats(name, head_dim, size, times):
    assert pair_bytes(name, head_dim) == size
    assert 4 * head_dim / size == pytest.approx(times, abs=0.005)


def test_a_block_is_whole():
    assert pair_bytes("turbo3@128", 64) == pair_bytes("turbo3@128", 128)
    assert Coding(3, 16, 32).row_bytes(100) == (4 * 12, 4 * 2)
    assert Coding(2.5).row_bytes(3) == (1, 0)


def test_pages_are_whole():
    two = Format(Coding(8), Coding(8), "")
    size = two.nbytes(1, 64, 17, page=16)
    assert (size, size.bookkeeping) == (32 * 128, 15 * 128)
    assert plan("llama-3.1-8b", policy="fp16", context=1, page=16).total == 16 * 131072


@pytest.mark.parametrize(
    ("model", "policy", "context", "gib"),
    [
        ("qwen2.5-14b", "fp16", "32k", 6.0),
        ("qwen2.5-14b", "prod3", "32k", 1.195),
        ("qwen2.5-3b", "fp16", "1M", 36.0),
        ("qwen2.5-3b", "prod2", "1M", 4.92),
        ("gemma-3-12b", "fp16", "128k", 8.3125),
    ],
)
def test_published_sizes(model, policy, context, gib):
    assert plan(model, policy=policy, context=context).total / GIB == pytest.approx(gib, abs=0.005)


def test_a_hybrid_and_a_full_reservation():
    for policy, gib in (("fp16", 16.0), ("prod3", 3.1)):
        assert plan("qwen3.5-27b", policy=policy).nbytes / GIB == pytest.approx(gib, abs=0.01)
    assert plan("gemma-3-12b", policy="fp16", windows="full").total == 48 * GIB


@pytest.mark.parametrize(
    ("model", "fp16", "norm3"),
    [
        ("llama-3.1-8b", 65, 335),
        ("llama-3.1-70b", 26, 134),
        ("qwen2.5-7b", 150, 767),
        ("qwen3-32b", 33, 168),
        ("qwen3.5-27b", 131, 685),
    ],
)
def test_eight_gib_hold(model, fp16, norm3):
    states = sum(kind.state for kind in list_models()[model].layers)
    for policy, thousands in (("fp16", fp16), ("norm3", norm3)):
        found = plan(model, memory=8 * GIB + states, policy=policy)
        assert found.max_tokens == 8 * GIB // int(found.bytes_per_token)
        assert found.max_tokens / 1000 == pytest.approx(thousands, abs=0.6)  # some of these were cut, some rounded
        assert found.usable_tokens == min(found.max_tokens, found.model.context)


def test_more_than_128k_tokens_at_3_and_a_half_bits():
    for policy in (Policy(3.5, 3.5), "turbo3", "turbo3@32"):
        assert plan("llama-3.1-8b", memory="8GiB", policy=policy).max_tokens > 128 * 1024


POLICIES = {
    "turbo3": PRESETS["turbo3"],
    "small": PRESETS["small"],
    "layer_adaptive": replace(PRESETS["layer_adaptive"], protected=1),
    "exact": PRESETS["exact"],
    "layers": Policy(key_nbits=[8, 4, (3, 2), 4], value_nbits=2.5, recent=30, sinks=2, chunk=7, mean_tokens=50),
    "recoded": Policy(
        4, 4, recent=16, chunk=8, mean_tokens=0, recode_after=100, recoded_key_nbits=2, recoded_value_nbits=2
    ),
    "dropping": Policy(3, 2, recent=20, chunk=10, mean_tokens=32, max_tokens=150),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_plan_is_what_a_cache_takes(name):
    model = Model("four", 1000, (LayerKind("full", 2, 24),) * 4, "")
    cache = KVCache(4, 2, 24, POLICIES[name], rope=[Rope(), None, Rope(dim=12), Rope()])
    rng = np.random.default_rng(10_300)
    for step in (1, 40, 23, 1, 200, 135):
        x = rng.standard_normal((2, step, 24)).astype(np.float32)
        for layer in range(4):
            cache.append(layer, x, x)
        n = sum((1, 40, 23, 1, 200, 135)[: (1, 41, 64, 65, 265, 400).index(cache_total(cache)) + 1])
        found = plan(model, policy=POLICIES[name], context=n)
        assert found.nbytes.items() == cache.nbytes.items()


def cache_total(cache):
    """Tokens appended, dropped ones included."""
    return sum(cache.token_counts(0))


@pytest.mark.parametrize(
    "policy",
    [
        Policy(3, 3, recent=20, chunk=10, mean_tokens=32),
        Policy(4, 4, recent=10, chunk=5, mean_tokens=20, recode_after=20, recoded_key_nbits=2, recoded_value_nbits=2),
        Policy(3, 3, recent=20, chunk=10, mean_tokens=32, max_tokens=400),
    ],
)
def test_a_ring_is_a_cache_that_drops(policy):
    kinds = (LayerKind("sliding", 2, 24, 60), LayerKind("full", 2, 24), LayerKind("linear", 0, 0, state=1000))
    found = plan(Model("ring", 1000, kinds, ""), policy=policy, context=300)
    x = np.random.default_rng(10_301).standard_normal((2, 300, 24)).astype(np.float32)
    full, ring = KVCache(1, 2, 24, policy), KVCache(1, 2, 24, replace(policy, sinks=0, max_tokens=60))
    for t in range(300):
        for cache in (full, ring):
            cache.append(0, x[:, t : t + 1], x[:, t : t + 1])
    assert [part.nbytes.items() for part in found.parts[:2]] == [ring.nbytes.items(), full.nbytes.items()]
    assert [part.tokens for part in found.parts] == [60, 300, 0]
    assert found.total == ring.nbytes + full.nbytes + 1000


@pytest.mark.parametrize("policy", [PRESETS["turbo3"], PRESETS["exact"]])
def test_a_window_of_which_no_token_would_be_coded_is_held_in_16_bits(policy):
    """Of 128 tokens turbo3 keeps all in 16 bits; the smallest cache that codes some holds 192."""
    model = Model("windows", 1000, (LayerKind("sliding", 2, 24, 128),) * 3, "")
    for n, kept in ((100, 100), (300, 128)):
        (part,) = plan(model, policy=policy, context=n).parts
        assert (part.tokens, part.widths) == (kept, "")
        assert part.nbytes.items() == {**Nbytes().items(), "uncoded": 3 * kept * 2 * 2 * 24 * 2}
    assert plan(model, policy=policy, memory="1MiB").max_tokens is None
    wide = Model("wide", 1000, (LayerKind("sliding", 2, 24, 192),), "")
    assert [part.widths for part in plan(wide, policy="turbo3").parts] == ["K3 V3"]


WINDOWED = Model("mixed", 1000, (LayerKind("sliding", 1, 8, 300), LayerKind("full", 1, 8)), "")
GROWTHS = {
    "turbo3": (WINDOWED, PRESETS["turbo3"]),
    "odd chunks": (WINDOWED, Policy(2, 2, recent=40, chunk=96, mean_tokens=500, sinks=3)),
    "recoded": (
        Model("m", 1, (LayerKind("full", 1, 8),), ""),
        Policy(4, 4, recent=16, chunk=128, recode_after=500, recoded_key_nbits=2, recoded_value_nbits=2),
    ),
    "one full layer": (Model("m", 1, (LayerKind("full", 1, 8),), ""), Policy(1, 1, recent=8, chunk=600)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GROWTHS)
def test_the_longest_sequence_fits_at_every_moment(name):
    model, policy = GROWTHS[name]
    sizes = SequenceBytes(group_layers(model, policy, True, 1))
    most = np.maximum.accumulate([sizes(n) for n in range(20_000)])
    assert [sizes.peak(n) for n in range(1, 20_000, 2017)] == [most[n] for n in range(1, 20_000, 2017)]
    for memory in np.random.default_rng(10_302).integers(most[1], most[-1], 4):
        assert sizes.max_tokens(int(memory)) == np.searchsorted(most, memory, side="right") - 1
    assert most[-1] > most[10_000] > most[0]


def test_what_does_not_grow_fits_for_ever():
    model = Model("ring", 1000, (LayerKind("sliding", 1, 8, 300),), "")
    assert plan(model, memory="1MiB").max_tokens is None
    assert plan(model, memory="1MiB").bytes_per_token == 0
    assert "hold a sequence of any length" in str(plan(model, memory="1MiB"))
    assert plan(model, memory="1B").max_tokens == 0


def test_rates_and_sequences():
    assert plan("llama-3.1-8b").bytes_per_token == 25600
    assert plan("llama-3.1-8b", policy="exact").bytes_per_token == 131072
    assert plan("gemma-3-12b", policy="fp16").bytes_per_token == 65536
    found = plan("llama-3.1-8b", memory="20GiB", policy="fp16", context="32k", weights="4GiB")
    assert (found.sequences, found.max_tokens) == (4, 131072)
    assert (plan("llama-3.1-8b", memory="8GiB").sequences, plan("llama-3.1-8b").sequences) == (2, None)


def test_layers_that_differ_have_a_row_each():
    policy = Policy(4, 4, protected=2, protected_nbits=5)
    parts = plan("llama-3.1-8b", policy=policy).parts
    assert Counter({part.widths: part.layers for part in parts}) == {"K5 V5": 4, "K4 V4": 28}
    assert sum(part.nbytes for part in parts) == plan("llama-3.1-8b", policy=policy).total


@pytest.mark.parametrize(
    ("size", "count"),
    [("8GiB", 8 * 2**30), ("8 GB", 8 * 10**9), ("1.5MiB", 3 * 2**19), ("0.5kB", 500), ("1_000B", 1000), (77, 77)],
)
def test_sizes(size, count):
    assert parse_bytes(size, "memory") == count


@pytest.mark.parametrize("size", ["8", "8G", "8gib", "GiB", "-1GiB", "1e3B", "", -1, 2.5, None, True, "٣GiB"])
def test_sizes_that_could_mean_two_things_are_refused(size):
    with pytest.raises(InputError, match="memory must"):
        parse_bytes(size, "memory")


def test_tokens():
    assert [parse_tokens(n, "context") for n in ("128k", "1M", "131072", "0.5K", 5)] == [131072, 2**20, 131072, 512, 5]
    for bad in ("0", "1.5", "128kB", "k", 0, 1.5):
        with pytest.raises(InputError, match="context must be a"):
            parse_tokens(bad, "context")


def test_sizes_are_shown_with_their_unit():
    assert [format_bytes(n) for n in (0, 1023, 1024, 8 * 2**30, 1.195 * 2**30)] == [
        "0 B",
        "1,023 B",
        "1 KiB",
        "8 GiB",
        "1.195 GiB",
    ]


def run(*arguments):
    return CliRunner().invoke(application.app, ["kv", "plan", *arguments], env={"COLUMNS": "160"})


def test_the_command_prints_the_plan():
    result = run("--model", "llama-3.1-8b", "--memory", "8GiB", "--policy", "turbo3", "--context", "128k")
    assert result.exit_code == 0
    assert result.output.strip() == str(plan("llama-3.1-8b", memory="8GiB", context="128k")).strip()
    assert "8 GiB hold 334,531 tokens of one sequence" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "gpt-5"), "model must be one of"),
        (("--model", "phi-4", "--memory", "8"), "memory must have a unit"),
        (("--model", "phi-4", "--memory", "4GiB", "--weights", "4.5GiB"), "memory of 4 GiB does not hold the weights"),
        (("--model", "phi-4", "--policy", "turbo9"), "policy must be one of 'exact'"),
        (("--model", "phi-4", "--windows", "square"), "windows must be one of"),
        (("--model", "phi-4", "--page", "0"), "page must be an integer from 1"),
    ],
)
def test_bad_input_is_named(options, message):
    result = run(*options)
    assert isinstance(result.exception, TqvecError)
    with pytest.raises(InputError, match=message), contextlib.suppress(SystemExit):
        raise result.exception

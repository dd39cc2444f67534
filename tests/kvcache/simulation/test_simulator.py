"""The simulator against sums by hand, bounds that must hold, and a plain simulation of a single sequence."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tqvec.cli import app as application
from tqvec.errors import InputError
from tqvec.kvcache import Policy, plan
from tqvec.kvcache.planning import LayerKind, Model, StreamedWeights
from tqvec.kvcache.planning.planner import SequenceBytes, group_layers
from tqvec.kvcache.quality.captured import measure_loss, read_layers, synthesize_layer
from tqvec.kvcache.simulation.memory_tiers import GONE, BlockSequence, BlockStore, MemoryTier
from tqvec.kvcache.simulation.report import COLUMNS, format_reports
from tqvec.kvcache.simulation.simulator import Server, simulate
from tqvec.kvcache.simulation.timing import Clock, Rates, measure_rates
from tqvec.kvcache.simulation.traces import Request, generate_requests

MODEL = Model("two", 10**6, (LayerKind("full", 2, 32, heads=4),) * 2, "")
POLICY = Policy(3, 3, recent=64, chunk=64)
RATES = Rates(attend=1e-3, attend_token=1e-6, append=1e-4, encode=1e-5, pair=1e-8)
TENSORS = [synthesize_layer(32, 400, 2, 8)]


def clock(model=MODEL, policy=POLICY):
    return Clock(group_layers(model, policy), {(2, 32, 4): RATES})


def run(requests, *tiers, model=MODEL, policy=POLICY, **options):
    server = Server([MemoryTier(*tier) for tier in tiers], **options)
    return simulate(requests, model, policy, server, clock=clock(model, policy), tensors=TENSORS)


BIG = ("memory", 2**40)


def size_of(blocks, policy=POLICY):
    """Bytes of a sequence of so many blocks."""
    return plan(MODEL, policy=policy, context=256 * blocks).total


def test_the_time_of_one_sequence_by_hand():
    report = run([Request(5.0, "a", 300, 100), Request(5.1, "a", 50, 10)], BIG, prefill=1000)
    pairs = 300 * 301 / 2 + 50 * 400 + 50 * 51 / 2
    prompt = 2 * (350 * RATES.encode + pairs * RATES.pair) + 350 / 1000
    steps = [2 * (1e-3 + 1e-4 + 1e-6 * n) for n in (*range(301, 401), *range(451, 461))]
    assert report.seconds["prompt"] == pytest.approx(prompt)
    assert report.seconds["decode"] == pytest.approx(sum(steps))
    assert report.token["mean"] == pytest.approx(np.mean(steps))
    assert report.waiting["p99"] == pytest.approx(
        5 + 0.3 + sum(steps[:100]) + 2 * 300 * 1e-5 + 2 * 300 * 301 / 2e8 - 5.1
    )
    assert (report.requests, report.tokens, report.context, report.hits) == (2, 460, 512, 512)
    assert (report.hit_rate, report.attended) == (1.0, 1.0)
    assert report.peak["memory"] == size_of(2)
    assert report.steps[0][0] == pytest.approx(400, abs=60)


def test_streamed_weights_are_read_once_per_prompt_and_token():
    """2 GB at 8 GB/s take a quarter of a second; the last request has no token to compute before its answer."""
    requests = [
        Request(0.0, "a", 300, 100),
        Request(0.0, "b", 0, 10, prefix="p", prefix_tokens=300),
        Request(90.0, "a", 0, 7),
    ]
    weights = StreamedWeights(10**8, 2 * 10**9, 8e9)
    streamed, resident = run(requests, BIG, weights=weights), run(requests, BIG)
    assert streamed.seconds["weights"] == (1 + 100 + 1 + 10 + 7) / 4
    assert resident.seconds["weights"] == 0
    others = {name: seconds for name, seconds in resident.seconds.items() if name != "weights"}
    assert {name: streamed.seconds[name] for name in others} == pytest.approx(others)
    assert streamed.token["mean"] == pytest.approx(resident.token["mean"] + 0.25)
    assert streamed.first_token["mean"] == pytest.approx(resident.first_token["mean"] + 2 / 3 * 0.25)
    assert streamed.peak == resident.peak


def test_what_a_tier_does_not_hold_moves_to_the_next_and_back():
    requests = [Request(float(i), name, 500, 12) for i, name in enumerate("abab")]
    report = run(requests, ("memory", size_of(4) + 10), ("disk", 2**40, 1e9, 0.01))
    # each has 2 blocks, then 4: when "a" comes again it needs two more, and gets them from "b", and so on
    two, more = size_of(2), size_of(4) - size_of(2)
    assert report.context == 1024
    assert report.moved["disk"]["down"] >= two > 0 == report.moved["disk"]["read"]
    assert report.moved["disk"]["up"] > 0
    assert report.peak["memory"] <= size_of(4) + 10
    assert report.loaded == 1024 - report.hits > 0
    moved = report.moved["disk"]
    blocks = (report.seconds["moving"] - (moved["down"] + moved["up"]) / 1e9) / 0.01
    assert blocks == pytest.approx(round(blocks), abs=1e-6)
    assert more > 0


def test_what_is_nowhere_is_computed_again():
    requests = [Request(float(i), name, 500, 12) for i, name in enumerate("aba")]
    report = run(requests, ("memory", size_of(4) + 10), prefill=100)
    assert report.recomputed > 0
    assert report.hits + report.recomputed + report.loaded == report.context
    assert report.seconds["again"] > report.recomputed / 100
    assert report.attended == 1.0


def test_a_sequence_larger_than_the_memory_is_read_for_each_token():
    request = [Request(0.0, "a", 256 * 10, 256)]
    part = size_of(6)
    report = run(request, ("memory", part), ("disk", 2**40, 1e9, 0.001))
    assert report.attended == 1.0
    rest = sum(report.peak.values()) - report.peak["memory"]
    assert report.peak["disk"] == rest >= size_of(11) - part
    assert report.moved["disk"]["read"] == 256 * report.peak["disk"]
    assert report.seconds["reading"] == pytest.approx(256 * (report.peak["disk"] / 1e9 + 0.001))
    alone = run(request, ("memory", part))
    assert alone.seconds["reading"] == 0
    assert 0.4 < alone.attended < 0.6
    assert alone.loss.mean > 2 * report.loss.mean


def test_a_window_keeps_the_newest():
    request = [Request(0.0, "a", 256 * 20, 256)]
    report = run(request, BIG, eviction="window", window=1024)
    assert report.attended == pytest.approx((5248.5 - 15 * 256) / 5248.5)  # all but blocks 1 to 15
    assert report.seconds["decode"] < run(request, BIG).seconds["decode"]


def test_a_prefix_is_held_once():
    apart = [Request(float(i), str(i), 1024 + 100, 100) for i in range(5)]
    shared = [Request(float(i), str(i), 100, 100, "p", 1024) for i in range(5)]
    one, many = run(shared, BIG), run(apart, BIG)
    assert one.tokens == 1024 + 5 * 200
    assert one.peak["memory"] < 0.6 * many.peak["memory"]
    assert one.seconds["prompt"] < 0.5 * many.seconds["prompt"]
    assert one.context == one.hits == 4 * 1024
    small = [r._replace(prefix_tokens=100) for r in shared]  # less than a block: nothing to share
    assert run(small, BIG).tokens == 5 * 200
    assert run(small, BIG).context == 0


@pytest.mark.parametrize("workload", ["chat", "shared"])
def test_belady_finds_most(workload):
    requests = generate_requests(workload, 60_000, seed=10_410)
    found = {}
    for eviction in ("oldest", "lru", "belady"):
        report = run(requests, ("memory", size_of(80)), ("disk", size_of(4000)), eviction=eviction)
        assert report.hits + report.loaded + report.recomputed == report.context
        assert report.peak["memory"] <= size_of(80)
        found[eviction] = report.hit_rate
    assert found["belady"] > max(found["oldest"], found["lru"])
    assert found["belady"] < 1


def test_more_memory_and_fewer_bits_find_more():
    requests = generate_requests("chat", 40_000, seed=10_411)

    def rate(blocks, policy=POLICY):
        return run(requests, ("memory", size_of(blocks)), ("disk", 2**40), policy=policy).hit_rate

    assert rate(20) < rate(60) < rate(10_000) == 1
    assert rate(60, replace(POLICY, key_nbits=8, value_nbits=8)) < rate(60)


def test_blocks_add_up_to_the_bytes_of_a_plan():
    for n in (1, 255, 256, 257, 5000):
        report = run([Request(0.0, "a", n, 0)], BIG)
        assert report.peak["memory"] == size_of(math.ceil(n / 256))


def test_windows_and_states_count():
    kinds = (
        LayerKind("sliding", 2, 32, 512, heads=4),
        LayerKind("linear", 0, 0, state=9999),
        LayerKind("full", 2, 32, heads=4),
    )
    model = Model("mixed", 10**6, kinds, "")
    report = run([Request(0.0, "a", 2560, 0), Request(1.0, "a", 0, 1)], BIG, model=model)
    most = max(SequenceBytes(group_layers(model, POLICY))(256 * n) for n in (10, 11))
    assert report.peak["memory"] == pytest.approx(most, rel=0.05)
    assert report.seconds["decode"] == pytest.approx(2 * (1e-3 + 1e-4) + 1e-6 * (512 + 2561))


def test_a_store_never_holds_more_than_fits():
    """Random use against a plain record of where blocks are."""
    rng = np.random.default_rng(10_412)
    for eviction in ("oldest", "lru", "belady"):
        store = BlockStore([MemoryTier("a", 1000), MemoryTier("b", 700), MemoryTier("c", 300)], eviction)
        rows = [BlockSequence() for _ in range(6)]
        for step in range(400):
            row = rows[rng.integers(6)]
            store.running = [row]
            for block in np.flatnonzero(row.where != 0):
                store.bring(row, int(block))
            if rng.random() < 0.5:
                store.new_block(row, int(rng.integers(10, 120)))
            row.last, row.next = step, float(rng.integers(step, 500))
            store.running = []
            store.idle(row)
            used = [sum(int(r.size[r.where == tier].sum()) for r in rows) for tier in range(3)]
            assert used == store.used
            assert all(size <= tier.capacity for size, tier in zip(used, store.tiers, strict=True))
        assert any((r.where == GONE).any() for r in rows)
        assert store.peak[0] > 900


def test_time_grows_with_tokens_alone(monkeypatch):
    """Four times the tokens: about four times the blocks that are looked at."""
    looks = []
    inside = BlockSequence.blocks_in
    monkeypatch.setattr(BlockSequence, "blocks_in", lambda self, tier: looks.append(len(self)) or inside(self, tier))
    work = []
    for tokens in (150_000, 600_000):
        looks.clear()
        run(generate_requests("chat", tokens, seed=10_413), ("memory", size_of(60)), ("disk", size_of(200)))
        work.append(sum(looks))
    assert 3 * work[0] < work[1] < 5 * work[0]


def test_losses_grow_with_fewer_bits_and_fewer_tokens():
    exact, eight, four, two = (
        measure_loss(TENSORS, policy) for policy in (Policy(recent=None), Policy(8, 8), Policy(4, 4), Policy(2, 2))
    )
    assert exact.mean < 1e-3 < eight.mean < four.mean < two.mean
    assert four.mean <= four.p99
    assert four.mean <= four.worst_head
    half, tenth = (measure_loss(TENSORS, Policy(recent=None), kept=kept).mean for kept in (0.5, 0.1))
    assert exact.mean < half < tenth


def test_made_keys_have_the_constant_part_that_real_ones_have():
    k = synthesize_layer(128).k
    means = (k / np.linalg.norm(k, axis=2, keepdims=True)).mean(axis=1)
    assert np.linalg.norm(means, axis=1) == pytest.approx(0.74, abs=0.04)
    assert (
        measure_loss([synthesize_layer(128)], Policy(3, 3)).mean
        < measure_loss([synthesize_layer(128)], Policy(3, 3, mean_tokens=0)).mean
    )


def test_captured_tensors(tmp_path):
    path = tmp_path / "captured.safetensors"
    tensors = {f"layer.{i}.{side}": x for i in (0, 3) for side, x in zip("qkv", TENSORS[0], strict=True)}
    save_file(tensors | {"other": np.zeros(3)}, path)
    layers = read_layers(path)
    assert len(layers) == 2
    assert measure_loss(layers, POLICY).mean == pytest.approx(measure_loss(TENSORS, POLICY).mean)
    save_file({name: x for name, x in tensors.items() if name != "layer.3.v"}, path)
    with pytest.raises(InputError, match=r"layer\.3\.v is missing"):
        read_layers(path)
    save_file(tensors | {"layer.0.q": TENSORS[0].q[:, :, :5].copy()}, path)
    with pytest.raises(InputError, match=r"layer\.0\.q: q, k and v must be"):
        read_layers(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(InputError, match="holds no tensors named"):
        read_layers(path)
    path.write_bytes(b"no")
    with pytest.raises(InputError, match="can't be read"):
        read_layers(path)


def test_calibration_measures_this_machine():
    kind = LayerKind("full", 2, 32, heads=4)
    found = measure_rates(kind, POLICY, threads=1, lengths=(256, 512, 1024))
    assert min(found[:5]) >= 0
    assert found.attend_token + found.attend_beyond >= 0
    assert min(found.append, found.encode, found.pair) > 0
    assert found.attend + 1024 * found.attend_token + 512 * found.attend_beyond > 0


def test_attention_may_bend():
    bent = Clock(group_layers(MODEL, POLICY), {(2, 32, 4): RATES._replace(bend=1000, attend_beyond=2e-6)})
    plain = clock().decode_time(np.array([500, 1000, 1500]))
    assert bent.decode_time(np.array([500, 1000, 1500])) - plain == pytest.approx([0, 0, 2 * 500 * 2e-6])


def test_a_report_prints_and_is_json():
    report = run([Request(0.0, "a", 300, 20)], BIG, ("disk", 2**40, 1e9, 0.0))
    found = json.loads(report.to_json())
    assert (found["tokens"], found["hit_rate"], found["moved"]) == (320, 1.0, {"disk": {"down": 0, "up": 0, "read": 0}})
    assert found["loss"] == report.loss._asdict()
    table = format_reports([report, report]).splitlines()
    assert len(table) == 3
    assert f"{report.loss.mean:.3f}" in table[1]


@pytest.mark.parametrize(
    ("text", "tier"),
    [
        ("memory:8GiB", MemoryTier("memory", 2**33)),
        ("disk:1GB:2GB/s", MemoryTier("disk", 10**9, 2e9)),
        ("disk:1GB:2GB/s:100us", MemoryTier("disk", 10**9, 2e9, 1e-4)),
        ("disk:1GB:2GB/s:1.5ms", MemoryTier("disk", 10**9, 2e9, 1.5e-3)),
    ],
)
def test_tiers_are_read(text, tier):
    assert MemoryTier.parse(text) == pytest.approx(tier) if text.endswith("us") else MemoryTier.parse(text) == tier


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory", "tier must be name:capacity"),
        (":8GiB", "tier must be name:capacity"),
        ("a:8GiB:2GB", "tier must be name:capacity"),
        ("a:8G", "capacity of tier 'a' must have a unit"),
        ("a:8GiB:2/s", "bandwidth of tier 'a' must have a unit"),
        ("a:8GiB:0GB/s", "bandwidth of tier 'a' must be more than 0"),
        ("a:8GiB:1GB/s:5", "latency of tier 'a' must be a number with s, ms or us"),
    ],
)
def test_tiers_with_a_fault_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        MemoryTier.parse(text)


def test_bad_input_is_named():
    one = [Request(0.0, "a", 1, 1)]
    for options, message in (
        ({"eviction": "random"}, "eviction must be one of"),
        ({"window": 0}, "window must be an integer from 1"),
        ({"prefill": 0}, "prefill must be more than 0"),
        ({"weights": "4GiB"}, "weights must be"),
        ({"weights": StreamedWeights(1, -1)}, "streamed weights must be an integer from 0"),
        ({"block": 100}, "block must be a multiple of the policy's chunk, 64; got 100"),
    ):
        with pytest.raises(InputError, match=message):
            run(one, BIG, **options)
    with pytest.raises(InputError, match="tiers must have at least one"):
        run(one)
    with pytest.raises(InputError, match=r"requests\[1\] comes before"):
        run([Request(1.0, "a", 1, 1), Request(0.0, "a", 1, 1)], BIG)
    with pytest.raises(InputError, match="model must be one of"):
        simulate(one, "gpt-5", "turbo3", Server([MemoryTier(*BIG)]))
    with pytest.raises(InputError, match="policy must be one of"):
        simulate(one, MODEL, "fp16", Server([MemoryTier(*BIG)]))
    with pytest.raises(InputError, match="has no layer with keys and values"):
        simulate(one, Model("none", 1, (LayerKind("linear", 0, 0, state=1),), ""), "turbo3", Server([MemoryTier(*BIG)]))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("tqvec.kvcache.simulation.timing.measure_rates", lambda *_, **__: RATES)


def command(*arguments):
    result = CliRunner().invoke(application.app, ["kv", "simulate", *map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.usefixtures("quick")
def test_the_command(tmp_path):
    pytest.importorskip("matplotlib")
    result = command(
        *("--model", "llama-3.2-1b", "--tier", "memory:1GiB", "--tier", "disk:10GiB:2GB/s", "--trace", "chat:20k"),
        *("--policy", "turbo4", "--policy", "turbo3", "--eviction", "window:2k"),
        *("-o", tmp_path / "r.json", "-o", tmp_path / "r.svg"),
    )
    lines = (tmp_path / "r.json").read_text().splitlines()
    assert [json.loads(line)["policy"] for line in lines] == ["turbo4", "turbo3"]
    assert (tmp_path / "r.svg").read_text().startswith("<?xml")
    assert "turbo3" in result.output
    assert all(f"\n{name.ljust(15)}  {text}\n" in result.output for name, text in list(COLUMNS.items())[1:])
    arguments = ("--model", "llama-3.2-1b", "--tier", "memory:1GiB", "--trace", "chat:5k", "--policy", "turbo4,turbo3")
    found = json.loads(command(*arguments, "--json").stdout)
    assert [report["policy"] for report in found["reports"]] == ["turbo4", "turbo3"]
    (plain, _), (streamed, _) = (
        json.loads(command(*arguments, *more, "--json").stdout)["reports"]
        for more in ((), ("--stream-weights", "1MB:2GB:4GB/s"))
    )
    extra = streamed["token"]["mean"] - plain["token"]["mean"]
    assert extra == pytest.approx(0.5)
    (tmp_path / "t.jsonl").write_text('{"time": 0, "session": "a", "prompt": 10, "output": 5}\n{"time": -1}\n')
    with pytest.raises(InputError, match=r"t\.jsonl, line 2: lacks the field 'session'"):
        command("--model", "phi-4", "--tier", "memory:1GiB", "--trace", tmp_path / "t.jsonl")
    with pytest.raises(InputError, match="trace must be a file, or one of chat, documents, shared"):
        command("--model", "phi-4", "--tier", "memory:1GiB", "--trace", "tea")
    with pytest.raises(InputError, match=r"must be \.json"):
        command("--model", "phi-4", "--tier", "memory:1GiB", "-o", "r.txt")

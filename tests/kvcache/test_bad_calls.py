"""Wrong arguments of functions and hand-made records around the cache: an `InputError` that names them."""

import numpy as np
import pytest
import strategies as sts

from tqvec.errors import InputError
from tqvec.kvcache import Bands, Policy, bits_per_value, nbytes, plan, simulate
from tqvec.kvcache.planning import LayerKind, Model, find_model, format_bytes, format_seconds, parse_config
from tqvec.kvcache.quality import CapturedLayer, allocate, measure_loss, output_errors, synthesize_layer
from tqvec.kvcache.simulation import (
    Clock,
    MemoryTier,
    Request,
    Server,
    Workload,
    format_reports,
    generate_requests,
    plot_reports,
    read_trace,
    write_trace,
)

LAYER = LayerKind("full", 2, 16, heads=4)
MODEL = Model("mine", 1000, (LAYER,) * 2)
X = sts.normal(2 * 40, 16, 8_300).reshape(2, 40, 16)
REQUEST = Request(0.0, "a", 1, 1)
TIER = MemoryTier("memory", 2**30)
CHAT = Workload(turns=1, first=1, prompt=1, output=1, think_time=1.0, concurrency=1)


def simulated(requests=(REQUEST,), model=MODEL, policy="exact", server=None, **options):
    return simulate(requests, model, policy, server or Server([TIER]), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Policy().layers("2", 1), "n_layers must be an integer, got '2'"),
        (lambda: Policy().layers(2**31, 1), "n_layers must be an integer from 1 to 1024"),
        (lambda: Policy().layers(2, 0.5), "n_kv_heads must be an integer"),
        (lambda: Bands(3), "bands must be a list, got 3"),
        (lambda: Bands([]), "bands must have 1 to 8 bands"),
        (lambda: Bands([(8, 9)]), r"width of bands\[0\] must be an integer from 1 to 8"),
        (lambda: Bands([8, 2]), r"bands\[0\] must be a pair"),
        (lambda: nbytes("exact", 1, 1, 16, 1), "policy must be a Policy, got str"),
        (lambda: nbytes(Policy(), 1, 1, 16, -1), "n_tokens must be an integer from 0"),
        (lambda: bits_per_value(Policy(recent=None, sinks=0), 1, 1, "x"), "head_dim must be an integer"),
        (lambda: format_bytes("8GiB"), "size must be a number"),
        (lambda: format_seconds(None), "time must be a number, got None"),
    ],
)
def test_numbers(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("find", [find_model, plan, lambda model: simulated(model=model)])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "model must be a str or a path, got int"),
        (None, "model must be a str or a path"),
        ("\0", "model must be the name of a file"),
        ("é" * 300, "model must be one of"),
    ],
)
def test_no_model(find, model, message):
    with pytest.raises(InputError, match=message):
        find(model)


@pytest.mark.parametrize("take", [plan, lambda model: simulated(model=model)])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": 3}, "model.name must be a str, got int"),
        ({"context": "128k"}, "model.context must be an integer"),
        ({"layers": LAYER}, r"model.layers\[0\] must be a LayerKind, got str"),
        ({"layers": 2}, "model.layers must be a list, got 2"),
        ({"layers": (LAYER._replace(name=None),)}, r"model.layers\[0\].name must be a str"),
        ({"layers": (LAYER._replace(kv_heads=2.0),)}, r"model.layers\[0\].kv_heads must be an integer"),
        ({"layers": (LAYER, LAYER._replace(head_dim=0))}, r"model.layers\[1\]: kv_heads and head_dim must both be 0"),
        ({"layers": (LAYER._replace(heads=3),)}, "heads must be a multiple of kv_heads"),
        ({"layers": (LAYER._replace(window=0),)}, "window must be an integer from 1"),
        ({"layers": (LAYER._replace(state=-1),)}, "state must be an integer from 0"),
        ({"source": None}, "model.source must be a str, got None"),
    ],
)
def test_models_made_by_hand(take, fields, message):
    with pytest.raises(InputError, match=message):
        take(MODEL._replace(**fields))


def test_numbers_of_numpy_make_the_same_plan():
    numpy_layer = LayerKind("full", np.int16(2), np.uint8(16), heads=np.int8(4))
    assert plan(MODEL._replace(layers=[numpy_layer] * 2)).total == plan(MODEL).total


def test_configurations_and_policies():
    with pytest.raises(InputError, match=r"layer_types\[0\]: \['full'\] is not one of"):
        parse_config({"num_hidden_layers": 1, "layer_types": [["full"]]}, "x", "here")
    with pytest.raises(InputError, match="num_hidden_layers must be at most 1024"):
        parse_config({"num_hidden_layers": 2**31}, "x", "here")
    for policy in (3, None, b"exact", [["exact"]], (3,)):
        with pytest.raises(InputError, match="policy must be"):
            plan(MODEL, policy=policy)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: synthesize_layer(2.0), "head_dim must be an integer"),
        (lambda: synthesize_layer(16, 32), "n_queries must be an integer from 1 to 31, got 32"),
        (lambda: output_errors(X, 3, (X, X)), "true must be a list, got 3"),
        (lambda: output_errors(X, (X, X), (X,)), "other must be a pair, keys and values, got 1 arrays"),
        (lambda: output_errors(X, (X, X), (X, X.astype(str))), "other values must hold floating-point numbers"),
        (lambda: output_errors(X[:, :1], (X, X), (X, X), kept=[1.5]), "kept must be a list of positions"),
        (lambda: output_errors(X[:, :1], (X, X), (X, X), kept=[3, 2, 39]), "kept must rise"),
        (lambda: output_errors(X[:, :2], (X, X), (X, X), kept=[0, 39]), "positions of the queries, 38 to 39"),
        (lambda: allocate(3, 100), "captured must be a list, got 3"),
        (lambda: allocate([X], 100), r"captured\[0\] must be keys, values and queries, got 2 arrays"),
        (lambda: allocate([(X, X, X), (X[:1], X[:1], X)], 100), "captured must have layers of one shape"),
        (lambda: allocate([(X, X, X)], 100, widths=3), "widths must be a list, got 3"),
        (lambda: allocate([(X, X, X)], 100, policy="turbo3"), "policy must be a Policy, got str"),
        (lambda: measure_loss([X], Policy()), r"layers\[0\] must be a CapturedLayer"),
        (lambda: measure_loss([CapturedLayer(X, X, X)], Policy(), kept=2), "kept must be a share"),
    ],
)
def test_tensors(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulated([3]), r"requests\[0\] must be a Request, got int"),
        (lambda: simulated([REQUEST._replace(prompt="1")]), r"requests\[0\]: prompt must be an integer"),
        (lambda: simulated(server=TIER), "server must be a Server"),
        (lambda: simulated(policy=3), "policy must be a Policy or the name of one, got int"),
        (lambda: simulated(progress=3), "progress must be a function"),
        (lambda: simulated(tensors=[X]), r"tensors\[0\] must be a CapturedLayer"),
        (lambda: simulated(clock=3), "clock must be a Clock, got int"),
        (lambda: simulated(clock=Clock([], {})), r"clock has no rates of layers .* \(2, 16, 4\)"),
        (lambda: Server(3), "tiers must be a list"),
        (lambda: Server(["memory:1GiB"]), r"tiers\[0\] must be a MemoryTier, got str"),
        (lambda: Server([TIER._replace(capacity="1GiB")]), r"tiers\[0\].capacity must be an integer"),
        (lambda: Server([TIER._replace(bandwidth=0)]), r"tiers\[0\].bandwidth must be more than 0"),
        (lambda: Server([TIER._replace(latency=-1)]), r"tiers\[0\].latency must be 0 or more"),
        (lambda: Server([TIER, TIER]), r"tiers\[1\]: there is another tier with the name 'memory'"),
        (lambda: MemoryTier.parse(8), "tier must be a str, got int"),
        (lambda: generate_requests(3, 1), "workload must be a Workload, got int"),
        (lambda: generate_requests(CHAT._replace(turns=0), 1), "workload.turns must be an integer from 1"),
        (lambda: generate_requests(CHAT._replace(think_time=-1), 1), "workload.think_time must be 0 or more"),
        (lambda: generate_requests(CHAT._replace(prefixes=1), 1), "workload.prefix_tokens must be an integer from 1"),
        (lambda: format_reports([3]), r"reports\[0\] must be a SimulationReport"),
        (lambda: plot_reports(3), "reports must be a list, got 3"),
        (lambda: plot_reports([]), "reports must have at least one"),
        (lambda: read_trace(3), "path must be a str or a path, got int"),
        (lambda: read_trace("\0"), "path must be the name of a file"),
    ],
)
def test_simulations(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_traces(tmp_path):
    path = tmp_path / "t.jsonl"
    with pytest.raises(InputError, match=r"requests\[0\]: session must be a name"):
        write_trace(path, [REQUEST._replace(session=None)])
    assert not path.exists()
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(InputError, match=r"t\.jsonl, line 1: no JSON"):
        read_trace(path)


@pytest.mark.parametrize("overwrite", ["no", 1, None, [0]])
def test_only_true_overwrites(overwrite, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("mine")
    with pytest.raises(InputError, match="overwrite must be True or False"):
        write_trace(path, [REQUEST], overwrite=overwrite)
    assert path.read_text() == "mine"


def test_small_integers_of_numpy_do_not_wrap():
    policy = Policy(key_nbits=2.5, value_nbits=4)
    assert bits_per_value(policy, np.int8(4), np.int8(4), np.int8(64)) == bits_per_value(policy, 4, 4, 64)

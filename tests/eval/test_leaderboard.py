"""The leaderboard: every engine finds what it should, failures are told, and what is shown is what was measured."""

import json
import subprocess
import sys

import numpy as np
import pytest
from command import run

from tqvec.errors import InputError
from tqvec.eval.growth import fit_exponent
from tqvec.eval.leaderboard import measure as module
from tqvec.eval.leaderboard import memory
from tqvec.eval.leaderboard.adapters import adapter
from tqvec.eval.leaderboard.engines import Engine, engines
from tqvec.eval.leaderboard.environment import describe_machine
from tqvec.eval.leaderboard.measure import Plan, count_steps, measure
from tqvec.eval.leaderboard.result import Leaderboard, Row
from tqvec.exact import normalize

N, D = 1_000, 64
RNG = np.random.default_rng(5)
X = normalize(RNG.standard_normal((N, D)).astype(np.float32))
QUERIES = normalize(X[:40] + 0.1 * RNG.standard_normal((40, D)).astype(np.float32))
PLAN = Plan(repeats=1, batch=20, singles=3)
GROUPS = {}  # engines by their builds
for each in engines(D, N, (1, 4)):
    if "x8" not in each.name:  # these take long to train
        GROUPS.setdefault(each.build, []).append(each)


@pytest.mark.parametrize("group", GROUPS.values(), ids=lambda group: group[0].name)
def test_each_engine_finds_the_same_after_it_was_saved(group, tmp_path):
    engine = group[0]
    built = adapter(engine, D, N, 1, 0)
    trained, added = built.build(X)
    assert trained >= 0
    assert added > 0
    found = [built.search(QUERIES, 10, **each.search) for each in group]
    for ids in found:
        assert (ids.shape, ids.dtype) == ((40, 10), np.int64)
        hits = (ids == np.arange(40)[:, None]).any(axis=1).mean()
        assert hits > (0.5 if engine.nbits == 1 else 0.9)
    built.save(tmp_path / "x")
    again = adapter(engine, D, N, 1, 0)
    again.load(tmp_path / "x")
    np.testing.assert_array_equal(again.search(QUERIES, 10, **group[-1].search), found[-1])


def test_engines_fit_the_dimension():
    names = {engine.name for engine in engines(30, N, (2, 4), ("faiss", "turbovec"))}
    assert "FAISS PQ15x4fs" in names
    assert not [name for name in names if name.startswith(("turbovec", "FAISS PQ7x8", "FAISS OPQ"))]
    assert not [name for name in names if name.startswith("rabitqlib")]
    with pytest.raises(InputError, match="1 to 4 bits, got 5"):
        engines(D, N, (5,))
    with pytest.raises(InputError, match="got 'milvus'"):
        engines(D, N, (4,), ("milvus",))


def test_what_is_measured():
    chosen = engines(D, N, (2,), ("tqvec", "exact"))[:2]
    steps = []
    rows = measure(3 * X, QUERIES, chosen, PLAN._replace(threads=(1, 2), seeds=2), steps.append)
    assert [row.name for row in rows] == [engine.name for engine in chosen]
    assert steps == [*(f"building {engine.name}" for engine in chosen), "timing with 1 thread", "timing with 2 threads"]
    exact, scalar = rows[:2]
    assert (exact.recall_10_at_10, exact.recall_1_at[1]) == (1.0, 1.0)
    assert exact.bytes == pytest.approx(4 * D + 128 / N)
    assert 0.3 < scalar.recall_10_at_10 < 0.95
    assert sorted(scalar.recall_1_at.values()) == list(scalar.recall_1_at.values())
    assert list(scalar.single_ms) == list(scalar.batch_ms) == [1, 2]
    assert 16 + 4 < scalar.bytes < 16 + 4 + 2


def test_engines_that_differ_in_their_searches_are_built_once():
    chosen = [each for each in engines(D, N, (2,), ("tqvec",)) if each.sublinear]
    assert len(chosen) == 3
    steps = []
    rows = measure(X, QUERIES, chosen, PLAN, steps.append)
    assert len(steps) == count_steps(chosen, PLAN) == 2
    assert [json.loads(row.search) for row in rows] == [{"recall": 0.9}, {"recall": 0.95}, {"recall": 0.99}]
    assert len({row.bytes for row in rows}) == len({row.build_s for row in rows}) == 1
    assert all(row.single_ms[1] > 0 for row in rows)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted on Linux alone")
def test_memory_is_what_a_process_holds():
    size = 64_000_000
    before = memory.resident()
    memory.forget_peak()
    held = np.ones(size, np.uint8)
    assert memory.resident() - before == pytest.approx(size, rel=0.1)
    del held
    assert memory.resident() - before < 0.1 * size
    assert memory.peak() - before > 0.9 * size


def test_memory_is_not_known_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "_REFERENCES", tmp_path / "none" / "clear_refs")
    memory.forget_peak()
    assert np.isnan([memory.resident(), memory.peak()]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted on Linux alone")
def test_the_memory_of_an_engine():
    x = np.random.default_rng(6).standard_normal((40_000, D), np.float32)
    (row,) = measure(x, QUERIES, engines(D, len(x), (2,), ("exact",)), PLAN)
    assert row.resident_bytes == pytest.approx(x.nbytes, rel=0.3)
    assert row.peak_bytes >= 0.9 * row.resident_bytes
    assert row.process_bytes > row.resident_bytes + 1e7
    board = str(Leaderboard("x", len(x), D, 40, describe_machine(), (row,)))
    assert "MB held" in board
    assert "MB held" not in str(
        Leaderboard("x", N, D, 40, describe_machine(), (row._replace(resident_bytes=float("nan")),))
    )


def test_growth_is_the_exponent_of_a_power_law():
    assert fit_exponent({10: 3.0, 100: 30 * 10**0.5, 1000: 3000.0}) == pytest.approx(1.5)
    assert np.isnan(fit_exponent({10: 1.0, 100: float("nan")}))
    rows = []
    for n in (1_000, 10_000):
        timed = {"train_s": 0.0, "build_s": n / 1e4, "single_ms": {2: 1.0, 1: n**0.5}, "batch_ms": {1: 2.0, 2: 1.0}}
        found = {"recall_10_at_10": 1.0, "recall_1_at": {1: 1.0}, "bytes": 8.0}
        rows.append(Row(name="a", library="exact", nbits=32, sublinear=False, settings="{}", n=n, **timed, **found))
    board = Leaderboard("x", 10_000, D, 40, describe_machine(), tuple(rows))
    (growth,) = board.growth
    assert (growth.name, growth.sizes) == ("a", (1_000, 10_000))
    assert growth[2:] == pytest.approx((1.0, 0.5, 0.0))
    assert board.to_dict()["growth"][0]["single"] == pytest.approx(0.5)
    assert "single ~ n^" in str(board)
    assert board._replace(rows=tuple(rows[:1])).growth == ()


def test_an_engine_that_fails_is_told_and_the_others_go_on():
    good = Engine("exact", "exact", 32, {})
    rows = measure(X, QUERIES, [Engine("broken", "faiss", 4, {"factory": "no such index"}), good], PLAN)
    assert "broken: RuntimeError" in rows[0].failure
    assert rows[1].failure is None
    board = Leaderboard("x", N, D, 40, describe_machine(), tuple(rows))
    assert "no such index" in str(board)
    assert f"numpy {np.__version__}" in str(board)
    assert board.to_markdown().count("\n") == 2
    assert len(board.plot().axes) == 2


def test_a_worker_that_is_killed_is_told(monkeypatch):
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    start = subprocess.Popen
    monkeypatch.setattr(module.subprocess, "Popen", lambda _, **options: start(command, **options))
    (row,) = measure(X, QUERIES, [Engine("exact", "exact", 32, {})], PLAN)
    assert row.failure == "exact: its process ended with status 3"


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("q.npy", QUERIES)
    monkeypatch.setattr("tqvec.cli.bench.Plan", PLAN._replace)
    arguments = "bench", "x.npy", "q.npy", "--bits", "4", "--library", "exact", "--library", "tqvec"
    facts = json.loads(run(*arguments, "--json", "--plot", "p.png").stdout)
    assert (facts["command"], facts["data"], facts["n"], facts["d"], facts["queries"]) == ("bench", "x.npy", N, D, 40)
    assert facts["rows"][1]["recall_10_at_10"] > 0.7
    assert (tmp_path / "p.png").stat().st_size > 1_000
    assert "exact, float32" in run("bench", "x.npy", "q.npy", "--bits", "4", "--library", "exact").output
    assert facts["growth"] == []
    assert all(row["n"] == N for row in facts["rows"])
    with pytest.raises(InputError, match=r"or a data set .* got 'x\.npy' alone"):
        run("bench", "x.npy")
    np.save("r.npy", QUERIES[:, 1:])
    with pytest.raises(InputError, match=r"r\.npy: has dimension 63"):
        run("bench", "x.npy", "r.npy")


@pytest.mark.slow
def test_the_command_at_several_sizes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tqvec.cli.bench.Plan", PLAN._replace)
    arguments = "bench", "wordnet-sample", "--bits", "4", "--library", "exact"
    facts = json.loads(run(*arguments, "--n", "1k,500", "--json", "--plot", "p.png").stdout)
    assert (facts["data"], facts["n"], facts["queries"]) == ("wordnet-sample", 1_000, 500)
    assert [row["n"] for row in facts["rows"]] == [500, 1_000]
    assert facts["growth"][0]["sizes"] == [500, 1_000]
    for wrong in ("0", "10", "k", "1e4", "500,,600"):
        with pytest.raises(InputError, match="--n must be numbers from 64"):
            run(*arguments, "--n", wrong)
    with pytest.raises(InputError, match="--n must be at most the 10,000 vectors of wordnet-sample, got 11,000"):
        run(*arguments, "--n", "11k")
    np.save("x.npy", X)
    with pytest.raises(InputError, match=r"at most the 1,000 vectors of x\.npy"):
        run("bench", "x.npy", "x.npy", "--n", "1M")


def test_a_data_set_that_cannot_be_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("TQVEC_DATASETS", str(tmp_path))
    with pytest.raises(InputError, match="glove-200-angular is not here: run `tqvec datasets get glove-200-angular`"):
        run("bench", "glove-200-angular")
    with pytest.raises(InputError, match="sift-128-euclidean is compared by l2"):
        run("bench", "sift-128-euclidean")

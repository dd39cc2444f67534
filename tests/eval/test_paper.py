"""The scripts of benchmarks that are commands of their own: the paper's experiment, and operations."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from tqvec.eval.baselines import has_faiss

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def paper(monkeypatch):
    """The script, which keeps what it reports."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    with mock.patch.dict(os.environ):  # it sets threads
        module = importlib.import_module("paper")
    kept = {}
    monkeypatch.setattr(module, "report", kept.__setitem__)
    module.kept = kept
    return module


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["paper.py", *map(str, arguments)])
    module.main()
    return module.kept


@pytest.mark.slow
def test_the_experiment_of_the_paper(paper, monkeypatch, tmp_path):
    options = "-n", 500, "--bits", 2, "--seeds", 1, "--plot", tmp_path
    (rows,) = run(paper, monkeypatch, "wordnet-sample", *options).values()
    methods = [row["method"] for row in rows]
    assert methods[:3] == ["TurboQuant mse", "TurboQuant prod", "tqvec, default"]
    assert methods[3:] == (["FAISS PQ", "FAISS RaBitQ"] if has_faiss() else [])
    for row in rows:
        found = [row[f"1@{k}"] for k in (1, 2, 4, 8, 16, 32, 64)]
        assert found == sorted(found)
        assert 0.6 < found[0] < found[-1]
        assert "seconds" not in row
    for row in rows[:2]:
        assert 4**-2 < row["D"] < paper.UPPER[row["method"]] * 4**-2
    assert rows[0]["slope"] == pytest.approx(-0.117, abs=0.01)
    assert abs(rows[1]["slope"]) < 0.05
    assert (tmp_path / "paper-wordnet-sample.png").stat().st_size > 1_000


def test_data_sets_that_are_not_here_are_told(paper, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TQVEC_DATASETS", str(tmp_path))
    assert run(paper, monkeypatch) == {}
    shown = capsys.readouterr().out
    assert "`tqvec datasets get glove-200-angular`" in shown
    assert shown.count("not here") == 3


@pytest.mark.slow
def test_operations_have_exponents(tmp_path):
    pytest.importorskip("pytest_benchmark")
    target = tmp_path / "operations.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:xdist",
        BENCHMARKS / "operations",
        f"--benchmark-json={target}",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no worker
    command += ["-k", "test_rotation and batch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS.parent, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(target.read_text(encoding="utf-8"))
    (growth,) = facts["exponents"]
    assert (growth["operation"], growth["axis"]) == ("rotation (FWHT)", "batch")
    assert list(growth["seconds"]) == ["1", "10", "100", "1000"]
    assert {each["extra_info"]["nbytes"] for each in facts["benchmarks"]} == {
        4 * 768 * rows for rows in (1, 10, 100, 1000)
    }
    assert "rotation (FWHT)" in done.stdout.split("growth: p of time")[1]

"""``tqvec diagnose``, run in this process."""

import sys

import numpy as np
import pytest
from command import run

import tqvec
from tqvec.cli import app as application

X = np.random.default_rng(10_090).standard_normal((300, 24)).astype(np.float32)
Q = np.random.default_rng(10_091).standard_normal((20, 24)).astype(np.float32)


def output_of(*arguments):
    result = run("diagnose", *arguments)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("q.npy", Q)
    np.concatenate([np.full((300, 1), 24, "<i4").view("<f4"), X], axis=1).tofile("x.fvecs")
    index = tqvec.Index(24, nbits=2, metric="l2")
    index.add(X)
    index.save("x.tqv")
    return index


def test_vectors(files):
    expected = files.diagnose(queries=Q, sample=X, k=5)
    for name in ("x.npy", "x.fvecs"):
        output = output_of(name, "--nbits", 2, "--metric", "l2", "--queries", "q.npy", "-k", 5)
        low, high = expected.interval
        assert f"{name}: recall 5@5: {expected.recall:.3f} ({low:.3f} to {high:.3f})" in output
        assert "measured on all 300 vectors; 20 queries" in output
        assert expected.rerank in output
        for other in expected.alternatives:
            assert f"│ {other.name}" in output
            assert f"│  {other.recall:.3f} │" in output
        for cause in expected.causes:
            assert f"│ {cause.name}" in output


@pytest.mark.slow
def test_an_index_file(files):
    for arguments, (queries, sample) in (
        ((), (None, None)),
        (("--queries", "q.npy"), (Q, None)),
        (("--sample", "x.npy"), (None, X)),
        (("--queries", "q.npy", "--sample", "x.fvecs"), (Q, X)),
    ):
        output = output_of("x.tqv", *arguments)
        expected = files.diagnose(queries=queries, sample=sample)
        assert f"recall 10@10: {expected.recall:.3f} (" in output
        assert expected.method in output


def test_defaults_and_the_trellis(files):
    assert "│ 4 bits (now)" in output_of("x.npy")
    assert "│ 2 bits, trellis (now)" in output_of("x.npy", "--nbits", 2, "--codebook", "trellis")


def test_of_many_vectors_a_part_corrects(files, monkeypatch):
    monkeypatch.setattr("tqvec.cli.diagnose._NUMBERS", 1000)
    monkeypatch.setattr("tqvec.cli.diagnose._DRAWN", 100)
    monkeypatch.setattr("tqvec.cli.diagnose._ROWS", 64)
    output = output_of("x.npy", "--nbits", 2)
    assert "estimated from 300 codes and corrected by" in output
    assert "measured on 100 rows of the sample" in output


def test_plots(files):
    pytest.importorskip("matplotlib")
    output = output_of("x.npy", "--nbits", 2, "--plot", "x.png")
    assert output.endswith("written: x.png\n")
    with open("x.png", "rb") as file:
        assert file.read(4) == b"\x89PNG"
    output_of("x.npy", "-k", 299, "--plot", "x.svg")
    with open("x.svg", encoding="utf-8") as file:
        assert "<svg" in file.read()


def test_without_matplotlib(files, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("sys.argv", ["tqvec", "diagnose", "x.npy", "--plot", "x.png"])
    with pytest.raises(SystemExit) as stop:
        application.main()
    assert stop.value.code == 1
    assert "--plot needs matplotlib: pip install 'tqvec[plot]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.npy"], "no such file: none.npy"),
        (["q.tqv"], "q.tqv"),
        (["bad.npy"], "bad.npy, rows from 0: x row 5 holds NaN or Inf"),
        (["empty.npy"], "empty.npy: holds no vectors"),
        (["x.npy", "--sample", "x.npy"], "--sample goes with an index file; x.npy holds vectors"),
        (["x.tqv", "--nbits", "3"], "x.tqv: an index file has its settings"),
        (["x.tqv", "--sample", "empty.npy"], "sample must have at least one row"),
        (["x.tqv", "--queries", "wide.npy"], "queries must have shape (n, 24)"),
        (["x.npy", "-k", "0"], "k must be an integer"),
        (["x.npy", "--nbits", "9"], "nbits must be an integer from 1 to 8"),
    ],
)
def test_errors_are_one_line(files, monkeypatch, capsys, arguments, message):
    monkeypatch.setenv("COLUMNS", "200")
    bad = X.copy()
    bad[5, 5] = np.nan
    np.save("bad.npy", bad)
    np.save("empty.npy", X[:0])
    np.save("wide.npy", np.zeros((2, 25), np.float32))
    monkeypatch.setattr("sys.argv", ["tqvec", "diagnose", *arguments])
    with pytest.raises(SystemExit) as stop:
        application.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert message in error.replace("\n", " ")
    assert "Traceback" not in error

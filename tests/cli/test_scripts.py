"""The command line as scripts use it: JSON, streams that fail, encodings, exit statuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import run

import tqvec
from tqvec._present import Presented
from tqvec.cli import _console
from tqvec.cli import app as application
from tqvec.index.file.io import Writer
from tqvec.index.index import Index
from tqvec.kernels import compiling

ROOT = Path(__file__).parents[2]
X = np.random.default_rng(10_910).standard_normal((300, 24)).astype(np.float32)
IDS = np.arange(300) * 3 + 5
PORT = "PROFILES = ['tqvec_scalar@2']\nDIMS = [16]\n\ndef quantize(view, y):\n    print('noise')\n"
PORT += "    return (y[..., None] > view.tables['thresholds']).sum(-1).astype('u1')\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("q.npy", X[:7])
    np.save("ids.npy", IDS)
    Path("port.py").write_text(PORT)
    run("build", "x.npy", "-o", "x.tqv")
    return tmp_path


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


def json_of(*arguments, status=0):
    result = run(*arguments, "--json")
    assert result.exit_code == status
    document = json.loads(result.stdout, parse_constant=refuse_constant)
    assert document["schema"] == 1
    assert " ".join(map(str, arguments)).startswith(document["command"])
    assert result.stdout.isascii()
    return document


def main(capsys, monkeypatch, *arguments):
    """Run the whole command in this process; return its status, output and errors."""
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["tqvec", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        application.main()
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return stop.value.code, captured.out, captured.err


def command(*arguments, **options):
    """Run the command in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
    return subprocess.run(
        [sys.executable, "-m", "tqvec", *map(str, arguments)], env=environment, check=False, **options
    )


def test_every_verb_prints_json(files):
    found = json_of("build", "x.npy", "-o", "y.tqv")
    assert (found["ntotal"], found["d"], found["code_size"], found["training"]) == (300, 24, 16, None)
    found = json_of("search", "x.tqv", "q.npy", "-k", 400, "--errors", "-o", "r.npz")
    with np.load("r.npz") as results:
        assert found["ids"] == results["ids"].tolist()
        assert found["scores"][0][:300] == results["scores"][0, :300].tolist()
        assert (found["scores"][0][300], found["ids"][0][300], found["error"][0][300]) == (None, -1, None)
    found = json_of("check", "x.tqv")
    assert (found["sound"], found["fault"], found["tensors"][1]["shape"]) == (True, None, [300, 12])
    assert json_of("merge", "x.tqv", "y.tqv", "-o", "z.tqv")["first_id"] == 0
    found = json_of("diagnose", "x.tqv")
    assert found["recall"] == pytest.approx(Index.load("x.tqv").diagnose().recall)
    assert json_of("verify", "port.py")["passed"] is True
    found = json_of("kv", "plan", "--model", "phi-4", "--policy", "turbo4,turbo3", "--policy", "fp16")
    assert [plan["policy"] for plan in found["plans"]] == ["turbo4", "turbo3", "fp16"]
    assert json_of("kv", "plan", "--model", "phi-4")["plans"][0]["policy"] == "turbo3"
    assert "phi-4" in [model["name"] for model in json_of("kv", "models")["models"]]
    assert {"turbo3", "fp8"} <= {each["policy"] for each in json_of("kv", "policies")["policies"]}
    assert json_of("oracle", "profiles")["profiles"][0]["name"]
    assert json_of("oracle", "show", "tqvec_scalar@2", "-d", 16)["profiles"][0]["tables"]["centroids"]["shape"]
    assert json_of("oracle", "export", "--profile", "tqvec_scalar@2", "-d", 16, "-o", "golden")["files"]


def test_descriptions_as_json(files):
    assert json_of("info")["tqvec"] == tqvec.__version__
    assert json_of("info", "x.tqv")["metric"] == "ip"
    codecs = json_of("info", "--codecs", "-d", 64)["codecs"]
    assert codecs[0]["codec"] == "scalar"
    assert codecs[0]["distortion"] == pytest.approx(tqvec.TurboQuant(64, nbits=1).distortion)


def test_a_damaged_file_is_a_result(files):
    content = bytearray(Path("x.tqv").read_bytes())
    content[-1] ^= 1
    Path("x.tqv").write_bytes(content)
    with pytest.raises(tqvec.FormatError) as fault:
        run("check", "x.tqv", "--json")
    assert "damaged" in str(fault.value)


def test_lists_of_models_and_policies():
    assert re.search(
        r"│ gemma-3-12b +│ +48 │ 40 sliding 8 × 256 of the last 1,024, 8 full 8 × 256 ", run("kv", "models").output
    )
    output = run("kv", "policies").output
    assert re.search(r"│ turbo3 +│ policy │ +3 │ +3 │ +3\.125 │ scalar codebook", output)
    assert re.search(r"│ fp8 +│ format │ +8 │ +8 │ +8 │ one byte per value", output)


def test_names_are_not_markup(files):
    for name in ("a[red]b.npy", ":smile:.npy", "[bold].npy", "a\x1b[1mb.npy"):
        np.save(name, X)
        shown = name.replace("\x1b", "\\x1b")
        assert f"{shown}.tqv: 300 vectors" in run("build", name, "-o", f"{name}.tqv").output
        assert f"{shown}.tqv: sound" in run("check", f"{name}.tqv").output
        assert json_of("check", f"{name}.tqv")["file"] == f"{name}.tqv"


def test_what_an_encoding_lacks_is_spelled_in_ascii(files, monkeypatch):
    assert "± → é".encode("ascii", _console.FALLBACK) == b"+- -> \\xe9"
    assert "± ✓".encode("cp1252", _console.FALLBACK) == b"\xb1 +"
    assert "a\udcff".encode("utf-8", _console.FALLBACK) == b"a\\udcff"
    for encoding in ("ascii", "cp1252", "utf-16"):
        done = command(
            "search",
            "x.tqv",
            "q.npy",
            "--errors",
            "-o",
            "r.npz",
            capture_output=True,
            env={"PYTHONIOENCODING": encoding},
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert ("+-" if encoding == "ascii" else "±") in done.stdout.decode(encoding)
        Path("r.npz").unlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_results_outlive_standard_output(files):
    with open("/dev/full", "wb") as full:
        done = command("search", "x.tqv", "q.npy", "-o", "r.npz", stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")
    assert Path("r.npz").exists()
    read, write = os.pipe()
    os.close(read)
    done = command("check", "x.tqv", stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


class Full:
    """Standard output on a full disk."""

    encoding = "utf-8"

    def write(self, text):
        raise OSError(28, "No space left on device")

    flush = isatty = fileno = lambda self: False


def test_every_output_is_written_before_anything_is_printed(files, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(_console.console, "_file", Full())
    for arguments, output in (
        (("build", "x.npy", "-o", "w.tqv"), "w.tqv"),
        (("search", "x.tqv", "q.npy", "-o", "w.npz"), "w.npz"),
        (("merge", "x.tqv", "x.tqv", "-o", "m.tqv"), "m.tqv"),
        (("diagnose", "x.tqv", "--plot", "w.png"), "w.png"),
        (("verify", "port.py", "--junit", "w.xml"), "w.xml"),
        (("verify", "port.py", "--json", "w.json"), "w.json"),
        (("oracle", "export", "--profile", "tqvec_scalar@2", "-d", 16, "-o", "golden"), "golden/manifest.json"),
    ):
        with pytest.raises(OSError, match="standard output: No space left"):
            run(*arguments)
        assert Path(output).exists()


def test_tables_in_files_have_no_width(files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    lines = run("search", "x.tqv", "q.npy", "-k", 5).output.splitlines()
    assert len(lines[2]) > 70
    assert len([line for line in lines if line.startswith("│")]) == 5
    terminal = _console._Console()
    terminal.file = type("Terminal", (Full,), {"isatty": lambda self: True})()
    assert terminal.width == 30


def test_statuses(files, capsys, monkeypatch):
    assert main(capsys, monkeypatch, "--version") == (0, f"tqvec {tqvec.__version__}\n", "")
    assert main(capsys, monkeypatch, "search", "-h")[0] == 0
    assert main(capsys, monkeypatch, "check", "x.tqv")[0] == 0
    assert main(capsys, monkeypatch, "check", "none.tqv") == (1, "", "error: no such file: none.tqv\n")
    for arguments in (("nope",), ("search", "--nope"), ("search",), ("search", "x.tqv", "q.npy", "-k", "many")):
        status, output, error = main(capsys, monkeypatch, *arguments)
        assert (status, output, error.count("\n")) == (2, "", 1)
        assert re.search(r"^error: .*; see .* --help$", error)
    Path("port.py").write_text(PORT.replace(">", ">="))
    assert main(capsys, monkeypatch, "verify", "port.py")[0] == 1


def test_a_warning_is_one_line(files, capsys, monkeypatch):
    def load(path):
        import warnings

        warnings.warn("beware", UserWarning, stacklevel=2)
        return Index(24)

    monkeypatch.setattr("tqvec.cli.search.Index.load", load)
    monkeypatch.setattr("warnings.filters", [])
    assert main(capsys, monkeypatch, "search", "x.tqv", "q.npy")[2] == "warning: beware\n"


def test_ctrl_c_says_what_is_kept(files, capsys, monkeypatch):
    monkeypatch.setattr("tqvec.cli.build._ROWS", 100)
    write = Writer.write

    def some(self, rows):
        if self.rows == 200:
            raise KeyboardInterrupt
        write(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", some)
        patch.setattr("tqvec.cli.build._SECONDS", 0.0)
        status, output, error = main(capsys, monkeypatch, "build", "x.npy", "-o", "y.tqv")
    assert (status, output) == (130, "")
    assert error == "200 of 300 vectors are kept: the same command goes on behind them\ninterrupted\n"
    assert json_of("build", "x.npy", "-o", "y.tqv")["resumed"] == 200
    assert Path("y.tqv").read_bytes() == Path("x.tqv").read_bytes()


def test_ids(files, monkeypatch):
    index = Index(24)
    index.add(X, IDS)
    index.save("expected.tqv")
    run("build", "x.npy", "-o", "y.tqv", "--ids", "ids.npy")
    assert Path("y.tqv").read_bytes() == Path("expected.tqv").read_bytes()
    np.save("range.npy", np.arange(7, 307))
    run("build", "x.npy", "-o", "y.tqv", "--ids", "range.npy")
    assert np.array_equal(Index.load("y.tqv").ids, np.arange(7, 307))
    for wrong, message in (
        (IDS[:-1], "ids must be as many as the 300 vectors"),
        (IDS / 2, "ids must be integers, got float64"),
        (IDS.astype("U"), "ids must be integers, got <U"),
        (IDS - 6, "id of row 0 must be from 0"),
        (IDS // 4, "is given twice"),
        (IDS[:, None], "expected a 1-D .npy array of integers"),
    ):
        np.save("wrong.npy", wrong)
        with pytest.raises(tqvec.InputError, match=re.escape(message)):
            run("build", "x.npy", "-o", "z.tqv", "--ids", "wrong.npy")
    with pytest.raises(tqvec.InputError, match="--id-column goes with a Parquet file"):
        run("build", "x.npy", "-o", "z.tqv", "--id-column", "id")
    assert not list(Path().glob("z.tqv*"))


def test_a_build_that_was_stopped_goes_on_with_the_same_ids(files, monkeypatch):
    monkeypatch.setattr("tqvec.cli.build._ROWS", 100)
    write = Writer.write

    def stop():
        def some(self, rows):
            if self.rows == 200:
                raise OSError("full")
            write(self, rows)

        with monkeypatch.context() as patch:
            patch.setattr(Writer, "write", some)
            patch.setattr("tqvec.cli.build._SECONDS", 0.0)
            with pytest.raises(OSError, match="full"):
                run("build", "x.npy", "-o", "y.tqv", "--ids", "ids.npy")

    stop()
    assert json_of("build", "x.npy", "-o", "y.tqv", "--ids", "ids.npy")["resumed"] == 200
    assert np.array_equal(Index.load("y.tqv", verify=True).ids, IDS)
    stop()
    assert json_of("build", "x.npy", "-o", "y.tqv")["resumed"] == 0
    assert np.array_equal(Index.load("y.tqv").ids, np.arange(300))
    stop()
    np.save("ids.npy", IDS + 1)
    assert json_of("build", "x.npy", "-o", "y.tqv", "--ids", "ids.npy")["resumed"] == 0
    assert np.array_equal(Index.load("y.tqv").ids, IDS + 1)


def test_parquet_of_any_name_with_ids_and_queries(files):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = files / "run.parquet:1"
    folder.mkdir()
    for path in (folder / "x.parquet", folder / "X.PARQUET"):
        parquet.write_table(pa.table({"e:1": X.tolist(), "id": IDS, "name": ["a"] * 300}), path)
        name = f"run.parquet:1/{path.name}:e:1"
        run("build", name, "-o", "y.tqv", "--id-column", "id", "--metric", "cosine")
        assert np.array_equal(Index.load("y.tqv").ids, IDS)
        assert [row[0] for row in json_of("search", "y.tqv", name, "-k", 1)["ids"]] == IDS.tolist()
    for column, message in (("name", "ids must be integers"), ("no", "no column 'no'; it has e:1, id, name")):
        with pytest.raises(tqvec.InputError, match=message):
            run("build", name, "-o", "z.tqv", "--id-column", column)


def test_one_query_and_names_in_upper_case(files):
    np.save("one.npy", X[3])
    Path("x.npy").rename("X.NPY")
    assert json_of("search", "x.tqv", "one.npy", "-k", 1)["ids"] == [[3]]
    assert json_of("search", "x.tqv", "X.NPY", "-k", 1)["ids"][5] == [5]
    assert json_of("build", "X.NPY", "-o", "y.tqv")["ntotal"] == 300
    assert json_of("diagnose", "X.NPY")["ntotal"] == 300


def test_filters_rerank_and_confidence(files):
    index = Index.load("x.tqv")
    np.save("mask.npy", np.arange(300) % 2 == 0)
    np.save("few.npy", np.array([2, 3, 4, 5]))
    find = ("search", "x.tqv", "q.npy", "-k", 3)
    for options, expected in (
        (("--filter", "mask.npy"), index.search(X[:7], 3, filter=np.arange(300) % 2 == 0)),
        (("--filter", "few.npy"), index.search(X[:7], 3, filter=[2, 3, 4, 5])),
        (("--exclude", "mask.npy"), index.search(X[:7], 3, filter=np.arange(300) % 2 == 1)),
        (("--filter", "mask.npy", "--exclude", "few.npy"), index.search(X[:7], 3, filter=[0, *range(6, 300, 2)])),
        (("--rerank", "x.npy"), index.search(X[:7], 3, rerank=X)),
        (("--confidence", "0.9"), index.search(X[:7], 3, confidence=0.9)),
        (("--rerank", "x.npy", "--confidence", "0.9"), index.search(X[:7], 3, rerank=X, confidence=0.9)),
    ):
        found = json_of(*find, *options)
        assert found["ids"] == expected[1].tolist()
        assert found["scores"] == [[None if np.isinf(s) else s for s in row] for row in expected[0].tolist()]
    with pytest.raises(tqvec.InputError, match="expected a 1-D .npy array of ids or booleans"):
        run(*find, "--filter", "x.npy")


def test_compiling_says_so_only_when_it_takes_long():
    calls = []
    listener = compiling._Listener(lambda: calls.append(1), 0.01)
    listener.on_start(None)
    listener.on_start(None)
    listener.on_end(None)
    listener._timer.join()
    listener.on_end(None)
    listener.on_start(None)
    listener.on_end(None)
    assert calls == [1]
    patient = compiling._Listener(lambda: calls.append(2), 60)
    patient.on_start(None)
    patient.on_end(None)
    assert calls == [1]
    assert 59 < patient._left < 60


def test_results_have_one_mechanism():
    """Whoever prints tables for results does it through `Presented`."""
    for kind in (tqvec.Training, tqvec.Diagnosis, tqvec.kvcache.Plan, tqvec.kvcache.Nbytes, tqvec.oracle.Report):
        assert issubclass(kind, Presented)

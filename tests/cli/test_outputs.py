"""What the verbs write: never an input, a foreign file only with ``--force``; devices and links are kept."""

import importlib.util
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from command import run

import tqvec
from tqvec.errors import InputError, TqvecError
from tqvec.kvcache import simulation
from tqvec.kvcache.quality.captured import AttentionLoss

X = np.random.default_rng(10_062).standard_normal((60, 24)).astype(np.float32)
PORT = "def normalize(*_):\n    return 1 / 0\n"
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")
SIMULATE = ["kv", "simulate", "--model", "llama-3.1-8b", "--tier", "gpu:80GiB", "--trace", "chat:2000"]
SIMULATE += ["--policy", "exact"]
# Each verb that writes, without its output, and the ending of that.
VERBS = {
    "build": (["build", "x.npy", "-o"], ".tqv"),
    "merge": (["merge", "one.tqv", "two.tqv", "-o"], ".tqv"),
    "search": (["search", "one.tqv", "q.npy", "-o"], ".npz"),
    "diagnose": (["diagnose", "one.tqv", "--plot"], ".png"),
    "simulate": ([*SIMULATE, "-o"], ".json"),
    "simulate, plot": ([*SIMULATE, "-o"], ".svg"),
    "verify, JSON": (["verify", "port.py", "--profile", "paper_mse@2", "-d", 20, "--quick", "--json"], ".json"),
    "verify, JUnit": (["verify", "port.py", "--profile", "paper_mse@2", "-d", 20, "--quick", "--junit"], ".xml"),
}


def report(*_, **__):
    """What a simulation returns, without simulating."""
    report = simulation.SimulationReport("a model", "exact", "lru", 100.0, peak={"gpu": 10}, steps=[(1, 0.1)])
    report.loss = AttentionLoss(0.1, 0.1, 0.1)
    return report


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulation, "simulate", report)
    np.save("x.npy", X)
    np.save("q.npy", X[:7])
    for name in ("one", "two"):
        index = tqvec.Index(24)
        index.add(X)
        index.save(f"{name}.tqv")
    Path("port.py").write_text(PORT)
    return tmp_path


def needs_plots(ending):
    if ending in (".png", ".svg", ".pdf"):
        pytest.importorskip("matplotlib")


def names():
    return {path.name for path in Path().iterdir()} - {"__pycache__"}  # of the port, which verify imports


@pytest.mark.parametrize(("arguments", "ending"), VERBS.values(), ids=VERBS)
def test_foreign_files_need_force(arguments, ending):
    needs_plots(ending)
    output, before = Path("out" + ending), names()
    output.write_bytes(b"dear diary")
    with pytest.raises(InputError, match="there is a file that is not .*, or replace it with --force"):
        run(*arguments, output)
    assert output.read_bytes() == b"dear diary"
    assert names() == before | {output.name}
    run(*arguments, output, "--force")
    first = output.read_bytes()
    assert first != b"dear diary"
    output.chmod(0o600)
    run(*arguments, output)  # it is tqvec's now
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert names() == before | {output.name}


@pytest.mark.parametrize(("arguments", "ending"), VERBS.values(), ids=VERBS)
def test_places_are_checked_before_any_work(arguments, ending):
    """The first argument is no file at all: it is not looked at."""
    needs_plots(ending)
    Path("folder" + ending).mkdir()
    without = [each if str(each) not in ("x.npy", "one.tqv", "port.py") else "missing.tqv" for each in arguments]
    for output, message in (
        ("-", "-: "),
        ("folder" + ending, "is a folder; name a file"),
        ("nowhere/out" + ending, "its folder does not exist"),
    ):
        before = names()
        with pytest.raises((TqvecError, OSError), match=message):
            run(*without, output)
        assert names() == before


@pytest.mark.parametrize("link", [None, "soft", "hard"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "x.npy", "-o", "x.npy"],
        ["build", "x.npy", "-o", "x.npy", "--force"],
        ["merge", "one.tqv", "x.npy", "-o", "x.npy"],
        ["merge", "one.tqv", "two.tqv", "-o", "one.tqv", "--force"],
        ["search", "one.tqv", "x.npy", "-o", "x.npy", "--force"],
        ["search", "one.tqv", "x.npy", "-o", "one.tqv", "--force"],
        ["verify", "port.py", "--json", "port.py", "--force"],
        ["verify", "port.py", "--junit", "port.py"],
        [*SIMULATE[:6], "--trace", "t.json", "-o", "t.json", "--force"],
        ["build", "x.parquet:column", "-o", "x.parquet", "--force"],
        ["build", "x.hdf5:train", "-o", "x.hdf5", "--force"],
        ["build", "x.hdf5", "-o", "x.hdf5"],
    ],
    ids=" ".join,
)
def test_no_input_is_an_output(arguments, link):
    for name in ("t.json", "x.parquet", "x.hdf5"):
        Path(name).write_bytes(b"content")
    contents = {path.name: path.read_bytes() for path in Path().iterdir()}
    if link is not None:
        at = max(arguments.index(flag) for flag in ("-o", "--json", "--junit") if flag in arguments) + 1
        name = "link" + Path(arguments[at]).suffix
        (os.symlink if link == "soft" else os.link)(arguments[at], name)
        arguments = [*arguments[:at], name, *arguments[at + 1 :]]
    with pytest.raises(InputError, match="is the same file as .*; name another output"):
        run(*arguments)
    assert {path.name: path.read_bytes() for path in Path().iterdir() if path.name in contents} == contents


@pytest.mark.parametrize("outputs", [["-o", "a.json", "-o", "./a.json"], ["-o", "a.svg", "-o", "a.svg"]])
def test_two_outputs_are_two_files(outputs):
    needs_plots(outputs[1][-4:])
    with pytest.raises(InputError, match="is the same file as a"):
        run(*SIMULATE, *outputs)
    with pytest.raises(InputError, match="is the same file as report"):
        run("verify", "port.py", "--json", "report", "--junit", "report")


@posix
@pytest.mark.parametrize("verb", ["build", "merge"])
def test_a_fifo_gets_the_index(verb):
    arguments, got = VERBS[verb][0], []
    os.mkfifo("fifo")
    reader = threading.Thread(target=lambda: got.append(Path("fifo").read_bytes()))
    reader.start()
    run(*arguments, "fifo")
    reader.join()
    before = names()
    run(*arguments, "file")
    assert got == [Path("file").read_bytes()]
    assert names() == before | {"file"}


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs POSIX files")
def test_devices():
    devices = sorted(os.listdir("/dev"))
    for verb in ("build", "merge", "search", "verify, JSON", "verify, JUnit"):
        run(*VERBS[verb][0], "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert sorted(os.listdir("/dev")) == devices


@posix
def test_links_are_followed():
    os.mkdir("disk")
    os.symlink("disk/x.tqv", "x.tqv")
    for _ in range(2):
        run("build", "x.npy", "-o", "x.tqv")
        assert Path("x.tqv").is_symlink()
        assert os.listdir("disk") == ["x.tqv"]


@pytest.mark.parametrize("name", ["x.tqv.part", "x.tqv.journal"])
def test_what_has_the_name_of_a_part(name):
    Path(name).write_bytes(b"of another program")
    with pytest.raises(InputError, match=rf"{name}: there is a file that is not the .* of an unfinished build"):
        run("build", "x.npy", "-o", "x.tqv")
    assert Path(name).read_bytes() == b"of another program"
    run("build", "x.npy", "-o", "x.tqv", "--force")
    assert not Path(name).exists()


def test_long_names():
    name = "x" * 251 + ".tqv"
    before = names()
    run("build", "x.npy", "-o", name)
    assert names() == before | {name}


@posix
def test_parts_are_as_private_as_the_old_file(monkeypatch):
    run("build", "x.npy", "-o", "x.tqv")
    os.chmod("x.tqv", 0o600)
    modes = set()

    def stop(*_):
        modes.update(stat.S_IMODE(path.stat().st_mode) for path in Path().iterdir() if path.name.startswith("x.tqv."))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tqvec.cli.build._compress", stop)
        run("build", "x.npy", "-o", "x.tqv", "--seed", 1)
    assert modes == {0o600}
    run("build", "x.npy", "-o", "x.tqv", "--seed", 1)
    assert stat.S_IMODE(os.stat("x.tqv").st_mode) == 0o600


def test_exported_vectors():
    export = ["oracle", "export", "--profile", "tqvec_scalar@2", "-d", 20, "--raw", "-o"]
    for _ in range(2):
        run(*export, "golden")
    for path in sorted(Path("golden").rglob("*.*")):
        if path.is_dir() or (path.suffix == ".bin" and path.name != "table.signs.bin"):
            continue
        content = path.read_bytes()
        path.write_bytes(b"dear diary")
        if path.suffix == ".bin":  # the list beside tells that it is a golden vector
            run(*export, "golden")
            continue
        with pytest.raises(InputError, match="or replace it with --force"):
            run(*export, "golden")
        assert path.read_bytes() == b"dear diary"
        run(*export, "golden", "--force")
        assert path.read_bytes() == content
    with pytest.raises(InputError, match="name a file"):
        run(*export, "-")
    with pytest.raises(FileExistsError, match=r"x\.npy"):
        run(*export, "x.npy")


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_plots_are_known_again(ending):
    for _ in range(2):
        run("diagnose", "one.tqv", "--plot", "plot" + ending)
    from matplotlib import pyplot

    figure = pyplot.figure()
    figure.savefig("plot" + ending)
    pyplot.close(figure)
    with pytest.raises(InputError, match="not a plot of tqvec"):
        run("diagnose", "one.tqv", "--plot", "plot" + ending)
    with pytest.raises(InputError, match="a plot must be"):
        run("diagnose", "one.tqv", "--plot", "plot.txt")

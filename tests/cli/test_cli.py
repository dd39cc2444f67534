"""The command line, run in this process."""

import contextlib
import importlib
import importlib.util
import re
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from command import run
from numba.core import event

import tqvec
from tqvec.cli import app as application
from tqvec.cli import demo as demo_module
from tqvec.index.file.io import Writer

X = np.random.default_rng(1).standard_normal((300, 24)).astype(np.float32)


@pytest.fixture
def vectors(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "q.npy", X[:7])
    return tmp_path


def test_build_search_info(vectors, monkeypatch):
    monkeypatch.setattr("tqvec.cli.build._ROWS", 128)
    build = run("build", vectors / "x.npy", "-o", vectors / "x.tqv", "--nbits", 3, "--metric", "cosine", "--seed", 9)
    assert build.exit_code == 0
    assert "300 vectors of d=24 at 3 bits, 13 bytes each" in build.output
    index = tqvec.Index(24, nbits=3, metric="cosine", seed=9)
    index.add(X)
    search = run("search", vectors / "x.tqv", vectors / "q.npy", "-k", 4, "-o", vectors / "r.npz")
    assert "first 5 of 7 queries" in search.output
    with np.load(vectors / "r.npz") as results:
        scores, ids = index.search(X[:7], k=4)
        assert np.array_equal(results["scores"], scores)
        assert np.array_equal(results["ids"], ids)
        assert "error" not in results
    search = run("search", vectors / "x.tqv", vectors / "q.npy", "-k", 4, "--errors", "-o", vectors / "r.npz")
    error = index.search(X[:7], k=4, return_error=True)[2]
    assert f"{ids[0, 0]} ({scores[0, 0]:.4f} ± {error[0, 0]:.4f})" in search.output
    with np.load(vectors / "r.npz") as results:
        assert np.array_equal(results["error"], error)
    output = run("info", vectors / "x.tqv").output
    for part in ("300 of d=24", "cosine", "version 6", index.codec.fingerprint, "seed"):
        assert part in output


def test_build_of_every_kind_of_file_is_that_of_an_index(vectors, monkeypatch):
    monkeypatch.setattr("tqvec.cli.build._ROWS", 128)
    index = tqvec.Index(24, nbits=3, metric="l2", seed=9)
    index.add(X)
    index.save(vectors / "index.tqv")
    sources = [vectors / "x.npy", vectors / "x.fvecs"]
    np.concatenate([np.full((300, 1), 24, "<i4").view("<f4"), X], axis=1).tofile(sources[1])
    if importlib.util.find_spec("h5py"):
        with importlib.import_module("h5py").File(vectors / "x.hdf5", "w") as file:
            file["train"], file["base"] = X[:5], X
        sources.append(f"{vectors}/x.hdf5:base")
    if importlib.util.find_spec("pyarrow"):
        table = importlib.import_module("pyarrow").table({"embedding": X.tolist(), "text": ["a"] * 300})
        importlib.import_module("pyarrow.parquet").write_table(table, vectors / "x.parquet", row_group_size=70)
        sources.append(f"{vectors}/x.parquet:embedding")
    for source in sources:
        run("build", source, "-o", vectors / "x.tqv", "--nbits", 3, "--metric", "l2", "--seed", 9)
        assert (vectors / "x.tqv").read_bytes() == (vectors / "index.tqv").read_bytes()
    monkeypatch.setattr("tqvec.cli.build._NUMBERS", 24)
    run("build", sources[0], "-o", vectors / "x.tqv", "--nbits", 3, "--metric", "l2", "--seed", 9)
    assert (vectors / "x.tqv").read_bytes() == (vectors / "index.tqv").read_bytes()


def interrupt(monkeypatch, rows, *arguments):
    """Build until some rows are written and noted, then stop as by Ctrl-C."""
    write = Writer.write

    def some(self, part):
        if self.rows >= rows:
            raise KeyboardInterrupt
        write(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", some)
        patch.setattr("tqvec.cli.build._SECONDS", 0.0)
        with contextlib.suppress(KeyboardInterrupt):
            run("build", *arguments)


def test_a_build_that_was_stopped_goes_on(vectors, monkeypatch):
    monkeypatch.setattr("tqvec.cli.build._ROWS", 50)
    arguments = (vectors / "x.npy", "-o", vectors / "x.tqv", "--metric", "l2")
    run("build", *arguments)
    whole = (vectors / "x.tqv").read_bytes()
    (vectors / "x.tqv").unlink()
    interrupt(monkeypatch, 150, *arguments)
    assert {path.name for path in vectors.iterdir()} == {"x.npy", "q.npy", "x.tqv.part", "x.tqv.journal"}
    assert "x.tqv: goes on behind the 150 vectors of a run that was stopped" in run("build", *arguments).output
    assert (vectors / "x.tqv").read_bytes() == whole
    assert {path.name for path in vectors.iterdir()} == {"x.npy", "q.npy", "x.tqv"}
    for change in ("parameters", "source", "file"):
        interrupt(monkeypatch, 150, *arguments)
        if change == "parameters":
            again = run("build", *arguments, "--seed", 1)
        elif change == "source":
            np.save(vectors / "y.npy", X)
            again = run("build", vectors / "y.npy", *arguments[1:])
        else:
            np.save(vectors / "x.npy", X[::-1])
            again = run("build", *arguments)
        assert "goes on" not in again.output
        assert ((vectors / "x.tqv").read_bytes() == whole) == (change == "source")


def test_a_build_takes_memory_of_a_part(tmp_path, monkeypatch):
    """Four times the vectors, the same peak."""
    monkeypatch.setattr("tqvec.cli.build._ROWS", 1000)
    peaks = []
    for n in (10_000, 10_000, 40_000):  # the first time imports and compiles
        np.save(tmp_path / "x.npy", np.random.default_rng(10_070).standard_normal((n, 64)).astype(np.float32))
        tracemalloc.start()
        try:
            run("build", tmp_path / "x.npy", "-o", tmp_path / "x.tqv", "--metric", "l2", "--threads", 1)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]
    assert peaks[2] < 40_000 * 36 / 1.5


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_large_files_need_little_memory(tmp_path):
    """128 MiB of vectors, in files with holes, and their codes; mapped pages count."""
    for name, n in (("small", 10), ("large", 2**19)):
        np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.float32, (n, 64)).flush()
    script = """
        import sys
        from pathlib import Path
        from tqvec.cli import build, check, merge
        def peak():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024
        build._ROWS = 4096
        peaks = []
        for name in ("small", "large"):  # the first compiles
            x, a, b = (Path(sys.argv[1]) / (name + end) for end in (".npy", ".tqv", "-twice.tqv"))
            build.build(x, a, nbits=8, codebook="scalar", metric="ip", seed=0, threads=1)
            merge.merge([a, a], b)
            check.check(b)
            peaks.append(peak())
        assert peaks[1] - peaks[0] < 50, peaks
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "large-twice.tqv").stat().st_size > 2**20 * 68


def test_merge_and_check(vectors):
    for name, part in (("a", X[:120]), ("b", X[120:])):
        np.save(vectors / f"{name}.npy", part)
        run("build", vectors / f"{name}.npy", "-o", vectors / f"{name}.tqv", "--metric", "l2")
    run("build", vectors / "x.npy", "-o", vectors / "x.tqv", "--metric", "l2")
    output = run("merge", vectors / "a.tqv", vectors / "b.tqv", "-o", vectors / "c.tqv").output
    assert "c.tqv: 300 vectors of d=24, ids from 0" in output
    assert (vectors / "c.tqv").read_bytes() == (vectors / "x.tqv").read_bytes()
    output = run("check", vectors / "c.tqv").output
    assert "c.tqv: sound, format version 6" in output
    assert re.search(r"codes +│ U8 +│ +300 × 12 │ 3,600 │ +1", output)
    assert re.search(r"squared_norm +│ F32 +│ +300 │ 1,200 │ +1", output)


def test_fractional_width(vectors):
    build = run("build", vectors / "x.npy", "-o", vectors / "x.tqv", "--nbits", 2.5)
    assert "300 vectors of d=24 at 2.5 bits, 11 bytes each" in build.output
    output = run("info", vectors / "x.tqv").output
    assert "6 × 3 + 18 × 2 bits, mode mse" in output


def test_info_on_a_trained_index(tmp_path):
    x = np.random.default_rng(1).standard_normal((600, 32)).astype(np.float32) / np.arange(1, 33, dtype=np.float32)
    index = tqvec.Index(32, nbits=2)
    assert index.train(x).accepted
    index.add(x)
    index.save(tmp_path / "x.tqv")
    output = run("info", tmp_path / "x.tqv").output
    widths = " + ".join(f"{band.stop - band.start} × {band.nbits}" for band in index.codec.bands)
    assert f"{widths} bits, mode mse, codebook scalar, rotation calibrated" in output
    assert index.codec.fingerprint in output


def test_trellis(vectors):
    build = run("build", vectors / "x.npy", "-o", vectors / "x.tqv", "--nbits", 2, "--codebook", "trellis")
    assert "300 vectors of d=24 at 2 bits, 10 bytes each" in build.output
    assert "2 bits, mode mse, codebook trellis" in run("info", vectors / "x.tqv").output


def uneven(n, d):
    """Rows whose variances fall, so that training helps."""
    x = np.random.default_rng(10_001).standard_normal((n, d)) / np.arange(1, d + 1) ** 0.5
    return x.astype(np.float32)


@pytest.mark.slow
def test_training_on_rows_from_everywhere_in_the_file(tmp_path, monkeypatch):
    """The first rows say nothing of the last; the index is that of the rows drawn."""
    monkeypatch.setattr("tqvec.cli.build._SAMPLE", 1200)
    x = uneven(3000, 32)
    x[1500:] = np.roll(x[1500:], 16, axis=1)
    np.save(tmp_path / "x.npy", x)
    build = run("build", tmp_path / "x.npy", "-o", tmp_path / "x.tqv", "--nbits", 2, "--train")
    assert "trained: yes, it helps at equal bytes (1,200 distinct rows)" in build.output
    assert "held out: recall 10@10" in build.output
    assert "3,000 vectors of d=32 at 2 bits, 12 bytes each" in build.output
    index = tqvec.Index.load(tmp_path / "x.tqv")
    drawn = index.codec.calibration.centre
    for part in (x[:1500], x[1500:]):
        assert np.linalg.norm(drawn - x.mean(axis=0)) < np.linalg.norm(part.std(axis=0))
    other = index._like(index.codec)
    other.add(x)
    assert np.array_equal(other.search(x[:5])[0], index.search(x[:5])[0])
    np.save(tmp_path / "y.npy", np.random.default_rng(10_002).standard_normal((3000, 24)).astype(np.float32))
    build = run("build", tmp_path / "y.npy", "-o", tmp_path / "y.tqv", "--train")
    assert "trained: no, it would not help" in build.output
    assert tqvec.Index.load(tmp_path / "y.tqv").codec.calibration is None


def test_info_of_the_installation():
    output = run("info").output
    for part in ("tqvec", tqvec.__version__, "SIMD level", tqvec.simd_info()["level"], "numba", "threads"):
        assert part in output


def test_info_of_the_codecs():
    output = run("info", "--codecs").output
    assert re.search(r"scalar +│ +2\.5 │ +2\.25 │ +2\.500 │ +0\.09549 │ +2\.161 │ +2\.144", output)
    assert re.search(r"trellis +│ +2 │ +2 │ +2\.250 │ +0\.0752 │ +1\.203 │ +2\.000", output)
    assert re.search(r"prod, gaussian +│ +2 │ +2 │ +2\.500 │ +0\.5641 │", output)
    small, large = run("info", "--codecs", "-d", 3).output, run("info", "--codecs", "-d", 9000).output
    assert (small.count("prod"), small.count("trellis")) == (8, 0)
    assert large.count("prod") == 4  # no dense matrices


@pytest.mark.slow
def test_warmup():
    assert re.search(r"kernels for level \w+ ready", run("warmup").output)


@pytest.mark.slow
def test_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_module, "has_faiss", lambda: False)
    output = run("demo", "--plot", tmp_path / "demo.png").output
    assert "pip install faiss-cpu" in output
    rows = re.findall(
        r"^tqvec (\d bits?[a-z ]*?) +(-|4,000) +(\d+) +[\d.]+ +[\d.]+ +[\d.]+ +([\d.]+)", output, re.MULTILINE
    )
    recalls = {name: float(recall) for name, _, _, recall in rows}
    assert [(nbits[0], count, int(code_size)) for nbits, count, code_size, _ in rows] == [
        *(("1", "-", 52), ("1", "4,000", 52)),
        *(("2", "-", 100), ("2", "-", 100), ("2", "4,000", 100)),
        *(("4", "-", 196), ("4", "4,000", 196)),
    ]
    assert recalls["1 bit"] < recalls["2 bits"] < recalls["2 bits trellis"] < recalls["2 bits trellis trained"]
    assert recalls["4 bits"] < recalls["4 bits trellis trained"] <= 1
    assert len(re.findall("^query: ", output, re.MULTILINE)) == 3
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "none.npy", "-o", "x.tqv"], "no such file: none.npy"),
        (["build", "x.npy", "-o", "x.tqv", "--nbits", "9"], "nbits must be an integer from 1 to 8"),
        (["build", "x.npy", "-o", "x.tqv", "--nbits", "6", "--codebook", "trellis"], "widths of 1 to 5 bits, got 6"),
        (["build", "x.npy", "-o", "nowhere/x.tqv"], "its folder does not exist"),
        (["build", "nan.npy", "-o", "x.tqv"], "nan.npy, rows from 0: x row 5 holds NaN or Inf"),
        (["build", "nan.npy", "-o", "x.tqv", "--train"], "nan.npy, rows from 0: x row 5 holds NaN or Inf"),
        (["build", "long.npy", "-o", "x.tqv", "--train"], "long.npy: sample row 0 is too long to train with"),
        (["build", "empty.npy", "-o", "x.tqv"], "holds no vectors"),
        (["search", "x.npy", "x.npy"], "not a safetensors file"),
        (["search", "good.tqv", "q.npy", "-o", "r.txt"], "name it so"),
        (["search", "good.tqv", "wide.npy"], "queries must have shape (n, 24)"),
        (["info", "x.npy"], "not a safetensors file"),
        (["check", "x.npy"], "x.npy: not a safetensors file"),
        (["check", "flipped.tqv"], "flipped.tqv: damaged: codes of rows 0 to 299 has checksum"),
        (["check", "none.tqv"], "no such file: none.tqv"),
        (["merge", "good.tqv", "flipped.tqv", "-o", "x.tqv"], "flipped.tqv: damaged: codes"),
        (["merge", "good.tqv", "other.tqv", "-o", "x.tqv"], "only vectors of one codec and metric can be merged"),
        (["build", "x.npy:name", "-o", "x.tqv"], "no such file: x.npy:name"),
        (["info", "good.tqv", "--codecs"], "--codecs takes no index file"),
        (["info", "--codecs", "-d", "0"], "d must be an integer from 1"),
    ],
)
def test_errors_are_one_line(vectors, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(vectors)
    monkeypatch.setenv("COLUMNS", "200")
    bad = X.copy()
    bad[5, 5] = np.nan
    np.save("nan.npy", bad)
    np.save("empty.npy", X[:0])
    np.save("long.npy", X * np.float32(1e30))
    np.save("wide.npy", np.zeros((2, 25), np.float32))
    run("build", "x.npy", "-o", "good.tqv")
    run("build", "x.npy", "-o", "other.tqv", "--seed", 1)
    content = bytearray((vectors / "good.tqv").read_bytes())
    content[-1] ^= 1
    (vectors / "flipped.tqv").write_bytes(content)
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["tqvec", *arguments])
    with pytest.raises(SystemExit) as stop:
        application.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert message in error.replace("\n", " ")
    assert "Traceback" not in error
    assert not [path for path in vectors.iterdir() if path.name.startswith("x.tqv")]


def test_warmup_leaves_nothing_to_compile():
    """After it, searches of every kind on another index find all kernels on disk."""
    run("warmup")
    x = np.repeat(np.tile(X, 2)[:, :32] * np.where(np.arange(32) < 16, 1, 0.1), 2, axis=0)
    with event.install_recorder("numba:compile") as compilations:
        for metric, codebook in (("ip", "scalar"), ("l2", "trellis")):
            for trained in (False, True):
                index = tqvec.Index(32, nbits=3, metric=metric, codebook=codebook)
                assert not trained or index.train(x).accepted
                index.add(x)
                for count, k in ((1, 3), (40, 3), (2, 200)):
                    index.search(x[:count], k=k, threads=2)
        for nbits in (2, 3.5):
            tqvec.TurboQuant(64, nbits=nbits, codebook="trellis").encode(np.tile(X, 3)[:, :64])
        tqvec.TurboQuant(24, rotation="haar").decode(tqvec.TurboQuant(24, rotation="haar").encode(X))
    assert [str(compiled.data) for _, compiled in compilations.buffer] == []

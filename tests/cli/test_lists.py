"""Partitioned index files on the command line."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from command import run

import tqvec
from tqvec.errors import InputError
from tqvec.index.file import io
from tqvec.index.index import Index

N, D = 3000, 24


def clusters(n, seed):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(10_190).standard_normal((40, D))
    return (centres[rng.integers(0, 40, n)] + 0.5 * rng.standard_normal((n, D))).astype(np.float32)


X, QUERIES = clusters(N, 1), clusters(7, 2)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("q.npy", QUERIES)
    return tmp_path


def names():
    return {path.name for path in Path().iterdir()}


def json_of(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


def partitioned(nlist=None, metric="ip"):
    index = Index(D, metric=metric)
    index.add(X)
    index.partition(nlist)
    return index


@pytest.mark.parametrize(("lists", "nlist"), [("30", 30), ("auto", None), ("0", None)])
def test_a_build_with_lists_is_that_of_an_index(lists, nlist):
    output = run("build", "x.npy", "-o", "x.tqv", "--nlist", lists, "--metric", "l2").output
    index = partitioned(nlist, "l2")
    assert f"at 4 bits in {index.nlist:,} lists, 20 bytes each" in output
    index.save("expected.tqv")
    assert Path("x.tqv").read_bytes() == Path("expected.tqv").read_bytes()
    assert names() == {"x.npy", "q.npy", "x.tqv", "expected.tqv"}
    found = json_of("build", "x.npy", "-o", "x.tqv", "--nlist", lists, "--metric", "l2")
    assert (found["nlist"], found["file_bytes"]) == (index.nlist, Path("x.tqv").stat().st_size)
    assert json_of("build", "x.npy", "-o", "y.tqv")["nlist"] is None
    assert f"{N:,} vectors of d=24 at 4 bits, 16 bytes each" in run("build", "x.npy", "-o", "y.tqv").output


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("full")])
@pytest.mark.parametrize("train", [[], ["--train"]])
def test_a_build_that_is_stopped_while_it_partitions_goes_on(stop, train, monkeypatch):
    arguments = ["build", "x.npy", "-o", "x.tqv", *train]
    run(*arguments)
    flat = Path("x.tqv").read_bytes()
    run(*arguments, "--nlist", 30)
    whole = Path("x.tqv").read_bytes()
    Path("x.tqv").unlink()

    def fail(*_, **__):
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(Index, "partition", fail)
        result = None
        with contextlib.suppress(KeyboardInterrupt, OSError):
            result = run(*arguments, "--nlist", 30)
        assert result is None or result.exit_code
    assert Path("x.tqv").read_bytes() == flat
    assert names() == {"x.npy", "q.npy", "x.tqv", "x.tqv.journal"}
    monkeypatch.setattr("tqvec.cli.build.encode_rows", fail)  # nothing is compressed again
    assert json_of(*arguments, "--nlist", 30)["resumed"] == N
    assert Path("x.tqv").read_bytes() == whole
    assert names() == {"x.npy", "q.npy", "x.tqv"}


def test_a_stopped_build_of_other_vectors_begins_anew(monkeypatch):
    def fail(*_, **__):
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(Index, "partition", fail)
        with pytest.raises(OSError, match="full"):
            run("build", "x.npy", "-o", "x.tqv", "--nlist", 30)
    assert json_of("build", "x.npy", "-o", "x.tqv", "--nlist", 30, "--seed", 1)["resumed"] == 0
    with monkeypatch.context() as patch:
        patch.setattr(Index, "partition", fail)
        with pytest.raises(OSError, match="full"):
            run("build", "x.npy", "-o", "x.tqv", "--nlist", 30)
    other = Index(D)
    other.add(QUERIES)
    other.save("x.tqv")  # the journal tells of a file that is gone
    assert json_of("build", "x.npy", "-o", "x.tqv", "--nlist", 30)["resumed"] == 0
    assert Index.load("x.tqv").ntotal == N


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_kill_leaves_a_whole_file():
    """At any time there is the flat file or the partitioned one, and the same command makes the latter."""
    command = [sys.executable, "-m", "tqvec", "build", "x.npy", "-o", "x.tqv", "--nlist", "300", "--threads", "1"]
    run(*command[3:])
    whole = Path("x.tqv").read_bytes()
    kinds = set()
    for delay in (0.0, 0.1):
        Path("x.tqv").unlink()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not Path("x.tqv").exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.wait()
        kinds.add(Index.load("x.tqv", verify=True).nlist)
        run(*command[3:])
        assert Path("x.tqv").read_bytes() == whole
        assert names() == {"x.npy", "q.npy", "x.tqv"}
    assert None in kinds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nlist", N + 1], f"--nlist must be auto, or from 1 to {N}, the number of vectors, got {N + 1}"),
        (["--nlist", -1], "--nlist must be auto, or from 1"),
    ],
)
def test_wrong_numbers_of_lists_are_refused_before_any_work(arguments, message):
    with pytest.raises(InputError, match=message):
        run("build", "x.npy", "-o", "x.tqv", *arguments)
    assert run("build", "x.npy", "-o", "x.tqv", "--nlist", "many").exit_code == 2
    assert names() == {"x.npy", "q.npy"}


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")
def test_lists_need_a_file():
    with pytest.raises(InputError, match="can't be a device or FIFO"):
        run("build", "x.npy", "-o", "/dev/null", "--nlist", 30)


@pytest.mark.parametrize("options", [{"nprobe": 2}, {"recall": 0.5}, {"recall": 1.0}, {}])
def test_search_of_lists(options):
    index = partitioned(30)
    index.save("x.tqv")
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    found = json_of("search", "x.tqv", "q.npy", *flags)
    scores, ids = index.search(QUERIES, **options)
    assert found["ids"] == ids.tolist()
    assert np.array_equal(np.float32(found["scores"]), scores)


def test_options_for_lists_are_checked():
    partitioned(30).save("x.tqv")
    with pytest.raises(InputError, match="give nprobe or recall, not both"):
        run("search", "x.tqv", "q.npy", "--nprobe", 3, "--recall", 0.5)
    run("build", "x.npy", "-o", "x.tqv")
    with pytest.raises(InputError, match="nprobe is for a partitioned index"):
        run("search", "x.tqv", "q.npy", "--nprobe", 3)


def test_files_in_the_order_of_the_vectors():
    """Masks and vectors of --filter and --rerank are in the order of the file that was built from, not of the lists."""
    np.save("ids.npy", np.arange(N) + 5)
    run("build", "x.npy", "-o", "x.tqv", "--ids", "ids.npy", "--nlist", 30)
    index = Index.load("x.tqv")
    assert not np.array_equal(index.ids, np.arange(N) + 5)
    mask = np.arange(N) % 3 == 0
    np.save("mask.npy", mask)
    found = json_of("search", "x.tqv", "q.npy", "--filter", "mask.npy", "--rerank", "x.npy")
    expected = index.search(QUERIES, filter=np.flatnonzero(mask) + 5, rerank=X[index.ids - 5])
    assert found["ids"] == expected[1].tolist()
    found = json_of("search", "x.tqv", "q.npy", "--exclude", "mask.npy", "--recall", 1)
    assert found["ids"] == index.search(QUERIES, filter=np.flatnonzero(~mask) + 5, recall=1.0)[1].tolist()
    for wrong in ("--filter", "--rerank"):
        np.save("wrong.npy", mask[1:] if wrong == "--filter" else X[1:])
        with pytest.raises(InputError, match=str(N)):
            run("search", "x.tqv", "q.npy", wrong, "wrong.npy")
    np.save("ids.npy", np.arange(N) * 2)
    run("build", "x.npy", "-o", "x.tqv", "--ids", "ids.npy", "--nlist", 30)
    for option in (["--filter", "mask.npy"], ["--rerank", "x.npy"]):
        with pytest.raises(InputError, match="its ids don't tell in which order"):
            run("search", "x.tqv", "q.npy", *option)


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_info_and_check(metric):
    index = partitioned(30, metric)
    index.save("x.tqv")
    sizes = np.diff(io.load(Path("x.tqv")).lists["list_starts"])
    centroid_bytes = 30 * (D + 4 + 4 * (metric == "l2")) + 4 * D
    facts = json_of("info", "x.tqv")
    assert facts["lists"] == {
        "nlist": 30,
        "smallest": sizes.min(),
        "median": np.median(sizes),
        "largest": sizes.max(),
        "centroid_bytes": centroid_bytes,
    }
    sizes_line = f"30, of {sizes.min()} to {sizes.max()} vectors, median {np.median(sizes):g}"
    assert f"{sizes_line}; centroids: {centroid_bytes:,} bytes" in run("info", "x.tqv").output
    assert "centroid_codes" in run("check", "x.tqv").output
    run("build", "x.npy", "-o", "x.tqv")
    assert json_of("info", "x.tqv")["lists"] is None
    assert "lists" not in run("info", "x.tqv").output


def test_merge_of_lists():
    """The rows of all files go to the lists of the first."""
    one, two, three = Index(D), Index(D), Index(D)
    one.add(X[:1000])
    one.partition(20)
    one.save("one.tqv")
    two.add(X[1000:1800])
    two.partition(10)
    two.save("two.tqv")
    three.add(X[1800:])
    three.save("three.tqv")
    output = run("merge", "one.tqv", "two.tqv", "three.tqv", "-o", "all.tqv").output
    assert f"all.tqv: {N:,} vectors of d=24, ids each its own, {Path('all.tqv').stat().st_size:,} bytes" in output
    merged = Index.load("all.tqv", verify=True)
    assert merged.nlist == 20
    flat = Index(D)
    flat.add(X)
    queries = X[::100]
    assert np.array_equal(merged.search(queries, recall=1.0)[0], flat.search(queries)[0])
    assert np.array_equal(merged.search(queries, recall=1.0)[1], flat.search(queries)[1])
    run("merge", "three.tqv", "one.tqv", "-o", "all.tqv")
    assert Index.load("all.tqv").nlist is None
    other = Index(D, seed=1)
    other.add(X)
    other.save("other.tqv")
    with pytest.raises(InputError, match=r"other\.tqv: indexes of different codecs can't be merged"):
        run("merge", "one.tqv", "other.tqv", "-o", "x.tqv")
    with pytest.raises(InputError, match=r"is the same file as one\.tqv"):
        run("merge", "one.tqv", "two.tqv", "-o", "one.tqv")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")
def test_a_fifo_gets_merged_lists():
    partitioned(20).save("one.tqv")
    run("merge", "one.tqv", "-o", "x.tqv")
    got = []
    os.mkfifo("fifo")
    reader = threading.Thread(target=lambda: got.append(Path("fifo").read_bytes()))
    reader.start()
    run("merge", "one.tqv", "-o", "fifo")
    reader.join()
    assert got == [Path("x.tqv").read_bytes()] == [Path("one.tqv").read_bytes()]
    assert tqvec.Index.load("x.tqv").nlist == 20

"""Writing in parts: what fails leaves the old file, and nothing else."""

import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from strategies import normal

import tqvec
from tqvec import _atomic
from tqvec.errors import InputError
from tqvec.index.file import io
from tqvec.index.rows import encode_rows

X = normal(40, 20, 10_020)
CODEC = tqvec.TurboQuant(20, nbits=3)
ROWS = encode_rows(CODEC, "ip", X)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def part(start, stop):
    return {name: array[start:stop] for name, array in ROWS.items()}


def test_an_exception_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.tqv"
    io.save(path, CODEC, "ip", 40, [ROWS])
    before = path.read_bytes()

    def failing():
        yield part(0, 20)
        raise KeyboardInterrupt

    def full(*_):
        raise OSError("disk full")

    with pytest.raises(KeyboardInterrupt):
        io.save(path, CODEC, "ip", 40, failing())
    for broken in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, broken, full)
            with pytest.raises(OSError, match="disk full"):
                io.save(path, CODEC, "ip", 20, [part(0, 20)])
    with pytest.raises(InputError, match="40 rows were announced, 20 written"):
        io.save(path, CODEC, "ip", 40, [part(0, 20)])
    with pytest.raises(FileNotFoundError):
        io.save(tmp_path / "none" / "a.tqv", CODEC, "ip", 40, [ROWS])
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.tqv"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"codes": ROWS["codes"]}, "rows must have codes, scale, got codes"),
        ({**ROWS, "squared_norm": ROWS["scale"]}, "squared_norm"),
        ({**ROWS, "codes": ROWS["codes"][:, :-1]}, r"codes must have shape \(40, 8\)"),
        ({**ROWS, "codes": ROWS["codes"][:-1]}, "codes"),
        ({**ROWS, "scale": ROWS["scale"].astype(np.float64)}, "float32"),
        ({**ROWS, "ids": np.arange(40)}, "ids"),
        ({name: np.concatenate([array, array]) for name, array in ROWS.items()}, "40 rows were announced, got 80"),
    ],
)
def test_rows_that_do_not_fit(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        io.save(tmp_path / "a.tqv", CODEC, "ip", 40, [rows])
    assert names(tmp_path) == []


def test_ids_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="ids must be below next_id, 100, got 100"):
        io.save(tmp_path / "a.tqv", CODEC, "ip", 40, [ROWS | {"ids": np.arange(40) + 61}], None, 100)
    with pytest.raises(InputError, match=r"ids end at 2\^63 - 1"):
        io.save(tmp_path / "a.tqv", CODEC, "ip", 40, [ROWS], 2**63 - 39)
    assert names(tmp_path) == []


def test_the_parts_do_not_matter(tmp_path):
    """Nor whether arrays are contiguous, writable or mapped."""
    whole, pieces = tmp_path / "whole.tqv", tmp_path / "pieces.tqv"
    io.save(whole, CODEC, "ip", 40, [ROWS])
    rng = np.random.default_rng(10_021)
    for _ in range(20):
        cuts = [0, *sorted(rng.integers(0, 41, 5)), 40]
        io.save(pieces, CODEC, "ip", 40, [part(a, b) for a, b in pairwise(cuts)])
        assert pieces.read_bytes() == whole.read_bytes()
    _, mapped, *_ = io.load(whole, mmap=True)
    wide = {name: np.repeat(array, 2, axis=0)[::2] for name, array in mapped.items()}
    io.save(whole, CODEC, "ip", 40, [wide])
    assert pieces.read_bytes() == whole.read_bytes()


def test_what_killed_processes_left_is_deleted(tmp_path):
    """But not what a living one is writing, nor other files of like names."""
    path = tmp_path / "a.tqv"
    script = """
        import os, signal, sys
        from pathlib import Path
        from tqvec import _atomic
        file = _atomic.create(Path(sys.argv[1]))
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], check=False)
    (left,) = names(tmp_path)
    others = ["a.tqv.0123456.tmp", "aXtqv.01234567.tmp", "a.tqv.01234567.tmp.x", "b.tqv.01234567.tmp"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    with io.Writer(path, CODEC, "ip", 40) as one:
        (living,) = set(names(tmp_path)) - {*others, left}
        assert left not in names(tmp_path)
        io.save(path, CODEC, "ip", 20, [part(0, 20)])
        assert living in names(tmp_path)
        one.write(ROWS)
    assert names(tmp_path) == sorted(["a.tqv", *others])
    assert io.load(path, verify=True)[0].ntotal == 40


def test_saving_from_many_threads(tmp_path):
    """The last one wins; the file is always whole."""
    path = tmp_path / "a.tqv"
    failures = []

    def work(n):
        try:
            for _ in range(10):
                io.save(path, CODEC, "ip", n, [part(0, n)])
                io.load(path, verify=True)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(30, 38)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert names(tmp_path) == ["a.tqv"]


def test_files_get_the_usual_rights(tmp_path):
    before = os.umask(0o027)
    try:
        io.save(tmp_path / "a.tqv", CODEC, "ip", 40, [ROWS])
    finally:
        os.umask(before)
    assert (tmp_path / "a.tqv").stat().st_mode & 0o777 == 0o640


def test_memory_of_one_part(tmp_path):
    """Of a file ten times larger; in mapping it, nothing of it."""
    codec, rows = tqvec.TurboQuant(1024, nbits=8), 1000
    one = {"codes": np.ones((rows, 1024), np.uint8), "scale": np.ones(rows, np.float32)}
    tracemalloc.start()
    try:
        io.save(tmp_path / "a.tqv", codec, "ip", 10 * rows, (one for _ in range(10)))
        assert tracemalloc.get_traced_memory()[1] < 300_000
        io.load(tmp_path / "a.tqv", mmap=True, verify=True)
        assert tracemalloc.get_traced_memory()[1] < 300_000
        tracemalloc.reset_peak()
        kept = io.load(tmp_path / "a.tqv")
        assert tracemalloc.get_traced_memory()[1] < 1.05 * 10 * rows * 1028
        assert kept[1]["codes"].shape == (10 * rows, 1024)
    finally:
        tracemalloc.stop()


def test_without_locks(tmp_path, monkeypatch):
    """On systems that have none files are written all the same, and left ones stay."""
    monkeypatch.setattr(_atomic, "fcntl", None)
    (tmp_path / "a.tqv.01234567.tmp").write_bytes(b"")
    io.save(tmp_path / "a.tqv", CODEC, "ip", 40, [ROWS])
    assert names(tmp_path) == ["a.tqv", "a.tqv.01234567.tmp"]
    assert io.load(tmp_path / "a.tqv", verify=True)[0].ntotal == 40

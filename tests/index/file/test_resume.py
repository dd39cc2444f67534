"""A build goes on where another process stopped, if both want the same."""

import contextlib
import json
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from strategies import normal

import tqvec
from tqvec._safetensors import with_checksum
from tqvec.errors import InputError
from tqvec.index.file import header as header_module
from tqvec.index.file import io
from tqvec.index.file.resume import Journal
from tqvec.index.rows import encode_rows

X = (normal(600, 24, 10_050) / np.arange(1, 25)).astype(np.float32)
REQUEST = {"of": "these vectors", "nbits": 2, "shape": [600, 24]}


class Stopped(Exception):
    """As by Ctrl-C."""


@pytest.fixture(scope="module", params=["plain", "trained"])
def codec(request):
    index = tqvec.Index(24, nbits=2)
    if request.param == "trained":
        assert index.train(X).accepted
    return index.codec


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(header_module, "CHECKSUM_ROWS", 100)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def rows(codec, start, stop):
    return encode_rows(codec, "l2", X[start:stop])


def leave_part(path, codec, noted=250, written=300, request=REQUEST):
    """Leave a part of which some rows were noted, and more were written."""
    with contextlib.suppress(Stopped), Journal(path, request) as journal:
        writer = journal.start(codec, "l2", 600)
        writer.write(rows(codec, 0, noted))
        journal.note(writer)
        writer.write(rows(codec, noted, written))
        raise Stopped
    assert names(path.parent) == ["a.tqv.journal", "a.tqv.part"]


def test_it_goes_on(tmp_path, codec):
    path = tmp_path / "a.tqv"
    leave_part(path, codec)
    with Journal(path, REQUEST) as journal:
        writer = journal.resume()
        assert writer.rows == 250
        assert writer.codec.fingerprint == codec.fingerprint
        writer.write(rows(writer.codec, 250, 600))
        writer.close()
    assert names(tmp_path) == ["a.tqv"]
    io.save(tmp_path / "b.tqv", codec, "l2", 600, [rows(codec, 0, 600)])
    assert path.read_bytes() == (tmp_path / "b.tqv").read_bytes()


def note(path, **changes):
    notes = json.loads(path.read_text())
    path.write_text(json.dumps(notes | changes))


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 8
    path.write_bytes(content)


def other_header(notes, **changes):
    return with_checksum(json.loads(notes.read_text())["header"] | changes)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda part, notes: part.unlink(),
        lambda part, notes: notes.unlink(),
        lambda part, notes: part.write_bytes(b""),
        lambda part, notes: part.write_bytes(part.read_bytes()[:-1]),
        lambda part, notes: flip(part, -1 - 599 * 6),
        lambda part, notes: flip(part, -1 - 360 * 6),
        lambda part, notes: notes.write_bytes(b"{"),
        lambda part, notes: notes.write_bytes(b"\xff"),
        lambda part, notes: notes.write_bytes(b"[]"),
        lambda part, notes: note(notes, request=REQUEST | {"nbits": 3}),
        lambda part, notes: note(notes, rows=251),
        lambda part, notes: note(notes, rows="x"),
        lambda part, notes: note(notes, rows=-350),
        lambda part, notes: note(notes, rows=10**9),
        lambda part, notes: note(notes, header=None),
        lambda part, notes: note(notes, header=other_header(notes, version=5)),
        lambda part, notes: note(notes, header=other_header(notes, seed=9)),
        lambda part, notes: note(notes, header=other_header(notes, fingerprint="0")),
        lambda part, notes: note(notes, header=other_header(notes, ntotal=599)),
    ],
)
def test_what_is_not_sound_is_not_resumed(tmp_path, codec, spoil):
    path = tmp_path / "a.tqv"
    leave_part(path, codec)
    spoil(tmp_path / "a.tqv.part", tmp_path / "a.tqv.journal")
    with Journal(path, REQUEST) as journal:
        assert journal.resume() is None
        writer = journal.start(codec, "l2", 600)
        writer.write(rows(codec, 0, 600))
        writer.close()
    assert names(tmp_path) == ["a.tqv"]
    assert np.array_equal(io.load(path, verify=True)[1]["codes"], rows(codec, 0, 600)["codes"])


def test_notes_that_were_half_written_are_deleted(tmp_path, codec):
    path = tmp_path / "a.tqv"
    leave_part(path, codec)
    for name in ("a.tqv.journal.01234567.tmp", "a.tqv.89abcdef.tmp"):
        (tmp_path / name).write_bytes(b"{")
    with Journal(path, REQUEST) as journal:
        assert journal.resume().rows == 250
        assert names(tmp_path) == ["a.tqv.journal", "a.tqv.part"]


def test_a_flipped_calibration(tmp_path):
    index = tqvec.Index(24, nbits=2)
    assert index.train(X).accepted
    path = tmp_path / "a.tqv"
    leave_part(path, index.codec)
    part = tmp_path / "a.tqv.part"
    header = header_module.make_header(index.codec, "l2", 600, 0, None)
    flip(part, len(header.head()) + header.tensors()["matrix"].start + 2)
    with Journal(path, REQUEST) as journal:
        assert journal.resume() is None


def test_bad_input_leaves_nothing(tmp_path, codec):
    path = tmp_path / "a.tqv"
    leave_part(path, codec)
    with pytest.raises(InputError), Journal(path, REQUEST) as journal:
        journal.resume().write({})
    assert names(tmp_path) == []
    with pytest.raises(Stopped), Journal(path, REQUEST):
        raise Stopped
    assert names(tmp_path) == []


def test_one_process_at_a_time(tmp_path, codec):
    path = tmp_path / "a.tqv"
    with Journal(path, REQUEST) as journal:
        with pytest.raises(InputError, match=r"a\.tqv: another process is at work on it"):
            Journal(path, REQUEST)
        writer = journal.start(codec, "l2", 0)
        writer.close()
    assert names(tmp_path) == ["a.tqv"]
    with Journal(path, REQUEST):
        pass
    assert names(tmp_path) == ["a.tqv"]


def test_a_killed_process_frees_it(tmp_path):
    script = """
        import os, signal, sys
        from pathlib import Path
        from tqvec.index.file.resume import Journal
        Journal(Path(sys.argv[1]), {})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "a.tqv"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == ["a.tqv.part"]
    with Journal(path, REQUEST) as journal:
        assert journal.resume() is None
    assert names(tmp_path) == []

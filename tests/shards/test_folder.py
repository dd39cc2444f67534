"""Folders: files appear when they are complete, and are what was written."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tqvec.errors import FormatError, InputError
from tqvec.shards import folder as module
from tqvec.shards.folder import Folder, StoredFile, digest_of

fs = pytest.importorskip("pyarrow.fs")
DAY = 86_400


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "f")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(np.random.default_rng(3).bytes(100_000))
    return path


def names(path):
    return sorted(str(each.relative_to(path)) for each in path.rglob("*") if each.is_file())


def write_half(folder, name):
    with folder._writing(name) as stream:
        stream.write(b"half")
        raise KeyboardInterrupt


def test_files_come_and_go(folder, tmp_path, source):
    assert folder.sizes() == {}
    assert folder.size("a/b") is None
    stored = folder.write("a/b", b"content")
    assert stored == StoredFile("a/b", 7, "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73")
    big = folder.put(source, "big", digest_of(source))
    assert folder.sizes() == {"a/b": 7, "big": 100_000}
    assert folder.sizes("a") == {"a/b": 7}
    assert folder.read("a/b") == b"content"
    folder.fetch(big, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    folder.write("a/b", b"new")
    assert folder.read("a/b") == b"new"
    folder.delete("a/b")
    folder.delete("a/b")
    assert folder.sizes() == {"big": 100_000}


@pytest.mark.parametrize("kind", ["path", "text", "uri", "filesystem", "subtree"])
def test_places(tmp_path, kind):
    place = {"path": tmp_path / "f", "uri": (tmp_path / "f").as_uri(), "subtree": "f"}.get(kind, str(tmp_path / "f"))
    filesystem = {
        "filesystem": fs.LocalFileSystem(),
        "subtree": fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()),
    }
    folder = Folder(place, filesystem.get(kind))
    folder.write("x/y", b"1")
    assert names(tmp_path) == ["f/x/y"]
    assert folder.is_local
    assert str(folder) == str(tmp_path / "f")


def test_bad_places():
    with pytest.raises(InputError, match="filesystem must be of pyarrow.fs, got a str"):
        Folder("a", "s3")
    with pytest.raises(InputError, match=r"nowhere://x: pyarrow can't open this URI"):
        Folder("nowhere://x")
    with pytest.raises(InputError, match=r"s3://x: is a URI; hand over a path in the file system, or the URI alone"):
        Folder("s3://x", fs.LocalFileSystem())
    for filesystem in (None, fs.LocalFileSystem()):
        with pytest.raises(InputError, match="path must be a str or a path, got int"):
            Folder(3, filesystem)


def test_a_write_that_fails_leaves_the_old_file_alone(folder, tmp_path):
    folder.write("a/b", b"old")
    for name in ("a/b", "a/c"):
        with pytest.raises(KeyboardInterrupt):
            write_half(folder, name)
    assert names(tmp_path / "f") == ["a/b"]
    assert folder.read("a/b") == b"old"


def test_nothing_is_seen_while_it_is_written(folder, tmp_path):
    with folder._writing("a/b") as stream:
        stream.write(b"half")
        stream.flush()
        assert folder.sizes() == {}
        assert len(names(tmp_path / "f")) == 1
        (name,) = folder.times()
        assert name.startswith("a/b.")
    assert folder.sizes() == {"a/b": 4}


def test_a_full_disk_leaves_nothing(folder, tmp_path, source, monkeypatch):
    def full(temporary, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_give_name", full)
    with pytest.raises(OSError, match="No space left"):
        folder.put(source, "big", digest_of(source))
    assert names(tmp_path / "f") == []


def test_a_file_that_is_there_is_not_written_again(folder, tmp_path, source):
    path, digest = tmp_path / "f" / "big", digest_of(source)
    folder.put(source, "big", digest)
    before = path.stat().st_ino
    folder.put(source, "big", digest)
    assert path.stat().st_ino == before
    path.write_bytes(source.read_bytes()[:-1])  # an object that was cut short
    folder.put(source, "big", digest)
    assert path.read_bytes() == source.read_bytes()


def test_an_old_file_is_written_again_before_it_is_collected(folder, tmp_path, source):
    path, digest = tmp_path / "f" / "big", digest_of(source)
    folder.put(source, "big", digest)
    os.utime(path, (0, path.stat().st_mtime - 2 * DAY))
    before = folder.times()["big"]
    folder.put(source, "big", digest)
    assert folder.times()["big"] > before + DAY


@pytest.mark.parametrize("change", [lambda x: x[:-1], lambda x: x + b"1", lambda x: bytes([x[0] ^ 1]) + x[1:]])
def test_other_bytes_are_not_fetched(folder, tmp_path, source, change):
    stored = folder.put(source, "big", digest_of(source))
    (tmp_path / "f" / "big").write_bytes(change(source.read_bytes()))
    (tmp_path / "copies").mkdir()
    with pytest.raises(FormatError, match="f/big: damaged: its bytes are not those that were written"):
        folder.fetch(stored, tmp_path / "copies" / "copy")
    assert names(tmp_path / "copies") == []


def test_a_file_that_is_not_there(folder, tmp_path):
    stored = StoredFile("gone", 1, "0" * 64)
    with pytest.raises(FormatError, match="f/gone: is missing, though the manifest names it"):
        folder.fetch(stored, tmp_path / "copy")
    with pytest.raises(FormatError, match="f/gone: is missing"):
        folder.check_size(stored)
    folder.write("gone", b"22")
    with pytest.raises(FormatError, match="f/gone: has 2 bytes, not 1"):
        folder.check_size(stored)
    with pytest.raises(FileNotFoundError, match="nowhere"):  # that is no fault of the folder
        folder.fetch(folder.write("here", b"1"), tmp_path / "nowhere" / "copy")


def test_many_fetch_at_once(folder, tmp_path, source):
    stored, done = folder.put(source, "big", digest_of(source)), threading.Event()
    target, seen = tmp_path / "copies" / "copy", []
    target.parent.mkdir()

    def watch():
        while not done.is_set():
            if target.exists():
                seen.append(target.stat().st_size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: folder.fetch(stored, target), range(40)))
    done.set()
    watcher.join()
    assert set(seen) <= {100_000}
    assert names(target.parent) == ["copy"]
    assert digest_of(target) == stored.sha256

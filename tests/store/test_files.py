"""Folders that are damaged, foreign, read-only, full or of another version: clear errors, and nothing lost."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT
from store.records import D, fill, vectors

import tqvec
from tqvec.errors import BusyError, FormatError, InputError, UnsupportedError
from tqvec.store import catalog, change, originals


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A closed collection with two segments, a tail, deleted records and originals."""
    monkeypatch.setattr(change, "_TAIL", 20)
    with tqvec.Collection(tmp_path / "c", d=D, keep="float32") as collection:
        for part in range(5):
            fill(collection, 10, seed=part, first=10 * part)
        collection.delete(["r3", "r44"])
        assert collection.info()[:3] == (48, 1, 2)
    return tmp_path / "c"


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x55
    path.chmod(0o644)
    path.write_bytes(data)


def problems_of(folder):
    try:
        with tqvec.Collection(folder) as collection:
            return collection.check()
    except FormatError as error:
        return [str(error)]


def test_every_changed_byte_of_a_segment_is_found(folder):
    rng = np.random.default_rng(1)
    for path in sorted((folder / "segments").iterdir()):
        good = path.read_bytes()
        for at in {0, 8, 200, len(good) - 1, *rng.integers(0, len(good), 12).tolist()}:
            flip(path, at)
            problems = problems_of(folder)
            assert len(problems) == 1, (path.name, at)
            assert path.name in problems[0]
            path.write_bytes(good)
    with tqvec.Collection(folder) as collection:
        assert collection.check() == []


@pytest.mark.parametrize("ending", ["tqv", "safetensors"])
def test_a_missing_file_is_named(folder, ending):
    path = min((folder / "segments").glob(f"*.{ending}"))
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name), tqvec.Collection(folder) as collection:
        collection.search(vectors(1, 0), rerank=True)
    path.write_bytes(kept)
    with tqvec.Collection(folder) as collection:
        assert collection.check() == []


def test_a_file_of_another_segment_is_refused(folder):
    one, other = sorted((folder / "segments").glob("*.tqv"))
    shutil.copy(one, other)
    with (
        pytest.raises(FormatError, match="is not the file that the catalog has"),
        tqvec.Collection(folder) as collection,
    ):
        collection.search(vectors(1, 0))


def test_rows_without_vectors_are_found(folder):
    connection = sqlite3.connect(folder / catalog.NAME)
    connection.execute("INSERT INTO records (row, id, metadata) VALUES (999, 'x', '{}')")
    connection.execute("DELETE FROM records WHERE id = 'r1'")
    connection.execute("DELETE FROM tombstones")
    connection.commit()
    connection.close()
    with tqvec.Collection(folder) as collection:
        problems = collection.check()
    assert "1 rows have no vector, the first is 999" in problems
    assert "2 rows have no record, the first is 2" in problems


@pytest.mark.parametrize("where", [{"$id": "x"}, {"$id": {"$in": ["x", "r0", "r3"]}}])
def test_a_search_for_rows_without_vectors_says_so(folder, where):
    connection = sqlite3.connect(folder / catalog.NAME)
    connection.execute("INSERT INTO records (row, id, metadata) VALUES (999, 'x', '{}')")
    connection.commit()
    connection.close()
    with tqvec.Collection(folder) as collection:
        for _ in range(3):
            with pytest.raises(FormatError, match=r"some records have no vector: the catalog is damaged; see check"):
                collection.search(np.ones(D), where=where)
        assert len(collection.search(np.ones(D), k=4)[0].ids) == 4


def test_foreign_folders_and_files(tmp_path, folder):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        tqvec.Collection(tmp_path / "file", d=D)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"is no collection, and has other files \(notes.txt\)"):
        tqvec.Collection(tmp_path / "other", d=D)
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["notes.txt"]
    database = folder / catalog.NAME
    kept = database.read_bytes()
    database.write_bytes(b"no database at all, but long enough to be one" * 100)
    with pytest.raises(FormatError, match="damaged"):
        tqvec.Collection(folder)
    database.unlink()
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(FormatError, match="not that of a collection"):
        tqvec.Collection(folder)
    database.write_bytes(kept)
    connection = sqlite3.connect(database)
    connection.execute(f"PRAGMA user_version = {catalog.VERSION + 1}")
    connection.commit()
    connection.close()
    with pytest.raises(FormatError, match="written in version 2; this tqvec reads up to 1: upgrade it"):
        tqvec.Collection(folder)


def test_a_damaged_catalog_is_told_of(folder):
    path = folder / catalog.NAME
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data), 1024):
        data[at : at + 512] = bytes(512)
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"catalog\.sqlite: damaged"), tqvec.Collection(folder) as collection:
        collection.get()


def test_a_full_disk_changes_nothing(folder, monkeypatch):
    def full(*args, **named):
        raise OSError(28, "No space left on device")

    with tqvec.Collection(folder) as collection:
        before = sorted(path.name for path in (folder / "segments").iterdir())
        monkeypatch.setattr(change, "write_segment", full)
        with pytest.raises(OSError, match="No space left"):
            fill(collection, 30, first=100)
        monkeypatch.undo()
        monkeypatch.setattr("tqvec.store.segments.write_originals", full)
        with pytest.raises(OSError, match="No space left"):
            collection.compact()
        monkeypatch.undo()
        assert len(collection) == 48
        assert collection.check() == []
        assert sorted(path.name for path in (folder / "segments").iterdir()) == before
        fill(collection, 30, first=100)
        assert len(collection) == 78


def test_a_full_disk_of_sqlite(folder):
    with tqvec.Collection(folder) as collection:
        with collection._catalog.reading() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages + 1}").fetchone()
        with pytest.raises(OSError, match="no space left on the disk; nothing was changed"):
            collection.upsert(ids=["big"], vectors=vectors(1, 0), documents=["x " * 100_000])
        assert "big" not in collection
        assert collection.check() == []


@pytest.mark.skipif(os.name == "nt", reason="rights of POSIX")
def test_a_folder_that_can_only_be_read(folder):
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    folder.chmod(0o555)
    (folder / catalog.NAME).chmod(0o444)
    try:
        with tqvec.Collection(folder) as collection:
            assert len(collection.search(vectors(1, 0))[0].ids) == 10
            with pytest.raises(PermissionError, match="can only be read"):
                collection.delete("r1")
    finally:
        folder.chmod(0o755)


READ_ONLY = """
import os, sys
import numpy as np, tqvec
index, _ = tqvec.Index(16, metric="cosine"), tqvec.Collection  # others may not read the modules of this Python
index.add(np.eye(16))
index.search(np.ones(16), k=5)
os.setgid(54321); os.setuid(54321)
with tqvec.Collection(sys.argv[1]) as collection:
    print(len(collection), len(collection.search(np.ones(16), k=5)[0].ids))
    try:
        collection.delete("r1")
    except PermissionError as error:
        print("refused", error)
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root")
@pytest.mark.parametrize("is_open", [False, True])
def test_another_user_reads(folder, is_open):
    if not all(parent.stat().st_mode & 0o005 == 0o005 for parent in Path(tqvec.__file__).parents):
        pytest.skip("others may not read the package itself")
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(folder, f"{place}/c")
        for path in (Path(place), *Path(place).rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        writer = tqvec.Collection(f"{place}/c") if is_open else None
        if writer is not None:
            writer.upsert(ids=["new"], vectors=vectors(1, 9))
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, f"{place}/c"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0] == ("49 5" if is_open else "48 5")
        assert "can only be read here" in done.stdout
        if writer is not None:
            writer.close()


def test_a_writer_that_waits_names_the_other(folder):
    with tqvec.Collection(folder) as one, tqvec.Collection(folder, timeout=0.05) as other:
        with one._changing("long work"):
            with pytest.raises(BusyError, match=rf"another writer \(process {os.getpid()} on .*: long work\)"):
                other.delete("r1")
            assert len(other) == 48
        assert other.delete("r1") == 1


def test_writing_on_a_network_file_system_is_refused(folder, monkeypatch):
    monkeypatch.setattr(catalog, "_file_system", lambda folder: "nfs4")
    with tqvec.Collection(folder) as collection:
        assert len(collection) == 48
        with pytest.raises(UnsupportedError, match="network file system"):
            collection.delete("r1")


def test_file_systems_are_read_from_the_mounts(tmp_path):
    if sys.platform == "linux":
        assert catalog._file_system(tmp_path) not in ("", "nfs")
        assert catalog._file_system(tmp_path / "../../proc/self") != ""


def test_files_that_a_killed_writer_left_are_deleted(folder):
    for name in ("00000099.tqv", "00000099.safetensors"):
        shutil.copy(min((folder / "segments").iterdir()), folder / "segments" / name)
    with tqvec.Collection(folder) as collection:
        assert len(collection) == 48
        assert (folder / "segments" / "00000099.tqv").exists()
        collection.delete("r1")
        assert not (folder / "segments" / "00000099.tqv").exists()
        assert collection.check() == []


def test_the_file_of_originals_is_safetensors(folder):
    from safetensors.numpy import load_file

    path = min((folder / "segments").glob("*.safetensors"))
    arrays = load_file(path)
    assert sorted(arrays) == ["rows", "vectors"]
    np.testing.assert_array_equal(originals.Originals(path, "float32").of(arrays["rows"]), arrays["vectors"])
    with pytest.raises(FormatError, match="it has vectors of float32, not of int8"):
        originals.Originals(path, "int8")

"""Collecting: what is old and unused goes, and what a reader or a writer may need stays."""

import os
import time

import pytest
from shards.sharded import index_of, write_index, write_shard

from tqvec.errors import FormatError, InputError
from tqvec.shards.checking import verify
from tqvec.shards.collecting import collect
from tqvec.shards.folder import Folder
from tqvec.shards.manifest import manifest_names, read_manifest, write_manifest

DAY = 86_400


@pytest.fixture
def made(tmp_path):
    """Three versions; each but the first has a shard more than the one before."""
    folder, manifest, _ = write_index(tmp_path / "f", tmp_path)
    for n in (60, 70):
        manifest = manifest.extended([write_shard(folder, index_of(n), n - 10, n, tmp_path)], "source")
        write_manifest(folder, manifest)
    return folder


def age(folder, days, *names):
    """Make files older; all of them without names."""
    for name in names or folder.times():
        path = folder.at(name)
        os.utime(path, (0, os.stat(path).st_mtime - days * DAY))


def test_old_versions_go_when_they_were_replaced_long_ago(made):
    manifests = manifest_names(made)
    age(made, 30)
    age(made, -20, manifests[3])  # written 10 days ago: then version 2 was replaced
    assert collect(made, 15 * DAY, dry_run=True) == [manifests[1]]
    assert list(manifest_names(made)) == [1, 2, 3]
    assert collect(made, 15 * DAY) == [manifests[1]]
    assert collect(made, 15 * DAY) == []
    assert collect(made, 5 * DAY) == [manifests[2]]
    assert list(manifest_names(made)) == [3]
    assert verify(made, read_manifest(made)).sound


def test_the_newest_stays_however_old(made):
    age(made, 10_000)
    collect(made, 0)
    assert collect(made, 0) == []
    assert verify(made, read_manifest(made)).sound


def test_files_of_no_version_go(made, tmp_path):
    newest = read_manifest(made)
    write_shard(made, index_of(90), 70, 90, tmp_path)
    orphans = sorted(set(made.sizes()) - {file.name for file in newest.files} - set(manifest_names(made).values()))
    assert len(orphans) == 2
    left = [f"shards/{'0' * 12}-{'0' * 16}.tqv.01234567.tmp", "manifests/x.json.01234567.tmp", "building/a/1.json"]
    left += [f"codec-{'0' * 16}.tqv", f"codec-{'0' * 16}.tqv.01234567.tmp"]
    strange = ["README.md", "shards/notes.txt", "records/other.parquet", "manifests/notes.txt", "data/shards/1.tqv"]
    for name in (*left, *strange):
        made.write(name, b"x")
    assert collect(made, 7 * DAY) == []
    age(made, 8)
    assert collect(made, 9 * DAY) == []
    old = [name for number, name in manifest_names(made).items() if number < 3]
    assert sorted(collect(made, 7 * DAY)) == sorted([*orphans, *left, *old])
    assert not {*orphans, *left, *old} & set(made.times())
    assert set(strange) <= set(made.sizes())
    assert verify(made, read_manifest(made)).sound


def test_what_only_an_old_version_has_goes_with_it(made):
    """Versions here only grow, but a folder may have been put together anew."""
    newest = read_manifest(made)
    dropped = newest.shards[-1]
    write_manifest(made, newest._replace(number=4, shards=newest.shards[:-1]))
    age(made, 8)
    age(made, -5, manifest_names(made)[4])  # 3 days ago
    assert collect(made, 7 * DAY, dry_run=True) == [manifest_names(made)[1], manifest_names(made)[2]]
    assert {file.name for file in dropped.files} <= set(made.sizes())
    gone = collect(made, 2 * DAY)
    assert {file.name for file in dropped.files} <= set(gone)
    assert verify(made, read_manifest(made)).sound


def test_an_append_keeps_its_files(made, tmp_path):
    """One that began before the collection and ends after it, with files that a killed one left long ago."""
    write_shard(made, index_of(90), 70, 90, tmp_path)
    age(made, 8)
    shard = write_shard(made, index_of(90), 70, 90, tmp_path)  # they are there, and now they are new
    assert not {file.name for file in shard.files} & set(collect(made, 7 * DAY))
    write_manifest(made, read_manifest(made).extended([shard], "source"))
    assert verify(made, read_manifest(made)).sound


def test_a_build_that_notes_its_shards_keeps_them(made, tmp_path):
    shard = write_shard(made, index_of(90), 70, 90, tmp_path)
    made.write("building/x/000000000070.json", b"a receipt")
    age(made, 8)
    made.write("building/x/000000000090.json", b"a later one")
    gone = collect(made, 7 * DAY)
    assert len(gone) == 2
    assert all(name.startswith("manifests/") for name in gone)
    write_manifest(made, read_manifest(made).extended([shard], "source"))
    assert verify(made, read_manifest(made)).sound


def test_a_manifest_that_is_written_meanwhile(made, tmp_path, monkeypatch):
    """It is written after the times were read, and names files that are new then."""
    age(made, 8)
    times = Folder.times

    def read_and_append(self):
        before = times(self)
        shard = write_shard(made, index_of(90), 70, 90, tmp_path)
        write_manifest(made, read_manifest(made).extended([shard], "source"))
        return before

    monkeypatch.setattr(Folder, "times", read_and_append)
    assert all(name.startswith("manifests/") for name in collect(made, 7 * DAY))
    assert list(manifest_names(made)) == [3, 4]
    assert verify(made, read_manifest(made)).sound


def test_files_that_go_before_the_manifest_is_written_are_missed(made, tmp_path):
    """An append that took longer than the time fails, and does not leave a version that lacks files."""
    shard = write_shard(made, index_of(90), 70, 90, tmp_path)
    following = read_manifest(made).extended([shard], "source")
    age(made, 8)
    collect(made, 7 * DAY)
    with pytest.raises(FormatError, match="is missing"):
        write_manifest(made, following)
    assert max(manifest_names(made)) == 3


def test_nothing_is_deleted_if_a_version_can_not_be_read(made, tmp_path):
    name = manifest_names(made)[3]
    made.write(name, made.read(name)[:-1])
    age(made, 30)
    before = made.sizes()
    with pytest.raises(FormatError):
        collect(made, DAY)
    assert made.sizes() == before
    write_shard(Folder(tmp_path / "g"), index_of(20), 0, 20, tmp_path)
    with pytest.raises(FileNotFoundError, match="a sharded index is not there"):
        collect(Folder(tmp_path / "g"), 0, now=time.time() + DAY)
    assert len(Folder(tmp_path / "g").sizes()) == 2


def test_times(made):
    assert collect(made, 7 * DAY, now=time.time() + 6 * DAY) == []
    assert len(collect(made, 7 * DAY, now=time.time() + 8 * DAY)) == 2
    for bad, message in ((-1, "at least 0 seconds"), (float("nan"), "older_than"), ("7d", "older_than must be")):
        with pytest.raises(InputError, match=message):
            collect(made, bad)
    with pytest.raises(InputError, match="dry_run must be True or False"):
        collect(made, 1, dry_run=1)

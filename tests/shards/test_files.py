"""What an open shard makes of its files: caches, damage, files of another index."""

import copy
import shutil

import numpy as np
import pytest
import shards_of
import strategies as sts

import tqvec
from tqvec.errors import FormatError, UnavailableError
from tqvec.shards.folder import Folder
from tqvec.shards.holder import Holder, Request
from tqvec.shards.manifest import read_manifest, write_manifest

N, D = 60, 16
QUERIES = sts.normal(3, D, 9)


@pytest.fixture
def index():
    index = tqvec.Index(D, nbits=2)
    index.add(sts.normal(N, D, 1))
    return index


@pytest.fixture
def stored(index, tmp_path):
    """A folder of three shards."""
    shards_of.cut(index, tmp_path / "stored", [20, 30, 10])
    return tmp_path / "stored"


class Remote(Folder):
    """A folder that counts as that of another machine, so that its files are copied."""

    is_local = property(lambda self: False)


def names(manifest):
    return [shard.vectors.name for shard in manifest.shards]


def damage(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def assert_whole(sharded, index):
    np.testing.assert_array_equal(sharded.search(QUERIES, 20)[1], index.search(QUERIES, 20)[1])


def test_files_of_a_local_folder_are_mapped_where_they_are(stored, index, monkeypatch):
    monkeypatch.setattr(Folder, "fetch", None)
    assert_whole(shards_of.PlainSharded(stored), index)


def test_copies_without_a_cache_leave_nothing_behind(stored, index, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    sharded = shards_of.PlainSharded(Remote(stored))
    assert_whole(sharded, index)
    assert list((tmp_path / "temporary").iterdir()) == []
    shutil.rmtree(stored / "shards")
    assert_whole(sharded, index)


@pytest.mark.parametrize("place", [Folder, Remote])
def test_a_cache_serves_the_next_process(place, stored, index, tmp_path):
    cache = tmp_path / "a" / "cache"
    assert_whole(shards_of.PlainSharded(place(stored), cache=cache), index)
    assert len(list(cache.iterdir())) == 4
    shutil.rmtree(stored / "shards")
    assert_whole(shards_of.PlainSharded(place(stored), cache=cache), index)


@pytest.mark.parametrize("harm", ["bit", "cut", "empty"])
def test_a_damaged_file_of_a_cache_is_fetched_again(harm, stored, index, tmp_path):
    cache = tmp_path / "cache"
    shards_of.PlainSharded(stored, cache=cache).search(QUERIES, 1)
    for path in cache.iterdir():
        if harm == "bit":
            damage(path)
        else:
            path.write_bytes(path.read_bytes()[: 50 if harm == "cut" else 0])
    assert_whole(shards_of.PlainSharded(stored, cache=cache), index)
    manifest = read_manifest(Folder(stored))
    assert sorted(path.stat().st_size for path in cache.iterdir()) == sorted(
        file.nbytes for file in (manifest.codec, *(shard.vectors for shard in manifest.shards))
    )


@pytest.mark.parametrize("place", [Folder, Remote])
@pytest.mark.parametrize("cached", [False, True])
def test_damaged_and_missing_shards_are_named(place, cached, stored, tmp_path):
    cache = tmp_path / "cache" if cached else None
    sharded = shards_of.PlainSharded(place(stored), cache=cache)
    first, _, last = names(sharded.manifest)
    damage(stored / first)
    (stored / last).unlink()
    with pytest.raises(FormatError) as told:
        sharded.search(QUERIES, 3)
    assert "2 of 3 shards" in str(told.value)
    for name, what in ((first, "damaged"), (last, "is missing")):
        assert f"{name}: " in str(told.value)
        assert what in str(told.value)
    assert sharded.search(QUERIES, 3, partial=True)[-1] == [first, last]


@pytest.mark.parametrize("harm", ["damage", "delete"])
def test_a_codec_that_can_not_be_read_is_named(harm, stored):
    name = read_manifest(Folder(stored)).codec.name
    damage(stored / name) if harm == "damage" else (stored / name).unlink()
    with pytest.raises(FormatError, match=name):
        shards_of.PlainSharded(stored)


def test_a_failed_shard_is_tried_again_after_a_while(stored, index, monkeypatch):
    sharded = shards_of.PlainSharded(stored)
    name = names(sharded.manifest)[1]
    content = (stored / name).read_bytes()
    (stored / name).unlink()
    with pytest.raises(FormatError):
        sharded.search(QUERIES, 3)
    (stored / name).write_bytes(content)
    with pytest.raises(FormatError):  # a store is not asked for it at each search
        sharded.search(QUERIES, 3)
    for holder in sharded.holders:
        holder._failures = {shard: (failure, 0.0) for shard, (failure, _) in holder._failures.items()}
    assert_whole(sharded, index)


def test_a_store_that_fails_is_no_damage(stored, monkeypatch):
    def fail(*_):
        raise OSError("no route to host")

    sharded = shards_of.PlainSharded(Remote(stored))
    monkeypatch.setattr(Folder, "fetch", fail)
    with pytest.raises(UnavailableError, match=r"3 of 3 shards .*no route to host"):
        sharded.search(QUERIES, 3)


def other_codec(index):
    other = tqvec.Index(D, nbits=2, seed=5)
    other.add(sts.normal(20, D, 1))
    return other


def other_metric(index):
    other = tqvec.Index(D, nbits=2, metric="l2")
    other.add(sts.normal(20, D, 1))
    return other


def other_rows(index):
    other = copy.copy(index)
    other.remove_ids(range(19, N))
    return other


def other_ids(index):
    other = copy.copy(index)
    other.remove_ids([0, *range(21, N)])
    return other


def other_lists(index):
    other = other_rows(index)
    other.add(sts.normal(1, D, 3), [19])
    other.partition(2)
    return other


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_codec, "has fingerprint"),
        (other_metric, "has metric l2"),
        (other_rows, "has rows 19"),
        (other_ids, "its ids are not 0 to 19"),
        (other_lists, "has nlist 2"),
    ],
)
def test_a_file_of_another_index_is_refused(make, message, index, stored, tmp_path):
    manifest = read_manifest(Folder(stored))
    file = shards_of.put_file(stored, "shards/other", ".tqv", make(index).save)
    first, *rest = manifest.shards
    write_manifest(Folder(stored), manifest._replace(number=2, shards=(first._replace(vectors=file), *rest)))
    with pytest.raises(FormatError, match=rf"{file.name}.*{message}"):
        shards_of.PlainSharded(stored).search(QUERIES, 3)


def test_shards_that_no_manifest_has_are_closed(index, tmp_path):
    before = shards_of.cut(index, tmp_path, [20, 40])
    index.add(sts.normal(5, D, 7))
    after = shards_of.cut(index, tmp_path, [5], before=before)
    assert after.number == 2
    holder = Holder(Folder(tmp_path))
    assert holder.open(Request(before.name)).value == 2
    assert holder.open(Request(after.name)).value == 3
    opened = dict(holder._shards)
    holder.keep([before.name])
    assert set(holder._shards) == set(before.shards)
    holder.keep([after.name])
    assert holder.open(Request(after.name)).value == 3
    assert all(holder._shards[shard] is opened[shard] for shard in before.shards), "they stay open"


def test_parts_have_all_shards_once_and_keep_them(index, tmp_path):
    manifest = shards_of.cut(index, tmp_path, [10] * 6)
    for parts in (1, 2, 4, 6):
        answers = [Holder(Folder(tmp_path), None, 1, part, parts).open(Request(manifest.name)) for part in range(parts)]
        assert sum(answer.value for answer in answers) == 6

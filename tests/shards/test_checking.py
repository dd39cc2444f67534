"""Verifying and describing: every fault is found, and named with its file."""

import pytest
from shards.sharded import D, index_of, pa, pq, vectors, write_index, write_shard

import tqvec
from tqvec.errors import InputError
from tqvec.index.file.merge import merge
from tqvec.shards.checking import verify
from tqvec.shards.folder import Folder
from tqvec.shards.info import describe
from tqvec.shards.manifest import first_manifest, write_manifest
from tqvec.shards.writing import put_codec, put_records, put_vectors, write_codec, write_vectors


@pytest.mark.parametrize("options", [{}, {"nlist": 3}, {"columns": ()}, {"metric": "l2"}, {"n": 1}])
def test_a_sound_index(tmp_path, options):
    folder, manifest, _ = write_index(tmp_path / "f", tmp_path, **options)
    done = []
    result = verify(folder, manifest, done.append)
    assert result.sound
    assert result.faults == ()
    assert done == list(range(1, len(manifest.files) + 1))
    assert (result.files, result.nbytes) == (len(manifest.files), manifest.nbytes)
    assert result.to_dict()["sound"] is True
    assert str(result).splitlines()[-1].split() == ["faults", "0"]
    with pytest.raises(InputError, match="progress must be"):
        verify(folder, manifest, 3)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_merged_shards_are_the_single_index(tmp_path, metric):
    _, manifest, index = write_index(tmp_path / "f", tmp_path, metric=metric)
    merge([tmp_path / "f" / shard.vectors.name for shard in manifest.shards], tmp_path / "merged.tqv")
    index.save(tmp_path / "single.tqv")
    assert (tmp_path / "merged.tqv").read_bytes() == (tmp_path / "single.tqv").read_bytes()


def test_damaged_and_missing_files(tmp_path):
    folder, manifest, _ = write_index(tmp_path / "f", tmp_path)
    for stored in manifest.files:
        path = tmp_path / "f" / stored.name
        good = path.read_bytes()
        for content in (good[:-1], good + b"x", bytes([good[0] ^ 1]) + good[1:]):
            path.write_bytes(content)
            (fault,) = verify(folder, manifest).faults
            assert fault == f"{path}: damaged: its bytes are not those that were written"
        path.unlink()
        (fault,) = verify(folder, manifest).faults
        assert fault == f"{path}: is missing, though the manifest names it"
        path.write_bytes(good)
    for shard in manifest.shards:
        folder.delete(shard.vectors.name)
    result = verify(folder, manifest)
    assert len(result.faults) == 3
    assert all(fault in str(result) for fault in result.faults)


def replaced(tmp_path, make):
    """The faults of an index whose second shard is another one, with digests that are true."""
    folder, manifest, index = write_index(tmp_path / "f", tmp_path)
    shards = list(manifest.shards)
    shards[1] = make(folder, shards[1], index)
    return verify(folder, manifest._replace(shards=tuple(shards))).faults


def rows_of(index, first, stop):
    return [{name: array[first:stop] for name, array in index._core.store.blocks[0].rows.items()}]


WRONG_VECTORS = {
    "other ids": lambda index: (index.codec, "cosine", 21, 20, rows_of(index, 20, 40)),
    "has 19 vectors, the manifest says 20": lambda index: (index.codec, "cosine", 20, 19, rows_of(index, 20, 39)),
    "has metric ip, the manifest says cosine": lambda index: (index.codec, "ip", 20, 20, rows_of(index, 20, 40)),
    "has seed 3, the manifest says 0": lambda index: (
        tqvec.Index(D, seed=3).codec,
        "cosine",
        20,
        20,
        rows_of(index, 20, 40),
    ),
}


@pytest.mark.parametrize("message", WRONG_VECTORS)
def test_vectors_of_another_index(tmp_path, message):
    def make(folder, shard, index):
        return shard._replace(vectors=write_vectors(folder, *WRONG_VECTORS[message](index)))

    (fault,) = replaced(tmp_path, make)
    assert fault.startswith(f"{tmp_path / 'f'}/shards/0000000")
    assert message in fault


def test_no_index_file(tmp_path):
    def make(folder, shard, index):
        (tmp_path / "x").write_bytes(b"no index at all")
        return shard._replace(vectors=put_vectors(folder, tmp_path / "x", 20))

    (fault,) = replaced(tmp_path, make)
    assert fault.count("/shards/0000000") == 1
    assert "not a" in fault
    assert "/tqvec-" not in fault  # the name of the copy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"id": ["a"] * 19, "text": ["a"] * 19}, "has 19 records, the manifest says 20"),
        ({"id": ["a"] * 20}, "has the columns id, not id, text"),
        ({"text": ["a"] * 20, "id": ["a"] * 20}, "has the columns text, id, not id, text"),
        (None, "is no file of Parquet"),
    ],
)
def test_wrong_records(tmp_path, content, message):
    def make(folder, shard, index):
        path = tmp_path / "x"
        path.write_bytes(b"PAR1 but not really")
        if content is not None:
            pq.write_table(pa.table(content), path)
        return shard._replace(records=put_records(folder, path, 20))

    (fault,) = replaced(tmp_path, make)
    assert message in fault
    assert "/records/000000000020-" in fault


def test_a_wrong_codec(tmp_path):
    folder, manifest, index = write_index(tmp_path / "f", tmp_path)
    (fault,) = verify(folder, manifest._replace(trained=True)).faults
    assert "has rotation hadamard, the manifest says trained=True" in fault
    index.save(tmp_path / "full.tqv")
    (fault,) = verify(folder, manifest._replace(codec=put_codec(folder, tmp_path / "full.tqv"))).faults
    assert "has 50 vectors, the file of a codec has none" in fault
    assert len(verify(folder, manifest._replace(fingerprint="0" * 32)).faults) == 4


def test_other_centroids(tmp_path):
    folder, manifest, _ = write_index(tmp_path / "f", tmp_path, nlist=3)
    other = tqvec.Index(D, metric="cosine")
    other.partition(3, sample=vectors(120, 9))
    faults = verify(folder, manifest._replace(codec=write_codec(folder, other))).faults
    assert len(faults) == 3
    assert all("has other centroids than the file of the codec" in fault for fault in faults)


def test_a_description(tmp_path):
    folder, manifest, _ = write_index(tmp_path / "f", tmp_path)
    write_manifest(folder, manifest.extended([write_shard(folder, index_of(60), 50, 60, tmp_path)], "source"))
    facts = describe(folder)
    sizes = folder.sizes()
    assert (facts.number, facts.versions, facts.vectors, facts.shards) == (2, (1, 2), 60, 4)
    assert facts.record_bytes == sum(size for name, size in sizes.items() if name.startswith("records/"))
    assert facts.vector_bytes == sum(size for name, size in sizes.items() if name.endswith(".tqv"))
    assert facts.bytes_per_vector == facts.vector_bytes / 60
    assert (facts.d, facts.nbits, facts.metric, facts.columns) == (D, 4, "cosine", ("id", "text"))
    text = str(facts)
    for part in ("d=16, cosine, nbits=4, scalar, seed 0", "columns of the records: id, text", "manifests: 1, 2"):
        assert part in text
    assert facts.to_dict()["bytes_per_vector"] == facts.bytes_per_vector
    with pytest.raises(FileNotFoundError, match="a sharded index is not there"):
        describe(Folder(tmp_path / "nothing"))


def test_an_index_without_shards(tmp_path):
    folder, index = Folder(tmp_path / "f"), tqvec.Index(D)
    write_manifest(folder, first_manifest(index, write_codec(folder, index), (), ()))
    facts = describe(folder)
    assert (facts.vectors, facts.shards, facts.bytes_per_vector) == (0, 0, facts.vector_bytes)

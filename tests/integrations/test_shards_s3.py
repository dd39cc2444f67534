"""Sharded indexes in an object store: a real server of the S3 protocol, on this machine."""

import json

import pytest
from command import run
from shards.sharded import D, index_of, vectors, write_index, write_shard

import tqvec
from tqvec.errors import FormatError, InputError
from tqvec.shards.checking import verify
from tqvec.shards.collecting import collect
from tqvec.shards.folder import Folder, StoredFile, digest_of
from tqvec.shards.manifest import manifest_names, read_manifest, write_manifest

fs = pytest.importorskip("pyarrow.fs")
moto = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

DAY = 86_400
BIG = 11 << 20  # bytes, so that it is uploaded in parts
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the server


@pytest.fixture(scope="module")
def endpoint():
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="bucket")
    client.close()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def filesystem(endpoint):
    return fs.S3FileSystem(
        endpoint_override=endpoint, scheme="http", access_key="key", secret_key="secret", region="us-east-1"
    )


@pytest.fixture
def folder(filesystem, request):
    return Folder(f"bucket/{request.node.name}", filesystem)


def uri_of(folder, endpoint):
    return f"s3://key:secret@{folder.path}?scheme=http&endpoint_override={endpoint}&region=us-east-1"


def write_half(folder, name, content):
    with folder._writing(name) as stream:
        stream.write(content)
        raise KeyboardInterrupt


def test_files_come_and_go(folder, tmp_path):
    assert folder.sizes() == {}
    folder.write("a/b", b"content")
    (tmp_path / "big").write_bytes(b"0123" * (BIG // 4))
    big = folder.put(tmp_path / "big", "c/big", digest_of(tmp_path / "big"))
    assert folder.sizes() == {"a/b": 7, "c/big": BIG}
    assert folder.sizes("c") == {"c/big": BIG}
    assert folder.sizes("nothing") == {}
    assert folder.read("a/b") == b"content"
    folder.fetch(big, tmp_path / "copy")
    assert digest_of(tmp_path / "copy") == big.sha256
    times = folder.times()
    folder.put(tmp_path / "big", "c/big", big.sha256)
    assert folder.times() == times
    with pytest.raises(FormatError, match=r"s3://bucket/.*/c/big: damaged"):
        folder.fetch(big._replace(sha256="0" * 64), tmp_path / "other")
    with pytest.raises(FormatError, match=r"s3://bucket/.*/gone: is missing"):
        folder.fetch(StoredFile("gone", 1, "0" * 64), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    folder.delete("a/b")
    folder.delete("a/b")
    assert folder.sizes() == {"c/big": BIG}


def test_an_index(folder, tmp_path):
    _, manifest, _ = write_index(folder, tmp_path)
    assert read_manifest(folder) == manifest
    assert verify(folder, manifest).sound
    following = manifest.extended([write_shard(folder, index_of(60), 50, 60, tmp_path)], "source")
    write_manifest(folder, following)
    assert (read_manifest(folder), read_manifest(folder, 1)) == (following, manifest)
    with pytest.raises(InputError, match="another process has appended meanwhile"):
        write_manifest(folder, following._replace(seed=5))
    orphan = write_shard(folder, index_of(80), 60, 80, tmp_path)
    old = manifest_names(folder)[1]
    later = max(folder.times().values()) + 8 * DAY
    assert set(collect(folder, 7 * DAY, now=later)) == {old, *(file.name for file in orphan.files)}
    assert verify(folder, read_manifest(folder)).sound


def test_a_collection_and_the_command(folder, endpoint, tmp_path):
    with tqvec.Collection(tmp_path / "c", d=D, indexed=["i"]) as collection:
        collection.upsert(
            ids=[f"r{i}" for i in range(30)], vectors=vectors(30), metadatas=[{"i": i} for i in range(30)]
        )
        collection.shard(tmp_path / "local", shard_rows=8)
        place = uri_of(folder, endpoint)
        assert run("collection", "shard", tmp_path / "c", place, "--shard-rows", 8).exit_code == 0
    local = Folder(tmp_path / "local")
    assert folder.sizes() == local.sizes()
    assert all(folder.read(name) == local.read(name) for name in local.sizes())
    assert json.loads(run("shards", "verify", place, "--json").stdout)["sound"]
    run("shards", "merge", place, "-o", tmp_path / "merged.tqv")
    assert tqvec.Index.load(tmp_path / "merged.tqv").ntotal == 30


@pytest.mark.parametrize("size", [100, BIG])
def test_a_write_that_fails_leaves_no_part(folder, size):
    """The stream of an object completes it when it is closed, whatever happened."""
    with pytest.raises(KeyboardInterrupt):
        write_half(folder, "x", b"x" * size)
    assert folder.sizes() == {}


@pytest.mark.parametrize("size", [100, BIG])
def test_a_part_that_is_left_is_never_taken_for_the_whole(folder, tmp_path, monkeypatch, size):
    """The process lost its connection, or was killed, before it could delete the part."""
    path = tmp_path / "big"
    path.write_bytes(b"0123" * (BIG // 4 + 9))
    digest = digest_of(path)
    monkeypatch.setattr(folder, "filesystem", NoDeletion(folder.filesystem))
    with pytest.raises(KeyboardInterrupt):
        write_half(folder, "big", path.read_bytes()[:size])
    monkeypatch.undo()
    assert folder.sizes() == {"big": size}
    stored = StoredFile("big", path.stat().st_size, digest)
    with pytest.raises(FormatError, match=r"big: has .* bytes, not"):
        folder.check_size(stored)
    with pytest.raises(FormatError, match="big: damaged"):
        folder.fetch(stored, tmp_path / "copy")
    assert folder.put(path, "big", digest) == stored
    folder.fetch(stored, tmp_path / "copy")


def test_a_part_of_a_manifest(folder, tmp_path):
    _, manifest, _ = write_index(folder, tmp_path)
    following = manifest.extended([write_shard(folder, index_of(60), 50, 60, tmp_path)], "source")
    for length in (0, 1, 100, len(following.to_bytes()) - 1):
        folder.write(following.name, following.to_bytes()[:length])
        with pytest.raises(FormatError, match="damaged"):
            read_manifest(folder)
    write_manifest(folder, following)
    assert read_manifest(folder) == following


class NoDeletion:
    """A file system whose files can't be deleted."""

    def __init__(self, filesystem):
        self._filesystem = filesystem

    def __getattr__(self, name):
        return getattr(self._filesystem, name)

    def delete_file(self, path):
        raise OSError(f"no connection: {path}")


def test_no_bucket(filesystem, tmp_path):
    nowhere = Folder("no-such-bucket/x", filesystem)
    with pytest.raises(OSError, match="bucket"):
        nowhere.write("x", b"x")
    with pytest.raises(OSError, match=r"bucket|sharded index is not there"):
        read_manifest(nowhere)

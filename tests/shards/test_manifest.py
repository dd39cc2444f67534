"""Manifests: versions that never change, and nothing but a FormatError for what no writer makes."""

import copy
import hashlib
import json

import numpy as np
import pytest
from shards.sharded import D, index_of, write_index, write_shard

import tqvec
from tqvec._safetensors import canonical, with_checksum
from tqvec.errors import FormatError, InputError
from tqvec.shards.folder import Folder
from tqvec.shards.manifest import (
    VERSION,
    first_manifest,
    manifest_names,
    parse_manifest,
    parse_shard,
    read_manifest,
    shard_bytes,
    write_manifest,
)
from tqvec.shards.writing import write_codec


@pytest.fixture
def made(tmp_path):
    return write_index(tmp_path / "f", tmp_path)


def fields_of(manifest):
    return json.loads(manifest.to_bytes())


def sealed(fields):
    rest = {name: value for name, value in fields.items() if name != "header_crc32"}
    return canonical(with_checksum(rest)).encode()


def plant(folder, content, number=None):
    """Write a manifest's file under the name of its content."""
    number = json.loads(content)["number"] if number is None else number
    folder.write(f"manifests/{number:08d}-{hashlib.sha256(content).hexdigest()[:16]}.json", content)


def test_what_is_written_is_read(made):
    folder, manifest, index = made
    assert read_manifest(folder) == manifest == read_manifest(folder, 1)
    assert (manifest.ntotal, manifest.d, manifest.fingerprint) == (50, D, index.codec.fingerprint)
    assert [(shard.first, shard.rows) for shard in manifest.shards] == [(0, 20), (20, 20), (40, 10)]
    assert manifest.nbytes == sum(folder.sizes().values()) - len(manifest.to_bytes())
    assert set(folder.sizes()) == {manifest.name, *(file.name for file in manifest.files)}


def test_a_codec_of_bands(tmp_path):
    index = tqvec.Index(D, nbits=[(4, 5), (12, 3)])
    index.add(np.ones((3, D)))
    folder = Folder(tmp_path / "f")
    manifest = first_manifest(index, write_codec(folder, index), (), ())
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest
    assert manifest.nbits == ((4, 5), (12, 3))


def test_versions_follow_each_other(made, tmp_path):
    folder, manifest, _ = made
    more = write_shard(folder, index_of(70), 50, 70, tmp_path)
    following = manifest.extended([more], "source")
    assert read_manifest(folder).number == 1
    write_manifest(folder, following)
    assert read_manifest(folder) == following
    assert read_manifest(folder, 1) == manifest
    assert (following.number, following.ntotal) == (2, 70)
    before = (tmp_path / "f" / following.name).stat().st_ino
    write_manifest(folder, following)  # as a process does that was killed before it could say so
    assert (tmp_path / "f" / following.name).stat().st_ino == before
    other = manifest.extended([write_shard(folder, index_of(60), 50, 60, tmp_path)], "source")
    with pytest.raises(InputError, match="another process has appended meanwhile"):
        write_manifest(folder, other)
    assert read_manifest(folder) == following


def test_a_manifest_is_not_written_before_its_files(made, tmp_path):
    folder, manifest, _ = made
    shard = write_shard(folder, index_of(70), 50, 70, tmp_path)
    folder.write(shard.vectors.name, folder.read(shard.vectors.name)[:-1])
    with pytest.raises(FormatError, match=f"{shard.vectors.name}: has .* bytes, not"):
        write_manifest(folder, manifest.extended([shard], "source"))
    folder.delete(shard.vectors.name)
    with pytest.raises(FormatError, match=f"{shard.vectors.name}: is missing"):
        write_manifest(folder, manifest.extended([shard], "source"))
    assert list(manifest_names(folder)) == [1]


def test_two_manifests_of_one_number(made):
    folder, manifest, _ = made
    plant(folder, sealed({**fields_of(manifest), "seed": 5}))
    with pytest.raises(FormatError, match="were written by two processes at once; delete one of them"):
        read_manifest(folder)


def test_a_newer_version(made):
    folder, manifest, _ = made
    plant(folder, sealed({**fields_of(manifest), "version": VERSION + 1, "number": 2, "shards": "in another way"}))
    with pytest.raises(FormatError, match=f"format version {VERSION + 1}; this tqvec reads up to {VERSION}: upgrade"):
        read_manifest(folder)
    assert read_manifest(folder, 1) == manifest


def test_nothing_is_there(tmp_path, made):
    with pytest.raises(FileNotFoundError, match="a sharded index is not there"):
        read_manifest(Folder(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="manifest 7 is not there"):
        read_manifest(made[0], 7)


def test_other_files_are_passed_over(made):
    folder, manifest, _ = made
    for name in (
        "notes.txt",
        "00000009-x.json",
        "00000009-0123456789abcdef.json.tmp",
        "٠٠٠٠٠٠٠٩-0123456789abcdef.json",
    ):
        folder.write(f"manifests/{name}", b"x")
    assert read_manifest(folder) == manifest


def test_a_name_of_another_content(made):
    folder, manifest, _ = made
    folder.write("manifests/00000002-0123456789abcdef.json", manifest.to_bytes())
    with pytest.raises(FormatError, match="has not the name of its content"):
        read_manifest(folder)
    folder.delete("manifests/00000002-0123456789abcdef.json")
    plant(folder, manifest.to_bytes(), number=2)
    with pytest.raises(FormatError, match="has not the name of its content"):
        read_manifest(folder)


def test_every_changed_or_missing_byte_is_found(made):
    content = made[1].to_bytes()
    for at in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[at] ^= 1
        for variant in (bytes(damaged), content[:at]):
            with pytest.raises(FormatError):
                parse_manifest("m", variant)


def paths_in(value, path=()):
    """Paths of all values within decoded JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from paths_in(each, (*path, key))


def changed(fields, path, value):
    if not path:
        return value
    fields = copy.deepcopy(fields)
    inner = fields
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return fields


STRANGE = [
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    "",
    "x",
    "\ud800",
    [],
    [[]],
    [None],
    {},
    {"first": 0},
    [1, 2],
    "../x",
    "/x",
    "1",
]


def test_strange_fields_with_true_checksums(made):
    """Each field, at any depth, is replaced by values of each type: a FormatError, or a manifest that has them."""
    fields = fields_of(made[1])
    fields["shards"] = fields["shards"][:2]
    read = 0
    for path in paths_in(fields):
        for value in STRANGE:
            try:
                content = sealed(changed(fields, path, value))
            except AttributeError:  # not a dictionary
                content = json.dumps(value).encode()
            try:
                manifest = parse_manifest("m", content)
            except FormatError:
                continue
            read += 1
            assert parse_manifest("m", manifest.to_bytes()) == manifest
            assert manifest.name.startswith("manifests/0")
            for name in (file.name for file in manifest.files):
                assert not name.startswith("/")
                assert ".." not in name
    assert 0 < read < 150


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("codec", "name"), "../../etc/passwd", "name is '../../etc/passwd'"),
        (("codec", "name"), "/etc/passwd", "name is '/etc/passwd'"),
        (("codec", "name"), "a//b", "name is"),
        (("codec", "name"), "shards/.hidden", "name is"),
        (("codec", "name"), "c:\\x", "name is"),
        (("codec", "sha256"), "A" * 64, "sha256 is"),
        (("codec", "nbytes"), -1, "nbytes is -1"),
        (("nbits",), 9, "nbits must be"),
        (("nbits",), [[3, 4]], "nbits must have bands that add up"),
        (("metric",), "hamming", "metric must be one of"),
        (("codebook",), "prod", "codebook must be one of"),
        (("trained",), 1, "trained must be a bool"),
        (("d",), 65_537, "d is 65537"),
        (("seed",), 2**64, "seed is"),
        (("number",), 0, "number is 0"),
        (("number",), 10**8, "number is 100000000"),
        (("nlist",), 2**31, "nlist is"),
        (("columns",), "id", "columns is 'id'"),
        (("columns",), ["id", "id"], r"columns are \('id', 'id'\)"),
        (("columns",), [], "the shard at row 0 has records"),
        (("shards", 1, "records"), None, "the shard at row 20 has no records"),
        (("shards", 1, "first"), 19, "a shard begins at row 19, not at 20"),
        (("shards", 1, "rows"), 2**63 - 1, "the shards have"),
        (("shards", 0, "rows"), 0, "rows is 0"),
    ],
)
def test_what_is_wrong_is_named(made, path, value, message):
    fields = fields_of(made[1])
    fields["shards"] = fields["shards"][:2]
    with pytest.raises(FormatError, match=message) as caught:
        parse_manifest("s3://bucket/m", sealed(changed(fields, path, value)))
    assert str(caught.value).startswith("s3://bucket/m: damaged: ")


def test_missing_fields(made):
    fields = fields_of(made[1])
    for path in paths_in(fields):
        if path and isinstance(path[-1], str) and path != ("header_crc32",):
            less = copy.deepcopy(fields)
            inner = less
            for key in path[:-1]:
                inner = inner[key]
            del inner[path[-1]]
            with pytest.raises(FormatError, match=f"the header lacks '{path[-1]}'"):
                parse_manifest("m", sealed(less))


def test_receipts_of_shards(made):
    shard = made[1].shards[1]
    content = shard_bytes(shard)
    assert parse_shard("r", content) == shard
    assert parse_shard("r", shard_bytes(shard._replace(records=None))).records is None
    for at in range(len(content)):
        with pytest.raises(FormatError):
            parse_shard("r", content[:at])
    for content in (b"[]", b"3", b"{", b"\xff", b'{"version": 1}', b"[" * 100_000):
        with pytest.raises(FormatError):
            parse_shard("r", content)
        with pytest.raises(FormatError):
            parse_manifest("m", content)
